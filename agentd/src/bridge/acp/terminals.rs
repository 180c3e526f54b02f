//! Commands that the agent runs in a terminal of the client's: started inside the project, output kept to a bound.
//!
//! One task per command copies its output and waits for it; a command is ended, with its process group, when it is
//! released or its agent is gone. Nothing is kept of a released one here: the turn's log takes what it wrote.

use std::collections::BTreeMap;
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_client_protocol::v1::schema::{
    CreateTerminalRequest, TerminalExitStatus, TerminalId, TerminalOutputResponse, WaitForTerminalExitResponse,
};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::watch;

use super::files::Files;
use crate::bridge::agent::new_id;

/// Output that is kept where the agent names no limit, and at most.
const MAX_OUTPUT: usize = 1024 * 1024;
/// Terminals of an agent at the same time: each may keep its output.
const MAX_TERMINALS: usize = 64;
/// After a command's end its last output is there within this time.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

/// All of an agent's commands, by id.
#[derive(Debug, Default)]
pub struct Terminals {
    terminals: Mutex<BTreeMap<String, Terminal>>,
}

#[derive(Debug, Clone)]
struct Terminal {
    group: Option<Pid>,
    output: Arc<Mutex<Output>>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    limit: usize,
    truncated: bool,
}

impl Terminals {
    /// `terminal/create`.
    pub fn create(&self, wish: &CreateTerminalRequest, files: &Files) -> Result<TerminalId, String> {
        if self.terminals().len() >= MAX_TERMINALS {
            return Err(format!("{MAX_TERMINALS} terminals are open: release one first"));
        }
        let program = &wish.command;
        let cwd = files.directory(wish.cwd.as_deref().unwrap_or(Path::new(".")))?;
        let (reader, writer) = std::io::pipe().map_err(|error| error.to_string())?;
        let errors = writer.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.args(&wish.args).current_dir(cwd).stdin(Stdio::null()).stdout(writer).stderr(errors).process_group(0);
        command.env_remove("ZED_HELIX_TOKEN").kill_on_drop(true);
        command.envs(wish.env.iter().map(|variable| (&variable.name, &variable.value)));
        let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
        // Our copies of the writing end.
        drop(command);
        let limit = wish.output_byte_limit.and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(MAX_OUTPUT).min(MAX_OUTPUT);
        let output = Arc::new(Mutex::new(Output { limit, ..Output::default() }));
        let (exited, exit) = watch::channel(None);
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let taken = output.clone();
        tokio::spawn(async move {
            let mut copy = tokio::spawn(copy(reader, taken));
            let status = child.wait().await;
            // What it wrote last is in the pipe; what it left running may hold that open for ever.
            let _ = tokio::time::timeout(LAST_OUTPUT, &mut copy).await;
            exited.send_replace(Some(status.unwrap_or_else(|_| ExitStatus::from_raw(255 << 8))));
        });
        let id = new_id("term_");
        self.terminals().insert(id.clone(), Terminal { group, output, exit });
        Ok(id.into())
    }

    /// `terminal/output`.
    pub fn output(&self, id: &TerminalId) -> Result<TerminalOutputResponse, String> {
        let terminal = self.get(id)?;
        let (output, truncated) = terminal.text();
        let status = terminal.exit.borrow().map(exit_status);
        Ok(TerminalOutputResponse::new(output, truncated).exit_status(status))
    }

    /// `terminal/wait_for_exit`.
    pub async fn wait(&self, id: &TerminalId) -> Result<WaitForTerminalExitResponse, String> {
        let mut exit = self.get(id)?.exit;
        let status = exit.wait_for(Option::is_some).await.map_err(|_| "the command is gone".to_owned())?;
        Ok(WaitForTerminalExitResponse::new(status.map(exit_status).unwrap_or_default()))
    }

    /// `terminal/kill`.
    pub fn kill(&self, id: &TerminalId) -> Result<(), String> {
        self.get(id)?.kill();
        Ok(())
    }

    /// `terminal/release`; answers what the command wrote.
    pub fn release(&self, id: &TerminalId) -> Result<String, String> {
        let terminal = self.get(id)?;
        terminal.kill();
        self.terminals().remove(&*id.0);
        Ok(terminal.text().0)
    }

    /// What the command of this id wrote, for the entry that shows it.
    pub fn text(&self, id: &str) -> Option<String> {
        let terminal = self.terminals().get(id).cloned()?;
        Some(terminal.text().0)
    }

    /// Ends all of them.
    pub fn end(&self) {
        for (_, terminal) in std::mem::take(&mut *self.terminals()) {
            terminal.kill();
        }
    }

    fn get(&self, id: &TerminalId) -> Result<Terminal, String> {
        self.terminals().get(&*id.0).cloned().ok_or_else(|| format!("Resource not found: terminal {id}"))
    }

    fn terminals(&self) -> MutexGuard<'_, BTreeMap<String, Terminal>> {
        self.terminals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Terminal {
    fn kill(&self) {
        // Once it was waited for, the number may be somebody else's.
        if let Some(group) = self.group.filter(|_| self.exit.borrow().is_none()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn text(&self) -> (String, bool) {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        (String::from_utf8_lossy(&output.bytes).into_owned(), output.truncated)
    }
}

async fn copy(reader: PipeReader, output: Arc<Mutex<Output>>) {
    let Ok(mut reader) = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)) else { return };
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = reader.read(&mut bytes).await {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        output.bytes.extend_from_slice(&bytes[..count]);
        if output.bytes.len() > output.limit {
            let mut cut = output.bytes.len() - output.limit;
            // Not inside a character.
            while cut < output.bytes.len() && output.bytes[cut] & 0xc0 == 0x80 {
                cut += 1;
            }
            output.bytes.drain(..cut);
            output.truncated = true;
        }
    }
}

fn exit_status(status: ExitStatus) -> TerminalExitStatus {
    let signal = status.signal().map(|signal| signal.to_string());
    TerminalExitStatus::new().exit_code(status.code().map(i32::cast_unsigned)).signal(signal)
}
