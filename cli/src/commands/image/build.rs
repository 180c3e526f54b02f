//! `helixctl image build`, and the part of it that `build-all` shares.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::CacheArgs;
use crate::error::{CliError, Kind, Result};
use crate::images::build::{Built, Request, build};
use crate::images::cache::Cache;
use crate::images::recipe;
use crate::provision::signing::SigningKey;
use crate::settings::process_env;
use crate::ui::{HostLine, Ui, span};

const AFTER: &str = "\
A recipe is found by its file, or by its name in ./images, /etc/helix/images.d, and among the shipped ones: base, zed,
browser, dev. With --json the last line is an object with the image's digest. More: docs/images.md";

/// Arguments of `image build`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub struct BuildArgs {
    /// Recipes: files or names
    #[arg(required = true, value_name = "FILE|NAME")]
    recipes: Vec<String>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    how: HowArgs,
}

/// How to build.
#[derive(Debug, Clone, Args)]
pub struct HowArgs {
    /// Tag of what is built [env: DOCKER_TAG_VERSION]
    #[arg(long, default_value = "latest", value_parser = parse_tag, env = "DOCKER_TAG_VERSION", hide_env = true)]
    pub tag: String,
    /// Make every layer anew
    #[arg(long)]
    pub force: bool,
    /// Ask the distribution's archive for newer packages
    #[arg(long)]
    pub update: bool,
    /// Key that signs the image [default: ~/.config/helix/provision.key]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

fn parse_tag(text: &str) -> Result<String, String> {
    let image = format!("x:{text}").parse::<helix_protocol::image::ImageRef>();
    image.map(|_| text.to_owned()).map_err(|_| "use A-Z a-z 0-9 _ -".to_owned())
}

/// Builds images, one line of progress each.
pub struct Builder {
    cache: Arc<Cache>,
    key: Arc<SigningKey>,
    how: HowArgs,
}

impl Builder {
    /// With this cache; the signing key must be there.
    pub fn new(cache: &CacheArgs, how: HowArgs) -> Result<Self> {
        let path = how.key.clone().map_or_else(|| SigningKey::default_path(&process_env), Ok)?;
        Ok(Self { cache: cache.cache()?, key: Arc::new(SigningKey::load(&path)?), how })
    }

    /// Builds the recipe.
    pub async fn build(&self, name: &str, line: &HostLine) -> Result<Built> {
        let how = &self.how;
        let chain = recipe::chain(name)?;
        let request = Request { chain, tag: how.tag.clone(), force: how.force, update: how.update };
        let built = build(&self.cache, request, &self.key, &|what| line.step(what)).await;
        match &built {
            Ok(built) => line.end(&outcome(built)),
            Err(_) => line.end("failed"),
        }
        built
    }
}

fn outcome(built: &Built) -> String {
    let took = span(std::time::Duration::from_millis(built.took_ms));
    if built.unchanged {
        return format!("unchanged ({took})");
    }
    let made = built.steps.iter().filter(|step| step.made).count();
    let new = built.packed.as_ref().map_or(0, |packed| packed.new_bytes);
    format!("{made} of {} layers built, {} new, in {took}", built.steps.len(), super::size(new))
}

/// Runs `image build`.
pub async fn run(args: BuildArgs, ui: &Ui) -> Result<ExitCode> {
    let builder = Builder::new(&args.cache, args.how)?;
    let lines = ui.hosts();
    let builds = args.recipes.iter().map(|recipe| {
        let (builder, line) = (&builder, lines.line(recipe));
        async move { builder.build(recipe, &line).await }
    });
    let mut failed = None;
    // Base layers are shared: whoever comes second waits and finds them made.
    for (recipe, built) in args.recipes.iter().zip(futures::future::join_all(builds).await) {
        match built {
            Ok(built) => ui.answer(&built, || ui.line(&built.digest.to_string()))?,
            Err(error) if args.recipes.len() == 1 => return Err(error),
            Err(error) => {
                ui.error(&error);
                failed = Some(CliError::new(Kind::Failed, format!("{recipe} was not built")));
            }
        }
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}
