//! `helixctl runner join`: attaches this machine to a server as one more runner.
//!
//! In order: look ([`machine`]), settings of what was asked over what stood there ([`settings`]), and then ([`attempt`]) agentd's
//! own check of them, files, enrolment (`agentd enrol`, which gets the token in its environment: it is on no command line and in no file),
//! service, and the server's word that it hears the runner. A join that fails puts back what was there before; the same join
//! again changes nothing. Joins of one machine take turns.

mod attempt;
mod files;
mod machine;
mod others;
mod settings;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use helix_protocol::RunnerId;
use serde::Serialize;

use self::attempt::Join;
pub use self::machine::{Machine, is_joined, require_fit, turn};
use self::settings::Asked;
use super::place::ServiceName;
use crate::args::GlobalArgs;
use crate::command_line::parse_duration;
use crate::error::{CliError, Kind, Result};
use crate::settings::process_env;
use crate::ui::Ui;

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
    /// Public half of the key whose images its sessions may run in (provision.key.pub of who builds them) [default: nobody's]
    #[arg(long, value_name = "FILE")]
    image_key: Option<PathBuf>,
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
    let image_key = args.image_key.as_deref().map(read_key).transpose()?;
    let (within, asked) = (args.within, asked(global, args)?);
    let program = require_fit().await?;
    let name = ServiceName::parse(&asked.name)?;
    let progress = ui.progress();
    let _turn = turn(|| progress.now("waits for another join of this machine")).await?;
    let machine = Machine::look(&name)?;
    let before = machine.settings()?;
    let (mut settings, token) = asked.over(before.as_ref(), &machine)?;
    if let Some((text, place)) = image_key {
        settings.trust(&text, &place, &machine)?;
    }
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

/// A public key and where it is.
fn read_key(path: &Path) -> Result<(String, String)> {
    let place = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        CliError::new(Kind::Usage, "cannot read the key for images")
            .at(&place)
            .because(error)
            .next("--image-key provision.key.pub, which helixctl key new makes beside the key")
    })?;
    Ok((text, place))
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
