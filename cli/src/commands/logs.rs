//! `helixctl logs` and `helixctl clean`: what builds and the services of `helixctl up` said, and the end of what builds keep.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::image::CacheArgs;
use crate::args::GlobalArgs;
use crate::error::{CliError, Kind, Result};
use crate::images::build::remove;
use crate::settings::{self, process_env};
use crate::ui::Ui;

/// Lines that are shown of a log.
const LINES: u32 = 200;

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// A service of `helixctl up` (nats, server, agentd), a build (zed, agentd, packages), or a layer; without one: which there are
    name: Option<String>,
    /// Go on with what is written from now on
    #[arg(long, short)]
    follow: bool,
    /// Lines that are shown
    #[arg(long, short = 'n', value_name = "N", default_value_t = LINES)]
    lines: u32,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    script: ScriptArgs,
}

/// Options that the documents' script takes with every command. Where they mean nothing they are taken all the same.
#[derive(Debug, Args)]
pub struct ScriptArgs {
    #[arg(long, hide = true, value_name = "TAG")]
    tag: Option<String>,
    #[arg(long, hide = true, value_name = "N")]
    agents: Option<u32>,
    #[arg(long, hide = true)]
    force: bool,
    #[arg(long, hide = true)]
    verbose: bool,
}

impl ScriptArgs {
    /// Says of those that were given that nothing comes of them.
    fn told(&self, ui: &Ui) {
        let given = [
            ("--tag", self.tag.is_some()),
            ("--agents", self.agents.is_some()),
            ("--force", self.force),
            ("--verbose", self.verbose),
        ];
        for (name, _) in given.iter().filter(|(_, given)| *given) {
            ui.note(&format!("{name}: this command does not depend on it"));
        }
    }
}

/// Arguments of `clean`.
#[derive(Debug, Args)]
pub struct CleanArgs {
    /// Remove the images, too; without it they stay, and only what builds keep goes
    #[arg(long)]
    images: bool,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    script: ScriptArgs,
}

/// Runs `logs`.
pub async fn logs(global: &GlobalArgs, args: &LogsArgs, ui: &Ui) -> Result<ExitCode> {
    args.script.told(ui);
    let mut dirs = vec![args.cache.dir()?.join("logs")];
    if let Ok(state) = settings::state_dir(global, &process_env) {
        // A service is what people mean where a build has the same name.
        dirs.insert(0, state.log());
    }
    let mut known = std::collections::BTreeMap::new();
    for dir in dirs.iter().rev() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if let Some(name) = entry.file_name().to_string_lossy().strip_suffix(".log") {
                known.insert(name.to_owned(), entry.path());
            }
        }
    }
    let Some(name) = &args.name else {
        ui.answer(&serde_json::json!({ "logs": known }), || {
            known.iter().try_for_each(|(name, path)| ui.line(&format!("{name:<20} {}", path.display())))
        })?;
        return Ok(ExitCode::SUCCESS);
    };
    let path: &PathBuf = known.get(name).ok_or_else(|| {
        let there: Vec<_> = known.keys().map(String::as_str).collect();
        CliError::new(Kind::Usage, format!("there is no log {name}"))
            .at(dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", "))
            .because(if there.is_empty() {
                "nothing was built or started yet".to_owned()
            } else {
                format!("there are: {}", there.join(" "))
            })
            .next("helixctl logs")
    })?;
    // Its own way with files that are replaced and grow is better than ours would be.
    let mut tail = tokio::process::Command::new("tail");
    tail.args(["-n", &args.lines.to_string()]);
    if args.follow {
        tail.arg("-F");
    }
    let status = tail.arg("--").arg(path).kill_on_drop(true).status().await;
    let status = status.map_err(|error| CliError::failed("cannot show the log").at(path.display()).because(error))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `clean`.
pub async fn clean(args: &CleanArgs, ui: &Ui) -> Result<ExitCode> {
    args.script.told(ui);
    let cache = args.cache.cache()?;
    let store = &cache.store;
    let busy = || {
        CliError::failed("the store is being used")
            .at(store.dir().display())
            .because("a build, a push or a pull runs")
            .next("run it again when that has ended")
    };
    store.alone().map_err(|error| busy().because(error))?.ok_or_else(busy)?;
    let mut parts = vec![
        "layers",
        "archives",
        "debs",
        "downloads",
        "artifacts",
        "built",
        "logs",
        "work",
        "trash",
        "targets",
        "sources",
    ];
    if args.images {
        parts.extend(["chunks", "manifests", "tags"]);
    }
    remove(&cache, parts.iter().map(|part| cache.part(part)).collect()).await?;
    ui.answer(&serde_json::json!({ "removed": parts }), || ui.line(&format!("removed: {}", parts.join(" "))))?;
    Ok(ExitCode::SUCCESS)
}
