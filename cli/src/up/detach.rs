//! `up --detach`: this program once more in the background, which tells its outcome through its standard output.

use std::net::SocketAddr;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, setsid};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::record::UpInfo;
use super::service::{open_log, tail};
use super::state_dir::StateDir;
use super::supervise::Signals;
use crate::error::{CliError, Result};

/// What the background process says, once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything runs.
    Ready(UpInfo),
    /// It does not, and nothing is left running.
    Failed(CliError),
}

/// In the background process, before any thread exists: a session of its own, without a terminal.
pub fn leave_terminal() -> Result<()> {
    setsid().map_err(|error| CliError::failed("cannot leave the terminal").because(error))?;
    Ok(())
}

/// In the background process: says the outcome and lets the pipe go, so that nobody waits on it any more.
pub fn tell(outcome: &Outcome) -> Result<()> {
    let failed = |why: String| CliError::failed("cannot tell that it is ready").because(why);
    let mut line = serde_json::to_vec(outcome).map_err(|error| failed(error.to_string()))?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    let written = std::io::Write::write_all(&mut stdout, &line).and_then(|()| std::io::Write::flush(&mut stdout));
    // Who waited may be gone; what was started stays.
    if let Err(error) = written {
        tracing::warn!(%error, "nobody waits for the outcome any more");
    }
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").map_err(|error| failed(error.to_string()))?;
    rustix::stdio::dup2_stdout(&null).map_err(|error| failed(error.to_string()))
}

/// Starts the background process and waits for its outcome.
pub async fn start(dir: &StateDir, listen: SocketAddr, slots: Option<u32>, signals: &mut Signals) -> Result<UpInfo> {
    let log = dir.log_file("up");
    let failed = |why: String| {
        CliError::failed("cannot start in the background")
            .at(log.display())
            .because(why)
            .next("helixctl up (without --detach) shows more")
    };
    let file = open_log(&log).map_err(|error| failed(error.to_string()))?;
    let log_start = file.metadata().map_err(|error| failed(error.to_string()))?.len();
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command.args(["up", "--detached-child", "--listen", &listen.to_string()]).arg("--state-dir").arg(dir.root());
    command.args(slots.map(|slots| format!("--slots={slots}")));
    let mut child = command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let stdout = child.stdout.take().ok_or_else(|| failed("it has no standard output".to_owned()))?;
    let mut lines = BufReader::new(stdout).lines();
    let line = loop {
        tokio::select! {
            line = lines.next_line() => break line,
            _signal = signals.next() => {
                // It ends what it has started, and says so.
                if let Some(pid) = pid {
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
        }
    };
    let said = line.ok().flatten().and_then(|line| serde_json::from_str(&line).ok());
    match said {
        Some(Outcome::Ready(info)) => Ok(info),
        Some(Outcome::Failed(error)) => Err(error),
        None => Err(failed(format!("it ended without a word{}", tail(&log, log_start)))),
    }
}
