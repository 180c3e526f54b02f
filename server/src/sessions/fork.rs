//! A session that begins from a checkpoint of another one: asked for in the same words, and its own from then on.

use helix_protocol::api::SessionView;
use helix_protocol::checkpoint::{Restore, WorkRecord};
use helix_protocol::record::SessionRecord;
use helix_protocol::session::SessionPhase;
use helix_protocol::{ErrorCode, SessionId};

use super::Sessions;
use super::create::new_record;
use crate::auth::Principal;
use crate::error::{Error, Result};

impl Sessions {
    /// Writes it. The secrets of the other one are sealed for that one, and stay there.
    pub async fn create_fork(
        &self,
        by: &Principal,
        origin: &SessionRecord,
        id: &SessionId,
        restore: Restore,
    ) -> Result<SessionView> {
        let request_hash = format!("fork {} {}", origin.id, restore.manifest);
        let record = SessionRecord {
            pool: origin.pool.clone(),
            on_runner: origin.on_runner.clone(),
            labels: origin.labels.clone(),
            work: WorkRecord { restore: Some(restore), ..WorkRecord::default() },
            ..new_record(id.clone(), by.name.clone(), origin.spec.clone(), request_hash)
        };
        match self.inner.store.sessions.create(id.as_str(), &record).await {
            Ok(revision) => {
                self.tell(&record, revision).await;
                Ok(self.view_of(&record))
            }
            Err(error) if error.code == ErrorCode::Conflict => {
                let there = self.inner.store.sessions.get(id.as_str()).await?.found();
                match there.filter(|there| {
                    there.value.owner == by.name
                        && there.value.request_hash == record.request_hash
                        && !there.value.deleted
                }) {
                    // The answer to the first try was lost.
                    Some(there) => Ok(self.view_of(&there.value)),
                    None => Err(Error::new(ErrorCode::SessionExists, format!("session {id} exists; use another id"))),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// How a record's session is.
    pub fn phase_of(&self, record: &SessionRecord) -> SessionPhase {
        self.known_of(record).phase()
    }
}
