//! `helixctl runner join`: attaches this machine to a server as one more runner.
//!
//! In order: look ([`machine`]), settings of what was asked over what stood there ([`settings`]), agentd's own check of them,
//! files, enrolment (`agentd enrol`, which gets the token in its environment: it is on no command line and in no file),
//! service, and the server's word that it hears the runner. A join that fails puts back what was there before; the same join
//! again changes nothing. Joins of one machine take turns.

mod files;
mod machine;
mod settings;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use helix_protocol::api::RunnerView;
use helix_protocol::runner::Liveness;
use helix_protocol::{ErrorCode, RunnerId};
use serde::Serialize;
use tokio::process::Command;
use tokio::time::Instant;

use self::files::Files;
pub use self::machine::{Machine, is_joined, require_fit, turn};
use self::settings::{Asked, Settings};
use super::place::{Place, Service, ServiceName};
use crate::args::GlobalArgs;
use crate::client::Client;
use crate::command_line::parse_duration;
use crate::error::{CliError, Kind, Result};
use crate::settings::{Connection, Secret, base_url, process_env};
use crate::ui::Ui;

/// The server holds one question so long.
const POLL: Duration = Duration::from_secs(20);

/// Arguments of `runner join`.
#[derive(Debug, Args)]
#[command(
    after_help = "What no flag says is taken from -e, from the environment (API_HOST, API_TOKEN, RUNNER_ID, CONCURRENCY, \
                  MAX_TASKS, SESSION_TIMEOUT, WORKSPACE_DIR, NATS_URL, CONTAINER_NAME), and from the join before. The \
                  token may be in a file: --token-file. Needs root, systemd, and an agentd that is installed."
)]
pub struct JoinArgs {
    /// Server to attach to [default: http://localhost:80]
    #[arg(long, visible_alias = "api-host", value_name = "URL")]
    server: Option<String>,
    /// Enrolment token; better in a file (--token-file) or in API_TOKEN, which others cannot read
    #[arg(long, visible_alias = "api-token", value_name = "TOKEN")]
    token: Option<String>,
    /// Id of the runner [default: external-zed- and the host name]
    #[arg(long, value_name = "ID")]
    runner_id: Option<String>,
    /// Sessions at once [default: 1]
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Ended sessions after which agentd starts afresh; 0: never [default: 0]
    #[arg(long, value_name = "N")]
    max_tasks: Option<u32>,
    /// How long a session may run [default: 1h]
    #[arg(long, value_name = "TIME")]
    session_timeout: Option<String>,
    /// Where workspaces are made [default: in the runner's state directory]
    #[arg(long, value_name = "DIR")]
    workspace_dir: Option<String>,
    /// NATS as this machine reaches it, where that is not what the server says
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// What it is called here: agentd@NAME.service [default: helix-external-zed-agent]
    #[arg(long, visible_alias = "container-name", value_name = "NAME")]
    name: Option<String>,
    /// More of agentd's environment, such as LOG_LEVEL=debug; may be repeated
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE", value_parser = super::super::session::create::parse_pair)]
    env: Vec<(String, String)>,
    /// How long to wait until the server hears it
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    within: Duration,
    /// Of the Docker days; there is no image any more
    #[arg(long, hide = true, value_name = "IMAGE")]
    docker_image: Option<String>,
}

/// What it prints with `--json`.
#[derive(Serialize)]
struct Joined<'a> {
    runner: &'a RunnerId,
    name: &'a str,
    unit: String,
    server: &'a str,
    /// `joined`, `changed` or `unchanged`.
    outcome: &'static str,
    /// Files that were written.
    changes: Vec<String>,
    health_port: u16,
}

/// Attaches this machine.
pub async fn run(global: &GlobalArgs, args: JoinArgs, ui: &Ui) -> Result<()> {
    if args.docker_image.is_some() {
        ui.warn("--docker-image: a runner is no container; nothing is made of it");
    }
    let (within, asked) = (args.within, asked(global, args)?);
    let program = require_fit().await?;
    let name = ServiceName::parse(&asked.name)?;
    let progress = ui.progress();
    let _turn = turn(|| progress.now("waits for another join of this machine")).await?;
    let machine = Machine::look(&name)?;
    let before = machine.settings()?;
    let (settings, token) = asked.over(before.as_ref(), &machine)?;
    let join = Join { program, machine, settings, token, within };
    join.check().await?;
    let files = join.machine.files(&join.settings)?;
    let is_new = before.is_none();
    let (changes, view) = join.carry_out(&files, &progress).await?;
    drop(progress);
    let outcome = match (is_new, changes.is_empty()) {
        (true, _) => "joined",
        (false, false) => "changed",
        (false, true) => "unchanged",
    };
    let unit = join.machine.name.unit();
    let server = join.settings.server();
    let health_port = join.settings.health_port;
    let joined =
        Joined { runner: &view.id, name: join.machine.name.as_str(), unit, server, outcome, changes, health_port };
    ui.answer(&joined, || ui.line(view.id.as_str()))?;
    if !ui.json {
        ui.note(&format!("{outcome}: {} is a runner of {server} ({})", view.id, joined.unit));
        ui.note(&format!(
            "helixctl runner logs -f {0}; helixctl runner stats {0}; undone by: helixctl runner leave {0}",
            joined.name
        ));
    }
    Ok(())
}

/// Flags, `-e` and the environment.
fn asked(global: &GlobalArgs, args: JoinArgs) -> Result<Asked> {
    let file = |path: &PathBuf| {
        let bad = |why: String| {
            let error = CliError::new(Kind::Usage, "cannot read the enrolment token").at(path.display()).because(why);
            error.next("helixctl token create --runner >FILE (mode 0600)")
        };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let token = text.trim().to_owned();
        if token.is_empty() { Err(bad("it is empty".to_owned())) } else { Ok(token) }
    };
    let token_file = global.token_file.as_ref().filter(|_| args.token.is_none()).map(file).transpose()?;
    let text = |number: Option<u32>| number.map(|number| number.to_string());
    let flags = [
        ("API_HOST", args.server.or_else(|| global.url.clone())),
        ("API_TOKEN", args.token.or(token_file)),
        ("RUNNER_ID", args.runner_id),
        ("CONCURRENCY", text(args.concurrency)),
        ("MAX_TASKS", text(args.max_tasks)),
        ("SESSION_TIMEOUT", args.session_timeout),
        ("WORKSPACE_DIR", args.workspace_dir),
        ("NATS_URL", args.nats),
        ("CONTAINER_NAME", args.name),
    ];
    let flags = flags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    Asked::new(flags, args.env.into_iter().collect(), &process_env)
}

/// A join under way.
struct Join {
    program: PathBuf,
    machine: Machine,
    settings: Settings,
    token: Option<String>,
    within: Duration,
}

impl Join {
    /// agentd's own word about the settings, before anything of it is used.
    async fn check(&self) -> Result<()> {
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
    async fn carry_out(&self, files: &Files, progress: &crate::ui::Progress) -> Result<(Vec<String>, RunnerView)> {
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
        let deadline = Instant::now() + self.within;
        let after = known.and_then(|view| view.registered_at);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match client.wait_for_runner(&self.settings.runner_id, after, left.min(POLL)).await {
                Err(error) if error.code == Some(ErrorCode::WaitTimeout) && Instant::now() < deadline => {}
                Err(error) if error.code == Some(ErrorCode::WaitTimeout) => {
                    let service = self.service();
                    let status = service
                        .place
                        .ask(&["systemctl", "show", "--value", "-p", "StatusText", &self.machine.name.unit()])
                        .await?;
                    let why = [status.stdout.trim().to_owned(), service.last_lines().await?].join("\n");
                    return Err(CliError::new(Kind::TimedOut, "the server does not hear this runner")
                        .at(self.settings.server())
                        .because(why.trim())
                        .next("does this machine reach NATS at the address that the server names? --nats URL gives another one"));
                }
                done => return done,
            }
        }
    }

    /// Puts back what was there before this join.
    async fn undo(&self, files: &Files, before: machine::State, enrolled: bool) -> Result<()> {
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
    fn agentd(&self, verb: &str, config: &std::path::Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb).arg("--config").arg(config).kill_on_drop(true);
        command.env_clear().env("STATE_DIRECTORY", self.machine.state_dir()).envs(&self.settings.env);
        command
    }

    fn not_run(&self, error: &std::io::Error) -> CliError {
        CliError::failed("cannot run agentd").at(self.program.display()).because(error).next("sudo make install")
    }
}

impl Service {
    /// Ends it for good, and what holds its sessions still while it is away.
    pub async fn end(&self) -> Result<()> {
        let hold = format!("agentd-hold@{}.service", self.name.stem());
        let said = self.place.ask(&["systemctl", "disable", "--now", "--quiet", "--", &self.name.unit()]).await?;
        if said.code != 0 {
            return Err(CliError::failed(format!("cannot end {}", self.name.unit()))
                .at(&self.place)
                .because(said.stderr.trim()));
        }
        self.place.ask(&["systemctl", "stop", "--", &hold]).await?;
        // What failed at some time stays in systemd's lists otherwise.
        self.place.ask(&["systemctl", "reset-failed", "--", &self.name.unit(), &hold]).await?;
        Ok(())
    }
}

/// The service of this name on this very machine.
fn here(name: &ServiceName) -> Service {
    Service { place: Place::Here, name: name.clone(), runner: None, state_dir: name.state_dir() }
}
