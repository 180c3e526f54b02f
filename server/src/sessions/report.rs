//! What a runner saw of a session: recorded if it is news, told to watchers, and only then acknowledged.

use std::time::Duration;

use helix_protocol::assignment::{Assignment, DesiredSession};
use helix_protocol::event::Event;
use helix_protocol::external_agents::AgentResponse;
use helix_protocol::record::SessionRecord;
use helix_protocol::session::{Desired, ObservedSession, SessionPhase};
use helix_protocol::{ErrorCode, RunnerId, SessionId, subject};
use jiff::Timestamp;

use super::Sessions;
use super::time_limits::ended_by_limit;
use super::view::desired_of_deleted;
use crate::error::{Error, Result};
use crate::store::view::Content;

/// Sessions that one runner reports although they are not its own, above which more are refused.
const MAX_REPORTED: usize = 500;
/// Largest report, encoded.
const MAX_REPORT_BYTES: usize = 256 * 1024;
/// A report may be this far ahead of its record: the store went back in time. More is no epoch that was ever given.
const MAX_EPOCHS_AHEAD: u64 = 1 << 32;
/// Largest number that every reader of JSON has exactly.
const MAX_EPOCH: u64 = (1 << 53) - 1;
/// How often a report is tried again after another replica was faster.
const MAX_TRIES: usize = 5;

/// How long a stream knows a message id again: JetStream's default duplicate window.
const EVENT_MEMORY: Duration = Duration::from_mins(2);

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is stored, or a newer one is.
    Stored,
    /// It is stored, and the runner must be told at once to end and forget the session.
    Unwanted,
}

impl Sessions {
    /// Whether this runner has the session, or had it last, as far as this replica knows.
    pub fn runs_at(&self, session: &SessionId, runner: &RunnerId) -> bool {
        let entry = self.inner.store.sessions.view().get(session.as_str());
        entry.is_some_and(|entry| entry.value.assignment.as_ref().is_some_and(|of| of.runner == *runner))
    }

    /// Stores a report of `runner` under its own key; durable when this returns. A leftover (see [`is_leftover`])
    /// never counts as its record's session and is told to nobody, but it must be known to be ended.
    pub async fn record(&self, runner: &RunnerId, observed: ObservedSession) -> Result<Recorded> {
        check_size(&observed)?;
        let store = &self.inner.store;
        let id = observed.session.clone();
        let record = match store.sessions.view().get(id.as_str()) {
            Some(entry) if !is_leftover(runner, &observed, &entry.value) => Some(entry),
            // The view may be a moment behind the replica that made, assigned or removed it.
            _ => store.sessions.get(id.as_str()).await?.found(),
        };
        let record = record.map(|entry| entry.value);
        check_epoch(&observed, record.as_deref())?;
        let leftover = record.as_ref().is_some_and(|record| is_leftover(runner, &observed, record));
        let told = record.as_ref().is_none_or(|record| !leftover && record.assignment.is_some());
        let key = subject::runner_session_key(runner, &id);
        if (record.is_none() || leftover) && observed.forgotten {
            self.forget(&key, &observed).await?;
            return Ok(Recorded::Stored);
        }
        let verdict = |deleted: bool| if leftover || deleted { Recorded::Unwanted } else { Recorded::Stored };
        let mut before = store.observed.view().get(&key);
        if (record.is_none() || leftover) && before.is_none() {
            self.check_room(runner)?;
        }
        for _ in 0..MAX_TRIES {
            if let Some(entry) = before.as_ref().filter(|entry| !is_newer(&observed, &entry.value)) {
                // A repeat: the store may have gone between the report and its event. Their message ids keep an
                // event that is there already from coming twice, for as long as the stream remembers them.
                let same = (observed.epoch, observed.report) == (entry.value.epoch, entry.value.report);
                if told && same && entry.seen.elapsed() < EVENT_MEMORY {
                    self.tell_report(record.as_deref(), None, &observed).await?;
                }
                return Ok(verdict(false));
            }
            let written = match &before {
                Some(entry) => store.observed.update(&key, &observed, entry.revision).await,
                None => store.observed.create(&key, &observed).await,
            };
            match written {
                Ok(_) => {
                    if told {
                        let former = before.map(|entry| entry.value);
                        self.tell_report(record.as_deref(), former.as_deref(), &observed).await?;
                    }
                    let deleted = record.is_none() && store.sessions.view().read().was_deleted(id.as_str());
                    return Ok(verdict(deleted));
                }
                Err(err) if err.code == ErrorCode::Conflict => before = store.observed.get(&key).await?.found(),
                Err(err) => return Err(err),
            }
        }
        Err(Error::new(
            ErrorCode::Conflict,
            format!("the report of session {id} met other writers too often; repeat it"),
        ))
    }

    /// True for the first report that a session is Ready.
    pub fn becomes_ready(&self, seen: &ObservedSession) -> bool {
        let key = subject::runner_session_key(&seen.runner, &seen.session);
        let before = self.inner.store.observed.view().get(&key);
        let was = |known: &ObservedSession| known.epoch == seen.epoch && known.phase == SessionPhase::Ready;
        seen.phase == SessionPhase::Ready && !before.is_some_and(|entry| was(&entry.value))
    }

    /// A runner cannot fill the store with sessions that nobody asked it for.
    fn check_room(&self, runner: &RunnerId) -> Result<()> {
        let (sessions, observed) = (self.inner.store.sessions.view().read(), self.inner.store.observed.view().read());
        let prefix = format!("{runner}.");
        let not_its_own = observed.with_prefix(&prefix).filter(|(_, entry)| {
            let record = sessions.get(entry.value.session.as_str());
            record.is_none_or(|record| is_leftover(runner, &entry.value, &record.value))
        });
        if not_its_own.count() < MAX_REPORTED {
            return Ok(());
        }
        let detail = format!("runner {runner} reports too many sessions that are not its own; stop or adopt some");
        Err(Error::new(ErrorCode::Conflict, detail))
    }

    async fn forget(&self, key: &str, gone: &ObservedSession) -> Result<()> {
        let observed = &self.inner.store.observed;
        let found = observed.get(key).await?.found();
        let Some(entry) = found.filter(|entry| entry.value.epoch <= gone.epoch) else { return Ok(()) };
        match observed.delete(key, entry.revision).await {
            Err(err) if err.code != ErrorCode::Conflict => Err(err),
            _ => Ok(()),
        }
    }

    /// All that this runner shall run or end. Read after everything that was written before the call.
    pub async fn desired_set(&self, runner: &RunnerId) -> Result<Vec<DesiredSession>> {
        let store = &self.inner.store;
        tokio::try_join!(store.desired.catch_up(), store.sessions.catch_up(), store.observed.catch_up())?;
        let prefix = format!("{runner}.");
        let mut set: Vec<_> = {
            let desired = store.desired.view().read();
            desired.with_prefix(&prefix).map(|(_, entry)| (*entry.value).clone()).collect()
        };
        // A record is written before its projection, but what was read here at the same time may have the projection alone. A
        // session that is ordered by that has no token, as `give_access` does not know it, and its agent is refused for ever.
        if is_ahead(&set, &store.sessions.view().read()) {
            store.sessions.catch_up().await?;
        }
        let (sessions, observed) = (store.sessions.view().read(), store.observed.view().read());
        set.retain(|order| sessions.get(order.session.as_str()).is_none_or(|entry| is_of(runner, order, &entry.value)));
        for order in unwanted(runner, &sessions, &observed) {
            set.retain(|desired| desired.session != order.session);
            set.push(order);
        }
        Ok(set)
    }

    async fn tell_report(
        &self,
        record: Option<&SessionRecord>,
        before: Option<&ObservedSession>,
        now: &ObservedSession,
    ) -> Result<()> {
        let before = before.filter(|before| before.epoch == now.epoch);
        let unchanged = before.is_some_and(|before| {
            before.phase == now.phase
                && before.running_step() == now.running_step()
                && before.cause == now.cause
                && before.result == now.result
                && before.limits == now.limits
                && before.frozen == now.frozen
        });
        if unchanged {
            return Ok(());
        }
        let id = format!("{}.{}.{}.{}", now.runner, now.session, now.epoch, now.report);
        let stopping = record.is_some_and(|record| record.desired == Desired::Stopped);
        let failed = now.phase == SessionPhase::Failed;
        let event = Event::Session {
            session: now.session.clone(),
            runner: Some(now.runner.clone()),
            phase: if stopping && !now.phase.is_terminal() { SessionPhase::Stopping } else { now.phase },
            step: now.running_step().map(str::to_owned),
            cause: record.and_then(ended_by_limit).filter(|_| !failed).or(now.cause.as_ref()).cloned(),
            result: now.result.clone(),
            at: Timestamp::now(),
        };
        self.inner.events.publish(&event, &format!("observed.{id}")).await?;
        let response = response(before, now);
        self.inner.events.respond(&response, &format!("response.{id}")).await
    }
}

/// True where a projection names an assignment that the records do not know yet.
fn is_ahead(set: &[DesiredSession], sessions: &Content<SessionRecord>) -> bool {
    let known = |desired: &DesiredSession| sessions.get(desired.session.as_str()).map(|entry| entry.value.epoch);
    set.iter().any(|desired| known(desired) < Some(desired.epoch))
}

/// True while the record says so: the projection may be a moment behind, and who reads of a session that is about to begin
/// elsewhere would let it go on.
fn is_of(runner: &RunnerId, order: &DesiredSession, record: &SessionRecord) -> bool {
    record.assignment.as_ref().is_some_and(|of| of.runner == *runner && of.epoch == order.epoch)
}

/// Orders to end and forget what a runner has that is not its own any more. A record that is merely absent orders nothing.
pub fn unwanted(
    runner: &RunnerId,
    sessions: &Content<SessionRecord>,
    observed: &Content<ObservedSession>,
) -> Vec<DesiredSession> {
    let prefix = format!("{runner}.");
    let is_unwanted = |seen: &ObservedSession| {
        let id = seen.session.as_str();
        let unwanted = match sessions.get(id) {
            None => sessions.was_deleted(id),
            Some(entry) if is_given_up(seen, &entry.value) => true,
            Some(entry) => is_leftover(runner, seen, &entry.value) && !is_superseded(runner, seen, &entry.value),
        };
        !seen.forgotten && unwanted
    };
    let seen = observed.with_prefix(&prefix).map(|(_, entry)| &*entry.value).filter(|seen| is_unwanted(seen));
    let lives_elsewhere = |id: &str| sessions.get(id).is_some_and(|entry| !entry.value.deleted);
    seen.map(|seen| desired_of_deleted(seen, lives_elsewhere(seen.session.as_str()))).collect()
}

/// True when what was reported is not what the record is about: another runner has the assignment, or the report is
/// of an assignment (or of a former life of the id) that is over.
pub fn is_leftover(runner: &RunnerId, seen: &ObservedSession, record: &SessionRecord) -> bool {
    seen.epoch < record.epoch || record.assignment.as_ref().is_some_and(|assignment| assignment.runner != *runner)
}

/// True for what a lost runner still has, held, of a session that was stopped while it waited to begin elsewhere.
fn is_given_up(seen: &ObservedSession, record: &SessionRecord) -> bool {
    let was_stopped = record.assignment.is_none() && record.desired == Desired::Stopped;
    was_stopped && seen.epoch <= record.epoch && !seen.phase.is_terminal()
}

/// True when the same runner has a newer assignment: that order itself ends what it still has of the old one.
fn is_superseded(runner: &RunnerId, seen: &ObservedSession, record: &SessionRecord) -> bool {
    let newer = |assignment: &Assignment| assignment.runner == *runner && assignment.epoch > seen.epoch;
    record.assignment.as_ref().is_some_and(newer)
}

fn check_size(observed: &ObservedSession) -> Result<()> {
    let bytes = serde_json::to_vec(observed)
        .map_err(|err| Error::new(ErrorCode::Internal, "a report cannot be encoded").because(err))?
        .len();
    if bytes <= MAX_REPORT_BYTES {
        return Ok(());
    }
    let detail = format!("the report has {bytes} bytes, at most {MAX_REPORT_BYTES} are taken");
    Err(Error::new(ErrorCode::InvalidRequest, detail))
}

fn check_epoch(observed: &ObservedSession, record: Option<&SessionRecord>) -> Result<()> {
    let epoch = observed.epoch.0;
    if epoch <= record.map_or(MAX_EPOCH, |record| record.epoch.0.saturating_add(MAX_EPOCHS_AHEAD).min(MAX_EPOCH)) {
        return Ok(());
    }
    let detail = format!("session {} never had epoch {epoch}", observed.session);
    Err(Error::new(ErrorCode::Conflict, detail))
}

/// True for a report that is stored over another one.
pub fn is_newer(new: &ObservedSession, known: &ObservedSession) -> bool {
    (new.epoch, new.report) > (known.epoch, known.report)
}

/// The documents' answer: `completed` or `failed` once the task or the session ended, else `progress`. A task that has
/// ended is never spoken of otherwise again, whatever becomes of its session.
fn response(before: Option<&ObservedSession>, now: &ObservedSession) -> AgentResponse {
    let status = match (&now.result, now.phase) {
        (Some(result), _) if result.exit_status == 0 => "completed",
        (Some(_), _) | (None, SessionPhase::Failed) => "failed",
        (None, SessionPhase::Stopped) => "completed",
        (None, _) => "progress",
    };
    let fresh_result = now.result.as_ref().filter(|_| before.is_none_or(|before| before.result.is_none()));
    let cause = now.cause.as_ref().filter(|_| now.phase.is_terminal()).map(|cause| cause.message.clone());
    let message = fresh_result.map(|result| result.output_tail.clone()).or(cause);
    AgentResponse {
        agent_id: now.runner.to_string(),
        session_id: now.session.to_string(),
        status: status.to_owned(),
        message: message.or_else(|| Some(now.phase.to_string())),
        result: fresh_result.cloned(),
    }
}

#[cfg(test)]
mod tests {
    use helix_protocol::session::{Cause, SessionResult};
    use helix_protocol::{Epoch, Generation, KindName, SessionId};

    use super::*;

    fn seen(phase: SessionPhase, exit_status: Option<i32>) -> ObservedSession {
        let result = |exit_status| SessionResult {
            exit_status,
            output_tail: "the output".to_owned(),
            output_truncated: false,
            finished_at: Timestamp::UNIX_EPOCH,
        };
        ObservedSession {
            session: SessionId::parse("s").expect("valid id"),
            runner: RunnerId::parse("r").expect("valid id"),
            epoch: Epoch(1),
            generation: Generation(1),
            report: 1,
            phase,
            cause: phase.is_terminal().then(|| Cause::new("why", "the cause")),
            result: exit_status.map(result),
            timeline: Vec::new(),
            kind: KindName::parse("command").expect("valid kind"),
            display: None,
            pid: None,
            workspace: None,
            limits: None,
            control: 0,
            grants: 0,
            direct: None,
            frozen: false,
            forgotten: false,
            work: None,
            unclaimed: None,
        }
    }

    #[test]
    fn the_documents_answer_never_takes_back_how_a_task_ended() {
        use SessionPhase::{Failed, Ready, Starting, Stopped, Stopping};
        let runs = (Ready, None);
        // before, now → word, message, result
        for (before, now, word, message, told) in [
            (None, (Starting, None), "progress", "Starting", false),
            (Some((Starting, None)), runs, "progress", "Ready", false),
            (Some(runs), (Ready, Some(0)), "completed", "the output", true),
            (Some(runs), (Ready, Some(4)), "failed", "the output", true),
            (Some((Ready, Some(4))), (Stopping, Some(4)), "failed", "Stopping", false),
            (Some((Stopping, Some(4))), (Stopped, Some(4)), "failed", "the cause", false),
            (Some((Ready, Some(0))), (Stopping, Some(0)), "completed", "Stopping", false),
            (Some((Stopping, Some(0))), (Stopped, Some(0)), "completed", "the cause", false),
            (Some((Ready, Some(0))), (Failed, Some(0)), "completed", "the cause", false),
            (Some(runs), (Stopping, None), "progress", "Stopping", false),
            (Some(runs), (Stopped, None), "completed", "the cause", false),
            (Some(runs), (Failed, None), "failed", "the cause", false),
        ] {
            let before = before.map(|(phase, exit_status)| seen(phase, exit_status));
            let response = response(before.as_ref(), &seen(now.0, now.1));
            assert_eq!(
                (response.status.as_str(), response.message.as_deref(), response.result.is_some()),
                (word, Some(message), told),
                "{now:?}"
            );
        }
    }
}
