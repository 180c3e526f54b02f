//! One file per noun: its arguments and what it does.

pub mod audit;
pub mod backup;
pub mod build;
pub mod build_all;
pub mod completions;
pub mod doctor;
pub mod down;
pub mod image;
pub mod key;
pub mod logs;
pub mod machines;
pub mod manual;
pub mod pool;
pub mod provision;
pub mod reap;
pub mod recording;
pub mod run;
pub mod runner;
pub mod secret;
pub mod session;
pub mod spec_task;
pub mod status;
pub mod test_agents;
pub mod thread;
pub mod token;
pub mod up;
pub mod version;

use std::process::ExitCode;

use self::build_all::Part;
use crate::args::{Cli, Command, GlobalArgs};
use crate::client::Client;
use crate::error::Result;
use crate::settings::{self, process_env};
use crate::ui::Ui;

/// Runs one command. An `Ok` code other than 0 is an answer ("degraded"), not an error.
pub async fn dispatch(cli: Cli, ui: &Ui) -> Result<ExitCode> {
    let global = cli.global;
    match cli.command {
        Command::Up(args) => up::run(&global, &args, ui).await,
        Command::Down => down::run(&global, ui).await,
        Command::Doctor(args) => Box::pin(doctor::run(&args, || client(&global), ui)).await,
        Command::Status(args) => status::run(&client(&global)?, &args, ui).await,
        Command::StartAgents(args) => Box::pin(pool::agents::start(&client(&global)?, args, &process_env, ui)).await,
        Command::StopAgents(args) => Box::pin(pool::agents::stop(&client(&global)?, &args, ui)).await,
        Command::Scale(args) => Box::pin(pool::agents::scale(&client(&global)?, &args, ui)).await,
        Command::Apply(args) => pool::apply::run(&client(&global)?, &args.into(), ui).await,
        Command::Pool(command) => pool::run(&client(&global)?, command, ui).await,
        Command::Session(command) => Box::pin(session::run(&client(&global)?, command, ui)).await,
        Command::Runner(command) => Box::pin(runner::run(&global, command, ui)).await,
        Command::Token(command) => token::run(&client(&global)?, command, ui).await,
        Command::Run(args) => Box::pin(run::run(&client(&global)?, *args, ui)).await,
        Command::Thread(command) => thread::run(&client(&global)?, command, ui).await,
        Command::Secret(command) => secret::run(|| client(&global), command, ui).await,
        Command::SpecTask(command) => spec_task::run(&client(&global)?, command, ui).await,
        Command::Recording(command) => Box::pin(recording::run(&client(&global)?, command, ui)).await,
        Command::Provision(args) => Box::pin(provision::run(client(&global)?, *args, ui)).await,
        Command::Build(command) => Box::pin(build::run(command, ui)).await,
        Command::BuildAll(args) => Box::pin(build_all::run(args, Part::All, ui)).await,
        Command::BuildZed(args) => Box::pin(build_all::run(args, Part::Zed, ui)).await,
        Command::BuildAgents(args) => Box::pin(build_all::run(args, Part::Agents, ui)).await,
        Command::TestAgents(args) => Box::pin(test_agents::run(&global, &args, ui)).await,
        Command::Logs(args) => logs::logs(&global, &args, ui).await,
        Command::Clean(args) => logs::clean(&args, ui).await,
        Command::Image(command) => Box::pin(image::run(command, || client(&global), ui)).await,
        Command::ImageWorker => Ok(crate::images::worker::main()),
        Command::Key(command) => key::run(command, ui),
        Command::Backup(args) => backup::backup(&global, &args),
        Command::Restore(args) => backup::restore(&global, &args),
        Command::Reap(args) => reap::run(&client(&global)?, &args, ui).await,
        Command::Audit(args) => audit::run(&client(&global)?, &args, ui).await,
        Command::Completions(args) => completions::run(&args, ui),
        Command::Manual(args) => manual::run(&args, ui),
        Command::Version => version::run(ui),
    }
}

fn client(global: &GlobalArgs) -> Result<Client> {
    Client::new(settings::connection(global, &process_env)?)
}
