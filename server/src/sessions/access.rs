//! What only the runner of a session is told: the session's own token, its secrets and the passwords of its viewers.

use helix_protocol::assignment::{DesiredSession, SessionAccess};
use helix_protocol::session::Desired;

use super::Sessions;
use crate::keys::token_epoch;

impl Sessions {
    /// Fills in what sessions that shall run need. The projection in the store never has it.
    pub fn give_access(&self, set: &mut [DesiredSession]) {
        let sessions = self.inner.store.sessions.view().read();
        for desired in set.iter_mut().filter(|desired| desired.desired == Desired::Running) {
            let Some(entry) = sessions.get(desired.session.as_str()) else { continue };
            let record = &entry.value;
            // The projection is a moment behind: what it names is over.
            if record.epoch != desired.epoch {
                continue;
            }
            let epoch = token_epoch(record.epoch, record.assignment.is_some());
            // The session shall start and say itself what it lacks: no start says less.
            let secrets = self.inner.secrets.of(record).unwrap_or_else(|error| {
                tracing::error!(session.id = %record.id, source = ?error.source, "a session has no secrets: {error}");
                helix_protocol::thread::Secrets::new()
            });
            // Counter and list of one record: the runner takes no list for a newer one than it is.
            desired.grants = record.grants.epoch;
            let (token, grants) = (self.inner.keys.session_token(&record.id, epoch), self.live_grants(record));
            desired.access = Some(SessionAccess { token, secrets, grants });
        }
    }
}
