//! Those outside: what they were told, and whether it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::threads::{ThreadCreated, ThreadList, TurnView};
use helix_protocol::api::{SessionPage, SessionView};
use helix_protocol::session::SessionPhase;
use helix_tests::Api;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::{Answer, told};
use helix_tests::random::Random;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

/// A slow machine's answer.
const ANSWER: Duration = secs(30);

/// What a session is by the last word that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Made,
    Stopped,
    Deleted,
}

/// What is known of one session.
#[derive(Debug, Clone)]
struct Session {
    state: State,
    /// Its end was asked for, and nobody knows whether it was heard.
    perhaps: bool,
    /// Its thread and turns, in order, each with its key.
    thread: Option<String>,
    turns: Vec<(String, String)>,
    /// The path and body of a prompt of which nobody knows whether it was heard.
    unheard: Option<(String, Value)>,
}

/// All that was acknowledged, ever.
#[derive(Debug, Default)]
pub struct Kept {
    sessions: BTreeMap<String, Session>,
    /// Of these nobody knows whether they were made.
    perhaps: BTreeSet<String>,
    secrets: BTreeSet<String>,
    /// A session's prompts are read again by one cut alone, and asked again by the next.
    judged: BTreeSet<String>,
}

impl fmt::Display for Kept {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |state| self.sessions.values().filter(|session| session.state == state).count();
        let prompts: usize = self.sessions.values().map(|session| session.turns.len()).sum();
        write!(
            out,
            "{} sessions ({} stopped, {} deleted), {prompts} prompts, {} secrets",
            self.sessions.len(),
            of(State::Stopped),
            of(State::Deleted),
            self.secrets.len()
        )
    }
}

/// One of them.
pub struct Writer {
    api: Api,
    name: String,
    random: Random,
    done: Arc<AtomicUsize>,
    kept: Kept,
}

impl Writer {
    /// Of this name; counts what is acknowledged.
    pub fn new(api: Api, name: String, seed: u64, done: Arc<AtomicUsize>) -> Self {
        Self { api, name, random: Random::seeded(seed), done, kept: Kept::default() }
    }

    /// Writes until there is nobody who answers; what was acknowledged.
    pub async fn work(mut self, mut dark: watch::Receiver<bool>) -> Result<Kept> {
        for number in 0.. {
            let outcome = tokio::select! {
                outcome = self.step(number) => outcome,
                _ = dark.wait_for(|dark| *dark) => break,
            };
            if outcome.is_err() {
                // A refusal while there is light would be one of a server that is well.
                let light = timeout(ANSWER, dark.wait_for(|dark| *dark)).await;
                ensure!(light.is_ok(), "{}: {:?}", self.name, outcome);
                break;
            }
        }
        Ok(self.kept)
    }

    /// What nobody knows is written down before it is asked for: the end may come at any await.
    async fn step(&mut self, number: u64) -> Result<()> {
        let (name, api) = (format!("{}-{number}", self.name), self.api.clone());
        self.kept.perhaps.insert(name.clone());
        let body = json!({"id": name, "kind": "terminal", "labels": {"by": self.name}});
        self.good(api.post("/api/v1/sessions", &body).await?)?;
        self.kept.perhaps.remove(&name);
        let new = Session { state: State::Made, perhaps: false, thread: None, turns: Vec::new(), unheard: None };
        self.kept.sessions.insert(name.clone(), new);
        let base = format!("/api/v1/sessions/{name}");
        for prompt in 0..self.random.below(3) {
            let key = format!("{name}-{prompt}");
            let thread = self.of(&name)?.thread.clone();
            let path =
                thread.map_or_else(|| format!("{base}/threads"), |thread| format!("{base}/threads/{thread}/prompts"));
            let body = json!({"prompt": format!("echo {key}"), "idempotency_key": key});
            self.of(&name)?.unheard = Some((path.clone(), body.clone()));
            let answer = self.good(api.post(&path, &body).await?)?;
            let turn = turn_of(&answer)?;
            let session = self.of(&name)?;
            session.unheard = None;
            session.thread = Some(turn.thread.to_string());
            session.turns.push((key, turn.id.to_string()));
        }
        let secret = format!("S{}", name.replace('-', "_").to_uppercase());
        self.good(api.put(&format!("/api/v1/secrets/{secret}"), &json!({"value": "a value"})).await?)?;
        self.kept.secrets.insert(secret);
        match self.random.below(4) {
            0 => {
                self.of(&name)?.perhaps = true;
                self.good(api.post_empty(&format!("{base}/stop")).await?)?;
                let session = self.of(&name)?;
                (session.perhaps, session.state) = (false, State::Stopped);
            }
            1 => {
                self.of(&name)?.perhaps = true;
                self.good(api.delete(&base).await?)?;
                let session = self.of(&name)?;
                (session.perhaps, session.state) = (false, State::Deleted);
            }
            _ => {}
        }
        Ok(())
    }

    fn of(&mut self, name: &str) -> Result<&mut Session> {
        self.kept.sessions.get_mut(name).context("made a moment ago")
    }

    fn good(&self, answer: Answer) -> Result<Answer> {
        ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text);
        self.done.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }
}

impl Kept {
    /// With what another was told.
    pub fn add(&mut self, other: Self) {
        self.sessions.extend(other.sessions);
        self.perhaps.extend(other.perhaps);
        self.secrets.extend(other.secrets);
    }

    /// Fails where something that was acknowledged is not so.
    pub async fn judge(&mut self, api: &Api) -> Result<()> {
        let views = eventually("every session is what it was told to be", secs(60), || async {
            let views = all(api).await?;
            for (id, session) in &self.sessions {
                as_told(id, session, views.get(id))?;
            }
            Ok(views)
        })
        .await?;
        let made_up: Vec<_> =
            views.keys().filter(|id| !self.sessions.contains_key(*id) && !self.perhaps.contains(*id)).collect();
        ensure!(made_up.is_empty(), "nobody asked for {made_up:?}");
        let listed = api.get("/api/v1/secrets").await?.expect(200)?;
        let listed: BTreeSet<_> =
            listed["secrets"].as_array().context("no list")?.iter().filter_map(|one| one["name"].as_str()).collect();
        for secret in &self.secrets {
            ensure!(listed.contains(secret.as_str()), "secret {secret} was acknowledged and is gone");
        }
        let open = self
            .sessions
            .iter()
            .filter(|(id, session)| session.state != State::Deleted && !session.perhaps && !self.judged.contains(*id));
        for (id, session) in open {
            prompts(api, id, session).await.with_context(|| format!("{id}: {session:?}"))?;
        }
        self.judged.extend(self.sessions.keys().cloned());
        Ok(())
    }
}

fn as_told(id: &str, session: &Session, view: Option<&SessionView>) -> Result<()> {
    match (session.state, view) {
        (State::Deleted, None) => {}
        (State::Deleted, Some(view)) => anyhow::bail!("deleted, and there: {}", told(view)),
        (_, None) if session.perhaps => {}
        (_, None) => anyhow::bail!("{id} was acknowledged and is gone"),
        (State::Stopped, Some(view)) => ensure!(view.phase == SessionPhase::Stopped, "stopped: {}", told(view)),
        (State::Made, Some(view)) => {
            let whole = view.labels.contains_key("by");
            ensure!(whole && (view.phase == SessionPhase::Pending || session.perhaps), "made: {}", told(view));
        }
    }
    Ok(())
}

/// Every prompt is there once, in order, and the same under the same key.
async fn prompts(api: &Api, id: &str, session: &Session) -> Result<()> {
    let base = format!("/api/v1/sessions/{id}/threads");
    let mut expected = session.turns.len();
    if let Some((path, body)) = session.unheard.as_ref().filter(|_| session.state == State::Made) {
        // Whether it was heard or not: asked again it is there, and once.
        let answer = api.post(path, body).await?;
        ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text);
        expected += 1;
    }
    let threads: ThreadList = api.get(&base).await?.json()?;
    let turns: u32 = threads.threads.iter().map(|thread| thread.turns).sum();
    ensure!(turns as usize == expected, "{turns} turns, {expected} expected: {threads:?}");
    let mut last = None;
    for (key, turn) in &session.turns {
        let thread = session.thread.as_ref().context("turns without a thread")?;
        let view: TurnView = api.get(&format!("{base}/{thread}/turns/{turn}")).await?.json()?;
        ensure!(view.prompt == format!("echo {key}"), "{view:?}");
        ensure!(last < Some(view.queued_at), "not in the order in which they were asked: {view:?}");
        last = Some(view.queued_at);
    }
    Ok(())
}

/// Every session, by id.
async fn all(api: &Api) -> Result<BTreeMap<String, SessionView>> {
    let mut views = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page: SessionPage = api.get(&format!("/api/v1/sessions?limit=1000{cursor}")).await?.json()?;
        views.extend(page.sessions.into_iter().map(|view| (view.id.to_string(), view)));
        let Some(next) = page.next_cursor else { return Ok(views) };
        cursor = format!("&cursor={next}");
    }
}

/// Of a thread that was begun, or of a prompt in one.
fn turn_of(answer: &Answer) -> Result<TurnView> {
    let text = &answer.text;
    let created = serde_json::from_str::<ThreadCreated>(text).map(|created| created.turn);
    created.or_else(|_| serde_json::from_str(text)).with_context(|| text.clone())
}
