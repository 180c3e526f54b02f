//! Deleted sessions: every key and every word of their conversations goes once nothing of them is left on a runner.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use helix_protocol::event::Event;
use helix_protocol::link::Nudge;
use helix_protocol::record::{RunnerRecord, SessionRecord};
use helix_protocol::runner::Liveness;
use helix_protocol::session::ObservedSession;
use helix_protocol::{ErrorCode, SessionId, subject};
use jiff::Timestamp;

use super::{CONCURRENCY, Reconciler};
use crate::error::Result;
use crate::sessions::view::observed_of;
use crate::store::view::Content;
use crate::store::{Bucket, Versioned};

impl Reconciler {
    /// Removes every deleted session that is gone from its runner, or whose runner cannot say so any more: when that
    /// one is back, the marker of the removed record tells it to end and forget the session.
    pub(super) async fn remove_deleted(&self) -> Result<()> {
        let gone: Vec<_> = {
            let (sessions, observed, runners) = (
                self.store.sessions.view().read(),
                self.store.observed.view().read(),
                self.store.runners.view().read(),
            );
            let gone = |record: &SessionRecord| record.deleted && is_gone(record, &observed, &runners);
            sessions.iter().filter(|(_, entry)| gone(&entry.value)).map(|(_, entry)| entry.clone()).collect()
        };
        futures::stream::iter(gone).map(|entry| self.remove(entry)).buffer_unordered(CONCURRENCY).try_collect().await
    }

    /// The record goes last: a crash in between leaves a record that the next pass finds again.
    async fn remove(&self, entry: Versioned<SessionRecord>) -> Result<()> {
        let record: Arc<SessionRecord> = entry.value;
        if let Some(assignment) = &record.assignment {
            let key = subject::runner_session_key(&assignment.runner, &record.id);
            drop_key(&self.store.desired, &key).await?;
            drop_key(&self.store.observed, &key).await?;
        }
        self.sessions.part_from(&record).await?;
        // Nothing of it runs: nobody says anything in it any more. What is another name of a desktop has no word of its
        // own.
        let _last_words = self.last_words.lock().await;
        if record.desktop_of.is_none() {
            self.threads.hub.log().purge(&record.id).await?;
        }
        if let Some(task) = &record.spec_task
            && let Some(entry) = self.store.spec_tasks.get(task.as_str()).await?.found()
            && entry.value.session == record.id
        {
            match self.store.spec_tasks.delete(task.as_str(), entry.revision).await {
                Err(err) if err.code != ErrorCode::Conflict => return Err(err),
                // Another session has the task now.
                _ => {}
            }
        }
        match self.store.sessions.delete(record.id.as_str(), entry.revision).await {
            Ok(revision) => {
                self.tell_deleted(&record.id, revision).await;
                // What it remembers of a forgotten session goes once it is not wanted any more.
                if let Some(assignment) = &record.assignment {
                    self.bus.nudge(&assignment.runner, Nudge::Sync {}).await;
                }
            }
            Err(err) if err.code == ErrorCode::Conflict => {}
            Err(err) => return Err(err),
        }
        Ok(())
    }

    async fn tell_deleted(&self, session: &SessionId, revision: u64) {
        tracing::info!(session.id = %session, "session removed");
        let event = Event::SessionDeleted { session: session.clone(), at: Timestamp::now() };
        self.events.tell(&event, &format!("session.{session}.{revision}")).await;
    }
}

fn is_gone(record: &SessionRecord, observed: &Content<ObservedSession>, runners: &Content<RunnerRecord>) -> bool {
    let Some(assignment) = &record.assignment else { return true };
    let runner = runners.get(assignment.runner.as_str());
    runner.is_none_or(|runner| runner.value.liveness == Liveness::Lost)
        || observed_of(record, observed).is_some_and(|seen| seen.forgotten)
}

async fn drop_key<T>(bucket: &Bucket<T>, key: &str) -> Result<()>
where
    T: crate::store::Sought + serde::Serialize + serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
{
    let Some(entry) = bucket.view().get(key) else { return Ok(()) };
    match bucket.delete(key, entry.revision).await {
        Err(err) if err.code != ErrorCode::Conflict => Err(err),
        _ => Ok(()),
    }
}
