//! Room for sessions that wait: who shall give way to them ends. Who that is says `scheduler/room.rs` (pure); it is one
//! revision-checked write of the record of who gives way, so that an agent which somebody takes at the same moment is his.
//!
//! An agent of a pool that is nobody's is deleted. What somebody has is preempted, which is a move (see `moves.rs`) without a
//! destination: it is saved while it runs on, then it ends. With `on_lost = restart` it waits for a runner again, to go on from
//! there; every other one stays stopped.

use helix_protocol::audit::AuditEntry;
use helix_protocol::event::Event;
use helix_protocol::record::SessionRecord;
use helix_protocol::{ErrorCode, SessionId};
use jiff::Timestamp;

use super::Reconciler;
use crate::audit::OK;
use crate::error::Result;
use crate::sessions::steps::give_way;
use crate::store::Versioned;

impl Reconciler {
    /// Has a session end for another one, unless it changed meanwhile: then the next pass decides anew.
    pub(super) async fn give_way(&self, entry: Versioned<SessionRecord>, to: SessionId) -> Result<()> {
        let record = give_way(&entry.value, &to, Timestamp::now());
        let revision = match self.store.sessions.update(record.id.as_str(), &record, entry.revision).await {
            Ok(revision) => revision,
            Err(error) if error.code == ErrorCode::Conflict => return Ok(()),
            Err(error) => return Err(error),
        };
        tracing::info!(session.id = %record.id, is_warm = record.warm.is_some(), %to, "a session gives way to another one");
        self.sessions.tell(&record, revision).await;
        let entry = AuditEntry {
            at: Timestamp::now(),
            principal: format!("session {to}"),
            action: if record.warm.is_some() { "session.gave_way" } else { "session.preempted" }.to_owned(),
            target: record.id.to_string(),
            result: OK.to_owned(),
            repeated: 0,
            entrance: None,
        };
        self.events.tell(&Event::Audit { entry }, &format!("gave_way.{}.{revision}", record.id)).await;
        Ok(())
    }
}
