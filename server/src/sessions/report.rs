//! What a runner saw of a session: recorded if it is news, told to watchers, and only then acknowledged.

use std::time::Duration;

use helix_protocol::assignment::DesiredSession;
use helix_protocol::event::Event;
use helix_protocol::external_agents::AgentResponse;
use helix_protocol::record::SessionRecord;
use helix_protocol::session::{ObservedSession, SessionPhase};
use helix_protocol::{ErrorCode, RunnerId, subject};
use jiff::Timestamp;

use super::Sessions;
use super::view::desired_of_deleted;
use crate::error::{Error, Result};

/// Sessions of one runner above which those without a record are refused.
const MAX_REPORTED: usize = 10_000;
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
    /// Stores a report of `runner`; durable when this returns. Refuses what an old epoch says.
    pub async fn record(&self, runner: &RunnerId, observed: ObservedSession) -> Result<Recorded> {
        let store = &self.inner.store;
        let id = observed.session.clone();
        let record = match store.sessions.view().get(id.as_str()) {
            Some(entry) => Some(entry),
            // The view may be a moment behind the replica that made it.
            None => store.sessions.get(id.as_str()).await?.found(),
        };
        let record = record.map(|entry| entry.value);
        if let Some(record) = &record {
            check_fence(runner, &observed, record)?;
        }
        let key = subject::runner_session_key(runner, &id);
        if record.is_none() && observed.forgotten {
            self.forget(&key).await?;
            return Ok(Recorded::Stored);
        }
        let mut before = store.observed.view().get(&key);
        if record.is_none() && before.is_none() {
            self.check_room(runner)?;
        }
        for _ in 0..MAX_TRIES {
            if let Some(entry) = before.as_ref().filter(|entry| !is_newer(&observed, &entry.value)) {
                // A repeat: the store may have gone between the report and its event. Their message ids keep an
                // event that is there already from coming twice, for as long as the stream remembers them.
                let same = (observed.epoch, observed.report) == (entry.value.epoch, entry.value.report);
                if same && entry.seen.elapsed() < EVENT_MEMORY {
                    self.tell_report(record.as_deref(), None, &observed).await?;
                }
                return Ok(Recorded::Stored);
            }
            let written = match &before {
                Some(entry) => store.observed.update(&key, &observed, entry.revision).await,
                None => store.observed.create(&key, &observed).await,
            };
            match written {
                Ok(_) => {
                    let former = before.map(|entry| entry.value);
                    self.tell_report(record.as_deref(), former.as_deref(), &observed).await?;
                    let unwanted = record.is_none() && store.sessions.view().read().was_deleted(id.as_str());
                    return Ok(if unwanted { Recorded::Unwanted } else { Recorded::Stored });
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

    /// A runner cannot fill the store with sessions that nobody asked for.
    fn check_room(&self, runner: &RunnerId) -> Result<()> {
        let observed = self.inner.store.observed.view().read();
        if observed.with_prefix(&format!("{runner}.")).count() < MAX_REPORTED {
            return Ok(());
        }
        let detail = format!("runner {runner} reports too many sessions without a record; stop or adopt some");
        Err(Error::new(ErrorCode::Conflict, detail))
    }

    async fn forget(&self, key: &str) -> Result<()> {
        let observed = &self.inner.store.observed;
        let Some(entry) = observed.get(key).await?.found() else { return Ok(()) };
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
        let (sessions, observed, desired) =
            (store.sessions.view().read(), store.observed.view().read(), store.desired.view().read());
        let mut set: Vec<_> = desired.with_prefix(&prefix).map(|(_, entry)| (*entry.value).clone()).collect();
        let deleted = observed.with_prefix(&prefix).map(|(_, entry)| &entry.value).filter(|seen| {
            let id = seen.session.as_str();
            !seen.forgotten && sessions.get(id).is_none() && sessions.was_deleted(id)
        });
        for seen in deleted {
            set.retain(|desired| desired.session != seen.session);
            set.push(desired_of_deleted(seen));
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
        });
        if unchanged {
            return Ok(());
        }
        let id = format!("{}.{}.{}.{}", now.runner, now.session, now.epoch, now.report);
        let stopping = record.is_some_and(|record| record.desired == helix_protocol::session::Desired::Stopped);
        let event = Event::Session {
            session: now.session.clone(),
            runner: Some(now.runner.clone()),
            phase: if stopping && !now.phase.is_terminal() { SessionPhase::Stopping } else { now.phase },
            step: now.running_step().map(str::to_owned),
            cause: now.cause.clone(),
            result: now.result.clone(),
            at: Timestamp::now(),
        };
        self.inner.events.publish(&event, &format!("observed.{id}")).await?;
        let response = response(before, now);
        self.inner.events.respond(&response, &format!("response.{id}")).await
    }
}

fn check_fence(runner: &RunnerId, observed: &ObservedSession, record: &SessionRecord) -> Result<()> {
    let id = &record.id;
    if observed.epoch < record.epoch {
        let detail = format!("epoch {} of session {id} is over: it has epoch {} now", observed.epoch, record.epoch);
        return Err(Error::new(ErrorCode::Conflict, format!("{detail}; ask for the desired set")));
    }
    if record.assignment.as_ref().is_some_and(|assignment| assignment.runner != *runner) {
        let detail = format!("session {id} is not assigned to runner {runner}; ask for the desired set");
        return Err(Error::new(ErrorCode::Conflict, detail));
    }
    Ok(())
}

fn is_newer(new: &ObservedSession, known: &ObservedSession) -> bool {
    (new.epoch, new.report) > (known.epoch, known.report)
}

/// The documents' answer: `completed` or `failed` once the task or the session ended, else `progress`.
fn response(before: Option<&ObservedSession>, now: &ObservedSession) -> AgentResponse {
    let fresh_result = now.result.as_ref().filter(|_| before.is_none_or(|before| before.result.is_none()));
    let cause = || now.cause.as_ref().map(|cause| cause.message.clone());
    let (status, message) = match (fresh_result, now.phase) {
        (Some(result), phase) if phase != SessionPhase::Failed => {
            let status = if result.exit_status == 0 { "completed" } else { "failed" };
            (status, Some(result.output_tail.clone()))
        }
        (_, SessionPhase::Failed) => ("failed", cause()),
        (_, SessionPhase::Stopped) => ("completed", cause().or_else(|| Some(now.phase.to_string()))),
        (_, phase) => ("progress", Some(phase.to_string())),
    };
    AgentResponse {
        agent_id: now.runner.to_string(),
        session_id: now.session.to_string(),
        status: status.to_owned(),
        message,
        result: fresh_result.cloned(),
    }
}
