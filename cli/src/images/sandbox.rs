//! Where root file systems are touched: a process of this very program with mounts, processes and a name of its own.
//!
//! Root gets that as it is; anybody else in a user namespace, with the numbers that `/etc/subuid` gives to that user.
//! The process is killed when this one dies, however that happens, and everything in it with it; its mounts go with
//! the last process. It reads one [`Job`] from standard input and answers with one line on standard output; what
//! programs say goes into the step's log.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::archive::missing_program;
use super::cache::cannot;
use super::worker::{Answer, Job};
use crate::error::{CliError, Result};

/// The hidden command that does a job.
pub const WORKER: &str = "image-worker";
/// Lines of a log that are shown with an error.
const SHOWN_LINES: usize = 15;
/// No line of them is longer.
const SHOWN_CHARS: usize = 300;

/// How this user may touch root file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// As root.
    Root,
    /// In a user namespace.
    Namespace,
}

/// What this user may do; an error that says what is missing.
pub fn rights() -> Result<Rights> {
    if rustix::process::geteuid().is_root() {
        return Ok(Rights::Root);
    }
    let refused = |why: String, next: &str| {
        CliError::failed("this user cannot build images").because(why).next(format!("{next}; or build as root"))
    };
    if crate::up::programs::in_path("newuidmap").is_none() {
        return Err(refused("there is no newuidmap".to_owned(), "apt-get install -y uidmap"));
    }
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let switched_off =
        std::fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone").is_ok_and(|text| text.trim() == "0");
    if most.trim() == "0" || switched_off {
        return Err(refused(
            "this machine allows no user namespaces".to_owned(),
            "sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1",
        ));
    }
    let user = std::env::var("USER").unwrap_or_default();
    let number = rustix::process::getuid().as_raw().to_string();
    let numbers = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let is_mine = |line: &str| line.split(':').next().is_some_and(|name| name == user || name == number);
    if !numbers.lines().any(is_mine) {
        return Err(refused(
            "/etc/subuid gives this user no numbers".to_owned(),
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
        ));
    }
    Ok(Rights::Namespace)
}

/// Does a job; what its programs say is appended to `log`.
pub async fn run(job: &Job, log: &Path) -> Result<Answer> {
    let failed = |why: String| CliError::failed("a step of the build could not be run").at(log.display()).because(why);
    let stderr = File::options().create(true).append(true).open(log).map_err(|error| cannot(log, &error))?;
    let this = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private"]);
    command.args(["--pid", "--fork", "--kill-child", "--uts", "--ipc"]);
    if rights()? == Rights::Namespace {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command.arg("--").arg(this).arg(WORKER);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| missing_program("setpriv and unshare", &error))?;
    let job = serde_json::to_vec(job).map_err(|error| failed(error.to_string()))?;
    let mut stdin = child.stdin.take().ok_or_else(|| failed("it has no standard input".to_owned()))?;
    // A worker that ended already is told by what it says, not by the broken pipe.
    let _ = stdin.write_all(&job).await;
    drop(stdin);
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut said).await.map_err(|error| failed(error.to_string()))?;
    }
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    match said.lines().last().map(serde_json::from_str::<Result<Answer, CliError>>) {
        Some(Ok(answer)) => answer,
        _ => Err(failed(format!("it ended with {status}\n{}", last_lines(log)))),
    }
}

/// The last lines of a log.
pub fn last_lines(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    shown.iter().map(|line| line.chars().take(SHOWN_CHARS).collect::<String>()).collect::<Vec<_>>().join("\n")
}
