//! `session create`: builds the request, sends it, and waits if asked to.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use helix_protocol::api::{CreateSession, ProjectSource, SessionView};
use helix_protocol::image::ImageRef;
use helix_protocol::recording::{RecordingChoice, RecordingOptions};
use helix_protocol::resources::{Network, OnLost};
use helix_protocol::session::{DisplayServer, Geometry, MAX_INPUT_CHARS, Project};
use helix_protocol::time_limit::TimeLimit;
use helix_protocol::{KindName, PoolName, RunnerId, SessionId, SpecTaskId};

use super::limits::{ReserveArgs, ResourceArgs};
use super::wait::{Goal, Watch};
use crate::client::Client;
use crate::command_line::SecretArgs;
use crate::error::Result;
use crate::settings::process_env;
use crate::stdin;
use crate::ui::Ui;

/// Arguments of `session create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Session id; made up when left out. The same id and the same flags again answer the existing session
    #[arg(long)]
    id: Option<SessionId>,
    /// What runs in it, for example command or terminal; the runner's default kind when left out
    #[arg(long)]
    kind: Option<KindName>,
    /// Git URL or path of a repository to clone into the workspace
    #[arg(long, value_name = "GIT")]
    project: Option<String>,
    /// Branch or tag to check out
    #[arg(long, requires = "project")]
    branch: Option<String>,
    /// Directory inside the workspace where the agent starts
    #[arg(long, value_name = "DIR")]
    project_path: Option<String>,
    /// First task: for kind command a shell command; - reads it from standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    input: Option<String>,
    /// Desktop size, for example 1920x1080
    #[arg(long, value_name = "WxH")]
    geometry: Option<Geometry>,
    /// What draws the desktop: X and VNC in one process, or Xvfb with a VNC server beside it
    #[arg(long, value_name = "xtigervnc|xvfb", value_parser = parse_display_server)]
    display_server: Option<DisplayServer>,
    /// Image that its agent runs in: NAME, NAME:TAG or sha256:DIGEST [default: the runner's own system]
    #[arg(long, value_name = "IMAGE")]
    image: Option<ImageRef>,
    /// Pool to take it from: one of its agents that are ready, where the session needs no other
    #[arg(long)]
    pool: Option<PoolName>,
    /// The one runner that it may run on
    #[arg(long, value_name = "ID")]
    runner: Option<RunnerId>,
    /// Word for filters; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// Environment of the agent; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    secrets: SecretArgs,
    /// Spec task that it belongs to: if that has a desktop, this session is another name of it, --input a new thread
    #[arg(long, value_name = "ID")]
    spec_task: Option<SpecTaskId>,
    #[command(flatten)]
    resources: ResourceArgs,
    #[command(flatten)]
    reserve: ReserveArgs,
    /// Network of the session: the machine's, or none but a loopback of its own
    #[arg(long, value_name = "host|none", value_parser = parse_network)]
    network: Option<Network>,
    /// While its runner cannot be heard: run on, or stand still, so that it may be restarted elsewhere
    #[arg(long, value_name = "wait|restart", value_parser = parse_on_lost)]
    on_lost: Option<OnLost>,
    /// Stop it once nobody used it for so long, for example 30m [default: its pool's]
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<TimeLimit>,
    /// Stop it once it has run for so long, for example 8h [default: its pool's]
    #[arg(long, value_name = "TIME")]
    lifetime: Option<TimeLimit>,
    /// Let a session of higher priority have its room, after a checkpoint; with --on-lost=restart it goes on later
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        hide_possible_values = true)]
    preemptible: Option<bool>,
    /// Record the desktop, with what is typed there; keep it for so long after the end (7d), or do not (off)
    #[arg(long, value_name = "KEEP|off", num_args = 0..=1, require_equals = true, default_missing_value = "on",
        value_parser = parse_record)]
    record: Option<RecordingChoice>,
    /// Wait until the desktop is ready, or until the command has a result
    #[arg(long, value_name = "FOR", num_args = 0..=1, require_equals = true, default_missing_value = "ready")]
    wait: Option<WaitFor>,
    /// Longest wait in seconds; the session goes on
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// What `--wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// Desktop and agent are up
    Ready,
    /// The command has ended; exit code 1 when its exit status is not 0
    Result,
}

/// `KEY=VALUE`; the value may be empty.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

fn parse_display_server(text: &str) -> Result<DisplayServer, String> {
    match text {
        "xtigervnc" => Ok(DisplayServer::Xtigervnc),
        "xvfb" => Ok(DisplayServer::Xvfb),
        _ => Err("write xtigervnc or xvfb".to_owned()),
    }
}

fn parse_network(text: &str) -> Result<Network, String> {
    match text {
        "host" => Ok(Network::Host),
        "none" => Ok(Network::None),
        _ => Err("write host or none".to_owned()),
    }
}

fn parse_on_lost(text: &str) -> Result<OnLost, String> {
    match text {
        "wait" => Ok(OnLost::Wait),
        "restart" => Ok(OnLost::Restart),
        _ => Err("write wait or restart".to_owned()),
    }
}

fn parse_record(text: &str) -> Result<RecordingChoice, String> {
    match text {
        "on" => Ok(RecordingChoice::Plain(true)),
        "off" => Ok(RecordingChoice::Plain(false)),
        keep => match keep.parse() {
            Ok(keep) => Ok(RecordingChoice::Options(RecordingOptions { keep: Some(keep) })),
            Err(_) => {
                Err("write --record, --record=off, or for how long to keep it: --record=7d, at most 30d".to_owned())
            }
        },
    }
}

impl CreateArgs {
    /// What `--wait` waits for, and for how long.
    pub fn patience(&self) -> (Option<Goal>, Duration) {
        let goal = self.wait.map(|wait| if wait == WaitFor::Ready { Goal::Ready } else { Goal::Result });
        (goal, Duration::from_secs(self.timeout))
    }

    /// The request; reads what is to be read.
    pub fn request(self) -> Result<CreateSession> {
        request(self, || stdin::text("standard input (--input -)", MAX_INPUT_CHARS))
    }
}

/// Creates, and waits if asked to.
pub async fn run(client: &Client, args: CreateArgs, ui: &Ui) -> Result<ExitCode> {
    let (goal, patience) = args.patience();
    let request = args.request()?;
    let Some(goal) = goal else {
        let session = client.create_session(&request).await?;
        ui.answer(&session, || ui.line(session.id.as_str()))?;
        if !ui.json {
            ui.note(&format!("{}; watch it: helixctl session show {}", session.phase, session.id));
        }
        return Ok(ExitCode::SUCCESS);
    };
    // Watching begins before the session exists, so that no step of it is missed.
    let mut watch = Watch::open(client, patience).await?;
    let session = client.create_session(&request).await?;
    let session = watch.until(&session.id, goal, ui).await?;
    ui.answer(&session, || ui.line(session.id.as_str()))?;
    Ok(report(&session, goal, ui))
}

/// Tells people how it went; the exit code tells programs.
pub fn report(session: &SessionView, goal: Goal, ui: &Ui) -> ExitCode {
    let result = session.result.as_ref().filter(|_| goal == Goal::Result);
    if !ui.json {
        if let Some(result) = result {
            ui.note(result.output_tail.trim_end());
            ui.note(&format!("the command ended with exit status {}", result.exit_status));
        }
        ui.note(&format!("see its desktop: helixctl session open {}", session.id));
    }
    match result {
        Some(result) if result.exit_status != 0 => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn request(args: CreateArgs, read_input: impl FnOnce() -> Result<String>) -> Result<CreateSession> {
    let input = match args.input.as_deref() {
        Some("-") => Some(read_input()?),
        _ => args.input,
    };
    let secrets = args.secrets.read("helixctl session create", &process_env)?;
    let project = args.project.map(|git| absolute_if_local(&git)).map(|git| match args.branch {
        Some(branch) => ProjectSource::Long(Project { git, branch: Some(branch) }),
        None => ProjectSource::Short(git),
    });
    Ok(CreateSession {
        id: args.id,
        kind: args.kind,
        project,
        project_path: args.project_path,
        input,
        geometry: args.geometry,
        display_server: args.display_server,
        image: args.image,
        pool: args.pool,
        runner: args.runner,
        labels: args.labels.into_iter().collect(),
        env: args.env.into_iter().collect(),
        resources: args.resources.into(),
        reserve: args.reserve.into(),
        network: args.network,
        on_lost: args.on_lost,
        preemptible: args.preemptible,
        recording: args.record,
        secrets,
        spec_task: args.spec_task,
        idle_timeout: args.idle_timeout,
        lifetime: args.lifetime,
    })
}

/// A relative path means nothing to a runner, whose working directory is another one.
pub fn absolute_if_local(git: &str) -> String {
    match std::fs::canonicalize(git) {
        Ok(path) if path.is_dir() => path.display().to_string(),
        _ => git.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use std::path::Path;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::commands::session::SessionCommand;

    fn args(line: &[&str]) -> CreateArgs {
        let line = ["helixctl", "session", "create"].iter().chain(line);
        let Command::Session(SessionCommand::Create(args)) = Cli::try_parse_from(line).expect("valid").command else {
            panic!("not a create");
        };
        *args
    }

    #[test]
    fn flags_become_the_request() {
        let line = [
            "--id=s1",
            "--kind=command",
            "--project=https://example.org/x.git",
            "--branch=main",
            "--input=-",
            "--geometry=800x600",
            "--label=team=a",
            "--env=A=b=c",
            "--env=EMPTY=",
            "--cpu=1.5",
            "--memory=4GiB",
            "--memory-high=3GiB",
            "--tasks=400",
            "--io-weight=50",
            "--reserve-cpu=0.5",
            "--reserve-memory=1GiB",
            "--network=none",
            "--on-lost=restart",
            "--preemptible",
            "--secret=ANTHROPIC_API_KEY",
            "--spec-task=spt_1",
            "--idle-timeout=90m",
            "--lifetime=24h",
            "--wait",
        ];
        let args = args(&line);
        assert_eq!(args.wait, Some(WaitFor::Ready));
        let request = request(args, || Ok("make test".to_owned())).expect("a request");
        insta::assert_json_snapshot!(request, @r#"
        {
          "id": "s1",
          "kind": "command",
          "project": {
            "git": "https://example.org/x.git",
            "branch": "main"
          },
          "input": "make test",
          "geometry": "800x600",
          "labels": {
            "team": "a"
          },
          "env": {
            "A": "b=c",
            "EMPTY": ""
          },
          "resources": {
            "cpu": 1.5,
            "memory": 4294967296,
            "memory_high": 3221225472,
            "tasks": 400,
            "io_weight": 50
          },
          "reserve": {
            "cpu": 0.5,
            "memory": 1073741824
          },
          "network": "none",
          "on_lost": "restart",
          "preemptible": true,
          "secrets": {
            "ANTHROPIC_API_KEY": null
          },
          "spec_task": "spt_1",
          "idle_timeout": "90m",
          "lifetime": "1d"
        }
        "#);
    }

    #[test]
    fn a_local_project_becomes_absolute() {
        assert!(Path::new(&absolute_if_local(".")).is_absolute());
        assert_eq!(absolute_if_local("git@example.org:x.git"), "git@example.org:x.git");
    }

    #[test]
    fn waiting_is_for_a_named_thing() {
        assert_eq!(args(&["--wait=result"]).wait, Some(WaitFor::Result));
        assert_eq!(args(&[]).wait, None);
    }
}
