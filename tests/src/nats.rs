//! A real nats-server with the configuration that helix-server makes for it, in a directory of its own. Alone on loopback,
//! or one of a cluster with TLS.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use async_nats::ConnectOptions;
use helix_protocol::subject;
use serde::Deserialize;

use crate::certificates::Certificates;
use crate::eventually::eventually;
use crate::process::{Launch, PATIENCE, Process, run};
use crate::programs;
use crate::random::secret_hex;

/// The bus of a cluster. Ends when dropped; its store stays in the cluster's directory.
pub struct Nats {
    dir: PathBuf,
    server_toml: PathBuf,
    port: u16,
    /// Password of user `operator`, where there is one.
    operator: Option<String>,
    /// Its place in a cluster: further arguments of `nats-config`, and whom clients believe.
    member: Option<(Vec<String>, PathBuf)>,
    process: Option<Process>,
}

/// One of a cluster on loopback.
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its port for clients.
    pub port: u16,
    /// Its port for the others.
    pub route: u16,
    /// Ports at which it reaches the others.
    pub routes: &'a [u16],
    /// Its certificate, and whose it believes.
    pub certificates: &'a Certificates,
}

/// What nats-server writes about itself.
#[derive(Deserialize)]
struct PortsFile {
    nats: Vec<String>,
}

impl Nats {
    /// Starts it on a port that it chooses itself.
    pub async fn start(dir: &Path, server_toml: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir.join("store"))?;
        let mut nats = Self {
            dir: dir.to_owned(),
            server_toml: server_toml.to_owned(),
            port: 0,
            operator: None,
            member: None,
            process: None,
        };
        nats.launch("-1").await?;
        Ok(nats)
    }

    /// Starts one of a cluster.
    pub async fn start_member(dir: &Path, server_toml: &Path, member: &Member<'_>) -> Result<Self> {
        std::fs::create_dir_all(dir.join("store"))?;
        let Member { name, port, route, routes, certificates } = member;
        let peers: Vec<_> = routes.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let args = [
            "--node".to_owned(),
            (*name).to_owned(),
            format!("--cluster-listen=127.0.0.1:{route}"),
            format!("--peers={}", peers.join(",")),
            format!("--tls-cert={}", path(&certificates.cert)?),
            format!("--tls-key={}", path(&certificates.key)?),
            format!("--tls-ca={}", path(&certificates.ca)?),
        ];
        let mut nats = Self {
            dir: dir.to_owned(),
            server_toml: server_toml.to_owned(),
            port: *port,
            operator: None,
            member: Some((args.into(), certificates.ca.clone())),
            process: None,
        };
        nats.launch(&port.to_string()).await?;
        Ok(nats)
    }

    /// Address without credentials.
    pub fn url(&self) -> String {
        let scheme = if self.member.is_some() { "tls" } else { "nats" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Options of a client with the trust that it needs.
    pub fn options(&self, options: ConnectOptions) -> ConnectOptions {
        match &self.member {
            Some((_, ca)) => options.require_tls(true).add_root_certificates(ca.clone()),
            None => options,
        }
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Starts it again on the same port with the same store.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        let port = self.port.to_string();
        self.launch(&port).await
    }

    /// Starts it again with a user `operator` in the system account, who may see and kick connections.
    pub async fn restart_with_operator(&mut self) -> Result<async_nats::Client> {
        let password = secret_hex(16)?;
        self.operator = Some(password.clone());
        self.restart().await?;
        let options = ConnectOptions::with_user_and_password("operator".to_owned(), password);
        options.connect(self.url()).await.context("connect to NATS as operator")
    }

    /// Ends it, throws its store away and starts it again: every record is gone.
    pub async fn empty(&mut self) -> Result<()> {
        self.destroy().await?;
        self.restart().await
    }

    /// Ends it and throws its store away.
    pub async fn destroy(&mut self) -> Result<()> {
        self.kill().await?;
        Ok(std::fs::remove_dir_all(self.dir.join("store"))?)
    }

    async fn launch(&mut self, port: &str) -> Result<()> {
        let store = self.dir.join("store");
        let conf = self.dir.join("nats.conf");
        let args = [
            "nats-config",
            "--config",
            path(&self.server_toml)?,
            "--store-dir",
            path(&store)?,
            "--port",
            port,
            "--ports-file-dir",
            path(&self.dir)?,
        ];
        let more = self.member.as_ref().map(|(args, _)| args.as_slice()).unwrap_or_default();
        let args: Vec<&str> = args.into_iter().chain(more.iter().map(String::as_str)).collect();
        std::fs::create_dir_all(&store)?;
        let made = run(&programs::ours("helix-server")?, &args, &[], PATIENCE).await?;
        ensure!(made.status.success(), "helix-server nats-config: {}", String::from_utf8_lossy(&made.stderr));
        let made = self.with_operator(String::from_utf8(made.stdout)?)?;
        std::fs::write(&conf, self.known_by_routes_alone(made)?)?;

        let launch = Launch {
            name: "nats".to_owned(),
            program: programs::nats_server()?,
            args: vec!["-c".to_owned(), path(&conf)?.to_owned()],
            env: Vec::new(),
            dir: self.dir.clone(),
            ready: "READY=1",
        };
        let mut process = launch.spawn()?;
        let pid = process.pid().context("nats-server ended at once")?;
        let file = self.dir.join(format!("nats-server_{pid}.ports"));
        let told = eventually("nats-server writes its ports file", PATIENCE, || async {
            let ports: PortsFile = serde_json::from_slice(&std::fs::read(&file)?)?;
            ports.nats.into_iter().next().context("no address in the ports file")
        });
        let url = tokio::select! {
            url = told => Some(url?),
            _ = process.wait(PATIENCE) => None,
        };
        let url = url.with_context(|| format!("nats-server ended\n{}", process.tail()))?;
        self.port = url.rsplit(':').next().and_then(|port| port.parse().ok()).with_context(|| url.clone())?;
        self.process = Some(process);
        Ok(())
    }

    /// The product's configuration, with the operator where one is wanted.
    fn with_operator(&self, conf: String) -> Result<String> {
        let Some(password) = &self.operator else { return Ok(conf) };
        let system = format!("\n  {}: {{\n", subject::ACCOUNT_SYSTEM);
        let account = format!("{system}    users: [{{ user: operator, password: \"{password}\" }}]\n");
        let users = "auth_users: [\"operator\", ";
        let made = conf.replacen(&system, &account, 1).replacen("auth_users: [", users, 1);
        ensure!(made.contains(&account) && made.contains(users), "nats.conf has another form now:\n{conf}");
        Ok(made)
    }

    /// Members tell each other where they listen, and would go there past what is between them.
    fn known_by_routes_alone(&self, conf: String) -> Result<String> {
        if self.member.is_none() {
            return Ok(conf);
        }
        // Nobody listens at port 9.
        let made = conf.replacen("\ncluster {\n", "\ncluster {\n  advertise: \"127.0.0.1:9\"\n", 1);
        ensure!(made != conf, "nats.conf has another form now:\n{conf}");
        Ok(made)
    }

    /// Connects as one of the two users of account HELIX: `server` or `observer`.
    pub async fn connect(&self, user: &str, password_file: &Path) -> Result<async_nats::Client> {
        let password = std::fs::read_to_string(password_file)?.trim().to_owned();
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password);
        self.options(options).connect(self.url()).await.with_context(|| format!("connect to NATS as {user}"))
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}
