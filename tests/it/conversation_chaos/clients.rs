//! Those who ask: prompts by REST, under idempotency keys, repeated until a server acknowledges.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use helix_protocol::api::threads::{ThreadCreated, TurnView};
use helix_tests::Api;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::Answer;
use helix_tests::random::Random;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::bridges;

/// How long a client repeats one request: longer than any outage.
const PERSISTENCE: Duration = secs(60);
/// Turns of a thread before the client begins another.
const THREAD: u64 = 12;
/// Prompts of a thread that may be unfinished before the client waits.
const OPEN: usize = 3;

/// A prompt that a server acknowledged.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Session.
    pub session: String,
    /// Thread, ours.
    pub thread: String,
    /// Turn.
    pub turn: String,
    /// Its name; no two are alike.
    pub name: String,
    /// What was asked.
    pub prompt: String,
    /// It interrupts.
    pub interrupt: bool,
    /// Its end was asked for, and that was acknowledged or may have been.
    pub cancelled: bool,
    /// Path and body that it was asked with.
    pub request: (String, Value),
}

/// One client of one session.
pub struct Client {
    apis: [Api; 2],
    session: String,
    name: String,
    speaks: Speaks,
    random: Random,
}

/// What an agent understands.
#[derive(Debug, Clone, Copy)]
pub enum Speaks {
    /// Anything.
    Words,
    /// Shell commands.
    Shell,
}

impl Client {
    /// A client; `name` makes its prompts differ from others'.
    pub fn new(apis: [Api; 2], session: String, name: String, speaks: Speaks, seed: u64) -> Self {
        Self { apis, session, name, speaks, random: Random::seeded(seed) }
    }

    /// Asks so many prompts.
    pub async fn work(mut self, turns: u64) -> Result<Vec<Asked>> {
        let mut asked: Vec<Asked> = Vec::new();
        for number in 0..turns {
            sleep(Duration::from_millis(self.random.below(400))).await; // a person thinks
            let name = format!("{} asks {number}", self.name);
            let prompt = match self.speaks {
                Speaks::Words => name.clone(),
                Speaks::Shell => bridges::prompt(&name, self.random.below(150)),
            };
            let key = format!("{}-{number}", self.name);
            let base = format!("/api/v1/sessions/{}/threads", self.session);
            if number % THREAD == 0 {
                let body = json!({"prompt": prompt, "idempotency_key": key});
                let created = self.acknowledged(&base, &body, &[201, 200]).await?;
                let created: ThreadCreated = serde_json::from_str(&created.text).context(created.text)?;
                asked.push(self.noted(name, &created.turn, false, (base, body)));
                continue;
            }
            let thread = asked.last().context("no thread")?.thread.clone();
            let interrupt = self.random.below(8) == 0;
            let path = format!("{base}/{thread}/prompts");
            let body = json!({"prompt": prompt, "interrupt": interrupt, "idempotency_key": key});
            let sent = self.acknowledged(&path, &body, &[202]).await?;
            let turn: TurnView = serde_json::from_str(&sent.text).context(sent.text)?;
            asked.push(self.noted(name, &turn, interrupt, (path, body)));
            if self.random.below(8) == 0 {
                sleep(Duration::from_millis(self.random.below(600))).await; // a person changes their mind
                self.cancel(asked.last_mut().context("nothing asked")?).await?;
            }
            if asked.len() > OPEN {
                self.over(&asked[asked.len() - OPEN - 1]).await?;
            }
        }
        Ok(asked)
    }

    fn noted(&self, name: String, turn: &TurnView, interrupt: bool, request: (String, Value)) -> Asked {
        Asked {
            session: self.session.clone(),
            thread: turn.thread.to_string(),
            turn: turn.id.to_string(),
            name,
            prompt: turn.prompt.clone(),
            interrupt,
            cancelled: false,
            request,
        }
    }

    /// Repeats a request at either server until one acknowledges it.
    async fn acknowledged(&mut self, path: &str, body: &Value, good: &[u16]) -> Result<Answer> {
        let first = self.random.below(2) as usize;
        acknowledged(&[&self.apis[first], &self.apis[1 - first]], path, body, good).await
    }

    async fn cancel(&mut self, asked: &mut Asked) -> Result<()> {
        asked.cancelled = true;
        let path = format!("/api/v1/sessions/{}/threads/{}/cancel", self.session, asked.thread);
        // 409: it is over already.
        self.acknowledged(&path, &json!({"turn": asked.turn}), &[200, 409]).await?;
        Ok(())
    }

    /// Waits until a turn is over.
    async fn over(&self, asked: &Asked) -> Result<()> {
        let path = format!("/api/v1/sessions/{}/threads/{}/turns/{}", asked.session, asked.thread, asked.turn);
        eventually(&format!("turn {} of {} is over", asked.turn, asked.session), super::TRUTH, || async {
            let mut last = String::new();
            for api in &self.apis {
                match api.get(&format!("{path}?wait=5")).await {
                    Ok(answer) if answer.status == 200 => {
                        let turn: TurnView = answer.json()?;
                        ensure!(turn.state.is_final(), "{turn:?}");
                        return Ok(());
                    }
                    Ok(answer) => last = format!("{} {}", answer.status, answer.text),
                    Err(fault) => last = format!("{fault:#}"),
                }
            }
            bail!("{last}")
        })
        .await
    }
}

/// Repeats a request at these servers until one acknowledges it. What is refused for good is a failure at once.
pub async fn acknowledged(apis: &[&Api], path: &str, body: &Value, good: &[u16]) -> Result<Answer> {
    let refused = std::sync::Mutex::new(None);
    let outcome = eventually(&format!("POST {path} {body} is acknowledged"), PERSISTENCE, || async {
        let mut refusals = Vec::new();
        for api in apis {
            match api.post(path, body).await {
                Ok(answer) if good.contains(&answer.status.as_u16()) => return Ok(Some(answer)),
                Ok(answer) if answer.status.is_server_error() || answer.text.contains("\"conflict\"") => {
                    refusals.push(format!("{} {}", answer.status, answer.text));
                }
                // A server that just came back may not know everything yet, but it must not say otherwise.
                Ok(answer) => {
                    *refused.lock().expect("no panic holds it") = Some(format!("{} {}", answer.status, answer.text));
                    return Ok(None);
                }
                Err(fault) => refusals.push(format!("{fault:#}")),
            }
        }
        bail!("{refusals:?}")
    })
    .await?;
    outcome.with_context(|| format!("POST {path} {body}: {:?}", refused.into_inner()))
}
