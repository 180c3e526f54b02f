//! A fleet of whole systems: NATS and servers on the tests' machine, agentd as a service on hosts.
//!
//! Servers and NATS listen on loopback, as they always do without TLS; a [`Relay`] per port carries hosts' connections
//! to them from the lab's bridge. What is installed is what `packaging/install.sh` installs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::runner::Liveness;
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::{Builder, Cluster};
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::Api;
use helix_tests::nats::Nats;
use helix_tests::programs;
use helix_tests::server::{Server, Times};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::{Host, Kind, lab};

/// Where agentd of a host keeps everything.
pub const STATE_DIR: &str = "/var/lib/helix/agentd";

/// Whose certificates hosts believe, where NATS has some.
const NATS_CA: &str = "/etc/helix/nats-ca.pem";

/// NATS and servers, and what carries hosts to them.
pub struct Fleet {
    pub cluster: Cluster,
    relays: Vec<Relay>,
}

/// Carries connections from the bridge to a port of loopback.
struct Relay {
    task: JoinHandle<()>,
}

/// A runner's settings that differ from test to test.
#[derive(Debug, Clone)]
pub struct RunnerSettings {
    /// Its id.
    pub id: &'static str,
    /// Sessions at once.
    pub slots: u32,
    /// `systemd` or `process`.
    pub backend: &'static str,
    /// More lines of agentd.toml.
    pub more: &'static str,
}

impl Default for RunnerSettings {
    fn default() -> Self {
        Self { id: "r1", slots: 8, backend: "systemd", more: "" }
    }
}

impl Relay {
    async fn open(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((lab::SERVER, port))).await.context("relay")?;
        let task = tokio::spawn(async move {
            while let Ok((mut outside, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut inside) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
                    let _ = (outside.set_nodelay(true), inside.set_nodelay(true));
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fleet {
    /// One server, quick times.
    pub async fn start() -> Result<Self> {
        Self::start_with(Times::default()).await
    }

    /// One server.
    pub async fn start_with(times: Times) -> Result<Self> {
        Self::of(Cluster::builder().times(times)).await
    }

    /// Of this cluster, which hosts see on the bridge.
    pub async fn of(builder: Builder) -> Result<Self> {
        let cluster = builder.seen_at(IpAddr::V4(lab::SERVER)).start().await?;
        let nats = std::iter::once(&cluster.nats).chain(&cluster.peers).map(Nats::port);
        let mut relays = Vec::new();
        for port in nats.chain(cluster.servers.iter().map(Server::port)) {
            relays.push(Relay::open(port).await?);
        }
        Ok(Self { cluster, relays })
    }

    /// The admin's client.
    pub fn api(&self) -> Result<Api> {
        self.cluster.api()
    }

    /// Installs agentd on a host, starts it and waits until it is registered.
    pub async fn join(&self, host: &Host, settings: &RunnerSettings) -> Result<()> {
        install(host).await?;
        self.configure(host, settings).await?;
        host.run_ok("systemctl enable -q agentd.service && systemctl restart agentd.service").await?;
        self.online(settings.id).await
    }

    /// Writes agentd's settings and its enrolment token.
    pub async fn configure(&self, host: &Host, settings: &RunnerSettings) -> Result<()> {
        host.write("/etc/helix/agentd.toml", &self.settings_text(settings)?, 0o600).await?;
        if let Some(certificates) = &self.cluster.certificates {
            host.put(&certificates.ca, NATS_CA, 0o644).await?;
        }
        host.write("/etc/helix/enrolment.token", &self.cluster.enrolment_token()?, 0o600).await
    }

    /// The text of agentd.toml.
    pub fn settings_text(&self, settings: &RunnerSettings) -> Result<String> {
        let RunnerSettings { id, slots, backend, more } = settings;
        let servers: Vec<_> =
            self.cluster.servers.iter().map(|server| format!("http://{}:{}", lab::SERVER, server.port())).collect();
        let (scheme, trust) = match &self.cluster.certificates {
            Some(_) => ("tls", format!("nats_ca_file = \"{NATS_CA}\"\n")),
            None => ("nats", String::new()),
        };
        let nats = std::iter::once(&self.cluster.nats).chain(&self.cluster.peers);
        let nats: Vec<_> = nats.map(|nats| format!("{scheme}://{}:{}", lab::SERVER, nats.port())).collect();
        ensure!(!servers.is_empty(), "no server");
        Ok(format!(
            "api_host = {servers:?}\nnats_url = \"{nats}\"\n{trust}\
             api_token_file = \"/etc/helix/enrolment.token\"\nrunner_id = \"{id}\"\nconcurrency = {slots}\n\
             backend = \"{backend}\"\nstate_dir = \"{STATE_DIR}\"\nhealth_port = 0\n\
             display_width = 1024\ndisplay_height = 640\nlog_level = \"debug\"\n{more}\n",
            nats = nats.join(","),
        ))
    }

    /// Waits until this runner is heard.
    pub async fn online(&self, id: &str) -> Result<()> {
        let api = self.api()?;
        eventually(&format!("runner {id} is online"), secs(60), || async {
            let runners = api.runners().await?;
            let runner = runners.iter().find(|runner| runner.id.as_str() == id).context("not enrolled")?;
            ensure!(runner.liveness == Liveness::Online && runner.facts.is_some(), "{runner:?}");
            Ok(())
        })
        .await
    }

    /// Creates a session and waits until it is Ready.
    pub async fn ready(&self, body: &Value, within: Duration) -> Result<SessionView> {
        let api = self.api()?;
        let created = api.create(body).await?;
        api.wait_phase(created.id.as_str(), SessionPhase::Ready, within).await
    }

    /// A session that runs `input` as its command.
    pub async fn command(&self, id: &str, input: &str, host: &Host) -> Result<SessionView> {
        self.ready(&json!({ "id": id, "kind": "command", "input": input }), start_time(host)).await
    }

    /// Waits until a session is as wanted.
    pub async fn until(
        &self,
        id: &str,
        what: &str,
        within: Duration,
        holds: impl Fn(&SessionView) -> bool,
    ) -> Result<SessionView> {
        let api = self.api()?;
        eventually(&format!("{id} {what}"), within, || async {
            let view = api.session(id).await?;
            ensure!(holds(&view), "{view:#?}");
            Ok(view)
        })
        .await
    }

    /// Ends servers and NATS. Hosts are the caller's.
    pub async fn stop(mut self) -> Result<()> {
        self.relays.clear();
        self.cluster.shutdown().await
    }
}

/// How long a session may take to be Ready on such a host.
pub fn start_time(host: &Host) -> Duration {
    match host.kind {
        Kind::Container => secs(60),
        Kind::Guest => secs(240),
    }
}

/// Puts the programs, kinds and units on a host, as an operator would.
pub async fn install(host: &Host) -> Result<()> {
    let root = staged()?;
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    let named: Vec<(PathBuf, String, u32)> = files
        .into_iter()
        .map(|file| {
            let remote = Path::new("/").join(file.strip_prefix(&root)?);
            let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file)?.permissions()) & 0o777;
            Ok((file, remote.to_str().context("the path is not UTF-8")?.to_owned(), mode))
        })
        .collect::<Result<_>>()?;
    let files: Vec<_> = named.iter().map(|(local, remote, mode)| (local.as_path(), remote.as_str(), *mode)).collect();
    host.install(&files).await?;
    host.run_ok("systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload").await?;
    Ok(())
}

/// What `packaging/install.sh` makes, once per run: cases run beside each other.
pub fn staged() -> Result<PathBuf> {
    static STAGED: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut staged = STAGED.lock().map_err(|_| anyhow!("packaging/install.sh failed in another case"))?;
    if let Some(root) = &*staged {
        return Ok(root.clone());
    }
    let root = lab::dir().join("installed");
    let agentd = programs::ours("agentd")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/install.sh");
    let output = Command::new(script)
        .arg("--destdir")
        .arg(&root)
        .arg("--bin-dir")
        .arg(agentd.parent().context("agentd has no directory")?)
        .output()
        .context("packaging/install.sh")?;
    ensure!(output.status.success(), "packaging/install.sh: {}", String::from_utf8_lossy(&output.stderr));
    // Eighty pages that nobody reads there.
    std::fs::remove_dir_all(root.join("usr/share/man"))?;
    Ok(staged.insert(root).clone())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
