//! The units of a session: starting them with nothing inherited, and what is known of each.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};

use super::log::Log;
use super::wire::UnitRecord;
use crate::supervisor::process::layout::Layout;
use crate::supervisor::process::procfs;
use crate::supervisor::process::sweep::VARIABLE;
use crate::supervisor::{Stdout, UnitName, UnitSpec};

pub(super) struct Unit {
    pub(super) record: UnitRecord,
    /// None once every process that held it has closed it.
    pub(super) log: Option<Log>,
    /// When SIGKILL follows: it has been told to end.
    pub(super) kill_at: Option<Instant>,
}

impl Unit {
    /// Starts the unit in a process group of its own.
    pub(super) fn start(spec: &UnitSpec, layout: &Layout, marker: &str) -> Result<Self, String> {
        let (name, arguments) = spec.argv.split_first().ok_or("its command line is empty")?;
        let program = find_program(name, spec.env.get("PATH").map_or("", String::as_str))?;
        let (pipe, writer) = io::pipe().map_err(|error| format!("no pipe for its log: {error}"))?;
        let log = Log::open(pipe, layout.log(spec.name), layout.rotated_log(spec.name))
            .map_err(|error| format!("its log {} cannot be opened: {error}", layout.log(spec.name).display()))?;
        let stdout = match spec.stdout {
            Stdout::Log => Stdio::from(writer.try_clone().map_err(|error| format!("no pipe for its log: {error}"))?),
            Stdout::Ready => {
                let path = layout.ready(spec.name);
                let mut options = fs::OpenOptions::new();
                let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
                Stdio::from(file.map_err(|error| format!("{} cannot be written: {error}", path.display()))?)
            }
        };
        if !spec.cwd.is_dir() {
            return Err(format!("its working directory {} does not exist", spec.cwd.display()));
        }
        // The reaper collects it: dropping the Child neither waits nor kills.
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(&spec.env)
            .env(VARIABLE, marker)
            .current_dir(&spec.cwd)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(writer)
            .spawn()
            .map_err(|error| error.to_string())?;
        // A zombie still has its start time, and only this thread collects.
        let start_time = procfs::process(child.id()).map_or(0, |process| process.start_time);
        let record = UnitRecord { name: spec.name, pid: child.id(), start_time, exit_status: None };
        Ok(Self { record, log: Some(log), kill_at: None })
    }

    pub(super) fn is_running(&self) -> bool {
        self.record.exit_status.is_none()
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        procfs::pid(self.record.pid)
    }

    /// Signals the unit's process group. Only while it runs: a pid not yet collected cannot be reused.
    pub(super) fn signal(&self, signal: Signal) {
        if let (true, Some(group)) = (self.is_running(), self.pid()) {
            // It may have ended this moment; then the reaper says so.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Asks it to end; SIGKILL follows at `kill_at`.
    pub(super) fn end(&mut self, kill_at: Instant) {
        if self.is_running() && self.kill_at.is_none_or(|already| kill_at < already) {
            self.kill_at = Some(kill_at);
            self.signal(Signal::TERM);
        }
    }

    /// SIGKILL, if its time has come. It is sent once; there is nothing stronger.
    pub(super) fn kill_when_due(&mut self, now: Instant) {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.signal(Signal::KILL);
        }
    }
}

/// The unit called `name` in `units`.
pub(super) fn find(units: &mut [Unit], name: UnitName) -> Option<&mut Unit> {
    units.iter_mut().find(|unit| unit.record.name == name)
}

/// The file of a program as a shell finds it, in the PATH that the unit itself will have.
fn find_program(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let mut candidates = path.split(':').filter(|dir| !dir.is_empty()).map(|dir| Path::new(dir).join(name));
    candidates.find(|candidate| is_executable(candidate)).ok_or_else(|| format!("not found in PATH {path:?}"))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
