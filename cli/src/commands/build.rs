//! `helixctl build zed|agentd|server|packages`: the programs that machines and images get.
//!
//! What is built or given is looked at before it is kept ([`crate::images::artifacts`]): recipes take it from there.

mod own;
pub mod zed;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use clap::{Args, Subcommand};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::image::CacheArgs;
use crate::error::{CliError, Result};
use crate::images::cache::{Cache, cannot};
use crate::images::sandbox::last_lines;
use crate::ui::{HostLine, Hosts, Ui};

pub use self::own::{Own, build_own};

/// Build the Zed fork, or take a binary of it; build Helix's own programs and packages
#[derive(Debug, Subcommand)]
pub enum BuildCommand {
    /// Build the Zed fork with feature external_websocket_sync, or check and take a binary
    Zed(zed::ZedArgs),
    /// Build agentd from Helix's source
    Agentd(OwnArgs),
    /// Build helix-server from Helix's source
    Server(OwnArgs),
    /// Build the packages (.deb, .rpm, .tar.zst) from Helix's source
    Packages(OwnArgs),
}

/// Arguments of a build from Helix's source.
#[derive(Debug, Clone, Default, Args)]
pub struct OwnArgs {
    /// Helix's source [default: the directory that this is called in]
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// Where it is kept.
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Runs one build command.
pub async fn run(command: BuildCommand, ui: &Ui) -> Result<ExitCode> {
    let lines = ui.hosts();
    let made = match command {
        BuildCommand::Zed(args) => {
            let cache = args.cache.cache()?;
            zed::build(&cache, &args, &lines.line("zed")).await?
        }
        BuildCommand::Agentd(args) => own_program(Own::Agentd, &args, &lines).await?,
        BuildCommand::Server(args) => own_program(Own::Server, &args, &lines).await?,
        BuildCommand::Packages(args) => own_program(Own::Packages, &args, &lines).await?,
    };
    drop(lines);
    ui.answer(&made, || made.files.iter().try_for_each(|file| ui.line(file)))?;
    Ok(ExitCode::SUCCESS)
}

async fn own_program(own: Own, args: &OwnArgs, lines: &Hosts) -> Result<Made> {
    let cache = args.cache.cache()?;
    build_own(own, &cache, args, &lines.line(own.name())).await
}

/// What a build made.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Made {
    /// `zed`, `agentd`, `server`, `packages`.
    pub name: String,
    /// Its files.
    pub files: Vec<String>,
    /// Digest of the program; none of packages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<helix_protocol::image::Digest>,
    /// What was looked at.
    pub notes: Vec<String>,
}

/// The log of a build.
pub fn log(cache: &Cache, name: &str) -> PathBuf {
    cache.part("logs").join(format!("{name}.log"))
}

/// Runs a program to its end; what it says goes to the log, its last line to the screen. Ends with this process.
async fn run_logged(mut command: Command, what: &str, log: &Path, line: &HostLine) -> Result<()> {
    let program = command.as_std().get_program().display().to_string();
    let failed = |why: String| CliError::failed(what).at(log.display()).because(why);
    let mut file =
        tokio::fs::OpenOptions::new().create(true).append(true).open(log).await.map_err(|e| cannot(log, &e))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(format!("{program}: {error}")))?;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed("it has no output".to_owned()));
    };
    let (mut out, mut err) = (BufReader::new(out).lines(), BufReader::new(err).lines());
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        // Both arms are cancel safe.
        let next = tokio::select! {
            next = out.next_line(), if out_open => { out_open = !matches!(next, Ok(None) | Err(_)); next }
            next = err.next_line(), if err_open => { err_open = !matches!(next, Ok(None) | Err(_)); next }
        };
        if let Ok(Some(text)) = next {
            file.write_all(format!("{text}\n").as_bytes()).await.map_err(|error| cannot(log, &error))?;
            line.now(text.trim());
        }
    }
    file.flush().await.map_err(|error| cannot(log, &error))?;
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(failed(format!("{program} ended with {status}\n{}", last_lines(log)))
        .next(format!("see the whole log: {}", log.display())))
}
