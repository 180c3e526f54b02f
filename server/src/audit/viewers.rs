//! What a runner's gate says of viewers, put into the trail.
//!
//! Only about sessions that the runner has: it is not believed about others'. Stored when acknowledged; a note that comes
//! again within the stream's duplicate window is there once.

use futures::future::try_join_all;
use helix_protocol::audit::AuditEntry;
use helix_protocol::event::Event;
use helix_protocol::viewer::{Refusal, ViewerNote};
use helix_protocol::{RunnerId, SessionId};

use super::{Audit, OK};
use crate::error::Result;

/// Principal of whom nobody knows.
const NOBODY: &str = "?";

impl Audit {
    /// Stores a runner's notes; answers the number up to which it need not say them again.
    pub async fn viewers(
        &self,
        runner: &RunnerId,
        notes: Vec<ViewerNote>,
        is_its_own: impl Fn(&SessionId) -> bool,
    ) -> Result<Option<u64>> {
        let newest = notes.iter().map(|note| note.number).max();
        let (own, foreign): (Vec<_>, Vec<_>) = notes.into_iter().partition(|note| is_its_own(&note.session));
        for note in foreign {
            tracing::warn!(runner.id = %runner, session.id = %note.session, "it tells of a viewer of a session that it does not have");
        }
        try_join_all(own.into_iter().map(async |note| {
            let id = format!("viewer.{runner}.{}", note.number);
            self.events.publish(&Event::Audit { entry: entry(note) }, &id).await
        }))
        .await?;
        Ok(newest)
    }
}

fn entry(note: ViewerNote) -> AuditEntry {
    let action = if note.refused.is_some() { "viewer.refused" } else { "viewer.joined" };
    AuditEntry {
        at: note.at,
        principal: note.by.unwrap_or_else(|| NOBODY.to_owned()),
        action: action.to_owned(),
        target: note.session.to_string(),
        result: note.refused.map_or(OK, Refusal::word).to_owned(),
        // The entry itself is one of them.
        repeated: note.count.saturating_sub(1),
        entrance: Some(note.entrance),
    }
}
