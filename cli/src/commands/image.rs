//! `helixctl image`: images of this machine and of the server.

pub mod pull;
pub mod push;
pub mod remote;

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use crate::client::Client;
use crate::error::Result;
use crate::images::store::Store;
use crate::settings::process_env;
use crate::ui::Ui;

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
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

/// Runs one of them.
pub async fn run(client: &Client, command: ImageCommand, ui: &Ui) -> Result<ExitCode> {
    match command {
        ImageCommand::Push(args) => push::run(client, &args, ui).await?,
        ImageCommand::Pull(args) => pull::run(client, &args, ui).await?,
        ImageCommand::Remote(RemoteCommand::List) => remote::list(client, ui).await?,
        ImageCommand::Remote(RemoteCommand::Show(args)) => remote::show(client, &args, ui).await?,
        ImageCommand::Remote(RemoteCommand::Rollback(args)) => remote::roll_back(client, &args, ui).await?,
        ImageCommand::Remote(RemoteCommand::Untag(args)) => remote::untag(client, &args, ui).await?,
        ImageCommand::Remote(RemoteCommand::Gc(args)) => remote::collect(client, &args, ui).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The images of this machine.
fn store(dir: Option<&Path>) -> Result<Store> {
    match dir {
        Some(dir) => Store::open(dir),
        None => Store::open(&Store::default_dir(&process_env)?),
    }
}
