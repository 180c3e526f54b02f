//! What must be there before anything is started: the desktop's programs, a new enough nats-server, a free port.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use super::programs;
use crate::error::{CliError, Kind, Result};
use crate::settings::Env;

/// Program and the package that brings it, on Debian and Ubuntu.
pub const DESKTOP: [(&str, &str); 7] = [
    ("Xtigervnc", "tigervnc-standalone-server"),
    ("xkbcomp", "x11-xkb-utils"),
    ("openbox", "openbox"),
    ("xterm", "xterm"),
    ("dbus-daemon", "dbus-daemon"),
    ("xauth", "xauth"),
    ("git", "git"),
];

/// Oldest nats-server that keeps what it promises: older ones silently drop stream options that we need.
const OLDEST_NATS: (u32, u32) = (2, 11);

/// The programs of a one-machine Helix.
#[derive(Debug, Clone)]
pub struct Programs {
    /// nats-server.
    pub nats: PathBuf,
    /// helix-server.
    pub server: PathBuf,
    /// agentd.
    pub agentd: PathBuf,
}

/// Finds and checks every program.
pub async fn programs(env: Env<'_>) -> Result<Programs> {
    check_desktop(&|name| programs::in_path(name).is_some())?;
    let nats = programs::nats_server(env)?;
    check_nats(&nats).await?;
    Ok(Programs { nats, server: programs::own("helix-server")?, agentd: programs::own("agentd")? })
}

/// Names every program of a desktop that is not there.
pub fn check_desktop(has: &dyn Fn(&str) -> bool) -> Result<()> {
    let missing: Vec<_> = DESKTOP.iter().filter(|(program, _)| !has(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (names, packages): (Vec<_>, Vec<_>) = missing.into_iter().copied().unzip();
    Err(CliError::failed("programs that a desktop needs are missing")
        .at("PATH")
        .because(format!("not found: {}", names.join(", ")))
        .next(format!("packaging/setup.sh runtime, or: apt-get install -y {}", packages.join(" "))))
}

/// The program's version, if it is new enough.
pub async fn check_nats(program: &Path) -> Result<String> {
    let bad = |why: String| {
        CliError::failed("this nats-server cannot be used")
            .at(program.display())
            .because(why)
            .next("packaging/setup.sh runtime, or set NATS_SERVER=/path/to/nats-server (2.11 or newer)")
    };
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| bad(format!("it cannot be run: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().rsplit(['v', ' ']).next().unwrap_or_default().to_owned();
    match parse_version(&version) {
        Some(found) if found >= OLDEST_NATS => Ok(version),
        Some(_) => Err(bad(format!("version {version} is too old; {}.{} is the oldest", OLDEST_NATS.0, OLDEST_NATS.1))),
        None => Err(bad(format!("its version cannot be read from {:?}", text.trim()))),
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Proves that the address can be listened on; port 0 becomes a free one.
pub fn free_address(wanted: SocketAddr) -> Result<SocketAddr> {
    let taken = |error: std::io::Error| {
        let (kind, next) = match error.kind() {
            std::io::ErrorKind::AddrInUse => (
                Kind::Failed,
                format!(
                    "helixctl up --listen {}:0 takes a free port; who has this one: ss -ltnp 'sport = :{}'",
                    wanted.ip(),
                    wanted.port()
                ),
            ),
            std::io::ErrorKind::PermissionDenied => {
                (Kind::Failed, "take a port above 1023: helixctl up --listen 127.0.0.1:8080".to_owned())
            }
            _ => (Kind::Usage, "take an address of this machine: helixctl up --listen 127.0.0.1:8080".to_owned()),
        };
        CliError::new(kind, "cannot listen").at(wanted).because(error).next(next)
    };
    let listener = TcpListener::bind(wanted).map_err(taken)?;
    listener.local_addr().map_err(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages_come_as_one_apt_line() {
        let error = check_desktop(&|name| !matches!(name, "openbox" | "Xtigervnc")).expect_err("missing");
        insta::assert_snapshot!(error, @r"
        error: programs that a desktop needs are missing
          where: PATH
          why:   not found: Xtigervnc, openbox
          next:  packaging/setup.sh runtime, or: apt-get install -y tigervnc-standalone-server openbox
        ");
        assert_eq!(check_desktop(&|_| true), Ok(()));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse_version("2.15.1"), Some((2, 15)));
        assert!(parse_version("2.9.10") < Some(OLDEST_NATS));
        assert_eq!(parse_version("unknown"), None);
    }

    #[test]
    fn a_taken_port_says_how_to_get_another() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = holder.local_addr().expect("its address");
        let error = free_address(address).expect_err("it is taken");
        assert!(error.to_string().contains("--listen 127.0.0.1:0"), "{error}");
        drop(holder);
        assert_eq!(free_address(address), Ok(address));
        assert_ne!(free_address("127.0.0.1:0".parse().expect("an address")).expect("free").port(), 0);
    }
}
