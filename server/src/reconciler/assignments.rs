//! Waiting sessions get runners; the projection says what the records say.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use helix_protocol::assignment::{Assignment, DesiredSession};
use helix_protocol::checkpoint::WorkRecord;
use helix_protocol::external_agents::{RDP_USER, Task, TaskAgent};
use helix_protocol::image::Digest;
use helix_protocol::link::Nudge;
use helix_protocol::record::{ImageRecord, SessionRecord};
use helix_protocol::runner::RunnerFacts;
use helix_protocol::session::{Cause, Desired, ObservedSession, SessionSpec};
use helix_protocol::{Epoch, ErrorCode, PoolName, RunnerId, subject};
use jiff::Timestamp;

use super::names::has_desktop;
use super::{CONCURRENCY, Reconciler};
use crate::error::Result;
use crate::runners::occupancy;
use crate::scheduler::{Ask, Candidate, ImageAsk, Refusal, place, reserve_on};
use crate::sessions::list::waits;
use crate::sessions::view::{desired_of, has_ended};
use crate::store::Versioned;
use crate::store::view::Content;

/// Begins the cause of every session that waits.
const QUEUED: &str = "queued";

/// What to do about one waiting session.
enum Decision {
    /// Give it to this runner under this epoch.
    Assign(Versioned<SessionRecord>, RunnerId, Epoch),
    /// Say why it waits.
    Explain(Versioned<SessionRecord>, Cause),
}

/// What to do about one key of the projection.
enum Repair {
    /// Write it for the record's runner; the revision of what is there, or `None`.
    Write(Box<DesiredSession>, Arc<SessionRecord>, Option<u64>),
    /// Remove it.
    Remove(String, u64),
}

impl Reconciler {
    /// Gives every waiting session a runner, oldest first, or says why it waits.
    pub(super) async fn assign_waiting(&self) -> Result<()> {
        let decisions = self.decide();
        futures::stream::iter(decisions)
            .map(|decision| self.carry_out(decision))
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    fn decide(&self) -> Vec<Decision> {
        let (desktops, arches) = (self.desktops(), self.image_arches());
        let pools: HashMap<_, _> = {
            let pools = self.store.pools.view().read();
            pools.iter().map(|(_, entry)| (entry.value.name.clone(), entry.value.spec.clone())).collect()
        };
        let sessions = self.store.sessions.view().read();
        let may_be_placed = |record: &SessionRecord| waits(record) && has_desktop(record, &desktops);
        let mut waiting: Vec<_> =
            sessions.iter().map(|(_, entry)| entry).filter(|entry| may_be_placed(&entry.value)).cloned().collect();
        if waiting.is_empty() {
            return Vec::new();
        }
        // What nobody waits for comes last.
        let turn = |entry: &Versioned<SessionRecord>| (entry.value.warm.is_some(), entry.value.created_at);
        waiting.sort_unstable_by(|a, b| turn(a).cmp(&turn(b)).then_with(|| a.value.id.cmp(&b.value.id)));
        let observed = self.store.observed.view().read();
        let mut living = living_by_pool(&sessions, &observed);
        let mut candidates = self.candidates(&sessions, &observed);
        // Slots and what can be reserved only get fewer within a pass: who was refused once is refused for all that ask the same.
        let mut refused: HashMap<Ask<'_>, Cause> = HashMap::new();
        let mut decisions = Vec::new();
        for entry in &waiting {
            let SessionSpec { kind, resources, reserve, .. } = &entry.value.spec;
            let image = entry.value.spec.image_digest();
            let image = image.map(|digest| ImageAsk { digest, arch: arches.get(&digest).map(String::as_str) });
            let (kind, pool) = (kind.as_ref(), entry.value.pool.as_ref());
            let work = &entry.value.work;
            let (runner, left) = (work.to.as_ref().or(entry.value.on_runner.as_ref()), work.left.as_ref());
            let spec = pool.and_then(|pool| pools.get(pool));
            let (selector, placement) =
                (spec.map(|spec| &spec.selector), spec.map(|spec| spec.placement).unwrap_or_default());
            let ask =
                Ask { kind, pool, selector, placement, runner, left, image, resources: *resources, reserve: *reserve };
            let living_of_it = pool.and_then(|pool| living.get(pool)).copied().unwrap_or_default();
            let full = spec.and_then(|spec| spec.max).filter(|max| living_of_it >= *max);
            if let (Some(max), Some(pool)) = (full, pool) {
                let reason = format!("pool {pool} has {max} agents, which is its most; end one, or raise its max");
                let cause = Cause::new(QUEUED, reason);
                if entry.value.cause.as_ref() != Some(&cause) {
                    decisions.push(Decision::Explain(entry.clone(), cause));
                }
                continue;
            }
            let cause = match refused.entry(ask) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(vacant) => match place(&candidates, ask) {
                    Ok(index) => {
                        let chosen = &mut candidates[index];
                        let facts = chosen.facts.as_deref();
                        chosen.held.add(facts.map_or(ask.reserve, |facts| reserve_on(facts, ask.kind, ask.reserve)));
                        // Above whatever the runner saw under this id, also before the store was emptied.
                        let seen = observed.get(&subject::runner_session_key(&chosen.id, &entry.value.id));
                        let epoch = seen.map_or(entry.value.epoch, |seen| seen.value.epoch.max(entry.value.epoch));
                        let epoch = Epoch(epoch.0.saturating_add(1));
                        decisions.push(Decision::Assign(entry.clone(), chosen.id.clone(), epoch));
                        if let Some(pool) = pool {
                            *living.entry(pool.clone()).or_default() += 1;
                        }
                        continue;
                    }
                    Err(Refusal(reason)) => vacant.insert(Cause::new(QUEUED, reason)),
                },
            };
            if entry.value.cause.as_ref() != Some(cause) {
                decisions.push(Decision::Explain(entry.clone(), cause.clone()));
            }
        }
        decisions
    }

    /// Whether a runner would take the session now that is not the one it has.
    pub(super) fn fits_elsewhere(&self, record: &SessionRecord) -> bool {
        let arches = self.image_arches();
        let pool = record.pool.as_ref();
        let spec = pool.and_then(|pool| self.store.pools.view().get(pool.as_str())).map(|entry| entry.value);
        let sessions = self.store.sessions.view().read();
        let observed = self.store.observed.view().read();
        let SessionSpec { kind, resources, reserve, .. } = &record.spec;
        let image = record.spec.image_digest();
        let ask = Ask {
            kind: kind.as_ref(),
            pool,
            selector: spec.as_ref().map(|pool| &pool.spec.selector),
            placement: spec.as_ref().map(|pool| pool.spec.placement).unwrap_or_default(),
            runner: record.on_runner.as_ref(),
            left: record.assignment.as_ref().map(|of| &of.runner),
            image: image.map(|digest| ImageAsk { digest, arch: arches.get(&digest).map(String::as_str) }),
            resources: *resources,
            reserve: *reserve,
        };
        place(&self.candidates(&sessions, &observed), ask).is_ok()
    }

    /// For which machines each image is.
    fn image_arches(&self) -> HashMap<Digest, String> {
        let images = self.store.images.view().read();
        let arch = |record: &ImageRecord| match record {
            ImageRecord::Image(image) => Some((image.signed.digest(), image.arch.clone())),
            ImageRecord::Name { .. } | ImageRecord::Collection { .. } => None,
        };
        images.iter().filter_map(|(_, entry)| arch(&entry.value)).collect()
    }

    /// Every runner, with what is held of it. After the others: see the order of locks at `View::read`.
    fn candidates(&self, sessions: &Content<SessionRecord>, observed: &Content<ObservedSession>) -> Vec<Candidate> {
        let (runners, leases) = (self.store.runners.view().read(), self.store.leases.view().read());
        let held = occupancy::count(sessions, observed, &runners);
        let candidate = |record: &helix_protocol::record::RunnerRecord| {
            let lease = leases.get(&subject::runner_lease_key(&record.id));
            let heartbeat = lease.and_then(|lease| lease.value.heartbeat.as_ref());
            let slots = record.facts.as_ref().map_or(0, |facts| facts.slots);
            Candidate {
                id: record.id.clone(),
                liveness: record.liveness,
                cordoned: record.cordoned,
                draining: heartbeat.is_some_and(|heartbeat| heartbeat.draining),
                slots: heartbeat.map_or(slots, |heartbeat| heartbeat.slots),
                held: held.get(&record.id).copied().unwrap_or_default(),
                images: heartbeat.map(|heartbeat| heartbeat.images.present.clone()).unwrap_or_default(),
                facts: record.facts.clone().map(|facts| Arc::new(RunnerFacts { labels: record.all_labels(), ..facts })),
            }
        };
        runners.iter().map(|(_, entry)| candidate(&entry.value)).collect()
    }

    async fn carry_out(&self, decision: Decision) -> Result<()> {
        match decision {
            Decision::Assign(entry, runner, epoch) => self.assign(entry, runner, epoch).await,
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

    async fn assign(&self, entry: Versioned<SessionRecord>, runner: RunnerId, epoch: Epoch) -> Result<()> {
        let assignment = Assignment { runner: runner.clone(), epoch, assigned_at: Timestamp::now() };
        let record = SessionRecord {
            epoch,
            assignments: entry.value.assignments.saturating_add(1),
            assignment: Some(assignment),
            cause: None,
            work: WorkRecord { to: None, left: None, ..entry.value.work.clone() },
            ..(*entry.value).clone()
        };
        let written = self.store.sessions.update(record.id.as_str(), &record, entry.revision).await;
        // Stopped or amended meanwhile, or assigned by another server: the next pass sees it.
        let Some(revision) = unless_conflict(written)? else { return Ok(()) };
        if let Some(desired) = desired_of(&record, false) {
            self.project(&desired, &record, None).await?;
        }
        tracing::info!(session.id = %record.id, runner.id = %runner, epoch = epoch.0, "session assigned");
        self.sessions.tell(&record, revision).await;
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

/// Sessions of each pool that have a runner and shall go on.
fn living_by_pool(sessions: &Content<SessionRecord>, observed: &Content<ObservedSession>) -> HashMap<PoolName, u32> {
    let mut living = HashMap::new();
    for (_, entry) in sessions.iter() {
        let record = &entry.value;
        // An agent that is given up makes room at once: its runner counts its slot until it has ended.
        let goes_on = record.warm.is_none() || record.desired == Desired::Running;
        if let (Some(pool), Some(_), true) = (&record.pool, &record.assignment, goes_on)
            && !has_ended(record, observed)
        {
            *living.entry(pool.clone()).or_default() += 1;
        }
    }
    living
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
    use helix_protocol::{Generation, SessionId};

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
