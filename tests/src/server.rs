//! One helix-server process of a cluster.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::http::Api;
use crate::ports;
use crate::process::{Launch, PATIENCE, Process};
use crate::programs;

/// Times of a cluster, as durations in server.toml.
#[derive(Debug, Clone)]
pub struct Times {
    /// Between heartbeats.
    pub heartbeat: &'static str,
    /// Silence until a runner is suspect.
    pub suspect: &'static str,
    /// Silence until it is lost.
    pub lost: &'static str,
    /// Life of a runner's NATS credentials.
    pub credential: &'static str,
}

impl Default for Times {
    /// Quick, yet calm enough for two loaded cores.
    fn default() -> Self {
        Self { heartbeat: "1s", suspect: "5s", lost: "10s", credential: "1h" }
    }
}

/// Secrets of a cluster, each in a 0600 file.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// Server key.
    pub key: PathBuf,
    /// Admin token.
    pub admin: PathBuf,
    /// Enrolment token.
    pub enrolment: PathBuf,
    /// Password of NATS user `server`.
    pub nats: PathBuf,
    /// Password of NATS user `observer`.
    pub observer: PathBuf,
}

/// A server of the cluster.
pub struct Server {
    launch: Launch,
    port: u16,
    process: Option<Process>,
}

/// A path as a TOML string.
pub fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}

/// The text of a server.toml; `nats` is what it says of NATS beside the passwords, `seen_at` is where runners of other machines reach it.
pub fn config(secrets: &Secrets, port: u16, nats: &str, times: &Times, seen_at: Option<IpAddr>) -> String {
    let advertise = seen_at.map(|at| format!("advertise_url = \"http://{at}:{port}\"\n")).unwrap_or_default();
    format!(
        "listen = \"127.0.0.1:{port}\"\n{advertise}\
         key_file = {}\n\
         admin_token_file = {}\n\
         enrolment_token_file = {}\n\
         log_level = \"info,helix_server=debug\"\n\n\
         [nats]\n{nats}\
         password_file = {}\n\
         observer_password_file = {}\n\n\
         [external_agents]\n\
         heartbeat_interval = \"{}\"\n\
         suspect_timeout = \"{}\"\n\
         lost_timeout = \"{}\"\n\
         credential_ttl = \"{}\"\n",
        quoted(&secrets.key),
        quoted(&secrets.admin),
        quoted(&secrets.enrolment),
        quoted(&secrets.nats),
        quoted(&secrets.observer),
        times.heartbeat,
        times.suspect,
        times.lost,
        times.credential,
    )
}

impl Server {
    /// Prepares server number `number` in `dir`; [`Server::start`] starts it.
    pub fn new(
        dir: &Path,
        number: usize,
        secrets: &Secrets,
        nats: &str,
        times: &Times,
        seen_at: Option<IpAddr>,
    ) -> Result<Self> {
        let port = ports::free()?;
        let file = dir.join(format!("server{number}.toml"));
        std::fs::write(&file, config(secrets, port, nats, times, seen_at))?;
        let launch = Launch {
            name: format!("server{number}"),
            program: programs::ours("helix-server")?,
            args: vec!["--config".to_owned(), file.to_str().context("path is not UTF-8")?.to_owned()],
            env: Vec::new(),
            dir: dir.to_owned(),
            ready: "READY=1",
        };
        Ok(Self { launch, port, process: None })
    }

    /// Its server.toml.
    pub fn settings(&self) -> &str {
        self.launch.args.last().map_or("", String::as_str)
    }

    /// With more in its server.toml.
    pub fn with_settings(self, toml: &str) -> Result<Self> {
        let file = self.launch.args.last().context("no server.toml")?;
        let text = std::fs::read_to_string(file)?;
        std::fs::write(file, format!("{text}\n{toml}"))?;
        Ok(self)
    }

    /// Base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A client of this server with `token`.
    pub fn api(&self, token: &str) -> Result<Api> {
        Api::new(&self.url(), token)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&mut self) -> Result<()> {
        self.process = Some(self.launch.start().await?);
        Ok(())
    }

    /// Starts it without waiting: NATS may be away.
    pub fn spawn(&mut self) -> Result<()> {
        self.process = Some(self.launch.spawn()?);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM; its exit code.
    pub async fn terminate(&mut self) -> Result<Option<i32>> {
        let Some(mut process) = self.process.take() else { return Ok(None) };
        Ok(Some(crate::process::exit_code(process.terminate(PATIENCE).await?)))
    }
}
