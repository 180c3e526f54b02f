//! `helixctl image lint`: what is wrong with recipes, or with an image that was built.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use helix_protocol::image::ImageRef;
use serde::Serialize;

use super::CacheArgs;
use crate::error::{CliError, Result};
use crate::images::contents::{entries, missing_targets};
use crate::images::recipe::{self, Chain};
use crate::ui::Ui;

/// Arguments of `image lint`.
#[derive(Debug, Args)]
pub struct LintArgs {
    /// Recipes (files or names); with --built, images
    #[arg(required = true, value_name = "FILE|NAME")]
    what: Vec<String>,
    /// Look at images that were built: whether sessions find the places that they need
    #[arg(long)]
    built: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    found: String,
}

/// Runs `image lint`; exit code 1 when something is wrong.
pub fn run(args: &LintArgs, ui: &Ui) -> Result<ExitCode> {
    let mut findings = Vec::new();
    for what in &args.what {
        let found = if args.built { look_at_image(args, what)? } else { look_at_recipe(what)? };
        findings.extend(found.into_iter().map(|found| Finding { what: what.clone(), found }));
    }
    ui.answer(&serde_json::json!({ "findings": findings }), || {
        findings.iter().try_for_each(|finding| ui.line(&format!("{}: {}", finding.what, finding.found)))
    })?;
    if findings.is_empty() {
        ui.note("nothing is wrong");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

fn look_at_image(args: &LintArgs, what: &str) -> Result<Vec<String>> {
    let image: ImageRef = what.parse().map_err(|error| CliError::failed("no image").because(error))?;
    let store = args.cache.store()?;
    let (_, manifest) = super::found(&store, &image)?;
    let missing = missing_targets(&entries(&store, &manifest)?);
    Ok(missing.into_iter().map(|target| format!("sessions need {target}, and it is not there")).collect())
}

/// What reading does not refuse.
fn look_at_recipe(what: &str) -> Result<Vec<String>> {
    let chain: Chain = recipe::chain(what)?;
    let mut findings = Vec::new();
    for found in &chain {
        let recipe = &found.recipe;
        let dir = found.dir.as_deref().unwrap_or(Path::new("."));
        let sources = recipe.files.iter().filter_map(|file| file.source.as_ref());
        for path in sources.chain(recipe.commands.iter().flat_map(|command| &command.inputs)) {
            if found.dir.is_some() && dir.join(path).symlink_metadata().is_err() {
                findings.push(format!("{}: {} is not there", found.place, dir.join(path).display()));
            }
        }
        if recipe.description.is_empty() {
            findings.push(format!("{}: it has no description", found.place));
        }
        if recipe.commands.iter().any(|command| command.network) {
            findings.push(format!("{}: a command uses the network, so two builds may differ", found.place));
        }
        for agent in &recipe.agents {
            if let recipe::Agent::Npm { npm, before: None } = agent {
                findings
                    .push(format!("{}: {npm} has no `before`, so two builds may get other dependencies", found.place));
            }
        }
    }
    let mut packages = std::collections::BTreeMap::new();
    for found in &chain {
        for package in &found.recipe.packages {
            if let Some(parent) = packages.insert(package, &found.recipe.name) {
                findings.push(format!("{}: package {package} is in its parent {parent} already", found.place));
            }
        }
    }
    Ok(findings)
}
