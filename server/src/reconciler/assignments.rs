//! Waiting sessions get runners; the projection says what the records say.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use helix_protocol::assignment::{Assignment, DesiredSession};
use helix_protocol::external_agents::{RDP_USER, Task, TaskAgent};
use helix_protocol::link::Nudge;
use helix_protocol::record::SessionRecord;
use helix_protocol::session::{Cause, Desired};
use helix_protocol::{ErrorCode, RunnerId, SessionId, subject};
use jiff::Timestamp;

use super::names::has_desktop;
use super::{CONCURRENCY, Reconciler};
use crate::error::Result;
use crate::scheduler::pass::{Verdict, pass};
use crate::scheduler::room::{Room, make_room};
use crate::scheduler::{Ask, place};
use crate::sessions::fleet::{self, Rules};
use crate::sessions::view::{desired_of, has_ended};
use crate::sessions::{room, steps};
use crate::store::Versioned;

/// Begins the cause of every session that waits.
const QUEUED: &str = "queued";
/// Sessions that give way which are named; the rest are counted.
const NAMED: usize = 3;

/// What to do about one waiting session.
enum Decision {
    /// Write this, by which it has a runner, over this revision.
    Assign(Box<SessionRecord>, u64),
    /// Say why it waits.
    Explain(Versioned<SessionRecord>, Cause),
    /// End it, so that this session has room.
    GiveWay(Versioned<SessionRecord>, SessionId),
}

/// What to do about one key of the projection.
enum Repair {
    /// Write it for the record's runner; the revision of what is there, or `None`.
    Write(Box<DesiredSession>, Arc<SessionRecord>, Option<u64>),
    /// Remove it.
    Remove(String, u64),
}

impl Reconciler {
    /// Gives every waiting session a runner, in the order of the queue, or says why it waits.
    pub(super) async fn assign_waiting(&self) -> Result<()> {
        let decisions = self.decide();
        futures::stream::iter(decisions)
            .map(|decision| self.carry_out(decision))
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    fn decide(&self) -> Vec<Decision> {
        let (desktops, rules) = (self.desktops(), Rules::read(&self.store));
        let sessions = self.store.sessions.view().read();
        // What waits is sought.
        let waiting: Vec<_> = sessions.sought().filter(|entry| has_desktop(&entry.value, &desktops)).cloned().collect();
        if waiting.is_empty() {
            return Vec::new();
        }
        let observed = self.store.observed.view().read();
        let mut candidates = fleet::candidates(&self.store, &sessions, &observed);
        let have_preempted = room::have_preempted(&sessions);
        let applicant = |entry| room::applicant(&rules, entry, &have_preempted);
        let applicants: Vec<_> = waiting.iter().map(|entry| applicant(&entry.value)).collect();
        let running = fleet::running(&sessions, &observed);
        let (occupants, making) = room::occupants(&rules, &candidates, &sessions, &observed);
        let verdicts = pass(&applicants, &mut candidates, running, &self.config.quotas, &making);
        let rooms = make_room(&applicants, &verdicts, &candidates, &making, &occupants);
        // For whom room is made or will be, and who gives way.
        let mut giving: HashMap<&SessionId, (usize, Vec<&SessionId>)> = HashMap::new();
        for (_, entry) in sessions.iter() {
            if let Some((to, runner)) =
                room::gives_way_to(&entry.value).and_then(|to| making.reserved.get_key_value(to))
            {
                giving.entry(to).or_insert((*runner, Vec::new())).1.push(&entry.value.id);
            }
        }
        for Room { applicant, runner, give_way } in &rooms {
            let ids = give_way.iter().map(|&index| occupants[index].id).collect();
            giving.insert(applicants[*applicant].waiting.id, (*runner, ids));
        }
        let decide = |(index, verdict): (usize, Verdict)| {
            let entry: &Versioned<SessionRecord> = &waiting[index];
            match verdict {
                Verdict::Place(runner) => {
                    let runner = &candidates[runner].id;
                    let assigned = steps::assigned(&entry.value, runner, &observed, Timestamp::now());
                    Some(Decision::Assign(Box::new(assigned), entry.revision))
                }
                Verdict::Held(reason) | Verdict::Full(reason) => {
                    let room = giving.get(&entry.value.id);
                    let room = room.map(|(runner, ids)| room_is_made(&candidates[*runner].id, ids));
                    let before = room::gives_way_to(&entry.value);
                    let before = before.map(|by| format!("preempted by session {by}; ")).unwrap_or_default();
                    let cause = Cause::new(QUEUED, before + &reason + room.as_deref().unwrap_or_default());
                    let is_news = entry.value.cause.as_ref() != Some(&cause);
                    is_news.then(|| Decision::Explain(entry.clone(), cause))
                }
            }
        };
        let give_way = rooms.iter().flat_map(|room| {
            let to = applicants[room.applicant].waiting.id;
            let entries = room.give_way.iter().filter_map(|&index| sessions.get(occupants[index].id.as_str()));
            entries.map(|entry| Decision::GiveWay(entry.clone(), to.clone()))
        });
        let give_way: Vec<_> = give_way.collect();
        verdicts.into_iter().filter_map(decide).chain(give_way).collect()
    }

    /// Whether a runner would take the session now that is not the one it has.
    pub(super) fn fits_elsewhere(&self, record: &SessionRecord) -> bool {
        let rules = Rules::read(&self.store);
        let (sessions, observed) = (self.store.sessions.view().read(), self.store.observed.view().read());
        let left = record.assignment.as_ref().map(|of| &of.runner);
        let ask = Ask { runner: record.on_runner.as_ref(), left, ..rules.applicant(record).ask };
        place(&fleet::candidates(&self.store, &sessions, &observed), ask).is_ok()
    }

    async fn carry_out(&self, decision: Decision) -> Result<()> {
        match decision {
            Decision::Assign(record, revision) => self.assign(&record, revision).await,
            Decision::GiveWay(entry, to) => self.give_way(entry, to).await,
            Decision::Explain(entry, cause) => {
                let record = SessionRecord { cause: Some(cause), ..(*entry.value).clone() };
                let written = self.store.sessions.update(record.id.as_str(), &record, entry.revision).await;
                if let Some(revision) = unless_conflict(written)? {
                    self.sessions.tell(&record, revision).await;
                }
                Ok(())
            }
        }
    }

    async fn assign(&self, record: &SessionRecord, revision: u64) -> Result<()> {
        let written = self.store.sessions.update(record.id.as_str(), record, revision).await;
        // Stopped or amended meanwhile, or assigned by another server: the next pass sees it.
        let Some(revision) = unless_conflict(written)? else { return Ok(()) };
        if let Some(desired) = desired_of(record, false) {
            self.project(&desired, record, None).await?;
        }
        let runner = record.assignment.as_ref().map(|of| of.runner.as_str());
        tracing::info!(session.id = %record.id, runner.id = runner, epoch = record.epoch.0, "session assigned");
        self.sessions.tell(record, revision).await;
        Ok(())
    }

    /// Writes what differs from the records, and removes what has no record.
    pub(super) async fn repair_projection(&self) -> Result<()> {
        let repairs = self.compare_projection();
        futures::stream::iter(repairs)
            .map(async |repair| match repair {
                Repair::Write(desired, record, revision) => self.project(&desired, &record, revision).await,
                Repair::Remove(key, revision) => {
                    unless_conflict(self.store.desired.delete(&key, revision).await).map(|_| ())
                }
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    fn compare_projection(&self) -> Vec<Repair> {
        let (sessions, observed, desired) =
            (self.store.sessions.view().read(), self.store.observed.view().read(), self.store.desired.view().read());
        let mut repairs = Vec::new();
        for (_, entry) in sessions.iter() {
            let record = &entry.value;
            let Some(assignment) = &record.assignment else { continue };
            let Some(wanted) = desired_of(record, has_ended(record, &observed)) else { continue };
            let there = desired.get(&subject::runner_session_key(&assignment.runner, &record.id));
            if there.is_none_or(|there| *there.value != wanted) {
                let revision = there.map(|there| there.revision);
                repairs.push(Repair::Write(Box::new(wanted), Arc::clone(record), revision));
            }
        }
        for (key, entry) in desired.iter() {
            let record = sessions.get(entry.value.session.as_str());
            let assignment = record.and_then(|record| record.value.assignment.as_ref());
            let holds =
                assignment.is_some_and(|of| subject::runner_session_key(&of.runner, &entry.value.session) == key);
            if !holds {
                repairs.push(Repair::Remove(key.to_owned(), entry.revision));
            }
        }
        repairs
    }

    /// Writes one key of the projection, nudges its runner and shows observers the documents' task.
    async fn project(&self, desired: &DesiredSession, record: &SessionRecord, revision: Option<u64>) -> Result<()> {
        let Some(Assignment { runner, .. }) = &record.assignment else { return Ok(()) };
        let key = subject::runner_session_key(runner, &desired.session);
        let written = match revision {
            Some(revision) => self.store.desired.update(&key, desired, revision).await,
            None => self.store.desired.create(&key, desired).await,
        };
        if unless_conflict(written)?.is_some() {
            self.bus.nudge(runner, Nudge::Sync {}).await;
            self.bus.publish(subject::reply_subject(runner), &documents_task(desired, &record.labels)).await;
        }
        Ok(())
    }
}

/// The end of why a session waits for which room is made.
fn room_is_made(runner: &RunnerId, give_way: &[&SessionId]) -> String {
    let (named, more) = give_way.split_at(give_way.len().min(NAMED));
    let named: Vec<_> = named.iter().map(|id| id.as_str()).collect();
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    let word = if give_way.len() == 1 { "gives" } else { "give" };
    format!("; {}{more} {word} way to it on {runner}", named.join(", "))
}

/// The revision, or `None` where another writer was faster.
fn unless_conflict(written: Result<u64>) -> Result<Option<u64>> {
    match written {
        Ok(revision) => Ok(Some(revision)),
        Err(err) if err.code == ErrorCode::Conflict => Ok(None),
        Err(err) => Err(err),
    }
}

/// What observers of the documents' reply subject see: no secret is in it. The documents' names of whom it is for are
/// kept as labels.
fn documents_task(desired: &DesiredSession, labels: &BTreeMap<String, String>) -> Task {
    let session_id = desired.session.to_string();
    let spec = &desired.spec;
    match desired.desired {
        Desired::Stopped => Task::StopTask { session_id },
        Desired::Running => Task::ZedTask {
            agent: Box::new(TaskAgent {
                session_id,
                user_id: labels.get("user_id").cloned().unwrap_or_default(),
                input: spec.input.clone().unwrap_or_default(),
                env: None,
                work_dir: None,
                project_path: spec.project_path.clone().unwrap_or_default(),
                instance_id: labels.get("instance_id").cloned(),
                thread_id: labels.get("thread_id").cloned(),
                rdp_port: None,
                rdp_user: RDP_USER.to_owned(),
                rdp_password: None,
                kind: spec.kind.clone(),
            }),
            auth_token: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use helix_protocol::control::Control;
    use helix_protocol::session::SessionSpec;
    use helix_protocol::{Epoch, Generation, SessionId};

    use super::*;

    #[test]
    fn observers_see_what_was_asked_and_no_secret() {
        let env = BTreeMap::from([("KEY".to_owned(), "secret".to_owned())]);
        let text = |text: &str| Some(text.to_owned());
        let spec =
            SessionSpec { input: text("do it"), project_path: text("my-project"), env, ..SessionSpec::default() };
        let desired = |desired| DesiredSession {
            session: SessionId::parse("s").expect("valid id"),
            epoch: Epoch(1),
            generation: Generation(1),
            desired,
            spec: spec.clone(),
            control: Control::default(),
            grants: 0,
            deleted: false,
            work: helix_protocol::checkpoint::WorkOrder::default(),
            access: None,
        };
        let labels = [("user_id", "u"), ("instance_id", "i"), ("thread_id", "t"), ("team", "web")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        insta::assert_json_snapshot!(documents_task(&desired(Desired::Running), &labels), @r#"
        {
          "type": "zed_task",
          "agent": {
            "session_id": "s",
            "user_id": "u",
            "input": "do it",
            "env": null,
            "work_dir": null,
            "project_path": "my-project",
            "instance_id": "i",
            "thread_id": "t",
            "rdp_port": null,
            "rdp_user": "zed",
            "rdp_password": null,
            "kind": null
          },
          "auth_token": null
        }
        "#);
        insta::assert_json_snapshot!(documents_task(&desired(Desired::Stopped), &labels), @r#"
        {
          "type": "stop_task",
          "session_id": "s"
        }
        "#);
    }
}
