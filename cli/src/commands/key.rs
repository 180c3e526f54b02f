//! `helixctl key new`: the key that signs what `provision` installs, or the server key.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
#[cfg(test)]
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use crate::error::{CliError, Result};
use crate::provision::signing::SigningKey;
use crate::settings::process_env;
use crate::ui::Ui;

/// Where a server's settings have its key.
const SERVER_KEY: &str = "/etc/helix/secrets/server.key";
const SERVER_KEY_BYTES: usize = 32;

/// Make the key that signs what `provision` installs, or the server key
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key in a file that is not there yet
    New {
        /// What for
        #[arg(value_enum, default_value_t = Purpose::Signing)]
        purpose: Purpose,
        /// Its file [default: ~/.config/helix/provision.key, with .pub beside it; /etc/helix/secrets/server.key]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// Signs what `provision` installs: machines take that, and nothing else, once they were provisioned with it
    Signing,
    /// `key_file` of server.toml, the same on every server: session tokens, sealed secrets and NATS depend on it
    Server,
}

/// What `key new` prints with `--json`.
#[derive(Serialize)]
struct Made {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    public: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

/// Runs one key command.
pub fn run(command: KeyCommand, ui: &Ui) -> Result<ExitCode> {
    let KeyCommand::New { purpose, out } = command;
    if purpose == Purpose::Server {
        let path = out.unwrap_or_else(|| SERVER_KEY.into());
        make_server_key(&path)?;
        let made = Made { file: path.display().to_string(), public: None, fingerprint: None };
        ui.answer(&made, || ui.line(&made.file))?;
        if !ui.json {
            ui.note(
                "keep a copy apart from backups: without it a backup cannot be restored; who has it is every session",
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let path = out.map_or_else(|| SigningKey::default_path(&process_env), Ok)?;
    let key = SigningKey::create(&path)?;
    let made =
        Made { file: path.display().to_string(), public: Some(key.public()), fingerprint: Some(key.fingerprint()) };
    ui.answer(&made, || ui.line(&made.file))?;
    if !ui.json {
        ui.note(&format!("{}; keep it safe: who has it can install agentd on your machines", key.fingerprint()));
    }
    Ok(ExitCode::SUCCESS)
}

/// 32 random bytes that only their owner reads. One that is there is never replaced: all that it sealed would be lost.
fn make_server_key(path: &Path) -> Result<()> {
    let bad = |why: String, next: &str| {
        CliError::failed("cannot make a server key").at(path.display()).because(why).next(next)
    };
    let mut key = [0; SERVER_KEY_BYTES];
    getrandom::fill(&mut key).map_err(|error| bad(error.to_string(), "try again"))?;
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&key)?;
        file.sync_all()
    };
    write().map_err(|error| bad(error.to_string(), "name a file that is not there yet: --out FILE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_key_is_32_bytes_for_its_owner_and_never_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("server.key");
        make_server_key(&path).expect("made");
        let (key, meta) = (std::fs::read(&path).expect("read"), std::fs::metadata(&path).expect("there"));
        assert_eq!((key.len(), meta.permissions().mode() & 0o777), (32, 0o600));
        make_server_key(&path).expect_err("it is there");
        assert_eq!(std::fs::read(&path).expect("read"), key);
    }
}
