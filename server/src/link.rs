//! Answers what runners ask on `up.*`.
//!
//! Two subscriptions: `up.*.*` in the servers' queue group, so that any server answers, and `up.*.dials.<server>`,
//! which only this process can answer. Each message is answered in a task of its own. A message whose body names
//! another runner or another type than its subject is dropped without an answer: the subject is what NATS checked
//! against the runner's permissions. Link decides nothing: the rules are in [`crate::sessions`] and
//! [`crate::runners`].

use std::sync::Arc;

use futures::StreamExt as _;
use helix_protocol::external_agents::AgentHeartbeat;
use helix_protocol::link::{Message, Nudge, PROTOCOL, Reply, Request, RotateToken, is_understood};
use helix_protocol::runner::{Heartbeat, RunnerStatus};
use helix_protocol::session::ObservedSession;
use helix_protocol::viewer::ViewerNote;
use helix_protocol::{ErrorCode, RunnerId, subject};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::app::App;
use crate::error::{Error, Result};
use crate::pools::ahead;
use crate::sessions::report::Recorded;

/// Messages answered at once; more wait in NATS's buffer.
const CONCURRENCY: usize = 512;

/// The servers' side of every runner's link.
#[derive(Clone)]
pub struct Link {
    app: App,
}

impl Link {
    /// Subscribes. Runners are answered from [`Link::run`] on.
    pub async fn listen(app: App) -> anyhow::Result<(Self, async_nats::Subscriber, async_nats::Subscriber)> {
        let client = app.bus.client();
        let verbs = client.queue_subscribe(subject::UP_VERBS, subject::SERVER_QUEUE.to_owned()).await?;
        let dials = client.subscribe(subject::up_dials_of(&app.server_id)).await?;
        client.flush().await?;
        Ok((Self { app }, verbs, dials))
    }

    /// Answers until `shutdown`, then finishes what it began.
    pub async fn run(self, verbs: async_nats::Subscriber, dials: async_nats::Subscriber, shutdown: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONCURRENCY));
        let answering = TaskTracker::new();
        let mut messages = futures::stream::select(verbs, dials);
        // Both arms are cancel safe: a token and a stream.
        while let Some(Some(message)) = shutdown.run_until_cancelled(messages.next()).await {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
            let link = self.clone();
            answering.spawn(
                async move {
                    link.answer(message).await;
                    drop(permit);
                }
                .instrument(tracing::debug_span!("link")),
            );
        }
        answering.close();
        answering.wait().await;
    }

    async fn answer(&self, message: async_nats::Message) {
        let Some((runner, request)) = parse(&message, &self.app.server_id) else {
            tracing::debug!(subject = %message.subject, "a message that is not what its subject says is dropped");
            return;
        };
        let verb = request.verb();
        let body = match self.handle(&runner, request).await {
            Ok(reply) => reply,
            Err(Error { code, detail, source }) => {
                tracing::warn!(runner.id = %runner, verb, %code, detail, source = ?source, "refused");
                Reply::Refused { code, detail }
            }
        };
        let Some(inbox) = message.reply else { return };
        let limit = self.app.bus.client().server_info().max_payload;
        match encode(Message { runner, body }, limit) {
            Ok(payload) => self.app.bus.publish_encoded(inbox.to_string(), payload).await,
            Err(error) => tracing::error!("cannot encode an answer: {error}"),
        }
    }

    async fn handle(&self, runner: &RunnerId, request: Request) -> Result<Reply> {
        match request {
            Request::Register { facts, protocol } => {
                understood(runner, &facts.version, protocol)?;
                self.app.runners.register(runner, *facts).await?;
                let config = &self.app.config;
                Ok(Reply::Registered {
                    heartbeat_interval_ms: config.heartbeat_interval.as_millis() as u64,
                    lost_timeout_ms: config.lost_timeout.as_millis() as u64,
                    protocol: PROTOCOL,
                })
            }
            Request::Heartbeat { heartbeat, viewers } => self.heartbeat(runner, *heartbeat, viewers).await,
            // Its connection may outlive its removal for a moment.
            Request::Sync {} => {
                let record = self.app.runners.known(runner).await?;
                let ahead = Box::pin(ahead::wanted(&self.app.store, &record));
                let (mut sessions, images) = tokio::try_join!(self.app.sessions.desired_set(runner), ahead)?;
                self.app.sessions.give_access(&mut sessions);
                let rotate = record.rotation.as_ref().map(|rotation| RotateToken { next: rotation.next.clone() });
                Ok(Reply::DesiredSet { sessions, rotate, images })
            }
            Request::Report { observed } => {
                self.app.runners.known(runner).await?;
                self.report(runner, *observed).await
            }
            Request::Dials {} => {
                self.app.runners.known(runner).await?;
                Ok(Reply::Dials { dials: self.app.relay.take_dials(runner) })
            }
        }
    }

    async fn heartbeat(&self, runner: &RunnerId, heartbeat: Heartbeat, viewers: Vec<ViewerNote>) -> Result<Reply> {
        let shown = AgentHeartbeat {
            agent_id: runner.to_string(),
            status: documents_word(heartbeat.status()).to_owned(),
            active_tasks: heartbeat.active_tasks,
        };
        heartbeat.viewed.iter().for_each(|session| self.app.uses.note(session));
        let was_lost = self.app.runners.heard(runner, heartbeat).await?;
        self.app.bus.publish(subject::HEARTBEAT.to_owned(), &shown).await;
        if was_lost {
            self.app
                .sessions
                .tell_of_runner(runner, &format!("back.{}", jiff::Timestamp::now().as_millisecond()))
                .await;
        }
        // It is alive, whatever becomes of its notes: those that are not acknowledged come again.
        let told = self.app.audit.viewers(runner, viewers, |session| self.app.sessions.runs_at(session, runner)).await;
        let viewers = told.unwrap_or_else(|error| {
            tracing::warn!(runner.id = %runner, error = %error.detail, "what it says of viewers is not in the trail yet");
            None
        });
        Ok(Reply::HeartbeatAck { viewers })
    }

    async fn report(&self, runner: &RunnerId, observed: ObservedSession) -> Result<Reply> {
        let ack =
            Reply::ReportAck { session: observed.session.clone(), epoch: observed.epoch, report: observed.report };
        if self.app.sessions.becomes_ready(&observed) {
            // First: whoever sees that it is ready also sees that nobody has had time to use it.
            self.app.uses.mark(&observed.session).await?;
        }
        if self.app.sessions.record(runner, observed).await? == Recorded::Unwanted {
            self.app.bus.nudge(runner, Nudge::Sync {}).await;
        }
        Ok(ack)
    }
}

/// A runner that is more than one version away would misunderstand, or be misunderstood. The code is one that every version
/// can read.
fn understood(runner: &RunnerId, version: &str, protocol: u32) -> Result<()> {
    if is_understood(protocol) {
        return Ok(());
    }
    let next = if protocol > PROTOCOL {
        "upgrade the servers first".to_owned()
    } else {
        format!("upgrade the runner: helixctl runner upgrade (of {runner}'s machine)")
    };
    let detail = format!(
        "agentd {version} of runner {runner} speaks version {protocol} of the link, this server ({}) version {PROTOCOL}; they \
         may be one apart; {next}",
        env!("CARGO_PKG_VERSION")
    );
    Err(Error::new(ErrorCode::Conflict, detail))
}

/// The runner and its request, if body and subject agree.
fn parse(message: &async_nats::Message, server_id: &str) -> Option<(RunnerId, Request)> {
    let (runner, verb) = subject::parse_up(&message.subject)?;
    let Message { runner: named, body }: Message<Request> = serde_json::from_slice(&message.payload).ok()?;
    let observed_elsewhere = matches!(&body, Request::Report { observed } if observed.runner != runner);
    let expected = match &body {
        Request::Dials {} => format!("{}.{server_id}", body.verb()),
        other => other.verb().to_owned(),
    };
    (named == runner && verb == expected && !observed_elsewhere).then_some((runner, body))
}

/// The answer, or a refusal in its place where it is more than NATS carries: the runner says so, and does not wait.
fn encode(reply: Message<Reply>, limit: usize) -> serde_json::Result<Vec<u8>> {
    let payload = serde_json::to_vec(&reply)?;
    if payload.len() <= limit {
        return Ok(payload);
    }
    let Message { runner, .. } = reply;
    let bytes = payload.len();
    tracing::error!(runner.id = %runner, bytes, limit, "an answer is larger than NATS carries; raise its max_payload");
    let detail = format!(
        "the answer has {bytes} bytes, above NATS's max_payload of {limit}; delete ended sessions, or raise max_payload"
    );
    serde_json::to_vec(&Message { runner, body: Reply::Refused { code: ErrorCode::Internal, detail } })
}

fn documents_word(status: RunnerStatus) -> &'static str {
    match status {
        RunnerStatus::Available => "available",
        RunnerStatus::Busy => "busy",
        RunnerStatus::Offline => "offline",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, payload: &str) -> async_nats::Message {
        async_nats::Message {
            subject: subject.into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn an_answer_that_nats_does_not_carry_is_a_refusal() {
        let reply = || Message {
            runner: RunnerId::parse("a").expect("valid id"),
            body: Reply::DesiredSet { sessions: Vec::new(), rotate: None, images: Vec::new() },
        };
        let whole = encode(reply(), 1024).expect("encoded");
        assert_eq!(encode(reply(), whole.len()).expect("encoded"), whole);
        let refused = encode(reply(), whole.len() - 1).expect("encoded");
        let refused: Message<Reply> = serde_json::from_slice(&refused).expect("a reply");
        let Reply::Refused { detail, .. } = refused.body else { panic!("{refused:?}") };
        assert!(detail.contains("max_payload"), "{detail}");
    }

    #[test]
    fn only_what_its_subject_says_is_heard() {
        let heard = |subject: &str, payload: &str| parse(&message(subject, payload), "s1").is_some();
        assert!(heard("up.a.sync", r#"{"runner":"a","type":"sync"}"#));
        assert!(heard("up.a.dials.s1", r#"{"runner":"a","type":"dials"}"#));
        for (subject, payload) in [
            ("up.a.sync", r#"{"runner":"b","type":"sync"}"#),
            ("up.a.sync", r#"{"runner":"a","type":"dials"}"#),
            ("up.a.dials", r#"{"runner":"a","type":"dials"}"#),
            ("up.a.dials.s2", r#"{"runner":"a","type":"dials"}"#),
            ("up.a.sync", r#"{"type":"sync"}"#),
            ("up.a.sync", "+ACK"),
            ("down.a.sync", r#"{"runner":"a","type":"sync"}"#),
        ] {
            assert!(!heard(subject, payload), "{subject} {payload}");
        }
    }
}
