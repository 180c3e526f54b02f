//! SIGHUP: new settings, or a new binary, without touching a session.
//!
//! The program first runs itself once with `--check-config`, which proves that the binary starts and that the settings
//! are valid as *it* reads them. If that fails, everything stays as it is, and log and status say why. Otherwise agentd
//! winds down as for SIGTERM with `on_exit = "keep"` and executes itself with the same arguments: the process id,
//! hence systemd's idea of the service, stays; sessions are taken over as after any restart. Every descriptor is
//! close-on-exec, so locks and connections end with the old life.
//!
//! Between exec and the new life's first instructions a second SIGHUP would end it; systemd then starts it again.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::watch;

/// Longest run of the check.
const CHECK_WITHIN: Duration = Duration::from_secs(10);
/// The flag of `agentd run` that only checks.
const CHECK: &str = "--check-config";

/// This very program and how it was started.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    name: OsString,
    args: Vec<OsString>,
}

/// Why a reload did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The binary does not run.
    #[error("{path} cannot be started: {error}")]
    Start {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It found faults, or failed otherwise.
    #[error("{0}")]
    Faults(String),
    /// It took too long.
    #[error("the check of the settings took more than {} s", CHECK_WITHIN.as_secs())]
    Slow,
}

impl Program {
    /// To be asked at the start: once the file is replaced, the kernel tells another name.
    pub fn this() -> io::Result<Self> {
        let mut args = std::env::args_os();
        let name = args.next().unwrap_or_else(|| "agentd".into());
        Ok(Self { path: std::env::current_exe()?, name, args: args.collect() })
    }

    /// Where it is.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Lets the program, as it is on disk now, check the settings, as they are now.
    pub async fn check(&self) -> Result<(), Refused> {
        let mut command = tokio::process::Command::new(&self.path);
        command
            .args(&self.args)
            .arg(CHECK)
            // What it says is not the service's word.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let start = |error| Refused::Start { path: self.path.clone(), error };
        let output = tokio::time::timeout(CHECK_WITHIN, command.output()).await.map_err(|_| Refused::Slow)?;
        let output = output.map_err(start)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("error: ").to_owned();
        Err(Refused::Faults(if said.is_empty() { format!("the check ended with {}", output.status) } else { said }))
    }

    /// Becomes the program anew. Returns only if that is not possible.
    pub fn execute(&self) -> io::Error {
        std::process::Command::new(&self.path).arg0(&self.name).args(&self.args).exec()
    }
}

/// Waits until a reload is asked for and can succeed; where SIGHUP `ends`, for the first one. `trouble` tells why the
/// last reload that was asked for could not.
pub async fn asked(program: &Program, mut hangup: Signal, ends: bool, trouble: watch::Sender<Option<String>>) {
    while hangup.recv().await.is_some() {
        if ends {
            return;
        }
        match program.check().await {
            Ok(()) => return,
            Err(refused) => {
                tracing::error!(reason = %refused, "not reloaded: going on with the old settings");
                let reason = refused.to_string();
                trouble.send_replace(Some(reason));
            }
        }
    }
    // The runtime ends.
    std::future::pending::<()>().await;
}

/// True where SIGHUP means that somebody's terminal was closed.
pub fn hangup_means_end() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        // "--check-config" becomes $0.
        Program { path: "/bin/sh".into(), name: "sh".into(), args: vec!["-c".into(), script.into()] }
    }

    #[tokio::test]
    async fn a_check_that_fails_says_what_the_program_said() {
        shell("test \"$0\" = --check-config").check().await.expect("good");
        let refused = shell("echo agentd.toml line 3: no >&2; exit 78").check().await.unwrap_err();
        assert_eq!(refused.to_string(), "agentd.toml line 3: no");
        let refused = shell("exit 3").check().await.unwrap_err();
        assert!(refused.to_string().contains("exit status: 3"), "{refused}");
        let gone = Program { path: "/nonexistent/agentd".into(), ..shell("") };
        assert!(matches!(gone.check().await, Err(Refused::Start { .. })));
    }

    #[tokio::test]
    async fn a_refused_reload_waits_for_the_next_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("good");
        let program = shell(&format!("test -e {} || {{ echo no file >&2; exit 1; }}", file.display()));
        let hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).expect("a handler");
        let (sender, mut trouble) = watch::channel(None);
        let send_it = || rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP);
        let waiting = tokio::spawn(async move { asked(&program, hangup, false, sender).await });
        send_it().expect("sent");
        let told = tokio::time::timeout(Duration::from_secs(30), trouble.wait_for(Option::is_some)).await;
        assert_eq!(told.expect("in time").expect("it waits on").as_deref(), Some("no file"));
        std::fs::write(&file, "").expect("written");
        send_it().expect("sent");
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("in time").expect("reload");
    }
}
