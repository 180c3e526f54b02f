//! Commands on a host through the ssh program. One connection per user stays open, so that a command costs milliseconds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::timeout;

use super::lab;

/// Begins the line that tells a command's exit code.
const CODE: &str = "lab-exit-code=";

/// What a command answered.
#[derive(Debug, Clone)]
pub struct Output {
    /// As a shell tells it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Its output without the last line's end; an error when it failed.
    pub fn ok(self) -> Result<String> {
        if self.code != 0 {
            bail!("exit code {}\n{}{}", self.code, self.stdout, self.stderr);
        }
        Ok(self.stdout.trim_end().to_owned())
    }
}

/// Where to log in.
#[derive(Debug, Clone)]
pub struct Login {
    /// Name of the host, for the connection's socket.
    pub host: String,
    /// Its address.
    pub address: String,
    /// Private key.
    pub key: PathBuf,
}

impl Login {
    /// Runs a command line in the user's shell.
    pub async fn run(&self, user: &str, line: &str, within: Duration) -> Result<Output> {
        let mut command = self.command(user);
        // The code comes on a line of its own: ssh's own failure is 255, and so is that of many commands.
        let wrapped = format!("(\n{line}\n)\necho \"{CODE}$?\" >&2");
        command.arg(wrapped).stdin(Stdio::null()).kill_on_drop(true);
        let Ok(output) = timeout(within, command.output()).await else {
            bail!("{}: not within {within:?}: {line}", self.host);
        };
        let output = output.context("cannot start ssh")?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = stderr.rsplit_once(CODE).and_then(|(rest, code)| Some((rest.to_owned(), code.trim().parse().ok()?)));
        let Some((stderr, code)) = told else { bail!("{}: no connection for: {line}\n{stderr}", self.host) };
        Ok(Output { code, stdout: String::from_utf8_lossy(&output.stdout).into_owned(), stderr })
    }

    /// Ends the connections that stay open.
    pub fn hang_up(&self) {
        for user in ["root", "ops"] {
            let socket = self.socket(user);
            if socket.exists() {
                let _ = std::process::Command::new("ssh")
                    .args(["-F", "none", "-O", "exit", "-S"])
                    .arg(&socket)
                    .arg(&self.address)
                    .stderr(Stdio::null())
                    .status();
                let _ = std::fs::remove_file(socket);
            }
        }
    }

    fn command(&self, user: &str) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR"]);
        // Host keys are made at the first boot, and a lab reaches nobody else.
        command.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        command.args(["-o", "ControlMaster=auto", "-o", "ControlPersist=yes", "-S"]).arg(self.socket(user));
        command.arg("-i").arg(&self.key).arg(format!("{user}@{}", self.address));
        command
    }

    fn socket(&self, user: &str) -> PathBuf {
        lab::dir().join("ssh").join(Path::new(&format!("{user}@{}", self.host)))
    }
}
