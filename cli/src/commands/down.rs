//! `helixctl down`: ends what `up` started, also when its supervisor was killed. Workspaces and records stay.

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::Signal;
use serde::Serialize;

use crate::args::GlobalArgs;
use crate::error::{CliError, Kind, Result};
use crate::settings::{process_env, state_dir};
use crate::ui::Ui;
use crate::up::leftovers::{self, Sessions};
use crate::up::lock::{self, Holder, Lock, Role, Taken};
use crate::up::process::Process;
use crate::up::record::UpRecord;
use crate::up::state_dir::StateDir;
use crate::up::{programs, supervise};

/// More than the children's own deadlines together.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(150);

/// What `down --json` prints.
#[derive(Serialize)]
struct Down {
    state_dir: std::path::PathBuf,
    /// False when nothing ran.
    was_up: bool,
}

/// Ends everything and proves it.
pub async fn run(global: &GlobalArgs, ui: &Ui) -> Result<ExitCode> {
    let dir = state_dir(global, &process_env)?;
    // Where never was an `up`, nothing is made either.
    let was_up = if dir.lock().exists() { end_all(&dir, ui).await? } else { false };
    let answer = Down { state_dir: dir.root().to_owned(), was_up };
    ui.answer(&answer, || {
        let words = if was_up { "ended; sessions' records and workspaces stay" } else { "nothing was up" };
        ui.note(&format!("{words} in {}", dir.root().display()));
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn end_all(dir: &StateDir, ui: &Ui) -> Result<bool> {
    let progress = ui.progress();
    let (_lock, had_supervisor) = match lock::take(dir, Role::Down)? {
        Taken::Ours(lock) => (lock, false),
        Taken::Held(holder) => {
            progress.now("ending sessions, runner, server and bus");
            (end_supervisor(dir, holder).await?, true)
        }
    };
    // Whatever a killed supervisor could not end.
    let record = UpRecord::read(dir).unwrap_or_default();
    let left = leftovers::find(dir, record.as_ref());
    let was_up = had_supervisor || record.is_some() || !left.is_empty();
    leftovers::end(left, Sessions::End).await;
    // Also without a supervisor: sessions outlive their agentd.
    if dir.agentd().is_dir() {
        supervise::reap(dir, &programs::own("agentd")?).await?;
    }
    for leftover in [dir.record(), dir.notify_socket("server"), dir.notify_socket("agentd")] {
        let _ = std::fs::remove_file(leftover);
    }
    Ok(was_up)
}

async fn end_supervisor(dir: &StateDir, holder: Option<Holder>) -> Result<Lock> {
    let busy = |why: String| {
        CliError::failed("cannot end what is up")
            .at(dir.root().display())
            .because(why)
            .next("repeat the command in a moment")
    };
    let supervisor = match holder {
        Some(Holder { role: Role::Up, process }) => process,
        Some(Holder { process, .. }) => {
            return Err(busy(format!("another helixctl down is at it (process {})", process.pid)));
        }
        None => return Err(busy("another helixctl has just begun there".to_owned())),
    };
    if let Some(held) = Process::hold(supervisor) {
        held.signal(Signal::TERM);
        if !held.ended_within(SUPERVISOR_GRACE).await {
            let pid = supervisor.pid;
            return Err(CliError::new(Kind::TimedOut, "the supervisor does not end")
                .at(format!("process {pid}"))
                .because(format!("{} s after SIGTERM it still runs", SUPERVISOR_GRACE.as_secs()))
                .next(format!("read {}, then: kill -9 {pid}; helixctl down", dir.log_file("up").display())));
        }
    }
    match lock::take(dir, Role::Down)? {
        Taken::Ours(lock) => Ok(lock),
        Taken::Held(_) => Err(busy("another helixctl began there meanwhile".to_owned())),
    }
}
