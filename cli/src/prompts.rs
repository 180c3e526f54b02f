//! Where a prompt goes, and its sending: once, also when the answer was lost and the request is sent again.

use std::time::Duration;

use helix_protocol::api::threads::{CreateThread, SendPrompt, ThreadView, TurnView};
use helix_protocol::ids::hex;
use helix_protocol::thread::TurnState;
use helix_protocol::{SessionId, ThreadId};

use crate::client::{Client, Page, patiently};
use crate::error::{CliError, Kind, Result};

/// How long the server may be away while a prompt is sent.
const AWAY: Duration = Duration::from_secs(30);

/// Where a prompt goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Where {
    /// A thread that there is.
    Thread(Place),
    /// A new thread, of this agent where one is named.
    New {
        /// The agent's name.
        agent: Option<String>,
    },
}

/// A thread that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The thread.
    pub id: ThreadId,
    /// The session whose desktop it is.
    pub desktop: SessionId,
    /// Sequence of its last event that is known.
    pub sequence: u64,
    /// Something runs or waits in it: what is asked now waits for that.
    pub busy: bool,
}

impl From<ThreadView> for Place {
    fn from(thread: ThreadView) -> Self {
        let busy = thread.active_turn.is_some() || thread.queued > 0;
        Self { id: thread.id, desktop: thread.session, sequence: thread.sequence, busy }
    }
}

impl Where {
    /// What is asked there now waits for what was asked before.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Thread(place) if place.busy)
    }
}

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// In words.
    pub text: String,
    /// Ends the thread's running turn.
    pub interrupt: bool,
    /// Paths in the workspace that go with it.
    pub attachments: Vec<String>,
    /// The same key is the same prompt; made up where absent.
    pub key: Option<String>,
}

/// A prompt that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// The session whose desktop it is.
    pub desktop: SessionId,
    /// Its turn.
    pub turn: TurnView,
    /// Where its thread was.
    pub after: u64,
    /// Something of it may have been told before `after`: read the thread first.
    pub told_before: bool,
}

/// The thread where a prompt goes that names none: the newest one of the session (of `agent`, where one is named), or
/// a new one. Where several sessions share a desktop, only threads of this one count.
pub async fn newest(client: &Client, session: &SessionId, agent: Option<&str>) -> Result<Where> {
    let threads = client.threads(session).await?.threads;
    let ours = |thread: &ThreadView| thread.work_session.as_ref().unwrap_or(&thread.session) == session;
    let serves = |thread: &ThreadView| agent.is_none() || thread.agent.as_deref() == agent;
    let newest = threads.into_iter().rfind(|thread| ours(thread) && serves(thread));
    Ok(newest.map_or_else(|| Where::New { agent: agent.map(str::to_owned) }, |thread| Where::Thread(thread.into())))
}

/// This thread of the session.
pub async fn this(client: &Client, session: &SessionId, id: &ThreadId) -> Result<Where> {
    let listed = client.threads(session).await?.threads.into_iter().find(|thread| thread.id == *id);
    let thread = match listed {
        Some(thread) => thread,
        // The server says best what is wrong.
        None => client.thread(session, id, Page::Last(1)).await?.thread,
    };
    Ok(Where::Thread(thread.into()))
}

/// Sends it.
pub async fn send(client: &Client, session: &SessionId, to: &Where, prompt: Prompt) -> Result<Sent> {
    // Whoever gives a key may have sent it before.
    let given = prompt.key.is_some();
    let key = prompt.key.map_or_else(random_key, Ok)?;
    let sent = match to {
        Where::Thread(thread) => {
            let request = SendPrompt {
                prompt: prompt.text,
                interrupt: prompt.interrupt,
                attachments: prompt.attachments,
                idempotency_key: Some(key.clone()),
            };
            let turn = patiently(AWAY, async || client.send_prompt(session, &thread.id, &request).await).await;
            turn.map(|turn| Sent { desktop: thread.desktop.clone(), turn, after: thread.sequence, told_before: given })
        }
        Where::New { agent } => {
            let request = CreateThread {
                prompt: prompt.text,
                agent: agent.clone(),
                attachments: prompt.attachments,
                idempotency_key: Some(key.clone()),
                ..CreateThread::default()
            };
            let created = patiently(AWAY, async || client.create_thread(session, &request).await).await;
            created.map(|created| Sent {
                desktop: created.thread.session,
                told_before: given || created.turn.state != TurnState::Queued,
                turn: created.turn,
                after: created.thread.sequence,
            })
        }
    };
    sent.map_err(|error| in_doubt(error, to, &key))
}

/// Nobody knows whether it was accepted: the same key asks again without asking twice.
fn in_doubt(error: CliError, to: &Where, key: &str) -> CliError {
    if !matches!(error.kind, Kind::Unreachable | Kind::TimedOut) {
        return error;
    }
    let place = match to {
        Where::Thread(thread) => format!("--thread {}", thread.id),
        Where::New { .. } => "--new-thread".to_owned(),
    };
    error.next(format!("it may have been accepted; repeat it as the same prompt: {place} --idempotency-key {key}"))
}

fn random_key() -> Result<String> {
    Ok(format!("cli-{}", random_hex()?))
}

/// 24 hex digits that nobody else has.
pub fn random_hex() -> Result<String> {
    let mut random = [0; 12];
    getrandom::fill(&mut random)
        .map_err(|error| CliError::failed("the system gives no random bytes").because(error))?;
    Ok(hex(&random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_prompt_in_doubt_names_its_key() {
        let to = Where::New { agent: None };
        let told = |kind| in_doubt(CliError::new(kind, "cannot send"), &to, "cli-1").to_string();
        assert_eq!(told(Kind::Refused), "error: cannot send");
        assert!(told(Kind::TimedOut).contains("--new-thread --idempotency-key cli-1"));
    }
}
