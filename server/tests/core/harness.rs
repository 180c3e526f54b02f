//! A real nats-server, servers in this process, and runners that are nothing but their messages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use async_nats::{Client, ConnectOptions, Event};
use futures::{FutureExt as _, StreamExt as _};
use helix_protocol::api::runners::EnrolRunner;
use helix_protocol::assignment::DesiredSession;
use helix_protocol::ids::secret_hash;
use helix_protocol::link::{DIAL_TICKET_HEADER, Dial, Message, Nudge, PROTOCOL, Reply, Request};
use helix_protocol::reap::RunnerLeftovers;
use helix_protocol::resources::{Reserve, Resources, Usage};
use helix_protocol::runner::{Heartbeat, RunnerFacts};
use helix_protocol::session::{Display, Geometry, ObservedSession, SessionPhase};
use helix_protocol::{Epoch, Generation, KindName, RunnerId, SessionId, subject};
use helix_server::app::App;
use helix_server::config::{Overrides, ServerConfig};
use helix_server::nats_config::{NatsSettings, render};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};
use tracing_subscriber::fmt::TestWriter;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(15);
pub const ADMIN_TOKEN: &str = "an-admin-token-of-a-test";
pub const ENROLMENT_TOKEN: &str = "an-enrolment-token-of-a-test";
const OBSERVER_PASSWORD: &str = "an-observer-password-of-a-test";

/// Awaits, at most [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Asks until there is an answer, at most [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub fn id(session: &str) -> SessionId {
    SessionId::parse(session).expect("valid id")
}

pub fn runner_id(runner: &str) -> RunnerId {
    RunnerId::parse(runner).expect("valid id")
}

/// All that this process logged.
static LOGGED: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());

/// True when this was logged.
pub fn was_logged(text: &str) -> bool {
    LOGGED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(text)
}

/// Where logs go: to the test, and kept.
#[derive(Default)]
struct Log;

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        TestWriter::new().write_all(bytes)?;
        LOGGED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push_str(&text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One NATS with everything that servers and runners need to meet.
pub struct Fleet {
    folder: tempfile::TempDir,
    nats: tokio::process::Child,
    port: u16,
    emptied: u32,
    /// Further settings of `[nats]`, of servers and nats-server alike.
    settings: &'static str,
}

impl Fleet {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with further settings of `[nats]`.
    pub async fn start_with(settings: &'static str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let filter = "info,helix_server=debug";
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Log::default).try_init();
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (name, content) in [
            ("server.key", "0123456789abcdef0123456789abcdef"),
            ("admin.token", ADMIN_TOKEN),
            ("runner.token", ENROLMENT_TOKEN),
            ("nats.password", "a-nats-password-of-a-test"),
            ("observer.password", OBSERVER_PASSWORD),
        ] {
            write_private(&folder.path().join(name), content);
        }
        let nats = spawn_nats(folder.path(), -1, "nats-0", settings);
        let ports = folder.path().to_path_buf();
        let port = eventually("nats-server tells its port", async || read_port(&ports)).await;
        Self { folder, nats, port, emptied: 0, settings }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// One more server on this NATS.
    pub async fn server(&self) -> App {
        let config = config(self.folder.path(), &self.url(), self.settings, "");
        within("a server", App::build(config)).await.expect("built")
    }

    /// One more, which soon calls a silent runner lost.
    pub async fn impatient_server(&self) -> App {
        let timing = "heartbeat_interval = \"300ms\"\nsuspect_timeout = \"600ms\"\nlost_timeout = \"1s\"\n";
        let config = config(self.folder.path(), &self.url(), self.settings, timing);
        within("a server", App::build(config)).await.expect("built")
    }

    /// One more, with other patience with agents: settings of `[threads]`.
    pub async fn server_with_threads(&self, settings: &str) -> App {
        self.server_with(&format!("[threads]\n{settings}")).await
    }

    /// One more, with more sections of settings.
    pub async fn server_with(&self, settings: &str) -> App {
        let config = config(self.folder.path(), &self.url(), self.settings, settings);
        within("a server", App::build(config)).await.expect("built")
    }

    /// Why a server with these settings of `[recording]` does not start.
    pub async fn refused_server(&self, settings: &str) -> String {
        let config = config(self.folder.path(), &self.url(), self.settings, &format!("[recording]\n{settings}"));
        let refused = within("a server", App::build(config)).await.err().expect("refused");
        format!("{refused:#}")
    }

    /// Serves the HTTP of a server of this process, until it stops.
    pub async fn serve(&self, app: &App) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let stop = app.shutdown.clone().cancelled_owned();
        let router = helix_server::http::router(app.clone());
        tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(stop).into_future());
        address
    }

    pub async fn stop(mut self, servers: &[App]) {
        for server in servers {
            within("the server ends", server.stop()).await;
        }
        self.stop_nats().await;
    }

    /// True when these bytes are anywhere in what NATS stored.
    pub fn is_stored(&self, text: &str) -> bool {
        let mut folders = vec![self.folder.path().join(format!("nats-{}", self.emptied))];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                // What is gone by now is stored nowhere.
                } else if std::fs::read(&path).is_ok_and(|bytes| memory_has(&bytes, text.as_bytes())) {
                    return true;
                }
            }
        }
        false
    }

    pub async fn stop_nats(&mut self) {
        self.nats.kill().await.expect("ended");
    }

    /// The same address, the same store.
    pub fn start_nats_again(&mut self) {
        let store = format!("nats-{}", self.emptied);
        self.nats = spawn_nats(self.folder.path(), i32::from(self.port), &store, self.settings);
    }

    /// The same address, an empty store.
    pub fn start_nats_emptied(&mut self) {
        self.emptied += 1;
        let store = format!("nats-{}", self.emptied);
        self.nats = spawn_nats(self.folder.path(), i32::from(self.port), &store, self.settings);
    }

    /// Connects with a runner's token, whoever's it is.
    pub async fn connect_as(&self, token: &str) -> Result<Client, async_nats::ConnectError> {
        ConnectOptions::with_token(token.to_owned()).connect(self.url()).await
    }

    pub async fn observer(&self) -> Watched {
        let options = ConnectOptions::with_user_and_password("observer".to_owned(), OBSERVER_PASSWORD.to_owned());
        Watched::connect(options, &self.url()).await
    }
}

/// A client whose refusals can be awaited.
pub struct Watched {
    pub client: Client,
    errors: Mutex<UnboundedReceiver<String>>,
}

impl Watched {
    async fn connect(options: ConnectOptions, url: &str) -> Self {
        let (sender, errors) = unbounded_channel();
        let options = options.event_callback(move |event| {
            if let Event::ServerError(err) = event {
                let _ = sender.send(err.to_string().to_lowercase());
            }
            std::future::ready(())
        });
        let client = within("connected", options.connect(url)).await.expect("let in");
        Self { client, errors: Mutex::new(errors) }
    }

    /// Completes with the next refusal, which must be of this operation.
    pub async fn violation(&self, operation: &str) {
        let error = self.errors.lock().await.recv().await.expect("connected");
        assert!(error.contains("permissions violation") && error.contains(operation), "{operation}: {error}");
    }
}

/// A runner that is nothing but its messages.
pub struct SimRunner {
    pub id: RunnerId,
    pub client: Client,
    watched: Arc<Watched>,
    nudges: async_nats::Subscriber,
    token: String,
}

impl SimRunner {
    /// Enrols (or repeats it) and connects.
    pub async fn enrol(fleet: &Fleet, app: &App, name: &str) -> Self {
        let id = runner_id(name);
        let token = format!("the-token-of-{name}");
        let request = EnrolRunner { id: id.clone(), token_hash: secret_hash(&token) };
        let by = app.tokens.verify(ENROLMENT_TOKEN).await.expect("the enrolment token");
        app.runners.enrol(&by, request).await.expect("enrolled");
        let options = ConnectOptions::with_token(token.clone()).custom_inbox_prefix(subject::inbox_prefix(&id));
        let watched = Watched::connect(options, &fleet.url()).await;
        let client = watched.client.clone();
        let nudges = client.subscribe(subject::down(&id, "*")).await.expect("sent");
        client.flush().await.expect("flushed");
        Self { id, client, watched: Arc::new(watched), nudges, token }
    }

    pub async fn violation(&self, operation: &str) {
        self.watched.violation(operation).await;
    }

    pub async fn request(&self, body: Request) -> Option<Reply> {
        let verb = body.verb();
        let message = Message { runner: self.id.clone(), body };
        self.raw(verb, &serde_json::to_value(message).expect("encoded")).await
    }

    /// Sends anything on an own subject. `None` where nobody answers within a second.
    pub async fn raw(&self, verb: &str, body: &serde_json::Value) -> Option<Reply> {
        let payload = serde_json::to_vec(body).expect("encoded").into();
        let answer = self.client.request(subject::up(&self.id, verb), payload);
        let answer = timeout(Duration::from_secs(1), answer).await.ok()?.ok()?;
        let message: Message<Reply> = serde_json::from_slice(&answer.payload).expect("a reply");
        assert_eq!(message.runner, self.id);
        Some(message.body)
    }

    pub async fn register(&self, slots: u32) {
        self.register_as(slots, |_| {}).await;
    }

    /// The same with other facts.
    pub async fn register_as(&self, slots: u32, change: impl FnOnce(&mut RunnerFacts)) {
        let reply = self.request(Self::registration(slots, PROTOCOL, change)).await;
        assert!(matches!(reply, Some(Reply::Registered { .. })), "{reply:?}");
    }

    /// A registration of an agentd that speaks this version of the link.
    pub fn registration(slots: u32, protocol: u32, change: impl FnOnce(&mut RunnerFacts)) -> Request {
        let kind = KindName::parse("command").expect("valid kind");
        let mut facts = RunnerFacts {
            hostname: "h".to_owned(),
            version: "0".to_owned(),
            slots,
            max_tasks: 0,
            kinds: vec![kind.clone()],
            unavailable_kinds: BTreeMap::new(),
            default_kind: kind,
            default_geometry: Geometry { width: 1280, height: 800 },
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
            memory_bytes: 1,
            cpus: 1,
            labels: BTreeMap::new(),
        };
        change(&mut facts);
        Request::Register { facts: Box::new(facts), protocol }
    }

    pub async fn heartbeat(&self) {
        self.heartbeat_with(BTreeMap::new()).await;
    }

    /// The same with what its sessions use.
    pub async fn heartbeat_with(&self, usage: BTreeMap<SessionId, Usage>) {
        self.beat(Heartbeat { usage, ..Heartbeat::default() }).await;
    }

    /// The same with the sessions whose desktops somebody looks at.
    pub async fn heartbeat_viewed(&self, viewed: BTreeSet<SessionId>) {
        self.beat(Heartbeat { viewed, ..Heartbeat::default() }).await;
    }

    /// The same with what it has reaped and keeps.
    pub async fn heartbeat_left(&self, leftovers: RunnerLeftovers) {
        self.beat(Heartbeat { leftovers, ..Heartbeat::default() }).await;
    }

    /// The same with all that a heartbeat says.
    pub async fn beat(&self, heartbeat: Heartbeat) {
        let heartbeat = Box::new(Heartbeat { slots: 4, ..heartbeat });
        let reply = self.request(Request::Heartbeat { heartbeat, viewers: Vec::new() }).await;
        assert!(matches!(reply, Some(Reply::HeartbeatAck { .. })), "{reply:?}");
    }

    pub async fn sync(&self) -> Vec<DesiredSession> {
        match self.request(Request::Sync {}).await {
            Some(Reply::DesiredSet { sessions, .. }) => sessions,
            other => panic!("{other:?}"),
        }
    }

    pub async fn report(&self, observed: &ObservedSession) -> Reply {
        self.request(Request::Report { observed: Box::new(observed.clone()) }).await.expect("an answer")
    }

    pub async fn nudge(&mut self) -> Nudge {
        let message = self.nudges.next().await.expect("connected");
        let message: Message<Nudge> = serde_json::from_slice(&message.payload).expect("a nudge");
        assert_eq!(message.runner, self.id);
        message.body
    }

    /// Waits for a nudge to dial, fetches the one dial that waits, and answers it on the server at `address`.
    pub async fn dial_back(&mut self, address: SocketAddr) -> (Dial, WebSocketStream<TcpStream>) {
        let server = loop {
            if let Nudge::Dial { server } = self.nudge().await {
                break server;
            }
        };
        let message = Message { runner: self.id.clone(), body: Request::Dials {} };
        let verb = format!("dials.{server}");
        let mut dials = match self.raw(&verb, &serde_json::to_value(message).expect("encoded")).await {
            Some(Reply::Dials { dials }) => dials,
            other => panic!("{other:?}"),
        };
        assert_eq!(dials.len(), 1);
        let dial = dials.remove(0);
        let mut request = format!("ws://{address}/api/v1/dial").into_client_request().expect("a request");
        let header = |text: &str| HeaderValue::from_str(text).expect("a header");
        request.headers_mut().insert(::http::header::AUTHORIZATION, header(&format!("Bearer {}", self.token)));
        request.headers_mut().insert(DIAL_TICKET_HEADER, header(&dial.ticket));
        let socket = TcpStream::connect(address).await.expect("connected");
        let (socket, _) = client_async(request, socket).await.expect("dialled");
        (dial, socket)
    }

    /// Forgets every nudge sent so far: they come before the answer to a request made after them.
    pub async fn drain_nudges(&mut self) {
        self.sync().await;
        while let Some(Some(_)) = self.nudges.next().now_or_never() {}
    }

    pub fn seen(&self, session: &str, epoch: u64, report: u64, phase: SessionPhase) -> ObservedSession {
        ObservedSession {
            session: id(session),
            runner: self.id.clone(),
            epoch: Epoch(epoch),
            generation: Generation(1),
            report,
            phase,
            cause: None,
            result: None,
            timeline: Vec::new(),
            kind: KindName::parse("command").expect("valid kind"),
            display: Some(Display { number: 1, geometry: Geometry { width: 1280, height: 800 } }),
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
}

fn memory_has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn config(folder: &Path, url: &str, nats: &str, timing: &str) -> ServerConfig {
    let text = format!(
        r#"
        key_file = "server.key"
        admin_token_file = "admin.token"
        enrolment_token_file = "runner.token"
        [nats]
        url = "{url}"
        password_file = "nats.password"
        observer_password_file = "observer.password"
        {nats}
        [external_agents]
        {timing}
        "#
    );
    ServerConfig::parse(&text, &folder.join("server.toml"), &|_| None, &Overrides::default()).expect("good settings")
}

fn spawn_nats(folder: &Path, port: i32, store: &str, nats: &str) -> tokio::process::Child {
    let settings =
        NatsSettings { ports_file_dir: Some(folder.to_path_buf()), ..NatsSettings::local(folder.join(store), port) };
    let file = folder.join("nats.conf");
    let _ = std::fs::remove_file(&file);
    write_private(&file, &render(&config(folder, "nats://127.0.0.1:4222", nats, ""), &settings).expect("rendered"));
    tokio::process::Command::new(nats_server())
        .arg("-c")
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("nats-server starts")
}

fn nats_server() -> PathBuf {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")));
    let installed = data.map(|data| data.join("helix/bin/nats-server")).filter(|path| path.exists());
    std::env::var_os("NATS_SERVER").map(PathBuf::from).or(installed).unwrap_or_else(|| "nats-server".into())
}

fn read_port(folder: &Path) -> Option<u16> {
    let files = std::fs::read_dir(folder).ok()?;
    let file = files.flatten().find(|file| file.path().extension().is_some_and(|end| end == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

fn write_private(path: &Path, content: &str) {
    use std::io::Write as _;
    let file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes())).expect("written");
}
