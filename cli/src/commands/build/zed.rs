//! The Zed fork: built from its source where that can be reached, or a binary that was given. Looked at either way.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::process::Command;

use super::{Made, log, run_logged};
use crate::checks::{Report, State};
use crate::commands::doctor::{elf, zed as look};
use crate::commands::image::CacheArgs;
use crate::error::{CliError, Kind, Result};
use crate::images::artifacts;
use crate::images::cache::{Cache, cannot};
use crate::ui::HostLine;

/// The cargo feature without which an editor never hears of a prompt.
const FEATURE: &str = "external_websocket_sync";
/// What the documents clone.
const FORK: (&str, &str) = ("https://github.com/helixml/zed", "external-websocket-sync");
/// For a program to say its help.
const PATIENCE: Duration = Duration::from_secs(20);
const GIVE_ONE: &str = "or give a binary of it: helixctl build zed --binary PATH";

/// Arguments of `build zed`.
#[derive(Debug, Clone, Default, Args)]
pub struct ZedArgs {
    /// Its source: a directory, or a git URL [default: the fork's own, branch external-websocket-sync]
    #[arg(long, value_name = "DIR|URL", conflicts_with = "binary")]
    pub source: Option<String>,
    /// Revision, branch or tag of it
    #[arg(long, conflicts_with = "binary")]
    pub rev: Option<String>,
    /// A program that was built elsewhere
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Cargo profile
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    pub profile: Profile,
    /// Where it is kept.
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// A cargo profile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Quick to build
    Dev,
    /// Quick to run
    #[default]
    Release,
}

/// Builds or takes it, looks at it, keeps it.
pub async fn build(cache: &Cache, args: &ZedArgs, line: &HostLine) -> Result<Made> {
    let log = log(cache, "zed");
    std::fs::write(&log, "").map_err(|error| cannot(&log, &error))?;
    let (program, from) = match &args.binary {
        Some(binary) => {
            let binary = std::path::absolute(binary).map_err(|error| cannot(binary, &error))?;
            let from = binary.display().to_string();
            (binary, from)
        }
        None => from_source(cache, args, &log, line).await?,
    };
    line.step("looking at the program");
    let notes = looked_at(&program).await?;
    let kept = artifacts::keep(cache, "zed", &program, from, notes)?;
    let file = artifacts::program(cache, "zed")?.display().to_string();
    line.end(&format!("{} ({})", kept.digest, kept.notes.join("; ")));
    Ok(Made { name: "zed".to_owned(), files: vec![file], digest: Some(kept.digest), notes: kept.notes })
}

async fn from_source(cache: &Cache, args: &ZedArgs, log: &Path, line: &HostLine) -> Result<(PathBuf, String)> {
    let source = args.source.clone().unwrap_or_else(|| FORK.0.to_owned());
    let rev = args.rev.clone().or_else(|| args.source.is_none().then(|| FORK.1.to_owned()));
    let is_directory = Path::new(&source).is_dir();
    let dir = if is_directory && rev.is_none() {
        std::path::absolute(&source).map_err(|error| cannot(Path::new(&source), &error))?
    } else {
        checkout(cache, &source, rev.as_deref(), log, line).await?
    };
    if !dir.join("Cargo.toml").is_file() {
        return Err(CliError::new(Kind::Usage, "this is no source of Zed")
            .at(dir.display())
            .because("there is no Cargo.toml in it")
            .next(format!("--source DIR of the fork's workspace, {GIVE_ONE}")));
    }
    line.step("building; some ten minutes for a release");
    let target = cache.part("targets").join("zed");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--package", "zed", "--features", FEATURE, "--target-dir"]).arg(&target).current_dir(&dir);
    if args.profile == Profile::Release {
        cargo.arg("--release");
    }
    run_logged(cargo, "zed cannot be built", log, line).await.map_err(|mut error| {
        let next = error.next.take().unwrap_or_default();
        error.next(format!("{next}; {GIVE_ONE}"))
    })?;
    let profile = if args.profile == Profile::Release { "release" } else { "debug" };
    let from = rev.map_or_else(|| source.clone(), |rev| format!("{source} {rev}"));
    Ok((target.join(profile).join("zed"), from))
}

/// A checkout in the cache; a second build of the same source fetches what is new.
async fn checkout(cache: &Cache, source: &str, rev: Option<&str>, log: &Path, line: &HostLine) -> Result<PathBuf> {
    if source.starts_with('-') || rev.is_some_and(|rev| rev.starts_with('-')) {
        return Err(CliError::new(Kind::Usage, "a source or revision does not begin with -").at(source));
    }
    let name = helix_protocol::image::Digest::of(source.as_bytes()).hex()[..16].to_owned();
    let dir = cache.part("sources").join(name);
    std::fs::create_dir_all(&dir).map_err(|error| cannot(&dir, &error))?;
    line.step(&format!("fetching {source}"));
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        // Nobody is there to answer a question for a password.
        git.arg("-C").arg(&dir).args(args).env("GIT_TERMINAL_PROMPT", "0");
        git
    };
    let what = "the source of zed cannot be fetched";
    let fetched = async {
        run_logged(git(&["init", "--quiet"]), what, log, line).await?;
        let fetch = ["fetch", "--depth", "1", "--", source, rev.unwrap_or("HEAD")];
        run_logged(git(&fetch), what, log, line).await?;
        run_logged(git(&["checkout", "--quiet", "--force", "--detach", "FETCH_HEAD"]), what, log, line).await
    };
    fetched.await.map_err(|error| error.next(format!("see the whole log: {}; {GIVE_ONE}", log.display())))?;
    Ok(dir)
}

/// What is known of a program once it was looked at; an error when it would not do.
async fn looked_at(program: &Path) -> Result<Vec<String>> {
    let mut report = Report::default();
    look::check(Some(program.to_owned()), &mut report).await;
    let faults: Vec<_> = report.checks().iter().filter(|check| check.state != State::Ok).cloned().collect();
    if let Some(first) = faults.first() {
        let all: Vec<_> = faults.iter().map(|check| check.found.as_str()).collect();
        let next = first.next.clone().unwrap_or_else(|| GIVE_ONE.to_owned());
        return Err(CliError::failed("this zed would not do").at(program.display()).because(all.join("\n")).next(next));
    }
    starts(program).await?;
    let failed = |error: std::io::Error| CliError::failed("cannot look at zed").at(program.display()).because(error);
    let mut notes = vec![format!("{FEATURE} is in it")];
    if let Some(glibc) = elf::newest_glibc(program).map_err(failed)? {
        notes.push(format!("needs glibc {glibc}"));
    }
    if let elf::Kind::Program(Some(loader)) = elf::kind(program).map_err(failed)? {
        let libraries = elf::libraries(&loader, program)
            .await
            .map_err(|why| CliError::failed("cannot look at zed").because(why))?;
        notes.push(format!("{} libraries: {}", libraries.len(), libraries.join(" ")));
    }
    Ok(notes)
}

/// It says its help: all libraries are loaded then, and no window opens.
async fn starts(program: &Path) -> Result<()> {
    let failed = |why: String| {
        CliError::failed("this zed does not start").at(format!("{} --help", program.display())).because(why)
    };
    let mut command = Command::new(program);
    command.arg("--help").stdin(Stdio::null()).env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
            Err(failed(format!("it ended with {} {last}", output.status)))
        }
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_late) => Err(failed(format!("it said nothing within {} s", PATIENCE.as_secs()))),
    }
}
