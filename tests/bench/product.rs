//! The product under measurement: `helixctl up` in a directory of its own, driven through REST as any client would.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use helix_protocol::api::{SessionView, Ticket};
use helix_protocol::session::SessionPhase;
use serde_json::{Value, json};

/// A running one-machine fleet. Ends with everything of it on drop.
pub struct Product {
    dir: tempfile::TempDir,
    url: String,
    token: String,
    http: reqwest::Client,
    /// NATS with credentials that may read everything.
    pub nats_url: String,
    /// Process ids of `up`, `nats`, `server`, `agentd`.
    pub pids: Vec<(String, u32)>,
    /// When `helixctl up` was called.
    pub begun: Instant,
    /// How long `helixctl up --detach` took.
    pub started_in: Duration,
}

/// A program built beside this one.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let path = own.with_file_name(name);
    ensure!(path.exists(), "{} is missing: run `make build` first", path.display());
    Ok(path)
}

impl Product {
    /// Starts bus, server and runner in an empty state directory, with `env` beside the environment of this process.
    pub fn start(slots: u32, env: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hxb").tempdir()?;
        let mut command = Command::new(binary("helixctl")?);
        // Free a moment ago: enough for a benchmark.
        let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        command.args(["up", "--detach", "--json", "--listen", &listen, "--slots", &slots.to_string(), "--state-dir"]);
        command.arg(dir.path()).envs(env.iter().copied()).stderr(Stdio::inherit());
        let begun = Instant::now();
        let output = command.output().context("cannot run helixctl up")?;
        let started_in = begun.elapsed();
        ensure!(output.status.success(), "helixctl up failed");
        let info: Value = serde_json::from_slice(&output.stdout).context("helixctl up --json")?;
        let text = |key: &str| info[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {info}"));
        let pids = info["pids"].as_object().context("no pids")?;
        let pids = pids.iter().filter_map(|(name, pid)| Some((name.clone(), u32::try_from(pid.as_u64()?).ok()?)));
        let token = std::fs::read_to_string(text("token_file")?)?.trim().to_owned();
        Ok(Self {
            url: text("url")?,
            token,
            http: reqwest::Client::new(),
            nats_url: text("nats_url")?,
            pids: pids.collect(),
            begun,
            started_in,
            dir,
        })
    }

    /// Where the server listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The administrator's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Opens a WebSocket of the server.
    pub async fn socket(
        &self,
        path: &str,
        token: &str,
    ) -> Result<tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>> {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
        let mut request = format!("{}{path}", self.url.replacen("http", "ws", 1)).into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
        let (socket, _) = tokio_tungstenite::connect_async_with_config(request, None, true).await?;
        Ok(socket)
    }

    /// Bytes that a stream takes on disk.
    pub async fn stream_bytes(&self, stream: &str) -> Result<u64> {
        let url = self.nats_url.strip_prefix("nats://").context("no NATS address")?;
        let (login, address) = url.split_once('@').context("no login in the NATS address")?;
        let (user, password) = login.split_once(':').context("no password in the NATS address")?;
        let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
        let client = options.connect(address).await?;
        let answer = client.request(format!("$JS.API.STREAM.INFO.{stream}"), "".into()).await?;
        let answer: Value = serde_json::from_slice(&answer.payload)?;
        answer["state"]["bytes"].as_u64().with_context(|| format!("no size in {answer}"))
    }

    /// Its state directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Process id of one part.
    pub fn pid(&self, name: &str) -> u32 {
        self.pids.iter().find(|(part, _)| part == name).map_or(0, |(_, pid)| *pid)
    }

    /// Every process of the fleet: the parts, what they started, and the sessions.
    pub fn processes(&self) -> Vec<u32> {
        let mut roots: Vec<u32> = self.pids.iter().map(|(_, pid)| *pid).collect();
        roots.extend(super::measure::working_under(self.dir.path()));
        super::measure::tree(&roots)
    }

    /// The processes of sessions alone.
    pub fn session_processes(&self) -> Vec<u32> {
        super::measure::tree(&super::measure::working_under(&self.dir.path().join("agentd/s")))
    }

    /// Sends a request and reads its JSON answer.
    pub async fn call(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Result<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        let body = response.text().await?;
        ensure!(status.is_success(), "{path}: {status}: {body}");
        Ok(serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// Reads something that is no text: how many bytes it has, and its tag; none where the tag is the one that is known.
    /// They are not kept: what a client makes of them is not what is measured.
    pub async fn fetch(&self, path: &str, known: Option<&str>) -> Result<(usize, String)> {
        let mut request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(tag) = known {
            request = request.header("if-none-match", tag);
        }
        let mut response = request.send().await?;
        let status = response.status();
        ensure!(status.is_success() || status.as_u16() == 304, "{path}: {status}");
        let tag = response.headers().get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        let mut bytes = 0;
        while let Some(chunk) = response.chunk().await? {
            bytes += chunk.len();
        }
        Ok((bytes, tag))
    }

    /// Reads bytes.
    pub async fn bytes(&self, path: &str) -> Result<bytes::Bytes> {
        let response = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token).send().await?;
        Ok(response.error_for_status()?.bytes().await?)
    }

    /// Brings bytes as somebody else, the owner of `token`.
    pub async fn put(&self, path: &str, token: &str, bytes: Vec<u8>) -> Result<()> {
        let request = self.http.put(format!("{}{path}", self.url)).bearer_auth(token);
        let response = request.header("content-type", "application/octet-stream").body(bytes).send().await?;
        let status = response.status();
        ensure!(status.is_success(), "{path}: {status}: {}", response.text().await?);
        Ok(())
    }

    /// Creates a terminal at 1080p; answers when it is Ready.
    pub async fn create_ready(&self) -> Result<SessionView> {
        self.create(&json!({"kind": "terminal", "geometry": "1920x1080"})).await
    }

    /// Creates a session; answers when it is Ready.
    pub async fn create(&self, body: &Value) -> Result<SessionView> {
        let body = Some(body.clone());
        let view = self.call(reqwest::Method::POST, "/api/v1/sessions?wait=ready&timeout=120", body).await?;
        let view: SessionView = serde_json::from_value(view)?;
        ensure!(view.phase == SessionPhase::Ready, "session {} is {}: {:?}", view.id, view.phase, view.cause);
        Ok(view)
    }

    /// A ticket for the session's desktop.
    pub async fn ticket(&self, session: &str) -> Result<Ticket> {
        let path = format!("/api/v1/sessions/{session}/tickets");
        let ticket = self.call(reqwest::Method::POST, &path, Some(json!({"stream": "vnc"}))).await?;
        Ok(serde_json::from_value(ticket)?)
    }

    /// Ends a session and waits until nothing of it is left.
    pub async fn delete(&self, session: &str) -> Result<()> {
        self.call(reqwest::Method::DELETE, &format!("/api/v1/sessions/{session}"), None).await.map(drop)
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        if let Ok(helixctl) = binary("helixctl") {
            let down = Command::new(helixctl).args(["down", "--state-dir"]).arg(self.dir.path()).output();
            if !down.is_ok_and(|output| output.status.success()) {
                super::say("helixctl down failed");
            }
        }
    }
}
