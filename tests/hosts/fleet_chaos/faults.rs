//! Carries out a plan, and makes everything well again in the end.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_tests::chaos::{History, Kills};
use helix_tests::cluster::Cluster;
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::{runs, signal_pid};
use helix_tests::{Api, programs};
use rustix::process::Signal;
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, sleep_until, timeout};

use super::plan::{Fault, NATS, Planned, SERVERS};
use crate::harness::{Host, lab};

/// How long the repair of one thing may take.
const REPAIR: Duration = secs(90);
/// Between two looks at servers.
const LOOK: Duration = Duration::from_millis(500);

/// Ports of servers and of members of the bus.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Of servers.
    pub servers: Vec<u16>,
    /// Of the bus.
    pub nats: Vec<u16>,
}

impl Ports {
    /// Of this cluster.
    pub fn of(cluster: &Cluster) -> Self {
        let nats = std::iter::once(&cluster.nats).chain(&cluster.peers);
        Self {
            servers: cluster.servers.iter().map(helix_tests::server::Server::port).collect(),
            nats: nats.map(helix_tests::nats::Nats::port).collect(),
        }
    }
}

/// Everything that faults of hosts need.
pub struct HostLane<'a> {
    /// In the order of the plan's numbers.
    pub hosts: &'a [Host],
    /// Their runners' names.
    pub ids: &'a [&'static str],
    /// Of both servers.
    pub apis: [Api; 2],
    /// Where they listen.
    pub ports: Ports,
    /// What is done.
    pub history: &'a History,
    /// Who is killed.
    pub kills: &'a Kills,
}

impl HostLane<'_> {
    /// All of it, each fault at its time.
    pub async fn run(&self, began: Instant, plan: &[Planned]) -> Result<()> {
        for planned in plan {
            sleep_until(began + planned.at).await;
            self.history.note("host", format!("begins: {planned}"));
            self.one(planned).await.with_context(|| planned.to_string())?;
            self.history.note("host", format!("is over: {:?}", planned.fault));
        }
        Ok(())
    }

    async fn one(&self, planned: &Planned) -> Result<()> {
        let end = Instant::now() + planned.lasts;
        match planned.fault {
            Fault::KillAgentd(host) => {
                self.hosts[host].run_ok("systemctl kill -s KILL agentd").await?;
                self.kills.count("agentd", 1);
                sleep_until(end).await;
            }
            Fault::RestartAgentd(host) => {
                self.hosts[host].run_ok("systemctl restart agentd").await?;
                sleep_until(end).await;
            }
            Fault::Isolate(host) | Fault::Lose(host) => {
                self.hosts[host].partition()?;
                sleep_until(end).await;
                self.hosts[host].heal()?;
            }
            Fault::CutServer(host, server) => {
                self.cut(self.hosts[host].address, self.ports.servers[server], end).await?;
            }
            Fault::CutNats(host, member) => self.cut(self.hosts[host].address, self.ports.nats[member], end).await?,
            Fault::Drain(host) => self.drain(self.ids[host], end).await?,
            other => anyhow::bail!("{other:?} is nothing that happens to a host"),
        }
        Ok(())
    }

    async fn cut(&self, address: Ipv4Addr, port: u16, end: Instant) -> Result<()> {
        lab::cut_port(address, port)?;
        sleep_until(end).await;
        lab::mend_port(address, port)
    }

    /// As an operator does it. A server that dies meanwhile ends the command, and that is all.
    async fn drain(&self, runner: &str, end: Instant) -> Result<()> {
        let mut command = Command::new(programs::ours("helixctl")?);
        let seconds = format!("{}s", (end - Instant::now()).as_secs());
        command.args(["--url", self.apis[0].base(), "runner", "drain", runner, "--move", "--deadline", &seconds]);
        command
            .env("HELIX_TOKEN", self.apis[0].token())
            .env("HOME", lab::dir())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        match timeout(end - Instant::now() + secs(2), command.output()).await {
            Ok(output) => {
                let output = output?;
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                self.history.note("host", format!("drain of {runner}: {}: {}", output.status, said.trim()));
            }
            Err(_) => self.history.note("host", format!("drain of {runner}: ended by us")),
        }
        sleep_until(end).await;
        self.open(runner).await
    }

    /// Lets a runner take sessions again.
    async fn open(&self, runner: &str) -> Result<()> {
        let body = serde_json::to_vec(&json!({"cordoned": false}))?;
        eventually(&format!("{runner} is opened again"), REPAIR, || async {
            let mut refusals = Vec::new();
            for api in &self.apis {
                let body = Some(("application/json", body.clone()));
                let path = format!("/api/v1/runners/{runner}");
                match timeout(secs(10), api.send(http::Method::PATCH, &path, body)).await {
                    Ok(Ok(answer)) if answer.status.is_success() => return Ok(()),
                    other => refusals.push(format!("{other:?}")),
                }
            }
            anyhow::bail!("{refusals:?}")
        })
        .await
    }
}

/// Everything that faults of servers and of the bus need.
pub struct MiddleLane<'a> {
    /// Whose servers and whose bus.
    pub cluster: &'a mut Cluster,
    /// Servers that shall run.
    pub up: [bool; SERVERS],
    /// What is done.
    pub history: &'a History,
    /// Who is killed.
    pub kills: &'a Kills,
}

impl MiddleLane<'_> {
    /// All of it, each fault at its time; then everything is well again.
    pub async fn run(mut self, began: Instant, plan: &[Planned]) -> Result<()> {
        for planned in plan {
            self.rest(began + planned.at).await?;
            self.history.note("middle", format!("begins: {planned}"));
            self.one(planned).await.with_context(|| planned.to_string())?;
            self.history.note("middle", format!("is over: {:?}", planned.fault));
        }
        let deadline = Instant::now() + REPAIR;
        while let Err(fault) = self.well().await {
            ensure!(Instant::now() < deadline, "not within {REPAIR:?}: both servers are well: {fault:#}");
            self.rest(Instant::now() + LOOK).await?;
        }
        Ok(())
    }

    async fn well(&self) -> Result<()> {
        for number in 0..self.cluster.servers.len() {
            self.cluster.api_of(number)?.get("/api/v1/sessions?limit=1").await?.expect(200)?;
        }
        Ok(())
    }

    /// What systemd does on a real machine: a server that ends by itself, as one does that finds no store at its start, is
    /// started again.
    async fn rest(&mut self, until: Instant) -> Result<()> {
        loop {
            for (number, server) in self.cluster.servers.iter_mut().enumerate() {
                if self.up[number] && !server.pid().is_some_and(runs) {
                    self.history.note("middle", format!("server {number} ended by itself, and is started again"));
                    server.kill().await?;
                    server.spawn()?;
                }
            }
            if Instant::now() >= until {
                return Ok(());
            }
            sleep_until(until.min(Instant::now() + LOOK)).await;
        }
    }

    async fn one(&mut self, planned: &Planned) -> Result<()> {
        let end = Instant::now() + planned.lasts;
        match planned.fault {
            Fault::KillServer(number) => {
                self.kill_server(number).await?;
                self.rest(end).await?;
                self.spawn(number)
            }
            Fault::RestartServer(number) => {
                self.up[number] = false;
                self.cluster.servers[number].terminate().await?;
                self.rest(end).await?;
                self.spawn(number)
            }
            Fault::FreezeServer(number) => {
                let pid = self.cluster.servers[number].pid();
                // It may have ended by itself, and is started again then.
                freeze(pid.filter(|pid| runs(*pid)), end).await
            }
            Fault::KillNats(number) => {
                self.kill_nats(number).await?;
                self.rest(end).await?;
                self.cluster.member(number)?.restart().await
            }
            Fault::FreezeNats(number) => {
                let pid = self.cluster.member(number)?.pid();
                freeze(pid, end).await
            }
            Fault::PartNats(one, other) => self.part(&[(one, other)], end).await,
            Fault::IsolateNats(number) => {
                let pairs: Vec<_> = (0..NATS).filter(|other| *other != number).map(|other| (number, other)).collect();
                self.part(&pairs, end).await
            }
            Fault::KillMajority(kept) => {
                for number in (0..NATS).filter(|number| *number != kept) {
                    self.kill_nats(number).await?;
                }
                self.rest(end).await?;
                for number in (0..NATS).filter(|number| *number != kept) {
                    self.cluster.member(number)?.restart().await?;
                }
                Ok(())
            }
            Fault::KillAll => {
                for number in 0..self.cluster.servers.len() {
                    self.kill_server(number).await?;
                }
                for number in 0..NATS {
                    self.kill_nats(number).await?;
                }
                self.rest(end).await?;
                for number in 0..NATS {
                    self.cluster.member(number)?.restart().await?;
                }
                (0..self.cluster.servers.len()).try_for_each(|number| self.spawn(number))
            }
            other => anyhow::bail!("{other:?} is nothing that happens to servers or NATS"),
        }
    }

    async fn part(&mut self, pairs: &[(usize, usize)], end: Instant) -> Result<()> {
        let routes = |cluster: &Cluster, apart: bool| {
            let routes = cluster.routes.as_ref().context("the bus has one member")?;
            for (one, other) in pairs {
                if apart { routes.part(*one, *other) } else { routes.mend(*one, *other) }
            }
            Ok::<_, anyhow::Error>(())
        };
        routes(self.cluster, true)?;
        self.rest(end).await?;
        routes(self.cluster, false)
    }

    async fn kill_server(&mut self, number: usize) -> Result<()> {
        self.up[number] = false;
        self.kills.count("helix-server", 1);
        self.cluster.servers[number].kill().await
    }

    fn spawn(&mut self, number: usize) -> Result<()> {
        self.up[number] = true;
        self.cluster.servers[number].spawn()
    }

    async fn kill_nats(&mut self, number: usize) -> Result<()> {
        self.kills.count("nats-server", 1);
        self.cluster.member(number)?.kill().await
    }
}

/// A process that runs stands still until then.
async fn freeze(pid: Option<u32>, end: Instant) -> Result<()> {
    if let Some(pid) = pid {
        signal_pid(pid, Signal::STOP)?;
    }
    sleep_until(end).await;
    pid.map_or(Ok(()), |pid| signal_pid(pid, Signal::CONT))
}
