//! One NATS, servers and runners as real processes in one temporary directory.
//!
//! [`Cluster::shutdown`] is the oracle of every test: it ends the runners' sessions with `agentd reap` and fails if a
//! process, a socket or a display is left. A dropped cluster (a failed test) is ended all the same, and its
//! directory with every log is kept.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::session::SessionPhase;
use serde_json::Value;
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::eventually::{eventually, secs};
use crate::http::Api;
use crate::leftovers;
use crate::nats::{Member, Nats};
use crate::ports;
use crate::programs;
use crate::random::secret_hex;
use crate::routes::Routes;
use crate::runner::{Runner, RunnerSpec};
use crate::server::{Secrets, Server, Times, config, quoted};

/// How long a session may take to be Ready on a loaded machine.
pub const READY: Duration = secs(60);

/// What to start.
pub struct Builder {
    servers: usize,
    nats: usize,
    runners: Vec<RunnerSpec>,
    times: Times,
    seen_at: Option<IpAddr>,
    settings: String,
}

/// A running fleet.
pub struct Cluster {
    /// The bus.
    pub nats: Nats,
    /// Where it is a cluster: its other members.
    pub peers: Vec<Nats>,
    /// Where it is a cluster: what is between its members.
    pub routes: Option<Routes>,
    /// Where it is one: its certificates.
    pub certificates: Option<Certificates>,
    /// Servers, all on that bus.
    pub servers: Vec<Server>,
    /// Runners; each knows every server.
    pub runners: Vec<Runner>,
    /// Files with the cluster's secrets.
    pub secrets: Secrets,
    admin: String,
    displays: Mutex<BTreeSet<u32>>,
    dir: Option<TempDir>,
}

impl Cluster {
    /// One server, no runner yet.
    pub fn builder() -> Builder {
        Builder {
            servers: 1,
            nats: 1,
            runners: Vec::new(),
            times: Times::default(),
            seen_at: None,
            settings: String::new(),
        }
    }

    /// One server and one runner `r1` with four slots.
    pub async fn small() -> Result<Self> {
        Self::builder().runner(RunnerSpec::new("r1")).start().await
    }

    /// The cluster's directory.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().map_or_else(|| Path::new("/nonexistent"), TempDir::path)
    }

    /// The admin's client of the first server.
    pub fn api(&self) -> Result<Api> {
        self.servers.first().context("the cluster has no server")?.api(&self.admin)
    }

    /// The admin's client of server number `number`.
    pub fn api_of(&self, number: usize) -> Result<Api> {
        self.servers.get(number).context("no such server")?.api(&self.admin)
    }

    /// Member `number` of the bus.
    pub fn member(&mut self, number: usize) -> Result<&mut Nats> {
        if number == 0 { Ok(&mut self.nats) } else { self.peers.get_mut(number - 1).context("no such nats-server") }
    }

    /// The admin token.
    pub fn admin_token(&self) -> &str {
        &self.admin
    }

    /// The enrolment token.
    pub fn enrolment_token(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.secrets.enrolment)?.trim().to_owned())
    }

    /// NATS as user `server`: everything in account HELIX.
    pub async fn bus(&self) -> Result<async_nats::Client> {
        self.nats.connect("server", &self.secrets.nats).await
    }

    /// NATS as user `observer`.
    pub async fn observer(&self) -> Result<async_nats::Client> {
        self.nats.connect("observer", &self.secrets.observer).await
    }

    /// Creates a session and waits until it is Ready.
    pub async fn ready(&self, body: &Value) -> Result<SessionView> {
        let api = self.api()?;
        let created = api.create(body).await?;
        let view = api.wait_phase(created.id.as_str(), SessionPhase::Ready, READY).await?;
        self.remember(&view);
        Ok(view)
    }

    /// Remembers the session's display, so that the end of it is checked.
    pub fn remember(&self, view: &SessionView) {
        if let (Some(display), Ok(mut displays)) = (&view.display, self.displays.lock()) {
            displays.insert(display.number);
        }
    }

    /// Waits until `count` runners are online and take sessions.
    pub async fn runners_online(&self, api: &Api, count: usize) -> Result<()> {
        eventually(&format!("{count} runners are online"), secs(30), || async {
            let runners = api.runners().await?;
            let online = runners
                .iter()
                .filter(|runner| runner.facts.is_some() && runner.liveness == helix_protocol::runner::Liveness::Online);
            ensure!(online.count() == count, "{runners:?}");
            Ok(())
        })
        .await
    }

    /// Ends everything in order and proves that nothing is left.
    pub async fn shutdown(mut self) -> Result<()> {
        for runner in &mut self.runners {
            let code = runner.terminate().await?;
            ensure!(matches!(code, None | Some(0)), "agentd {} ended with {code:?} on SIGTERM", runner.spec.id);
            runner.reap().await?;
        }
        for runner in &self.runners {
            leftovers::none(&runner.state_dir)?;
            let processes = leftovers::processes(&runner.workspace_dir)?;
            ensure!(processes.is_empty(), "processes in workspaces:\n{}", processes.join("\n"));
        }
        let displays: Vec<u32> = self.displays.lock().map(|set| set.iter().copied().collect()).unwrap_or_default();
        eventually("X sockets are removed", secs(10), || async {
            let stale = leftovers::stale_displays(&displays);
            ensure!(stale.is_empty(), "sockets of ended displays: {stale:?}");
            Ok(())
        })
        .await?;
        for server in &mut self.servers {
            let code = server.terminate().await?;
            ensure!(matches!(code, None | Some(0)), "helix-server ended with {code:?} on SIGTERM");
        }
        self.nats.kill().await?;
        for nats in &mut self.peers {
            nats.kill().await?;
        }
        let processes = leftovers::processes(self.dir())?;
        ensure!(processes.is_empty(), "processes left behind:\n{}", processes.join("\n"));
        if let Some(dir) = self.dir.take() {
            dir.close()?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    /// A failed test: end everything, keep the directory.
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        for runner in &mut self.runners {
            if let Some(pid) = runner.pid() {
                let _ = crate::process::signal_pid(pid, rustix::process::Signal::KILL);
            }
            let (Ok(agentd), Ok(args)) = (programs::ours("agentd"), runner.reap_args()) else { continue };
            let _ = std::process::Command::new(agentd).args(args).output();
        }
        // Servers and NATS end with their `Process`. The logs are what the failure is understood from.
        let kept = dir.keep();
        let _ = writeln!(std::io::stderr(), "the cluster's directory with its logs is kept: {}", kept.display());
    }
}

impl Builder {
    /// With so many servers.
    #[must_use]
    pub fn servers(mut self, count: usize) -> Self {
        self.servers = count;
        self
    }

    /// With a cluster of three nats-servers with TLS, and three copies of everything.
    #[must_use]
    pub fn three_nats(mut self) -> Self {
        self.nats = 3;
        self
    }

    /// With this runner.
    #[must_use]
    pub fn runner(mut self, spec: RunnerSpec) -> Self {
        self.runners.push(spec);
        self
    }

    /// With these times.
    #[must_use]
    pub fn times(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    /// With servers that other machines reach at this address, through a relay of the caller's.
    #[must_use]
    pub fn seen_at(mut self, address: IpAddr) -> Self {
        self.seen_at = Some(address);
        self
    }

    /// With more in every server's server.toml: whole tables.
    #[must_use]
    pub fn settings(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.settings);
        self
    }

    /// Starts it and waits until every part is ready.
    pub async fn start(self) -> Result<Cluster> {
        crate::init();
        // Short: unix sockets deep inside have 107 bytes for their whole path.
        let dir = tempfile::Builder::new().prefix("hx").rand_bytes(6).tempdir_in("/tmp")?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700))?;
        let secrets = make_secrets(dir.path())?;
        let admin = std::fs::read_to_string(&secrets.admin)?;

        // nats-server's configuration does not depend on its own port.
        let first = dir.path().join("nats.toml");
        std::fs::write(&first, config(&secrets, 8080, "", &self.times, None))?;
        let seen_at = self.seen_at.map(|at| at.to_string());
        let hosts: Vec<_> = ["localhost", "127.0.0.1"].into_iter().chain(seen_at.as_deref()).collect();
        let certificates = (self.nats > 1).then(|| Certificates::make_for(dir.path(), "", &hosts)).transpose()?;
        let (mut all, routes) = match &certificates {
            None => {
                let nats_dir = dir.path().join("nats");
                std::fs::create_dir(&nats_dir)?;
                (vec![Nats::start(&nats_dir, &first).await?], None)
            }
            Some(certificates) => {
                let (all, routes) = start_members(dir.path(), &first, self.nats, certificates).await?;
                (all, Some(routes))
            }
        };
        let urls: Vec<_> = all.iter().map(Nats::url).collect();
        let mut nats_settings = format!("url = \"{}\"\n", urls.join(","));
        if let Some(certificates) = &certificates {
            writeln!(nats_settings, "ca_file = {}\nreplicas = {}", quoted(&certificates.ca), self.nats)?;
        }
        let peers = all.split_off(1);
        let nats = all.pop().context("no nats-server")?;

        let mut servers = Vec::new();
        for number in 0..self.servers {
            let server = Server::new(dir.path(), number, &secrets, &nats_settings, &self.times, self.seen_at)?;
            servers.push(server.with_settings(&self.settings)?);
        }
        let urls: Vec<_> = servers.iter().map(Server::url).collect();
        let mut runners = Vec::new();
        for spec in self.runners {
            runners.push(Runner::new(dir.path(), spec, &urls, &secrets.enrolment)?);
        }
        let displays = Mutex::default();
        let mut cluster =
            Cluster { nats, peers, routes, certificates, servers, runners, secrets, admin, displays, dir: Some(dir) };
        for server in &mut cluster.servers {
            server.start().await?;
        }
        for runner in &mut cluster.runners {
            runner.start().await?;
        }
        Ok(cluster)
    }
}

async fn start_members(
    dir: &Path,
    server_toml: &Path,
    count: usize,
    certificates: &Certificates,
) -> Result<(Vec<Nats>, Routes)> {
    let ports = (0..2 * count).map(|_| ports::free()).collect::<Result<Vec<_>>>()?;
    let (clients, listen) = ports.split_at(count);
    let routes = Routes::between(listen).await?;
    let mut members = Vec::new();
    for (number, (port, route)) in clients.iter().zip(listen).enumerate() {
        let name = format!("n{number}");
        let member = Member { name: &name, port: *port, route: *route, routes: routes.of(number), certificates };
        members.push(Nats::start_member(&dir.join(format!("nats{number}")), server_toml, &member).await?);
    }
    Ok((members, routes))
}

fn make_secrets(dir: &Path) -> Result<Secrets> {
    let secret = |name: &str, content: &[u8]| -> Result<PathBuf> {
        let path = dir.join(name);
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(content)?;
        Ok(path)
    };
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|fault| anyhow::anyhow!("cannot get random bytes: {fault}"))?;
    Ok(Secrets {
        key: secret("server.key", &key)?,
        admin: secret("admin.token", secret_hex(32)?.as_bytes())?,
        enrolment: secret("runner.token", secret_hex(32)?.as_bytes())?,
        nats: secret("nats.password", secret_hex(16)?.as_bytes())?,
        observer: secret("observer.password", secret_hex(16)?.as_bytes())?,
    })
}
