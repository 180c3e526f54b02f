//! The end of recordings: by somebody, or because their time is up. A deletion is part of the audit trail, and outlives its
//! recording as a small record, so that everybody who asks is told.

use helix_protocol::event::{Event, RecordingChange};
use helix_protocol::record::RecordingRecord;
use helix_protocol::recording::{Deletion, MAX_KEEP_SECONDS};
use helix_protocol::{ErrorCode, RecordingId};
use jiff::{SignedDuration, Timestamp};

use super::{Recordings, expires_at, gone};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::sessions::view::has_ended;
use crate::store::Versioned;

/// For the rest of a recording whose end has not come: its runner may be away.
const LATE: SignedDuration = SignedDuration::from_hours(24);
/// Principal of what the control plane does by itself.
const OURSELVES: &str = "helix";

impl Recordings {
    /// Deletes a recording for somebody.
    pub async fn delete(&self, by: &Principal, id: &RecordingId) -> Result<()> {
        let entry = self.entry_of(by, id).await?;
        if !by.may_change(&entry.value.session, &entry.value.owner) {
            let detail = format!("this token may see recording {id} but not delete it");
            return Err(Error::new(ErrorCode::Forbidden, detail));
        }
        if let Some(deletion) = &entry.value.deleted {
            return Err(gone(id, Some(deletion)));
        }
        self.end(entry, &by.name, false).await
    }

    /// Deletes what is older than it is kept, brings deletions that were begun to their end, and forgets those that are
    /// as old as any recording can get. For the leader; failures are the next pass's.
    pub async fn expire(&self) -> Result<()> {
        let now = Timestamp::now();
        let entries: Vec<Versioned<RecordingRecord>> = {
            let content = self.store.recordings.view().read();
            content.iter().map(|(_, entry)| entry.clone()).filter(|entry| is_due(&entry.value, now)).collect()
        };
        for entry in entries {
            let done = match &entry.value.deleted {
                None if self.goes_on(&entry.value) => Ok(()),
                None => self.end(entry, OURSELVES, true).await,
                Some(_) if !entry.value.purged => self.purge(entry).await,
                Some(_) => self.store.recordings.delete(entry.value.id.as_str(), entry.revision).await.map(|_| ()),
            };
            match done {
                // Another server was faster, or a chunk has just come.
                Err(error) if error.code == ErrorCode::Conflict => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// True while its session may still record.
    fn goes_on(&self, record: &RecordingRecord) -> bool {
        let sessions = self.store.sessions.view().read();
        let Some(session) = sessions.get(record.session.as_str()) else { return false };
        let of_it = session.value.assignment.as_ref().is_some_and(|of| of.epoch == record.epoch);
        of_it && !has_ended(&session.value, &self.store.observed.view().read())
    }

    async fn end(&self, entry: Versioned<RecordingRecord>, by: &str, retention: bool) -> Result<()> {
        let deletion = Deletion { by: by.to_owned(), retention, at: Timestamp::now() };
        let record = RecordingRecord { deleted: Some(deletion), ..(*entry.value).clone() };
        // First of all: nothing is brought any more.
        let revision = self.store.recordings.update(record.id.as_str(), &record, entry.revision).await?;
        self.purge(Versioned::new(record, revision)).await
    }

    async fn purge(&self, entry: Versioned<RecordingRecord>) -> Result<()> {
        let record = &*entry.value;
        let Some(deletion) = record.deleted.clone() else { return Ok(()) };
        self.chunks.purge(&record.id).await?;
        let (session, recording, at) = (record.session.clone(), record.id.clone(), deletion.at);
        let change = RecordingChange::Deleted { deletion, owner: record.owner.clone() };
        let event = Event::Recording { session, recording, change, at };
        self.events.publish(&event, &format!("recording.{}.deleted", record.id)).await?;
        let record = RecordingRecord { purged: true, ..record.clone() };
        self.store.recordings.update(record.id.as_str(), &record, entry.revision).await.map(|_| ())
    }
}

fn is_due(record: &RecordingRecord, now: Timestamp) -> bool {
    let long_ago = |at: Timestamp| now.duration_since(at) > SignedDuration::from_secs(MAX_KEEP_SECONDS.cast_signed());
    match &record.deleted {
        // What is still to come of it may be on its way: a session that rested has brought nothing for a while.
        None => expires_at(record)
            .checked_add(if record.complete { SignedDuration::ZERO } else { LATE })
            .is_ok_and(|end| end <= now),
        Some(deletion) => !record.purged || long_ago(deletion.at),
    }
}
