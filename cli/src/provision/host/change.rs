//! What changes a host: the lock, packages, upload and `apply.sh`, the confirmation or the way back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use helix_protocol::RunnerId;
use jiff::Timestamp;

use super::super::STATE;
use super::super::facts::Facts;
use super::super::last_words::LastWords;
use super::super::lock::take;
use super::super::plan::Plan;
use super::super::report::Outcome;
use super::super::signing;
use super::super::verify::{self, Watch};
use super::super::wanted::{self, RunnerSettings, WantedFile};
use super::{MIB, SHORT, Visit};
use crate::error::{CliError, Result};
use crate::ssh::{Connection, Shell, upload};

const STAGE: &str = include_str!("../host_scripts/stage.sh");
const PACKAGES: &str =
    concat!(include_str!("../host_scripts/apt_holder.sh"), include_str!("../host_scripts/packages.sh"));
const APPLY: &str = concat!(include_str!("../host_scripts/last_words.sh"), include_str!("../host_scripts/apply.sh"));
const REVERT: &str = include_str!("../host_scripts/revert.sh");
const UNDO: &str = r#"sh "$here/revert.sh" "$why" >>"$here/log" 2>&1
for word in confirmed reverted; do if [ -e "$here/$word" ]; then echo "$word"; fi; done"#;
const CONFIRM: &str = include_str!("../host_scripts/confirm.sh");
const WORDS: &str = concat!(include_str!("../host_scripts/last_words.sh"), "last_words agentd.service \"$since\"");
/// For apt's lock, in seconds, and then for the packages.
const APT_PATIENCE: u64 = 120;
const PACKAGES_WITHIN: Duration = Duration::from_mins(20);
/// The host bounds each of its steps itself.
const APPLY_WITHIN: Duration = Duration::from_mins(3);
/// The host gives agentd so long to start.
const START_WITHIN: Duration = Duration::from_secs(20);

impl Visit<'_> {
    pub(super) async fn lock(&self, shell: &mut Shell) -> Result<()> {
        self.line.step("waiting for the host");
        take(shell, &self.run.owner).await
    }

    pub(super) async fn packages(&self, shell: &mut Shell, plan: &Plan) -> Result<()> {
        if plan.packages.is_empty() {
            return Ok(());
        }
        self.line.step(&format!("installing {} packages", plan.packages.len()));
        let (packages, patience) = (plan.packages.join(" "), APT_PATIENCE.to_string());
        let given = [("state", STATE), ("packages", packages.as_str()), ("patience", patience.as_str())];
        let answer = shell.run(&given, PACKAGES, PACKAGES_WITHIN).await?;
        if answer.code != 0 {
            return Err(failed("packages cannot be installed", answer.last_words())
                .next(format!("on the host: apt-get install {packages}; or leave them out: --no-packages")));
        }
        Ok(())
    }

    /// Brings what the plan says and lets the host change itself.
    pub(super) async fn apply(
        &mut self,
        connection: &Connection,
        shell: &mut Shell,
        facts: &Facts,
        plan: &Plan,
        settings: &RunnerSettings,
        id: &str,
    ) -> Result<()> {
        let mut files: Vec<WantedFile> = plan.files.iter().map(|(file, _)| file.clone()).collect();
        if plan.enrol {
            files.push(wanted::token_file(&verify::join_token(&self.run.client, &settings.id).await?));
        }
        let manifest = signing::manifest(settings.id.as_str(), &files);
        let signature = self.run.key.sign(&manifest)?;
        let given = [("state", STATE), ("run", id), ("login", facts.login.as_str()), ("revert", REVERT)];
        let staged = shell.run(&given, STAGE, SHORT).await?;
        if staged.code != 0 {
            return Err(failed("there is no room for an upload", staged.last_words()));
        }
        let total: usize = files.iter().map(|file| file.content.len()).sum();
        self.line.step(&format!("uploading {} MiB", (total as u64).div_ceil(MIB)));
        let mut named: Vec<_> =
            files.into_iter().enumerate().map(|(number, file)| (number.to_string(), file.content)).collect();
        named.push(("manifest".to_owned(), manifest.into()));
        named.push(("manifest.sig".to_owned(), signature.into()));
        let sent = AtomicU64::new(0);
        let told = |bytes: u64| {
            let sent = sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.line.now(&format!("uploading {} of {} MiB", sent / MIB, total as u64 / MIB));
        };
        upload::put(connection, &format!("{STATE}/in-{id}"), &named, &told).await?;
        self.line.step("changing");
        let (signers, within) = (self.run.key.allowed_signers(), self.run.confirm_within.to_string());
        let given = [("state", STATE), ("run", id), ("signers", signers.trim_end()), ("within", within.as_str())];
        let answer = shell.run(&given, APPLY, APPLY_WITHIN).await?;
        let (how, why) = answer.stdout.split_once('\n').unwrap_or((answer.stdout.as_str(), ""));
        let what = match how {
            "applied" => return Ok(()),
            "undone" => {
                self.report.outcome = Outcome::Reverted;
                "the host was changed back"
            }
            "stuck" => "the host could not be changed back",
            _ => "the host took nothing of it",
        };
        let why = if why.trim().is_empty() { answer.last_words() } else { why.trim().to_owned() };
        Err(failed(what, why).next("correct that and run it again"))
    }

    /// Over a new connection: what could have broken is proved by it. Until then the host would undo the change.
    pub(super) async fn confirm(
        &mut self,
        shell: &mut Shell,
        watch: &mut Watch,
        runner: &RunnerId,
        id: &str,
    ) -> Result<()> {
        self.line.step("waiting for the runner");
        let proved = async {
            let connection = self.connect().await?;
            let mut second = self.run.ssh.shell(&connection).await?;
            let (within, begun) =
                (Duration::from_secs(self.run.confirm_within.saturating_sub(5).max(5)), Instant::now());
            let confirmed = match watch.online(within).await {
                Ok(()) => confirmed(&mut second, runner, id).await,
                Err(error) => Err(error),
            };
            self.report.round_trips += second.round_trips;
            match confirmed {
                // Now: once the change is undone, agentd is another one, or none.
                Err(error) => Err(explained(&mut second, begun.elapsed() + START_WITHIN, error).await),
                confirmed => confirmed,
            }
        };
        let why = match proved.await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let what = match self.undo(shell, id, &why.what).await.as_deref() {
            // It was told in time, and only its answer was lost.
            Ok("confirmed") => return Ok(()),
            Ok("reverted") => {
                self.report.outcome = Outcome::Reverted;
                "the host was changed back".to_owned()
            }
            Ok(_) => format!("the host could not be changed back (see {STATE}/runs/{id}/log there)"),
            Err(_) => format!("the host changes itself back within {} s", self.run.confirm_within),
        };
        Err(CliError { what: format!("{what}: {}", why.what), ..why })
    }

    /// At once instead of when the timer says; over the first connection, which may be all that is left. Answers what came
    /// of the change: `confirmed`, `reverted`, or nothing of both.
    async fn undo(&self, shell: &mut Shell, id: &str, why: &str) -> Result<String> {
        let given = [("here", format!("{STATE}/runs/{id}")), ("why", why.to_owned())];
        let given = given.each_ref().map(|(name, value)| (*name, value.as_str()));
        Ok(shell.run(&given, UNDO, APPLY_WITHIN).await?.stdout.trim().to_owned())
    }
}

/// Tells the host that all is well.
async fn confirmed(shell: &mut Shell, runner: &RunnerId, id: &str) -> Result<()> {
    let given = [("state", STATE), ("run", id), ("runner", runner.as_str())];
    let answer = shell.run(&given, CONFIRM, SHORT).await?;
    if answer.stdout.lines().any(|line| line == "confirmed") {
        return Ok(());
    }
    Err(failed("the host does not take the change as confirmed", answer.last_words())
        .next("correct that and run it again"))
}

/// An error of waiting for agentd, with what agentd said in a time that has passed. A host that is lost, too, says nothing.
pub(super) async fn explained(shell: &mut Shell, passed: Duration, error: CliError) -> CliError {
    let said = shell.run(&[("since", &format!("-{} s", passed.as_secs()))], WORDS, SHORT).await;
    match said.ok().and_then(|answer| LastWords::parse(&answer.stdout)) {
        Some(words) => words.explain(error),
        None => error,
    }
}

fn failed(what: &str, why: String) -> CliError {
    CliError::failed(what).because(why)
}

/// Names a run on the host.
pub(super) fn run_id() -> Result<String> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| CliError::failed("cannot get random bytes").because(error))?;
    Ok(format!("{}-{}", Timestamp::now().as_second(), helix_protocol::ids::hex(&random)))
}
