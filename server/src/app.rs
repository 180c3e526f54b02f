//! What every handler and task of one server process shares.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::audit::Audit;
use crate::bus::Bus;
use crate::callout::Callout;
use crate::checkpoints::Checkpoints;
use crate::config::ServerConfig;
use crate::desktop::Desktops;
use crate::events::Events;
use crate::images::Images;
use crate::keys::{Keys, random_id};
use crate::link::Link;
use crate::pools::Pools;
use crate::reaper::Reaper;
use crate::reconciler::Reconciler;
use crate::recordings::Recordings;
use crate::relay::Relay;
use crate::runners::Runners;
use crate::secrets::Secrets;
use crate::sessions::Sessions;
use crate::spec_tasks::SpecTasks;
use crate::store::Store;
use crate::threads::Threads;
use crate::tokens::Tokens;
use crate::uses::Uses;

/// How long the first read of the store may take.
const FIRST_READ: Duration = Duration::from_secs(30);

/// One server process. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Validated settings.
    pub config: Arc<ServerConfig>,
    /// Random id of this process: names its leases, its dials and its answers.
    pub server_id: Arc<str>,
    /// Secrets derived from the server key.
    pub keys: Arc<Keys>,
    /// NATS connection.
    pub bus: Bus,
    /// Durable records.
    pub store: Store,
    /// Rules for sessions.
    pub sessions: Sessions,
    /// Rules for runners.
    pub runners: Runners,
    /// Stored secrets of people.
    pub secrets: Secrets,
    /// Bearer tokens and one-use tickets.
    pub tokens: Tokens,
    /// Lifecycle events.
    pub events: Events,
    /// Who did what.
    pub audit: Audit,
    /// Conversations of sessions.
    pub threads: Threads,
    /// Sessions as they are asked for, and desktops with several names.
    pub spec_tasks: SpecTasks,
    /// Agents that are kept ready, and sessions that take them.
    pub pools: Pools,
    /// Rules for recordings.
    pub recordings: Recordings,
    /// Rules for checkpoints, and for sessions that move.
    pub checkpoints: Checkpoints,
    /// Rules for images.
    pub images: Images,
    /// Removes what belongs to nothing known.
    pub reaper: Reaper,
    /// Viewers waiting for a runner to dial back.
    pub relay: Relay,
    /// Which sessions are in use.
    pub uses: Uses,
    /// Calls on desktops.
    pub desktops: Desktops,
    /// Cancelled when the process shall end: stop accepting, drain, leave. Also by a task without which it is of no
    /// use.
    pub shutdown: CancellationToken,
    /// Ends the background tasks once nothing is served any more.
    background: CancellationToken,
    tasks: TaskTracker,
}

impl App {
    /// Connects to NATS, ensures the schema, reads the store and starts every background task: the views, the event
    /// feed, the callout, the runners' link, the reconciler. HTTP is the caller's.
    pub async fn build(config: ServerConfig) -> anyhow::Result<Self> {
        // On the heap: the future holds every connection attempt and schema request, and is awaited once.
        Box::pin(Self::assemble(config)).await
    }

    async fn assemble(config: ServerConfig) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        let server_id: Arc<str> = random_id()?.into();
        let keys = Arc::new(Keys::derive(&config.secrets.key)?);
        let (tasks, background) = (TaskTracker::new(), CancellationToken::new());
        let bus = Bus::connect(&config, &server_id).await?;
        tasks.spawn(bus.clone().monitor(background.clone()).instrument(tracing::info_span!("bus")));
        let store = Store::open(&bus, &tasks, &background).await?;
        tokio::time::timeout(FIRST_READ, store.synced(1))
            .await
            .with_context(|| format!("NATS did not give the store's content within {FIRST_READ:?}; look at its log"))?;
        let events = Events::new(bus.clone(), tasks.clone());
        tasks.spawn(events.clone().run(background.clone()).instrument(tracing::info_span!("events")));
        let secrets = Secrets::new(store.clone(), Arc::clone(&keys));
        let sessions = Sessions::new(store.clone(), events.clone(), Arc::clone(&keys), secrets.clone(), &config);
        let runners = Runners::new(bus.clone(), store.clone(), events.clone(), Arc::clone(&server_id), &config);
        let uses = Uses::new(store.clone(), Arc::clone(&server_id));
        tasks.spawn(uses.clone().run(background.clone()).instrument(tracing::info_span!("uses")));
        let threads = Threads::new(
            bus.clone(),
            store.clone(),
            uses.clone(),
            Arc::clone(&server_id),
            config.threads,
            tasks.clone(),
            background.clone(),
        );
        let relay = Relay::new(&config, Arc::clone(&server_id), bus.clone());
        let shutdown = CancellationToken::new();
        let spec_tasks = SpecTasks::new(store.clone(), sessions.clone(), threads.clone());
        let audit = Audit::new(events.clone());
        let images = Images::new(bus.clone(), store.clone(), config.image_signers.clone());
        let reaper = Reaper::new(
            bus.clone(),
            store.clone(),
            audit.clone(),
            images.clone(),
            config.reaper,
            Arc::clone(&server_id),
        );
        let app = Self {
            reaper,
            pools: Pools::new(store.clone(), sessions.clone(), spec_tasks.clone(), &config),
            spec_tasks,
            tokens: Tokens::new(store.clone(), Arc::clone(&keys), &config.secrets),
            audit,
            recordings: Recordings::new(bus.clone(), store.clone(), events.clone()),
            checkpoints: Checkpoints::new(bus.clone(), store.clone(), sessions.clone(), threads.clone()),
            images,
            threads,
            uses,
            desktops: Desktops::new(relay.clone(), shutdown.clone()),
            relay,
            shutdown,
            background,
            tasks,
            config,
            server_id,
            keys,
            bus,
            store,
            sessions,
            runners,
            secrets,
            events,
        };
        app.start().await?;
        Ok(app)
    }

    async fn start(&self) -> anyhow::Result<()> {
        let callout = Callout {
            bus: self.bus.clone(),
            store: self.store.clone(),
            keys: Arc::clone(&self.keys),
            config: Arc::clone(&self.config),
        };
        let requests = callout.listen().await?;
        self.tasks.spawn(callout.run(requests, self.background.clone()));
        let disconnects = self.runners.disconnects().clone();
        self.tasks.spawn(disconnects.run(self.bus.clone(), self.background.clone()));
        let (link, verbs, dials) = Link::listen(self.clone()).await?;
        self.tasks.spawn(link.run(verbs, dials, self.background.clone()));
        let reconciler = Reconciler {
            last_words: Arc::default(),
            clock: Arc::default(),
            bus: self.bus.clone(),
            store: self.store.clone(),
            events: self.events.clone(),
            sessions: self.sessions.clone(),
            tokens: self.tokens.clone(),
            runners: self.runners.clone(),
            threads: self.threads.clone(),
            spec_tasks: self.spec_tasks.clone(),
            recordings: self.recordings.clone(),
            checkpoints: self.checkpoints.clone(),
            reaper: self.reaper.clone(),
            server_id: Arc::clone(&self.server_id),
            config: Arc::clone(&self.config),
        };
        reconciler.spawn(&self.tasks, &self.background, &self.shutdown);
        Ok(())
    }

    /// Ends every background task and waits for them; gives the leader's lease back. After HTTP has drained.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        self.background.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // What was published last shall leave before the connection goes with the process.
        let _ = self.bus.client().flush().await;
    }
}
