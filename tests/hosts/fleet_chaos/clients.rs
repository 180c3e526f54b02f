//! Those who use the fleet meanwhile: each makes a session or takes one of the pool, prompts it, moves it, stops and deletes
//! it, and begins again. What was acknowledged is remembered, and has to come true within [`TRUTH`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::api::threads::{ThreadCreated, TurnView};
use helix_protocol::session::SessionPhase;
use helix_tests::Api;
use helix_tests::chaos::History;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::{Answer, told};
use helix_tests::random::Random;
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::witness::{KIND, prompt};

/// The pool that they take sessions of.
pub const POOL: &str = "warm";
/// Label of the sessions of clients.
pub const LABEL: &str = "chaos";
/// Within which everything that was acknowledged comes true: longer than all that goes wrong at once.
pub const TRUTH: Duration = secs(180);
/// A request that is not answered by then is repeated: the server may stand still.
const ANSWER: Duration = secs(12);

/// A prompt that was acknowledged, and what became of it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Session.
    pub session: String,
    /// No two are alike.
    pub name: String,
    /// Its end was asked for.
    pub cancelled: bool,
    /// Its final state.
    pub turn: TurnView,
}

/// What a client did.
#[derive(Debug, Default)]
pub struct Story {
    /// Sessions that it had.
    pub sessions: Vec<String>,
    /// Those that failed, with the code of the cause.
    pub failures: Vec<(String, String)>,
    /// Prompts.
    pub asked: Vec<Asked>,
}

/// One client.
pub struct Client {
    apis: [Api; 2],
    name: String,
    random: Random,
    history: Arc<History>,
    story: Story,
}

/// How a wait for a session came out.
enum Outcome {
    As(Box<SessionView>),
    Failed(String),
}

impl Client {
    /// A client of this name.
    pub fn new(apis: [Api; 2], name: String, seed: u64, history: Arc<History>) -> Self {
        Self { apis, name, random: Random::seeded(seed), history, story: Story::default() }
    }

    /// Sessions one after the other, until it is time to go home.
    pub async fn work(mut self, until: Instant) -> Result<Story> {
        let mut number = 0;
        while Instant::now() < until {
            let name = format!("{}-{number}", self.name);
            number += 1;
            self.live(&name).await.with_context(|| format!("client {name}"))?;
        }
        Ok(self.story)
    }

    async fn live(&mut self, name: &str) -> Result<()> {
        let session = if self.random.below(3) == 0 { self.claim(name).await? } else { self.create(name).await? };
        self.note(name, format!("has {session}"));
        self.story.sessions.push(session.clone());
        let ready = self.until(&session, "is Ready", |view| view.phase == SessionPhase::Ready).await?;
        match ready {
            Outcome::As(view) => {
                self.note(name, told(&view));
                self.talk(name, &session).await?;
                self.end(&session).await?;
            }
            Outcome::Failed(code) => self.note(name, format!("failed before it was ready: {code}")),
        }
        self.acknowledged(Method::DELETE, &path(&session), None, &[404]).await?;
        self.note(name, "is deleted".to_owned());
        eventually(&format!("{session} is gone"), TRUTH, || async {
            let answer = self.one(&Method::GET, &path(&session), None).await?;
            ensure!(answer.status == 404, "{} {}", answer.status, answer.text);
            Ok(())
        })
        .await?;
        self.note(name, "is gone".to_owned());
        Ok(())
    }

    async fn create(&mut self, name: &str) -> Result<String> {
        let on_lost = if self.random.below(3) == 0 { "wait" } else { "restart" };
        let body = json!({"id": name, "kind": KIND, "on_lost": on_lost, "labels": {LABEL: name}});
        self.acknowledged(Method::POST, "/api/v1/sessions", Some(&body), &[]).await?;
        Ok(name.to_owned())
    }

    /// Has no id before it is answered: who got no answer looks whether there is one with the label.
    async fn claim(&mut self, name: &str) -> Result<String> {
        let body = json!({"pool": POOL, "labels": {LABEL: name}});
        eventually(&format!("{name} has a session of the pool"), TRUTH, || async {
            let page =
                self.one(&Method::GET, &format!("/api/v1/sessions?limit=1000&label={LABEL}={name}"), None).await?;
            let page = page.expect(200)?;
            let known = page["sessions"].as_array().context("no list")?;
            let known = known.iter().find(|view| view["labels"][LABEL] == name);
            if let Some(id) = known.and_then(|view| view["id"].as_str()) {
                return Ok(id.to_owned());
            }
            let answer = self.one(&Method::POST, "/api/v1/sessions", Some(&body)).await?;
            Ok(answer.json::<SessionView>()?.id.to_string())
        })
        .await
    }

    /// One thread: some prompts, of which some are cancelled; perhaps a move in between.
    async fn talk(&mut self, name: &str, session: &str) -> Result<()> {
        let base = format!("{}/threads", path(session));
        let mut thread: Option<String> = None;
        for number in 0..=self.random.below(4) {
            let prompt_name = format!("{name}-p{number}");
            let text = prompt(&prompt_name, self.random.below(1500));
            let at = thread.as_ref().map_or_else(|| base.clone(), |thread| format!("{base}/{thread}/prompts"));
            let body = json!({"prompt": text, "idempotency_key": prompt_name});
            let Some(answer) = self.asked(session, &at, &body).await? else { return Ok(()) };
            let turn = turn_of(&answer)?;
            self.note(&prompt_name, format!("is turn {} of {}", turn.id, turn.thread));
            let thread = thread.get_or_insert_with(|| turn.thread.to_string()).clone();
            if self.random.below(4) == 0 {
                let Some(again) = self.asked(session, &at, &body).await? else { return Ok(()) };
                ensure!(turn_of(&again)?.id == turn.id, "another turn under the same key: {}", again.text);
            }
            let cancelled = self.random.below(8) == 0;
            if cancelled {
                let cancel = format!("{base}/{thread}/cancel");
                // 409: it is over already.
                self.acknowledged(Method::POST, &cancel, Some(&json!({"turn": turn.id})), &[409]).await?;
            }
            if self.random.below(10) == 0 {
                let moved = self.one(&Method::POST, &format!("{}/move", path(session)), None).await;
                self.note(name, format!("asked to move: {:?}", moved.map(|answer| answer.status)));
            }
            let turn = self.over(session, &thread, turn.id.as_str()).await?;
            self.note(&prompt_name, format!("{} {:?}", turn.state, turn.cause));
            self.story.asked.push(Asked { session: session.to_owned(), name: prompt_name, cancelled, turn });
        }
        Ok(())
    }

    /// A prompt; None where the session has ended meanwhile, with a cause.
    async fn asked(&mut self, session: &str, path: &str, body: &Value) -> Result<Option<Answer>> {
        let answer = self.acknowledged(Method::POST, path, Some(body), &[409, 410]).await?;
        if answer.status.is_success() {
            return Ok(Some(answer));
        }
        match self.until(session, "is what its prompt was refused for", |_| false).await? {
            Outcome::Failed(code) => self.note(session, format!("failed: {code}")),
            Outcome::As(view) => bail!("{} {} of {}", answer.status, answer.text, told(&view)),
        }
        Ok(None)
    }

    async fn over(&self, session: &str, thread: &str, turn: &str) -> Result<TurnView> {
        let path = format!("{}/threads/{thread}/turns/{turn}", path(session));
        eventually(&format!("turn {turn} of {session} is over"), TRUTH, || async {
            let turn: TurnView = self.one(&Method::GET, &path, None).await?.json()?;
            ensure!(turn.state.is_final(), "{turn:?}");
            Ok(turn)
        })
        .await
    }

    async fn end(&mut self, session: &str) -> Result<()> {
        self.acknowledged(Method::POST, &format!("{}/stop", path(session)), None, &[]).await?;
        self.note(session, "stop is acknowledged".to_owned());
        self.until(session, "is Stopped", |view| view.phase == SessionPhase::Stopped).await?;
        Ok(())
    }

    /// Waits until a session is as wanted, or has failed and says why.
    async fn until(&mut self, id: &str, what: &str, holds: impl Fn(&SessionView) -> bool) -> Result<Outcome> {
        let view = eventually(&format!("{id} {what}"), TRUTH, || async {
            let view: SessionView = self.one(&Method::GET, &path(id), None).await?.json()?;
            ensure!(holds(&view) || view.phase == SessionPhase::Failed, "{}", told(&view));
            Ok(view)
        })
        .await?;
        if holds(&view) {
            return Ok(Outcome::As(Box::new(view)));
        }
        let cause = view.cause.as_ref().with_context(|| format!("failed without a cause: {}", told(&view)))?;
        ensure!(!cause.code.is_empty() && !cause.message.is_empty(), "{}", told(&view));
        self.story.failures.push((id.to_owned(), cause.code.clone()));
        Ok(Outcome::Failed(cause.code.clone()))
    }

    /// Repeats a request at either server until one acknowledges it, or answers with one of these.
    async fn acknowledged(&self, method: Method, path: &str, body: Option<&Value>, also: &[u16]) -> Result<Answer> {
        let outcome = eventually(&format!("{method} {path} is acknowledged"), TRUTH, || async {
            let answer = self.one(&method, path, body).await?;
            let busy = answer.status.is_server_error() || answer.status == 429 || answer.text.contains("\"conflict\"");
            ensure!(!busy, "{} {}", answer.status, answer.text);
            Ok(answer)
        })
        .await?;
        let good = outcome.status.is_success() || also.contains(&outcome.status.as_u16());
        ensure!(good, "{method} {path}: {} {}", outcome.status, outcome.text);
        Ok(outcome)
    }

    /// One request, at the first server that answers.
    async fn one(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut refusals = Vec::new();
        for api in &self.apis {
            let body = body.map(|body| ("application/json", body.to_string().into_bytes()));
            match timeout(ANSWER, api.send(method.clone(), path, body)).await {
                Ok(Ok(answer)) if answer.status != 503 => return Ok(answer),
                Ok(Ok(answer)) => refusals.push(format!("{} {}", answer.status, answer.text)),
                Ok(Err(fault)) => refusals.push(format!("{fault:#}")),
                Err(_) => refusals.push("no answer".to_owned()),
            }
        }
        bail!("{refusals:?}")
    }

    fn note(&self, who: &str, what: String) {
        self.history.note(who, what);
    }
}

fn path(session: &str) -> String {
    format!("/api/v1/sessions/{session}")
}

/// Of a thread that was begun, or of a prompt in one.
fn turn_of(answer: &Answer) -> Result<TurnView> {
    let text = &answer.text;
    let created = serde_json::from_str::<ThreadCreated>(text).map(|created| created.turn);
    created.or_else(|_| serde_json::from_str(text)).with_context(|| text.clone())
}
