//! `helixctl image`: the images of this machine, and those of the server.

mod build;
mod diff;
mod export;
mod gc;
mod lint;
mod list;
mod new;
pub mod pull;
pub mod push;
pub mod remote;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use helix_protocol::image::{Digest, ImageManifest, ImageRef};

pub use self::build::{BuildArgs, Builder, HowArgs};
use crate::client::Client;
use crate::error::Result;
use crate::images::cache::Cache;
use crate::images::store::Store;
use crate::settings::process_env;
use crate::ui::Ui;

/// Images of agent desktops: build them from recipes, look at them, bring them to the server and roll back
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image; what did not change is not built again
    Build(BuildArgs),
    /// Write a recipe to begin with, images/NAME.toml
    New(new::NewArgs),
    /// Check recipes, or an image that was built, without building anything
    Lint(lint::LintArgs),
    /// List the images of this machine, with what their tags named before
    List(list::ListArgs),
    /// Show what an image is and which packages it has
    Show(list::ShowArgs),
    /// Show which packages and files differ between two images
    Diff(diff::DiffArgs),
    /// Remove what no tag names: old images, their chunks, layers that nobody goes on from
    Gc(gc::GcArgs),
    /// Let a tag name again what it named before, at once
    Rollback(list::RollbackArgs),
    /// Write an image as a tar, as a directory, or as a bootable disk
    Export(export::ExportArgs),
    /// Bring an image of this machine to the server, as much of it as the server lacks, and set its tag there
    Push(push::PushArgs),
    /// Fetch an image of the server to this machine
    Pull(pull::PullArgs),
    /// Look at images of the server, roll their tags back, and remove what nobody needs
    #[command(subcommand)]
    Remote(RemoteCommand),
}

/// What to do with images of the server.
#[derive(Debug, Subcommand)]
pub enum RemoteCommand {
    /// List names and tags
    List,
    /// Show what an image is
    Show(remote::ShowArgs),
    /// Have a tag name the image that it named before; sessions keep the image that they have
    Rollback(remote::TagArgs),
    /// Remove a tag; its image stays until it is collected
    Untag(remote::TagArgs),
    /// Remove images that no tag keeps and no session uses
    Gc(remote::GcArgs),
}

/// Where images are.
#[derive(Debug, Clone, Default, Args)]
pub struct CacheArgs {
    /// Directory of images and of all that builds keep [default: ~/.cache/helix/images]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
}

impl CacheArgs {
    /// The directory.
    pub fn dir(&self) -> Result<PathBuf> {
        self.cache_dir.clone().map_or_else(|| Store::default_dir(&process_env), Ok)
    }

    /// Opened for reading images.
    pub fn store(&self) -> Result<Store> {
        Store::open(&self.dir()?)
    }

    /// Opened for building.
    pub fn cache(&self) -> Result<Arc<Cache>> {
        Ok(Arc::new(Cache::open(&self.dir()?)?))
    }
}

/// The image that a reference means, and what it is.
fn found(store: &Store, image: &ImageRef) -> Result<(Digest, ImageManifest)> {
    let digest = store.resolve(image)?;
    Ok((digest, store.manifest(&digest)?))
}

/// Runs one image command; only some need the server.
pub async fn run(command: ImageCommand, client: impl FnOnce() -> Result<Client>, ui: &Ui) -> Result<ExitCode> {
    match command {
        ImageCommand::Build(args) => build::run(args, ui).await,
        ImageCommand::New(args) => new::run(&args, ui),
        ImageCommand::Lint(args) => lint::run(&args, ui),
        ImageCommand::List(args) => list::list(&args, ui),
        ImageCommand::Show(args) => list::show(&args, ui),
        ImageCommand::Diff(args) => diff::run(&args, ui),
        ImageCommand::Gc(args) => gc::run(&args, ui).await,
        ImageCommand::Rollback(args) => list::roll_back(&args, ui),
        ImageCommand::Export(args) => export::run(&args, ui).await,
        ImageCommand::Push(args) => push::run(&client()?, &args, ui).await.map(|()| ExitCode::SUCCESS),
        ImageCommand::Pull(args) => pull::run(&client()?, &args, ui).await.map(|()| ExitCode::SUCCESS),
        ImageCommand::Remote(command) => on_server(&client()?, command, ui).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn on_server(client: &Client, command: RemoteCommand, ui: &Ui) -> Result<()> {
    match command {
        RemoteCommand::List => remote::list(client, ui).await,
        RemoteCommand::Show(args) => remote::show(client, &args, ui).await,
        RemoteCommand::Rollback(args) => remote::roll_back(client, &args, ui).await,
        RemoteCommand::Untag(args) => remote::untag(client, &args, ui).await,
        RemoteCommand::Gc(args) => remote::collect(client, &args, ui).await,
    }
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A path as people write it.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
