//! One host's way, step by step: connect, facts, check, plan, lock, packages, upload, apply, confirm, verify.
//!
//! Nothing is changed before everything that can be known was checked. A plan that is empty ends after the facts: two
//! round trips, the shell's greeting and the facts. With the lock the facts are taken again, for somebody else may have
//! been there. Every failure before `apply` leaves the host as it was; `apply` undoes itself; after it a timer on the
//! host does, until `confirm` has come over another connection.

mod change;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use helix_protocol::RunnerId;
use jiff::Timestamp;

use super::check::{self, Standard};
use super::facts::{self, Facts};
use super::look::{Question, look};
use super::plan::{self, Plan};
use super::report::{HostReport, Outcome};
use super::signing::SigningKey;
use super::verify::{self, Watch};
use super::wanted::{self, Program, RunnerSettings};
use super::{STATE, diff};
use crate::checks::Check;
use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::inventory::Machine;
use crate::ssh::{self, Connection, Shell, Ssh, Way};
use crate::ui::HostLine;

const SHORT: Duration = Duration::from_mins(2);
const MIB: u64 = 1 << 20;
/// What to do when a host was lost on the way.
const AGAIN: &str = "run it again: what was begun is finished or undone first";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A runner is made of the host, as the arguments say.
    Provision,
    /// A runner gets this helixctl's programs and units. Its settings, its packages and its identity stay.
    Upgrade,
}

/// What is the same for all hosts of a run.
pub struct Run {
    /// The server, as we reach it.
    pub client: Client,
    /// The server as runners reach it, without a path.
    pub server: String,
    /// NATS as runners reach it, where the server's word is not right.
    pub nats: Option<String>,
    /// What is brought.
    pub agentd: Program,
    /// What signs it.
    pub key: SigningKey,
    /// How to log in.
    pub ssh: Ssh,
    /// What is to be done.
    pub task: Task,
    /// Packages are the operator's matter.
    pub leave_packages: bool,
    /// Seconds after which the host undoes what nobody confirmed.
    pub confirm_within: u64,
    /// Only look.
    pub check_only: bool,
    /// Show differences of text files.
    pub diff: bool,
    /// Who we are, for the lock.
    pub owner: String,
    /// Runners of this run, each of one host.
    pub claimed: Mutex<BTreeMap<RunnerId, String>>,
}

/// A host that is being visited.
struct Visit<'a> {
    run: &'a Run,
    machine: &'a Machine,
    line: &'a HostLine,
    report: &'a mut HostReport,
    way: Way,
}

impl Run {
    /// Provisions one host, whatever happens to others.
    pub async fn host(&self, machine: &Machine, line: &HostLine) -> HostReport {
        let begun = Instant::now();
        let mut report = HostReport::new(&machine.host);
        if let Err(error) = self.visit(machine, line, &mut report).await {
            let refused =
                matches!(report.outcome, Outcome::Failed) && matches!(error.kind, Kind::Refused | Kind::Usage);
            if refused {
                report.outcome = Outcome::Refused;
            }
            let place = error
                .place
                .as_ref()
                .map_or_else(|| machine.host.clone(), |place| format!("{} ({place})", machine.host));
            let was_lost = error.what == ssh::LOST || error.what == ssh::LATE;
            let error = if was_lost { error.next(AGAIN) } else { error };
            report.error = Some(error.at(place));
        }
        report.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        report.tell(line);
        report
    }

    async fn visit(&self, machine: &Machine, line: &HostLine, report: &mut HostReport) -> Result<()> {
        let way = self.ssh.way(machine).await?;
        Visit { run: self, machine, line, report, way }.all().await
    }
}

impl Visit<'_> {
    async fn all(mut self) -> Result<()> {
        self.line.step("connecting");
        let connection = self.connect().await?;
        let mut shell = self.run.ssh.shell(&connection).await?;
        let outcome = Box::pin(self.provision(&connection, &mut shell)).await;
        self.report.round_trips += shell.round_trips;
        outcome
    }

    async fn connect(&self) -> Result<Connection> {
        self.run.ssh.connect(&self.way).await
    }

    async fn provision(&mut self, connection: &Connection, shell: &mut Shell) -> Result<()> {
        self.line.step("looking");
        let facts = self.facts(shell).await?;
        let settings = self.settings(&facts)?;
        self.report.runner = Some(settings.id.to_string());
        self.claim(&settings.id)?;
        let (plan, online) = self.judge(&facts, &settings).await?;
        // Whoever is yet to prove it needs the lock for that.
        if plan.is_empty() && facts.pending.is_none() && (facts.proved || self.run.check_only) {
            return Box::pin(self.as_wanted(shell, &settings.id, online, facts.proved)).await;
        }
        if self.run.diff {
            self.report.diffs = self.differences(shell, &plan).await?;
        }
        if self.run.check_only {
            self.report.outcome = Outcome::WouldChange;
            return Ok(());
        }
        self.lock(shell).await?;
        // Somebody else may have been there meanwhile.
        let facts = self.facts(shell).await?;
        let (plan, online) = self.judge(&facts, &settings).await?;
        if plan.is_empty() {
            return Box::pin(self.as_wanted(shell, &settings.id, online, facts.proved)).await;
        }
        self.packages(shell, &plan).await?;
        if plan.without_packages().is_empty() {
            Box::pin(self.as_wanted(shell, &settings.id, online, false)).await?;
            self.report.outcome = Outcome::Changed;
            return Ok(());
        }
        let mut watch = Watch::begin(&self.run.client, &settings.id).await?;
        let id = change::run_id()?;
        self.apply(connection, shell, &facts, &plan, &settings, &id).await?;
        self.confirm(shell, &mut watch, &settings.id, &id).await?;
        self.report.version = watch.version();
        self.prove(shell, &mut watch).await?;
        self.report.outcome = Outcome::Changed;
        Ok(())
    }

    /// Each runner is one host: two that took the same name would each be proved by the other.
    fn claim(&self, id: &RunnerId) -> Result<()> {
        let mut claimed = self.run.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        match claimed.insert(id.clone(), self.machine.host.clone()) {
            None => Ok(()),
            Some(other) => {
                claimed.insert(id.clone(), other.clone());
                Err(CliError::new(Kind::Refused, format!("host {other} is to be runner {id}, too"))
                    .because("both machines have the same host name")
                    .next("give one of them an id in the inventory: runner = \"…\""))
            }
        }
    }

    /// Nothing is to be changed: it is heard, and it was proved or is proved now.
    async fn as_wanted(&mut self, shell: &mut Shell, id: &RunnerId, online: bool, proved: bool) -> Result<()> {
        if !online {
            let error = CliError::failed(format!("runner {id} is as wanted, and the server does not hear it"))
                .because("agentd runs on the host and does not reach the server or its NATS")
                .next("on the host: systemctl status agentd; journalctl -u agentd");
            return Err(change::explained(shell, Duration::from_mins(15), error).await);
        }
        if !proved && !self.run.check_only {
            let mut watch = Watch::begin(&self.run.client, id).await?;
            self.prove(shell, &mut watch).await?;
        }
        self.report.outcome = Outcome::Unchanged;
        Ok(())
    }

    /// A session shows its first frame; from then on the host says so of itself.
    async fn prove(&mut self, shell: &mut Shell, watch: &mut Watch) -> Result<()> {
        watch.sweep().await?;
        if self.run.task == Task::Upgrade && !watch.has_room() {
            // It was proved when it was made, and a full runner shows that it works.
            return Ok(());
        }
        self.line.step("starting a test session");
        self.report.outcome = Outcome::Failed;
        let took = watch.first_frame().await?;
        self.report.first_frame_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let said = shell.run(&[("state", STATE)], "mkdir -p \"$state\" && : >\"$state/proved\"", SHORT).await?;
        if said.code != 0 {
            return Err(CliError::failed("the host cannot note that it was proved").because(said.last_words()));
        }
        Ok(())
    }

    async fn facts(&self, shell: &mut Shell) -> Result<Facts> {
        let mut reach = vec![("server", self.run.server.as_str())];
        reach.extend(self.run.nats.as_deref().map(|nats| ("NATS", nats)));
        look(shell, Question { reach: &reach, more: None }).await
    }

    fn settings(&self, facts: &Facts) -> Result<RunnerSettings> {
        let id = match (&self.machine.runner, &facts.enrolled) {
            (None, Some(id)) if self.run.task == Task::Upgrade => RunnerId::parse(id)
                .map_err(|error| CliError::failed("the host's runner has an odd id").because(error))?,
            (None, None) if self.run.task == Task::Upgrade => return Err(no_runner()),
            (Some(id), _) => id.clone(),
            (None, _) => RunnerId::from_hostname("", &facts.hostname).map_err(|error| {
                CliError::new(Kind::Refused, "the host's name is no id for a runner")
                    .because(error)
                    .next("give it one in the inventory: runner = \"…\"")
            })?,
        };
        let mut labels = self.machine.labels.clone();
        if let Some(pool) = &self.machine.pool {
            labels.insert("pool".to_owned(), pool.to_string());
        }
        // What the operator says of it is stronger than what it is.
        for (name, value) in facts::labels(facts) {
            labels.entry(name).or_insert(value);
        }
        let slots = self.machine.slots.unwrap_or(super::DEFAULT_SLOTS);
        Ok(RunnerSettings { id, server: self.run.server.clone(), nats: self.run.nats.clone(), slots, labels })
    }

    /// The plan, if nothing stands in its way; and whether the server hears the runner.
    async fn judge(&mut self, facts: &Facts, settings: &RunnerSettings) -> Result<(Plan, bool)> {
        let known = verify::known(&self.run.client, &settings.id).await?;
        // One that enrolled and never said a word may be this host, whose answer was lost. If not, the server refuses it.
        let other = known.as_ref().and_then(|view| view.facts.as_ref()).map(|facts| facts.hostname.as_str());
        let upgrade = self.run.task == Task::Upgrade;
        if upgrade && (facts.enrolled.is_none() || facts.signer.is_none() || known.is_none()) {
            return Err(no_runner());
        }
        self.report.version_before = known.as_ref().and_then(|view| Some(view.facts.as_ref()?.version.clone()));
        self.report.version.clone_from(&self.report.version_before);
        let mut wanted = wanted::files(&self.run.agentd, settings);
        wanted.retain(|file| !upgrade || file.path != wanted::SETTINGS && file.path != wanted::SLOTS);
        let bytes: u64 = wanted.iter().map(|file| file.content.len() as u64).sum();
        let signer = self.run.key.public();
        let standard = Standard {
            agentd: Some(&self.run.agentd),
            brought_mib: bytes / MIB,
            settings: Some(settings),
            signer: Some(&signer),
            leave_packages: self.run.leave_packages,
            now: Timestamp::now().as_second(),
            known_as: other,
        };
        self.report.findings = check::check(facts, standard);
        let mut plan = plan::plan(facts, wanted, known.is_some(), self.run.leave_packages || upgrade);
        plan.enrol &= !upgrade;
        self.report.changes = plan.lines();
        let blocking: Vec<_> = self.report.findings.iter().filter(|check| check.is_fault()).collect();
        if !blocking.is_empty() {
            return Err(refused(&blocking));
        }
        Ok((plan, known.as_ref().is_some_and(verify::is_online)))
    }

    async fn differences(&self, shell: &mut Shell, plan: &Plan) -> Result<Vec<String>> {
        let mut diffs = Vec::new();
        for (file, _) in plan.files.iter().filter(|(file, _)| !file.secret && file.content.len() < diff::LONGEST) {
            let Ok(new) = std::str::from_utf8(&file.content) else { continue };
            let old = shell.run(&[("path", &file.path)], "cat \"$path\" 2>/dev/null", SHORT).await?.stdout;
            diffs.extend(diff::unified(&format!("{}:{}", self.machine.host, file.path), &old, new));
        }
        Ok(diffs)
    }
}

fn no_runner() -> CliError {
    CliError::new(Kind::Refused, "the host is no runner yet; nothing was changed")
        .because("what is upgraded was provisioned before, is enrolled, and the server knows it")
        .next("helixctl provision HOST")
}

fn refused(blocking: &[&Check]) -> CliError {
    let why: Vec<_> = blocking.iter().map(|check| check.found.as_str()).collect();
    let next: Vec<_> = blocking.iter().filter_map(|check| check.next.as_deref()).collect();
    CliError::new(Kind::Refused, "the host is not fit; nothing was changed")
        .because(why.join("\n"))
        .next(next.join("\n"))
}
