//! A session's work: kept in checkpoints while it runs and at its end, put back at its start, put aside where the session
//! lives elsewhere.
//!
//! [`Session::keep_work`] runs beside everything else in the session's task: it makes a checkpoint when one is asked for
//! (the order counts), and for `on_lost = restart` when it is time. One at a time; a failure is told in the report and in the
//! log, and costs nothing else.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use helix_protocol::checkpoint::Reason;
use helix_protocol::resources::OnLost;
use helix_protocol::session::Cause;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::state::State;
use super::{Session, begin_step, finish_step};
use crate::checkpoint::{CheckpointError, Of};
use crate::supervisor::{Supervisor, UnitName};
use crate::tools::host::ToolsError;

/// For a checkpoint while the session runs.
const WITHIN: Duration = Duration::from_mins(30);
/// At the end of a session that is stopped, and of one that goes on elsewhere.
const AT_STOP: Duration = Duration::from_mins(1);
const AT_MOVE: Duration = Duration::from_mins(10);
/// For agentd to listen to the session's tools.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);
/// Of the tools that filled the workspace.
const STOP_GRACE: Duration = Duration::from_secs(1);

impl<S: Supervisor> Session<S> {
    /// Makes checkpoints when they are due. Never ends.
    pub(super) async fn keep_work(&self) -> Infallible {
        let mut asked = self.asked.subscribe();
        let interval = self.context.config.checkpoint_interval;
        loop {
            let (done, due) = {
                let entry = self.entry();
                let is_kept = entry.desired.spec.on_lost == Some(OnLost::Restart) && !interval.is_zero();
                (entry.work.asked, is_kept)
            };
            // Every arm is cancel safe. The sender lives in the session.
            tokio::select! {
                _ = asked.wait_for(|asked| *asked > done) => {}
                () = tokio::time::sleep(interval), if due => {}
            }
            let wanted = *asked.borrow();
            let reason = if wanted > done { Reason::Asked } else { Reason::Timer };
            let ready = {
                let entry = self.entry();
                entry.state == State::Ready && !entry.holding
            };
            if ready {
                self.checkpoint(reason, wanted, WITHIN).await;
            } else if wanted > done {
                self.change(|entry| {
                    entry.work.asked = wanted;
                    entry.work.error = Some("the session does not run".to_owned());
                });
            }
        }
    }

    /// Makes one now, and tells what came of it.
    async fn checkpoint(&self, reason: Reason, asked: u64, within: Duration) {
        let _alone = self.saving.lock().await;
        let of = {
            let entry = self.entry();
            Of { session: entry.session().clone(), epoch: entry.desired.epoch }
        };
        let made = async {
            let stream = self.tools_stream().await;
            let stream = stream.map_err(|error| CheckpointError::Session(error.to_string()))?;
            self.context.checkpoints.make(stream, &of, reason).await
        };
        let made = tokio::time::timeout(within, made).await.unwrap_or_else(|_| {
            Err(CheckpointError::Session(format!("it was not made within {} s", within.as_secs())))
        });
        match &made {
            Ok(Some(number)) => tracing::info!(number, ?reason, "checkpoint made"),
            Ok(None) => tracing::debug!(?reason, "nothing has changed since the last checkpoint"),
            Err(error) => tracing::error!(%error, ?reason, "no checkpoint"),
        }
        self.commit_or_later(|entry| {
            entry.work.asked = entry.work.asked.max(asked);
            entry.work.error = made.as_ref().err().map(ToString::to_string);
            if let Ok(Some(number)) = made {
                entry.work.number = Some(number);
            }
            entry.work.complete = matches!(reason, Reason::Stop | Reason::Move) && entry.work.error.is_none();
        })
        .await;
    }

    /// A connection to the session's tools. An agentd that has just taken it over may not have listened there yet.
    async fn tools_stream(&self) -> Result<UnixStream, ToolsError> {
        let (id, tools, mut open) = (self.id(), &self.context.tools, self.outlet.subscribe());
        // The sender lives in the session.
        let _ = open.wait_for(|open| *open).await;
        let deadline = Instant::now() + LISTENS_WITHIN;
        loop {
            tokio::time::timeout_at(deadline, tools.announced(&id)).await.map_err(|_| ToolsError::NoSession)?;
            match tools.open(&id).await {
                // Gone again at this moment.
                Err(ToolsError::NoSession) if Instant::now() < deadline => {}
                opened => return opened,
            }
        }
    }

    /// The last one: the agent has ended, and nobody changes anything any more.
    pub(super) async fn last_checkpoint(&self) {
        let (ran, moves, is_kept, held) = {
            let entry = self.entry();
            let is_kept = entry.desired.spec.on_lost == Some(OnLost::Restart) && !entry.desired.deleted;
            (entry.ready_at.is_some(), entry.desired.work.moves, is_kept, entry.holding)
        };
        if !ran || held || !(moves || is_kept) {
            return;
        }
        let (reason, within) = if moves { (Reason::Move, AT_MOVE) } else { (Reason::Stop, AT_STOP) };
        let asked = self.entry().work.asked;
        self.change(|entry| begin_step(entry, "checkpoint"));
        self.checkpoint(reason, asked, within).await;
        self.change(|entry| {
            let detail = entry.work.error.clone();
            finish_step(entry, "checkpoint", detail);
        });
    }

    /// Fills the workspace of a session that begins with a checkpoint, before anything else is started in it.
    pub(super) async fn restore_work(&self) -> Result<(), Cause> {
        let (restore, of) = {
            let entry = self.entry();
            let of = Of { session: entry.session().clone(), epoch: entry.desired.epoch };
            (entry.desired.work.restore.clone(), of)
        };
        let Some(restore) = restore else { return Ok(()) };
        let failed = |error: String| {
            let message = format!("checkpoint {} cannot be restored: {error}", restore.number);
            Cause::new("restore_failed", message)
        };
        let stream = self.tools_stream().await.map_err(|error| failed(error.to_string()))?;
        let restored = self.context.checkpoints.restore(stream, &of, &restore).await;
        // They know no display yet.
        let stopped = self.context.supervisor.stop(&of.session, UnitName::Tools, STOP_GRACE).await;
        restored.map_err(|error| failed(error.to_string()))?;
        stopped.map_err(|error| failed(error.to_string()))?;
        tracing::info!(number = restore.number, "workspace restored");
        Ok(())
    }

    /// Puts the workspace aside, unless all of it is in a checkpoint. Nothing of the session runs any more.
    pub(super) fn keep_workspace(&self) -> io::Result<()> {
        let (epoch, complete) = {
            let entry = self.entry();
            // Under which it ran, whatever epoch ordered its end.
            (entry.received_at.as_millisecond(), entry.work.complete)
        };
        let workspace = self.context.supervisor.host_paths(&self.id()).workspace;
        if complete || workspace.as_os_str().is_empty() {
            return Ok(());
        }
        let mut kept = workspace.clone().into_os_string();
        // No session has a dot in its id.
        kept.push(format!(".kept-{epoch}"));
        let kept = PathBuf::from(kept);
        match fs::rename(&workspace, &kept) {
            Ok(()) => {
                tracing::warn!("the session lives elsewhere; its workspace here is kept: {}", kept.display());
                self.change(|entry| entry.work.kept_at = Some(kept.to_string_lossy().into_owned()));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}
