//! The session's recording: agentd's end of its recorder ([`crate::recorder`]), and the end of it all.

use std::convert::Infallible;

use helix_protocol::recording::RecordedEvent;
use helix_protocol::session::Cause;

use super::{RETRY, Session};
use crate::recorder::notes::serve;
use crate::recorder::unit::Told;
use crate::supervisor::{Supervisor, UnitName};

/// Cause of a session that goes on while its recording does not.
const PAUSED: &str = "recording_paused";

impl<S: Supervisor> Session<S> {
    /// Lets the recorder know what others do, while the session's slice is there. Never ends.
    pub(super) async fn let_note(&self) -> Infallible {
        if self.entry().recording.is_none() {
            return std::future::pending().await;
        }
        let mut open = self.outlet.subscribe();
        loop {
            // The sender lives in the session.
            let _ = open.wait_for(|open| *open).await;
            tokio::select! {
                never = self.serve_recorder() => match never {},
                _ = open.wait_for(|open| !*open) => {}
            }
        }
    }

    async fn serve_recorder(&self) -> Infallible {
        let mut desk = self.context.notes.announce(&self.id());
        // Whoever has the control already had it before there was anybody to note it.
        self.note_control();
        loop {
            match self.context.supervisor.listen(&self.id(), UnitName::Recorder).await {
                Ok(listener) => {
                    match serve(&listener, &mut desk, || self.recorder(), |told| self.note_told(told)).await {}
                }
                Err(error) => tracing::error!("what is typed in the session is not recorded: {error}"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The recorder's main process.
    async fn recorder(&self) -> Option<u32> {
        let units = self.context.supervisor.units(&self.id()).await.ok()?;
        units.iter().find(|unit| unit.name == UnitName::Recorder)?.pid
    }

    fn note_told(&self, told: Told) {
        match told {
            Told::Paused { reason } => {
                tracing::error!(reason, "the recording pauses");
                let message =
                    format!("nothing of the desktop is recorded now: {reason}; make room on the runner's disk");
                self.note_cause(Cause::new(PAUSED, message));
            }
            Told::Recording {} => {
                if self.entry().cause.as_ref().is_some_and(|cause| cause.code == PAUSED) {
                    tracing::info!("the recording goes on");
                    self.change(|entry| entry.cause = None);
                }
            }
        }
    }

    /// For the recording: who may type now.
    pub(super) fn note_control(&self) {
        let control = self.entry().desired.control.clone();
        if !control.is_unused() {
            let event = RecordedEvent::Control { epoch: control.epoch, holder: control.holder };
            self.context.notes.tell(&self.id(), event);
        }
    }

    /// Nothing of the session runs any more: its recording gets its end, and goes to the server.
    pub(super) async fn finish_recording(&self) {
        let Some(recording) = self.entry().recording.clone() else { return };
        self.context.uploads.finish(&recording).await;
    }
}
