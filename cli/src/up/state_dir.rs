//! The state directory of a one-machine Helix: paths, and files that only their owner reads.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use helix_protocol::ids::hex;

use crate::error::{CliError, Kind, Result};

/// A unix socket's path has at most 107 bytes, and those of a session's display lie this deep below:
/// `/agentd/s/<16 digits>/display/vnc.sock`.
pub const MAX_PATH_BYTES: usize = 60;

/// An absolute path that need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    root: PathBuf,
}

macro_rules! paths {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        impl StateDir {
            $($(#[$doc])* pub fn $name(&self) -> PathBuf { self.root.join($file) })*
        }
    };
}

paths! {
    /// Held by the supervisor while it lives.
    lock = "up.lock";
    /// What runs, see [`crate::up::record`].
    record = "up.json";
    /// Bearer token of the operator.
    admin_token = "admin.token";
    /// Enrolment token of runners.
    runner_token = "runner.token";
    /// 32 bytes that the server derives its secrets from.
    server_key = "server.key";
    /// NATS password of helix-server.
    nats_password = "nats.password";
    /// NATS password of the observer, who may read everything.
    observer_password = "observer.password";
    /// Settings of helix-server.
    server_toml = "server.toml";
    /// Settings of agentd.
    agentd_toml = "agentd.toml";
    /// Settings of nats-server, made by helix-server.
    nats_conf = "nats.conf";
    /// JetStream's files and the ports file.
    nats = "nats";
    /// agentd's own state.
    agentd = "agentd";
    /// What sessions work in.
    workspaces = "workspaces";
    /// Logs of the children and of a detached `up`.
    log = "log";
}

impl StateDir {
    /// The directory at `path`, made absolute; created by [`StateDir::create`] alone.
    pub fn new(path: &Path) -> Result<Self> {
        // Resolved where it exists, so that two spellings of one directory are one.
        let resolved = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        let root = resolved.map_err(|error| bad_dir(path, error))?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `log/<name>.log`.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.log().join(format!("{name}.log"))
    }

    /// `<name>.notify`: where a daemon says that it is ready.
    pub fn notify_socket(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.notify"))
    }

    /// Makes the directory and those inside it, 0700, and proves that it can be written.
    pub fn create(self) -> Result<Self> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.root).map_err(|error| bad_dir(&self.root, error))?;
        let dir = Self::new(&self.root)?;
        let length = dir.root.as_os_str().as_bytes().len();
        if length > MAX_PATH_BYTES {
            return Err(CliError::new(Kind::Usage, "the path of the state directory is too long")
                .at(dir.root.display())
                .because(format!(
                    "it has {length} bytes; at most {MAX_PATH_BYTES} leave room for the sockets of displays below it"
                ))
                .next("helixctl up --state-dir with a shorter path"));
        }
        let shut = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&dir.root, shut).map_err(|error| bad_dir(&dir.root, error))?;
        for sub in [dir.log(), dir.nats(), dir.agentd(), dir.workspaces()] {
            builder.create(&sub).map_err(|error| bad_dir(&sub, error))?;
        }
        Ok(dir)
    }

    /// Makes every secret that is not there yet.
    pub fn make_secrets(&self) -> Result<()> {
        for path in [self.admin_token(), self.runner_token(), self.nats_password(), self.observer_password()] {
            make_once(&path, |bytes| hex(bytes).into_bytes())?;
        }
        make_once(&self.server_key(), <[u8]>::to_vec)
    }
}

fn make_once(path: &Path, encode: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut random = [0_u8; 32];
    getrandom::fill(&mut random)
        .map_err(|error| CliError::failed("cannot make a secret").at(path.display()).because(error))?;
    write_private(path, &encode(&random))
}

/// Writes a whole file that only its owner reads: it is there complete or not at all, also after a crash.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_added_extension("new");
    let write = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error: std::io::Error| {
        CliError::failed("cannot write").at(path.display()).because(error).next("check space and permissions there")
    })
}

fn bad_dir(path: &Path, why: impl std::fmt::Display) -> CliError {
    CliError::failed("cannot use the state directory")
        .at(path.display())
        .because(why)
        .next("helixctl up --state-dir with a directory that this user can write")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777
    }

    #[test]
    fn secrets_are_made_once_and_private() {
        let temp = tempfile::tempdir_in("/tmp").expect("a directory");
        let dir = StateDir::new(&temp.path().join("s")).expect("a path").create().expect("created");
        dir.make_secrets().expect("secrets");
        let token = std::fs::read_to_string(dir.admin_token()).expect("a token");
        assert_eq!(token.len(), 64);
        assert_eq!(std::fs::read(dir.server_key()).expect("a key").len(), 32);
        for path in [dir.admin_token(), dir.runner_token(), dir.server_key(), dir.nats_password()] {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
        for path in [dir.root(), &dir.log(), &dir.nats(), &dir.agentd(), &dir.workspaces()] {
            assert_eq!(mode(path), 0o700, "{}", path.display());
        }
        dir.make_secrets().expect("again");
        assert_eq!(std::fs::read_to_string(dir.admin_token()).expect("a token"), token);
    }

    #[test]
    fn a_path_too_long_for_sockets_names_the_limit() {
        let temp = tempfile::tempdir_in("/tmp").expect("a directory");
        let long = temp.path().join("x".repeat(60));
        let error = StateDir::new(&long).expect("a path").create().expect_err("too long");
        assert_eq!(error.kind, Kind::Usage);
        assert!(error.to_string().contains("at most 60"), "{error}");
    }
}
