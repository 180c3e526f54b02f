//! `helixctl build-all`: everything that the configuration names; and the documents' verbs `build-zed` and
//! `build-agents`, which are parts of it.
//!
//! What is independent is built at once. An image that has a program of a build in it waits for that build; when the
//! build fails, the image is not built, and both are named. Nothing that was asked for is left out silently.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::build::zed::{self, ZedArgs};
use super::build::{Own, OwnArgs, build_own, log};
use super::image::{Builder, CacheArgs, HowArgs};
use crate::error::{CliError, Kind, Result};
use crate::images::cache::Cache;
use crate::images::recipe;
use crate::settings::{process_env, xdg};
use crate::ui::{Hosts, Ui};

const AFTER: &str = "\
The configuration is build.toml here, else ~/.config/helix/build.toml; without one it is: zed from its fork, and the
shipped images base, browser, dev and zed. Its keys: images = [\"NAME|FILE\"], agentd, server, packages = true, source =
\"DIR of Helix\", [zed] with source, rev, binary. More: docs/images.md";

/// Arguments of `build-all`, `build-zed` and `build-agents`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub struct BuildAllArgs {
    /// What to build [default: ./build.toml, ~/.config/helix/build.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A Zed that was built elsewhere
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Say what each step wrote, too
    #[arg(long)]
    verbose: bool,
    /// Of the documents' script, where it is said to every command
    #[arg(long, hide = true, value_name = "N")]
    agents: Option<u32>,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

/// Which part of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    All,
    /// Zed.
    Zed,
    /// Images.
    Agents,
}

/// `build.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    images: Vec<String>,
    #[serde(default)]
    agentd: bool,
    #[serde(default)]
    server: bool,
    #[serde(default)]
    packages: bool,
    source: Option<PathBuf>,
    zed: Option<Zed>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Zed {
    source: Option<String>,
    rev: Option<String>,
    binary: Option<PathBuf>,
}

/// How one thing ended.
#[derive(Debug, Clone, Serialize)]
struct Outcome {
    name: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<helix_protocol::image::Digest>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<CliError>,
    log: Option<PathBuf>,
}

/// Builds; exit code 1 when something was not built.
pub async fn run(args: BuildAllArgs, part: Part, ui: &Ui) -> Result<ExitCode> {
    let (mut config, dir) = configuration(&args)?;
    if part == Part::Zed {
        config.zed.get_or_insert_default();
        config.images.clear();
    }
    if part == Part::Agents {
        config.zed = None;
    }
    if part != Part::All {
        (config.agentd, config.server, config.packages) = (false, false, false);
    }
    if args.agents.is_some() {
        ui.note("--agents: how many are started is said to start-agents; builds do not depend on it");
    }
    let cache = args.cache.cache()?;
    // Programs are signed by nobody: only images need the key.
    let no_images = config.images.is_empty();
    let builder = if no_images { None } else { Some(Builder::new(&args.cache, args.how.clone())?) };
    // A recipe that is wrong is told before anything is built.
    let images: Vec<_> = config.images.iter().map(|image| in_dir(&dir, image)).collect();
    let needs: Vec<Vec<String>> = images.iter().map(|image| artifacts_of(image)).collect::<Result<_>>()?;
    let lines = ui.hosts();
    let (first, second): (Vec<_>, Vec<_>) =
        images.iter().zip(&needs).partition(|(_, needs)| !needs.iter().any(|name| is_built_here(&config, name)));
    let build_images = async |wanted: Vec<(&String, &Vec<String>)>, failed: &[String]| {
        let each = |builder| {
            let builds = wanted.into_iter().map(|(image, needs)| build_image(builder, image, needs, failed, &lines));
            join_all(builds.collect::<Vec<_>>())
        };
        match &builder {
            Some(builder) => each(builder).await,
            None => Vec::new(),
        }
    };
    let (programs, images) =
        tokio::join!(build_programs(&config, &args, &cache, &dir, &lines), build_images(first, &[]));
    let failed: Vec<String> =
        programs.iter().filter(|outcome| !outcome.ok).map(|outcome| outcome.name.clone()).collect();
    let mut outcomes: Vec<_> = programs.into_iter().chain(images).collect();
    outcomes.extend(build_images(second, &failed).await);
    drop(lines);
    told(&outcomes, args.verbose, ui)
}

fn told(outcomes: &[Outcome], verbose: bool, ui: &Ui) -> Result<ExitCode> {
    for outcome in outcomes {
        if let (true, Some(text)) = (verbose, outcome.log.as_ref().and_then(|log| std::fs::read_to_string(log).ok())) {
            ui.note(&format!("--- {}\n{text}", outcome.name));
        }
        if let Some(error) = &outcome.error {
            ui.error(error);
        }
    }
    let bad: Vec<_> = outcomes.iter().filter(|outcome| !outcome.ok).map(|outcome| outcome.name.as_str()).collect();
    ui.answer(&serde_json::json!({ "ok": bad.is_empty(), "built": outcomes }), || {
        outcomes.iter().filter(|outcome| outcome.ok).try_for_each(|outcome| {
            let what = outcome.digest.map_or_else(|| outcome.files.join(" "), |digest| digest.to_string());
            ui.line(&format!("{} {what}", outcome.name))
        })
    })?;
    if bad.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let mut next = "helixctl logs NAME shows what a build said".to_owned();
    if bad.contains(&"zed") {
        next.push_str("; a Zed that was built elsewhere: --binary PATH");
    }
    Err(CliError::failed(format!("not built: {}", bad.join(", "))).because("see above").next(next))
}

fn configuration(args: &BuildAllArgs) -> Result<(Config, PathBuf)> {
    let own = xdg(&process_env, "XDG_CONFIG_HOME", ".config").map(|dir| dir.join("helix/build.toml")).ok();
    let places = [Some(PathBuf::from("build.toml")), own];
    let path = args.config.clone().or_else(|| places.into_iter().flatten().find(|path| path.is_file()));
    let mut config = match &path {
        None => Config {
            images: ["base", "browser", "dev", "zed"].map(str::to_owned).to_vec(),
            agentd: false,
            server: false,
            packages: false,
            source: None,
            zed: Some(Zed::default()),
        },
        Some(path) => {
            let bad = |why: String| {
                CliError::new(Kind::Usage, "cannot read what to build")
                    .at(path.display())
                    .because(why)
                    .next("its keys: images, agentd, server, packages, source, [zed] source, rev, binary")
            };
            let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
            toml::from_str(&text).map_err(|error| bad(error.to_string().trim_end().to_owned()))?
        }
    };
    if let Some(binary) = &args.binary {
        config.zed = Some(Zed { binary: Some(binary.clone()), ..Zed::default() });
    }
    let dir = path.and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default();
    Ok((config, dir))
}

/// A recipe's file is beside the configuration; a name is a name.
fn in_dir(dir: &Path, image: &str) -> String {
    if image.contains('/') || Path::new(image).extension().is_some_and(|ending| ending == "toml") {
        return dir.join(image).display().to_string();
    }
    image.to_owned()
}

fn artifacts_of(image: &str) -> Result<Vec<String>> {
    let chain = recipe::chain(image)?;
    let files = chain.iter().flat_map(|found| &found.recipe.files);
    Ok(files.filter_map(|file| file.artifact.clone()).collect())
}

fn is_built_here(config: &Config, name: &str) -> bool {
    match name {
        "zed" => config.zed.is_some(),
        "agentd" => config.agentd,
        "server" => config.server,
        _ => false,
    }
}

async fn build_programs(
    config: &Config,
    args: &BuildAllArgs,
    cache: &Cache,
    dir: &Path,
    lines: &Hosts,
) -> Vec<Outcome> {
    let zed = async {
        let wanted = config.zed.clone()?;
        let line = lines.line("zed");
        let args = ZedArgs {
            source: wanted.source.map(|source| {
                if dir.join(&source).is_dir() { dir.join(&source).display().to_string() } else { source }
            }),
            rev: wanted.rev,
            binary: wanted.binary,
            profile: zed::Profile::Release,
            cache: args.cache.clone(),
        };
        let made = zed::build(cache, &args, &line).await;
        if made.is_err() {
            line.end("failed");
        }
        Some(outcome("zed", made.map(|made| (made.digest, made.files)), Some(log(cache, "zed"))))
    };
    let owns = [(Own::Agentd, config.agentd), (Own::Server, config.server), (Own::Packages, config.packages)];
    let own = async {
        let mut outcomes = Vec::new();
        // They share a target directory, and with it cargo's lock.
        for (own, _) in owns.into_iter().filter(|(_, wanted)| *wanted) {
            let line = lines.line(own.name());
            let source = config.source.as_ref().map(|source| dir.join(source));
            let made = build_own(own, cache, &OwnArgs { source, cache: args.cache.clone() }, &line).await;
            if made.is_err() {
                line.end("failed");
            }
            outcomes.push(outcome(
                own.name(),
                made.map(|made| (made.digest, made.files)),
                Some(log(cache, own.name())),
            ));
        }
        outcomes
    };
    let (zed, own) = tokio::join!(zed, own);
    zed.into_iter().chain(own).collect()
}

async fn build_image(builder: &Builder, image: &str, needs: &[String], failed: &[String], lines: &Hosts) -> Outcome {
    let name = recipe::find(image, None).map_or_else(|_| image.to_owned(), |found| found.recipe.name);
    let name = format!("image {name}");
    if let Some(missing) = needs.iter().find(|need| failed.contains(need)) {
        let error = CliError::failed(format!("{name} was not built"))
            .because(format!("{missing}, which is in it, was not built"));
        return outcome(&name, Err(error), None);
    }
    let line = lines.line(image);
    let built = builder.build(image, &line).await;
    outcome(&name, built.map(|built| (Some(built.digest), Vec::new())), None)
}

fn outcome(
    name: &str,
    made: Result<(Option<helix_protocol::image::Digest>, Vec<String>)>,
    log: Option<PathBuf>,
) -> Outcome {
    let (ok, (digest, files), error) = match made {
        Ok(made) => (true, made, None),
        Err(error) => (false, (None, Vec::new()), Some(error)),
    };
    Outcome { name: name.to_owned(), ok, digest, files, error, log }
}
