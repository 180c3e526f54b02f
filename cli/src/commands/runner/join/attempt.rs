//! One join: agentd's check of the settings, files, enrolment, service, and the server's word that it hears the runner. What
//! fails is undone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use helix_protocol::ErrorCode;
use helix_protocol::api::RunnerView;
use helix_protocol::runner::Liveness;
use tokio::process::Command;
use tokio::time::Instant;

use super::super::place::Service;
use super::files::Files;
use super::machine::{Machine, State};
use super::settings::Settings;
use crate::client::{Client, patiently};
use crate::error::{CliError, Kind, Result};
use crate::settings::{Connection, Secret, base_url};
use crate::ui::Progress;

/// The server holds one question so long.
const POLL: Duration = Duration::from_secs(20);

/// A join under way.
pub(super) struct Join {
    pub(super) program: PathBuf,
    pub(super) machine: Machine,
    pub(super) settings: Settings,
    pub(super) token: Option<String>,
    pub(super) within: Duration,
}

impl Join {
    /// agentd's own word about the settings, before anything of it is used.
    pub(super) async fn check(&self) -> Result<()> {
        let staged = self.machine.stage(&self.settings)?;
        let mut command = self.agentd("run", staged.path());
        let output = command.arg("--check-config").output().await.map_err(|error| self.not_run(&error))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(CliError::new(Kind::Usage, "agentd does not take these settings")
            .at(self.machine.name.settings())
            .because(why.trim().trim_start_matches("error: "))
            .next("helixctl runner join --help"))
    }

    /// Writes, enrols, starts, and waits; undoes all of it where a step fails. What was written, and the runner.
    pub(super) async fn carry_out(&self, files: &Files, progress: &Progress) -> Result<(Vec<String>, RunnerView)> {
        let before = self.machine.state().await?;
        let known = self.known().await?;
        let changes = files.differences();
        let is_up = before.active && before.enabled;
        if let Some(view) =
            known.clone().filter(|view| changes.is_empty() && is_up && view.liveness == Liveness::Online)
        {
            return Ok((changes, view));
        }
        let mut changes = changes;
        let done = async {
            files.write()?;
            if known.is_none() {
                progress.now("enrols");
                self.enrol().await?;
            }
            progress.now("starts agentd");
            let service = self.service();
            service.place.ask(&["systemctl", "daemon-reload"]).await?;
            service.systemctl("enable").await?;
            service.systemctl("restart").await?;
            progress.now("waits until the server hears it");
            self.heard(known.as_ref()).await
        };
        match done.await {
            Ok(view) => {
                if !is_up {
                    changes.push(self.machine.name.unit());
                }
                Ok((changes, view))
            }
            Err(error) => {
                progress.now("puts back what was there");
                let undone = self.undo(files, before, known.is_none()).await;
                Err(match undone {
                    Ok(()) => error,
                    Err(also) => {
                        let why =
                            format!("{}\nand it could not be put back: {also}", error.why.clone().unwrap_or_default());
                        error.because(why)
                    }
                })
            }
        }
    }

    /// The server's word about the runner whose token this machine has; None where it has none that is good there.
    async fn known(&self) -> Result<Option<RunnerView>> {
        let Some(client) = self.client()? else { return Ok(None) };
        match client.runner(&self.settings.runner_id).await {
            Ok(view) => Ok(Some(view)),
            Err(error) if matches!(error.code, Some(ErrorCode::TokenInvalid | ErrorCode::RunnerNotFound)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Speaks with the runner's own token, where there is one.
    fn client(&self) -> Result<Option<Client>> {
        let Some(token) = self.machine.own_token() else { return Ok(None) };
        let url = base_url(self.settings.server(), "--server")?;
        Client::new(Connection { url, token: Secret::parse(&token) }).map(Some)
    }

    async fn enrol(&self) -> Result<()> {
        let Some(token) = &self.token else {
            return Err(CliError::new(Kind::Usage, "there is no enrolment token")
                .because("neither --token, --token-file, -e API_TOKEN nor the environment has one, and this machine is not enrolled")
                .next("where there is an operator's token: helixctl token create --runner"));
        };
        self.machine.forget_token()?;
        let mut command = self.agentd("enrol", self.machine.name.settings().as_ref());
        let output = command.env("API_TOKEN", token).output().await.map_err(|error| self.not_run(&error))?;
        if output.status.success() {
            return Ok(());
        }
        let kind = match output.status.code() {
            Some(77) => Kind::Refused,
            Some(69) => Kind::Unreachable,
            Some(78) => Kind::Usage,
            _ => Kind::Failed,
        };
        let said = String::from_utf8_lossy(&output.stderr);
        let next = match kind {
            Kind::Refused => "where there is an operator's token: helixctl token create --runner; helixctl runner list",
            _ => "check --server, and that this machine reaches it",
        };
        Err(CliError::new(kind, format!("runner {} is not enrolled", self.settings.runner_id))
            .at(self.settings.server())
            .because(said.trim().trim_start_matches("error: "))
            .next(next))
    }

    /// Waits until the server hears the agentd that was just started.
    async fn heard(&self, known: Option<&RunnerView>) -> Result<RunnerView> {
        let client =
            self.client()?.ok_or_else(|| CliError::failed("agentd keeps no token").at(self.machine.state_dir()))?;
        let (deadline, after) = (Instant::now() + self.within, known.and_then(|view| view.registered_at));
        // A server may be away for a moment, as one that is restarted is; the runner comes back to it as well.
        let heard = patiently(self.within, async || {
            let left = deadline.saturating_duration_since(Instant::now());
            client.wait_for_runner(&self.settings.runner_id, after, left.min(POLL)).await
        });
        match heard.await {
            Err(error) if error.code == Some(ErrorCode::WaitTimeout) => {
                let error = CliError::new(Kind::TimedOut, "the server does not hear this runner")
                    .at(self.settings.server())
                    .next("does this machine reach NATS at the address that the server names? --nats URL gives another one");
                Err(match self.service().last_words(self.within).await? {
                    Some(words) => words.explain(error),
                    None => error,
                })
            }
            done => done,
        }
    }

    /// Puts back what was there before this join.
    async fn undo(&self, files: &Files, before: State, enrolled: bool) -> Result<()> {
        let service = self.service();
        if !before.active {
            service.end().await?;
        }
        if enrolled && let Some(client) = self.client()? {
            // It may never have come to be, or the server be gone: then nothing can be done about it from here.
            let _ = client.delete_runner(&self.settings.runner_id, false).await;
        }
        files.put_back()?;
        self.machine.forget_state(before)?;
        service.place.ask(&["systemctl", "daemon-reload"]).await?;
        if !before.enabled {
            service.place.ask(&["systemctl", "disable", "--quiet", &self.machine.name.unit()]).await?;
        }
        if before.active {
            service.systemctl("restart").await?;
        }
        service.place.ask(&["systemctl", "reset-failed", "--", &self.machine.name.unit()]).await?;
        Ok(())
    }

    fn service(&self) -> Service {
        self.machine.service()
    }

    /// agentd with the environment that its service has.
    fn agentd(&self, verb: &str, config: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb).arg("--config").arg(config).kill_on_drop(true);
        command.env_clear().env("STATE_DIRECTORY", self.machine.state_dir()).envs(&self.settings.env);
        command
    }

    fn not_run(&self, error: &std::io::Error) -> CliError {
        CliError::failed("cannot run agentd").at(self.program.display()).because(error).next("sudo make install")
    }
}
