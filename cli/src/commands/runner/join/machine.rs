//! This machine, as a join finds it: what its other runners ([`super::others`]) leave for the one to be, its service, its files.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::place::{Place, Service, ServiceName};
use super::files::{Files, Staged, Wanted, put, remove, remove_file};
use super::others::{FIRST_HEALTH_PORT, Other, SETTINGS_DIR};
use super::settings::{MARK, Settings};
use crate::error::{CliError, Kind, Result};

const LOCK_DIR: &str = "/run/helix";
/// How long a join may take that this one waits for.
const TURN_WITHIN: Duration = Duration::from_mins(3);
/// Ports of `/health`, the first for the first runner.
const HEALTH_PORTS: std::ops::Range<u16> = FIRST_HEALTH_PORT..FIRST_HEALTH_PORT + 100;
const SLOT_PREFIX: &str = "helix-u";

/// This machine, for one agentd on it.
pub struct Machine {
    /// Which.
    pub name: ServiceName,
    /// Its host name.
    pub hostname: String,
    others: Vec<Other>,
    users: BTreeSet<u32>,
}

/// How the service was before.
#[derive(Debug, Clone, Copy)]
pub struct State {
    pub active: bool,
    pub enabled: bool,
    had_dir: bool,
}

/// Root, systemd, and an agentd that is installed: its program.
pub async fn require_fit() -> Result<PathBuf> {
    let unfit = |why: &str, next: &str| {
        Err(CliError::failed("this machine cannot be attached").at("this machine").because(why).next(next))
    };
    if !rustix::process::geteuid().is_root() {
        let error = CliError::new(Kind::Refused, "this machine cannot be attached").at("this machine");
        return Err(error
            .because("that needs root: settings and a service of the system")
            .next("sudo -E helixctl runner join …"));
    }
    if !Path::new("/run/systemd/system").exists() {
        return unfit("systemd does not run it", "helixctl up runs a runner without systemd");
    }
    let template = Place::Here.ask(&["systemctl", "cat", "agentd@.service"]).await?;
    let program = template.stdout.lines().find_map(|line| line.strip_prefix("ExecStart=")?.split_whitespace().next());
    match program.map(PathBuf::from) {
        Some(program) if program.exists() => Ok(program),
        _ => {
            unfit("agentd is not installed", "sudo make install, or the package of agentd; then the same command again")
        }
    }
}

/// This join's turn, until the file is dropped.
pub async fn turn(waits: impl Fn()) -> Result<File> {
    let path = Path::new(LOCK_DIR).join("join.lock");
    let bad = |error: io::Error| CliError::failed("cannot take this machine's lock").at(path.display()).because(error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(LOCK_DIR).map_err(bad)?;
    let open = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = open.map_err(bad)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => waits(),
        Err(TryLockError::Error(error)) => return Err(bad(error)),
    }
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
    match tokio::time::timeout(TURN_WITHIN, locked).await {
        Ok(Ok(locked)) => locked.map_err(bad),
        Ok(Err(panicked)) => Err(bad(io::Error::other(panicked))),
        Err(_) => Err(CliError::new(Kind::TimedOut, "another join of this machine does not end")
            .at(path.display())
            .next("fuser -v /run/helix/join.lock names it")),
    }
}

/// True for settings that a join wrote.
pub fn is_joined(name: &ServiceName) -> bool {
    fs::read_to_string(name.settings()).is_ok_and(|text| text.starts_with(MARK))
}

impl Machine {
    /// Looks at the machine.
    pub fn look(name: &ServiceName) -> Result<Self> {
        let bad = |error: io::Error| CliError::failed("cannot look at this machine").at(SETTINGS_DIR).because(error);
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let others = Other::all(Path::new(&name.settings())).map_err(bad)?;
        let passwd = fs::read_to_string("/etc/passwd").map_err(bad)?;
        let number = |line: &str| line.strip_prefix(SLOT_PREFIX)?.split(':').next()?.parse().ok();
        Ok(Self { name: name.clone(), hostname, others, users: passwd.lines().filter_map(number).collect() })
    }

    /// What a join wrote before; None where nothing stands there. Settings of somebody else are not ours to change.
    pub fn settings(&self) -> Result<Option<Settings>> {
        let path = self.name.settings();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CliError::failed("cannot read the settings").at(&path).because(error)),
        };
        let environment = fs::read_to_string(self.name.environment()).unwrap_or_default();
        let with_keys = |mut settings: Settings| {
            settings.image_keys = settings.image_signers.as_ref().and_then(|file| fs::read_to_string(file).ok());
            settings
        };
        Settings::read(&text, &environment).map(with_keys).map(Some).ok_or_else(|| {
            CliError::failed(format!("agentd {} was not set up by a join", self.name.as_str()))
                .at(&path)
                .because("its settings are somebody's own, or of helixctl provision")
                .next("--container-name OTHER for one more runner on this machine; or change that file, and systemctl reload")
        })
    }

    /// The first of the slot users of a runner with so many slots: those of before where they are still free.
    pub fn slots(&self, before: Option<u32>, count: u32) -> Result<u32> {
        let taken = |number: u32| self.others.iter().find(|other| other.slots.contains(&number));
        let is_free = |number: u32| self.users.contains(&number) && taken(number).is_none();
        let fits = |first: u32| (first..first.saturating_add(count.max(1))).all(is_free);
        let found = before.into_iter().chain(self.users.iter().copied()).find(|first| fits(*first));
        let first = found.ok_or_else(|| {
            let others: Vec<_> = self
                .others
                .iter()
                .map(|other| format!("{} has {} from helix-u{} on", other.name, other.slots.len(), other.slots.start))
                .collect();
            CliError::failed(format!("there are not {count} free slot users in a row"))
                .at("this machine")
                .because(format!("of helix-u1 to helix-u{}: {}", self.users.len(), others.join(", ")))
                .next(
                    "a smaller --concurrency, or more slot users: packaging/install.sh --slots N, see docs/systemd.md",
                )
        })?;
        if before.is_some_and(|before| before != first) && self.has_sessions() {
            return Err(CliError::failed("the slot users of this runner cannot change while it has sessions")
                .at(self.state_dir())
                .because(format!("with {count} slots it needs others than those that it has"))
                .next("end its sessions first: helixctl runner drain RUNNER"));
        }
        Ok(first)
    }

    fn has_sessions(&self) -> bool {
        fs::read_dir(Path::new(&self.state_dir()).join("s")).is_ok_and(|mut sessions| sessions.next().is_some())
    }

    /// A port of loopback that no other runner of the machine has, and nobody else now; 0 (none) where all are taken.
    pub fn free_health_port(&self) -> u16 {
        let taken = |port: u16| self.others.iter().any(|other| other.health_port == port);
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        HEALTH_PORTS.into_iter().find(|port| !taken(*port) && is_free(*port)).unwrap_or(0)
    }

    /// Where agentd keeps everything.
    pub fn state_dir(&self) -> String {
        self.name.state_dir()
    }

    /// The runner's own token, where it has one.
    pub fn own_token(&self) -> Option<String> {
        let text = fs::read_to_string(Path::new(&self.state_dir()).join("token")).ok()?;
        Some(text.trim().to_owned()).filter(|token| !token.is_empty())
    }

    /// Removes a token that no server takes: who enrols makes a new one, since the old one may have been revoked for a reason.
    pub fn forget_token(&self) -> Result<()> {
        let path = Path::new(&self.state_dir()).join("token");
        remove_file(&path).map_err(|error| CliError::failed("cannot remove a file").at(path.display()).because(error))
    }

    /// The service.
    pub fn service(&self) -> Service {
        Service::here(&self.name)
    }

    /// How the service is.
    pub async fn state(&self) -> Result<State> {
        let service = self.service();
        let enabled = service.place.ask(&["systemctl", "is-enabled", "--", &self.name.unit()]).await?;
        Ok(State {
            active: service.state().await? == "active",
            enabled: enabled.code == 0,
            had_dir: Path::new(&self.state_dir()).exists(),
        })
    }

    /// Removes the state that a join made and could not use.
    pub fn forget_state(&self, before: State) -> Result<()> {
        if before.had_dir { Ok(()) } else { self.remove_state() }
    }

    /// Removes everything that agentd kept.
    pub fn remove_state(&self) -> Result<()> {
        match fs::remove_dir_all(self.state_dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CliError::failed("cannot remove the runner's state").at(self.state_dir()).because(error))
            }
            _ => Ok(()),
        }
    }

    /// The settings under a name that nothing reads, gone when dropped.
    pub fn stage(&self, settings: &Settings) -> Result<Staged> {
        let path = PathBuf::from(format!("{}.check", self.name.settings()));
        put(&path, settings.text()?.as_bytes(), 0o600)?;
        Ok(Staged::new(path))
    }

    /// Every file that these settings make.
    pub fn files(&self, settings: &Settings) -> Result<Files> {
        let environment = (!settings.env.is_empty()).then(|| settings.environment());
        let drop_in = settings.workspace_dir.as_ref().map(|dir| format!("{MARK}\n[Service]\nBindPaths={dir}\n"));
        let wanted = [
            (self.name.settings(), Some(settings.text()?), 0o600),
            (self.name.environment(), environment, 0o600),
            (self.drop_in(), drop_in, 0o644),
            (self.name.image_signers(), settings.image_keys.clone(), 0o644),
        ];
        let file = |(path, content, mode): (String, Option<String>, u32)| {
            let path = PathBuf::from(path);
            let before = fs::read(&path).ok();
            Wanted { path, content: content.map(String::into_bytes), mode, before }
        };
        Ok(Files { files: wanted.map(file), workspace_dir: settings.workspace_dir.clone() })
    }

    fn drop_in(&self) -> String {
        format!("/etc/systemd/system/{}.d/workspace.conf", self.name.unit())
    }

    /// Removes every file that a join made, and the directory of workspaces where it is empty.
    pub fn remove_files(&self, settings: &Settings) -> Result<()> {
        for path in [self.name.settings(), self.name.environment(), self.drop_in(), self.name.image_signers()] {
            remove(Path::new(&path))?;
        }
        if let Some(dir) = &settings.workspace_dir {
            // What people have in it is theirs.
            let _ = fs::remove_dir(dir);
        }
        Ok(())
    }
}

/// Refuses a directory that cannot be bound into agentd's own view of the disk, or is not root's to give.
pub fn check_workspace_dir(dir: &str) -> Result<()> {
    let bad = |why: String| {
        Err(CliError::new(Kind::Usage, format!("{dir:?} cannot be the directory of workspaces"))
            .because(why)
            .next("--workspace-dir /srv/helix-workspaces, or leave it out"))
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-');
    if !dir.starts_with('/') || !dir.bytes().all(plain) || dir.split('/').any(|part| part == "..") {
        return bad("it has to be an absolute path of letters, digits and / . _ -".to_owned());
    }
    match fs::symlink_metadata(dir) {
        Ok(found) if !found.is_dir() => bad("it is no directory".to_owned()),
        Ok(found) if found.uid() != 0 || found.mode() & 0o022 != 0 => bad(format!(
            "it belongs to user {} with mode {:o}: it has to be root's alone",
            found.uid(),
            found.mode() & 0o7777
        )),
        Err(error) if error.kind() != io::ErrorKind::NotFound => bad(error.to_string()),
        _ => Ok(()),
    }
}
