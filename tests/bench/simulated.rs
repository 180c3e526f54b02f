//! Simulated runners for a control plane under load: nothing but their messages, over real NATS, each with a token and a
//! connection of its own.
//!
//! One task per runner: heartbeats as often as the server wants them, `sync` when nudged, and a report that a session is
//! Ready as soon as it is ordered. They run in this process, so what they use is not in the figures of the server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::{Client, ConnectOptions};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use helix_protocol::api::runners::{EnrolRunner, Enrolled};
use helix_protocol::assignment::DesiredSession;
use helix_protocol::ids::secret_hash;
use helix_protocol::link::{Message, PROTOCOL, Reply, Request};
use helix_protocol::resources::{Reserve, Resources};
use helix_protocol::runner::{Heartbeat, RunnerFacts};
use helix_protocol::session::{Desired, Display, Geometry, ObservedSession, SessionPhase};
use helix_protocol::{KindName, RunnerId, SessionId, subject};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::product::Product;

/// The kind that they offer, and no real runner.
pub const KIND: &str = "simulated";
/// Enrolments at once.
const AT_ONCE: usize = 32;
const GEOMETRY: Geometry = Geometry { width: 1280, height: 800 };

/// Some runners, until it is dropped.
pub struct Simulated {
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

struct Counts {
    /// Sessions that were ordered and reported.
    placed: watch::Sender<u64>,
    /// Heartbeats that nobody answered.
    unanswered: AtomicU64,
}

impl Simulated {
    /// Enrols and registers so many, with so many slots each.
    pub async fn start(product: &Product, runners: u32, slots: u32) -> Result<Self> {
        let counts = Arc::new(Counts { placed: watch::Sender::new(0), unanswered: AtomicU64::new(0) });
        let enrolment = std::fs::read_to_string(product.dir().join("runner.token"))?.trim().to_owned();
        let http = reqwest::Client::new();
        let enrolled: Vec<(Runner, Duration)> = futures::stream::iter(0..runners)
            .map(|number| Runner::enrol(product.url(), &http, &enrolment, number, slots, counts.clone()))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let mut tasks = JoinSet::new();
        for (number, (runner, interval)) in (0..).zip(enrolled) {
            // As runners that began at different times.
            let first = Instant::now() + interval * number / runners;
            tasks.spawn(runner.serve(interval, first));
        }
        Ok(Self { counts, _tasks: tasks })
    }

    /// Waits until so many sessions were placed in all.
    pub async fn placed(&self, wanted: u64) {
        let mut placed = self.counts.placed.subscribe();
        // The sender is here.
        let _ = placed.wait_for(|placed| *placed >= wanted).await;
    }

    /// Heartbeats without an answer so far.
    pub fn unanswered(&self) -> u64 {
        self.counts.unanswered.load(Ordering::Relaxed)
    }
}

struct Runner {
    id: RunnerId,
    client: Client,
    nudges: async_nats::Subscriber,
    slots: u32,
    known: BTreeSet<SessionId>,
    counts: Arc<Counts>,
}

impl Runner {
    async fn enrol(
        url: &str,
        http: &reqwest::Client,
        enrolment: &str,
        number: u32,
        slots: u32,
        counts: Arc<Counts>,
    ) -> Result<(Self, Duration)> {
        let id = RunnerId::parse(format!("simulated-{number}"))?;
        let token = format!("the-token-of-simulated-runner-{number}");
        let body = EnrolRunner { id: id.clone(), token_hash: secret_hash(&token) };
        let answer = http.post(format!("{url}/api/v1/runners/enrol")).bearer_auth(enrolment).json(&body).send().await?;
        ensure!(answer.status().is_success(), "enrolment of {id}: {}", answer.text().await?);
        let enrolled: Enrolled = answer.json().await?;
        let options = ConnectOptions::with_token(token).custom_inbox_prefix(subject::inbox_prefix(&id));
        let client = options.connect(&enrolled.nats_url).await.with_context(|| format!("NATS refuses {id}"))?;
        let nudges = client.subscribe(subject::down(&id, "*")).await?;
        let runner = Self { id, client, nudges, slots, known: BTreeSet::new(), counts };
        let facts = Box::new(facts(slots)?);
        match runner.ask(Request::Register { facts, protocol: PROTOCOL }).await? {
            Reply::Registered { heartbeat_interval_ms, .. } => {
                Ok((runner, Duration::from_millis(heartbeat_interval_ms)))
            }
            other => bail!("{} cannot register: {other:?}", runner.id),
        }
    }

    async fn serve(mut self, interval: Duration, first: Instant) {
        let mut beat = interval_at(first, interval);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    let heartbeat =
                        Heartbeat { slots: self.slots, active_tasks: self.known.len() as u32, ..Heartbeat::default() };
                    let request = Request::Heartbeat { heartbeat: Box::new(heartbeat), viewers: Vec::new() };
                    if !matches!(self.ask(request).await, Ok(Reply::HeartbeatAck { .. })) {
                        self.counts.unanswered.fetch_add(1, Ordering::Relaxed);
                    }
                }
                nudge = self.nudges.next() => {
                    if nudge.is_none() {
                        return;
                    }
                    // All that came until now are answered by one question.
                    while let Some(Some(_)) = self.nudges.next().now_or_never() {}
                    while !self.take_orders().await {}
                }
            }
        }
    }

    /// False where it has to be done again.
    async fn take_orders(&mut self) -> bool {
        let Ok(Reply::DesiredSet { sessions, .. }) = self.ask(Request::Sync {}).await else { return false };
        for order in sessions.iter().filter(|order| order.desired == Desired::Running) {
            if self.known.contains(&order.session) {
                continue;
            }
            let Ok(observed) = ready(&self.id, order) else { return false };
            let Ok(Reply::ReportAck { .. }) = self.ask(Request::Report { observed: Box::new(observed) }).await else {
                return false;
            };
            self.known.insert(order.session.clone());
            self.counts.placed.send_modify(|placed| *placed += 1);
        }
        true
    }

    async fn ask(&self, body: Request) -> Result<Reply> {
        let subject = subject::up(&self.id, body.verb());
        let message = Message { runner: self.id.clone(), body };
        let answer = self.client.request(subject, serde_json::to_vec(&message)?.into()).await?;
        Ok(serde_json::from_slice::<Message<Reply>>(&answer.payload)?.body)
    }
}

fn ready(runner: &RunnerId, order: &DesiredSession) -> Result<ObservedSession> {
    Ok(ObservedSession {
        session: order.session.clone(),
        runner: runner.clone(),
        epoch: order.epoch,
        generation: order.generation,
        report: 1,
        phase: SessionPhase::Ready,
        cause: None,
        result: None,
        timeline: Vec::new(),
        kind: KindName::parse(KIND)?,
        display: Some(Display { number: 1, geometry: GEOMETRY }),
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
    })
}

fn facts(slots: u32) -> Result<RunnerFacts> {
    let kind = KindName::parse(KIND)?;
    Ok(RunnerFacts {
        hostname: "simulated".to_owned(),
        version: "0".to_owned(),
        slots,
        max_tasks: 0,
        kinds: vec![kind.clone()],
        unavailable_kinds: BTreeMap::new(),
        default_kind: kind,
        default_geometry: GEOMETRY,
        backend: "process".to_owned(),
        isolation: "none".to_owned(),
        limits: "none".to_owned(),
        enforced: Vec::new(),
        missing: Vec::new(),
        max_resources: Resources::default(),
        reservable: Reserve::default(),
        kind_reserve: BTreeMap::new(),
        no_rdp: None,
        no_images: None,
        image_keys: Vec::new(),
        arch: String::new(),
        memory_bytes: 1 << 30,
        cpus: 1,
        labels: BTreeMap::new(),
    })
}
