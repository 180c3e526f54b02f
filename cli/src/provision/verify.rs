//! The server's side of a runner: what it knows of it, a token to enrol with, that it is heard, and that a session on it
//! shows a first frame. Waits on the server's feed of events, so nothing is missed and nothing is asked in vain.

use std::time::Duration;

use helix_protocol::api::tokens::{CreateToken, TokenScope};
use helix_protocol::api::{CreateSession, RunnerView};
use helix_protocol::runner::Liveness;
use helix_protocol::session::SessionPhase;
use helix_protocol::{ErrorCode, KindName, RunnerId, SessionId};
use tokio::time::{Instant, timeout_at};

use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::feed::Feed;

/// Labels of test sessions: who makes them, and which runner each is to prove.
const MADE_BY: (&str, &str) = ("made-by", "helixctl-provision");
const PROVES: &str = "proves";
/// A first desktop on a cold machine, and the end of a session that did nothing.
const SESSION_WITHIN: Duration = Duration::from_mins(2);

/// What the server knows of a runner; None where it knows none.
pub async fn known(client: &Client, id: &RunnerId) -> Result<Option<RunnerView>> {
    match client.runner(id).await {
        Ok(view) => Ok(Some(view)),
        Err(error) if error.code == Some(ErrorCode::RunnerNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A token with which this runner enrols, once.
pub async fn join_token(client: &Client, id: &RunnerId) -> Result<String> {
    let runner = Some(id.clone());
    let request = CreateToken { scope: TokenScope::Enrol, name: None, runner, reusable: false, ttl_seconds: None };
    client.create_token(&request).await.map(|token| token.token)
}

/// True for one that the server hears and that has said what it offers.
pub fn is_online(view: &RunnerView) -> bool {
    view.liveness == Liveness::Online && view.facts.is_some()
}

/// Looks at one runner, from before it is changed on.
pub struct Watch {
    client: Client,
    feed: Feed,
    id: RunnerId,
    before: Option<RunnerView>,
    /// As it was heard last.
    now: Option<RunnerView>,
}

impl Watch {
    /// Begins to look. What happens from here on is seen.
    pub async fn begin(client: &Client, id: &RunnerId) -> Result<Self> {
        let feed = Feed::open(&client.connection).await?;
        let before = known(client, id).await?;
        Ok(Self { client: client.clone(), feed, id: id.clone(), before, now: None })
    }

    /// Waits until the runner is heard and has registered anew: heartbeats of the agentd that was replaced may still come.
    pub async fn online(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let before = self.before.as_ref().and_then(|view| view.registered_at);
        loop {
            let view = known(&self.client, &self.id).await?;
            if view.as_ref().is_some_and(|view| is_online(view) && view.registered_at > before) {
                self.now = view;
                return Ok(());
            }
            let why = match view {
                None => "it has not enrolled".to_owned(),
                Some(view) => format!("the server says of it: {:?}", view.liveness).to_lowercase(),
            };
            // Cancel safe, as the feed says of itself.
            let news = timeout_at(deadline, self.feed.happened()).await;
            news.map_err(|_elapsed| {
                CliError::new(Kind::TimedOut, format!("runner {} does not come online", self.id))
                    .because(format!("{why}, after {} s", within.as_secs()))
                    .next("does it reach the server's and NATS's address? on the host: journalctl -u agentd")
            })??;
        }
    }

    /// Version of the agentd that was heard.
    pub fn version(&self) -> Option<String> {
        Some(self.now.as_ref()?.facts.as_ref()?.version.clone())
    }

    /// False for a runner that would take no test session now.
    pub fn has_room(&self) -> bool {
        let view = self.now.as_ref().or(self.before.as_ref());
        view.is_none_or(|view| !view.cordoned && view.active_tasks < view.slots)
    }

    /// Deletes the test sessions of runs that were killed before they could; each would keep a slot for ever. Only for
    /// whoever has the host's lock: nobody else is testing then.
    pub async fn sweep(&self) -> Result<()> {
        let (name, value) = MADE_BY;
        let filter = [("label", format!("{name}={value},{PROVES}={}", self.id))];
        for session in self.client.sessions(&filter).await?.sessions {
            match self.client.delete_session(&session.id).await {
                Err(error) if error.code != Some(ErrorCode::SessionNotFound) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// A terminal on this very runner, until its desktop has drawn; then it is deleted, whatever came of it.
    pub async fn first_frame(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let deadline = begun + SESSION_WITHIN;
        let session = self.create().await?;
        let shown = self.shows(&session, deadline).await;
        let took = begun.elapsed();
        let gone = self.delete(&session, deadline).await;
        shown.and(gone).map(|()| took)
    }

    async fn create(&self) -> Result<SessionId> {
        let odd = |why: String| CliError::failed("cannot name the test session").because(why);
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| odd(error.to_string()))?;
        let id = SessionId::parse(format!("provision-{}", helix_protocol::ids::hex(&random)));
        let kind = KindName::parse("terminal").map_err(|error| odd(error.to_string()))?;
        let request = CreateSession {
            id: Some(id.map_err(|error| odd(error.to_string()))?),
            kind: Some(kind),
            runner: Some(self.id.clone()),
            labels: [MADE_BY, (PROVES, self.id.as_str())]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..CreateSession::default()
        };
        Ok(self.client.create_session(&request).await?.id)
    }

    async fn shows(&mut self, session: &SessionId, deadline: Instant) -> Result<()> {
        let failed = |kind: Kind, why: String| {
            let next = "on the host: journalctl -u agentd; then run it again";
            CliError::new(kind, "the test session shows nothing").because(why).next(next)
        };
        loop {
            let view = self.client.session(session).await?;
            let why =
                view.cause.as_ref().map_or_else(|| format!("it is {}", view.phase), |cause| cause.message.clone());
            match view.phase {
                SessionPhase::Ready => break,
                SessionPhase::Pending | SessionPhase::Assigned | SessionPhase::Starting => {
                    let news = timeout_at(deadline, self.feed.changed(session)).await;
                    news.map_err(|_elapsed| failed(Kind::TimedOut, why))??;
                }
                SessionPhase::Stopping | SessionPhase::Stopped | SessionPhase::Failed | SessionPhase::Lost => {
                    return Err(failed(Kind::Failed, why));
                }
            }
        }
        let picture = self.client.screenshot(session, &[]).await?;
        if picture.bytes.is_empty() || picture.width == 0 {
            return Err(failed(Kind::Failed, "its picture is empty".to_owned()));
        }
        Ok(())
    }

    async fn delete(&mut self, session: &SessionId, deadline: Instant) -> Result<()> {
        self.client.delete_session(session).await?;
        loop {
            match self.client.session(session).await {
                Err(error) if error.code == Some(ErrorCode::SessionNotFound) => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => timeout_at(deadline, self.feed.changed(session)).await.map_err(|_elapsed| {
                    CliError::new(Kind::TimedOut, format!("test session {session} does not end"))
                        .next(format!("helixctl session show {session}"))
                })??,
            }
        }
    }
}
