//! The clap tree: global flags and one variant per command. Each command's own flags are in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::audit::AuditArgs;
use crate::commands::backup::{BackupArgs, RestoreArgs};
use crate::commands::build::BuildCommand;
use crate::commands::build_all::BuildAllArgs;
use crate::commands::completions::CompletionsArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::image::ImageCommand;
use crate::commands::key::KeyCommand;
use crate::commands::logs::{CleanArgs, LogsArgs};
use crate::commands::manual::ManualArgs;
use crate::commands::pool::PoolCommand;
use crate::commands::pool::agents::{ScaleArgs, StartArgs, StopArgs};
use crate::commands::pool::apply::ApplyArgs;
use crate::commands::provision::ProvisionArgs;
use crate::commands::reap::ReapArgs;
use crate::commands::recording::RecordingCommand;
use crate::commands::run::RunArgs;
use crate::commands::runner::RunnerCommand;
use crate::commands::secret::SecretCommand;
use crate::commands::session::SessionCommand;
use crate::commands::spec_task::SpecTaskCommand;
use crate::commands::status::StatusArgs;
use crate::commands::test_agents::TestAgentsArgs;
use crate::commands::thread::ThreadCommand;
use crate::commands::token::TokenCommand;
use crate::commands::up::UpArgs;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line or a settings file is wrong
  3  the server, or what it needs, cannot be reached
  4  refused: the token is missing, not valid, or does not allow it
  5  timed out

Server and token are taken from the first of:
  1. --url, --token-file, --state-dir
  2. HELIX_URL, HELIX_TOKEN
  3. ~/.config/helix/config.toml with the keys url and token_file
  4. what `helixctl up` left in its state directory (HELIX_STATE_DIR, ~/.local/state/helix)
A token that was found beside a URL is never sent to another one.";

/// Run agent desktops on one machine or a fleet
#[derive(Debug, Parser)]
#[command(name = "helixctl", version, after_help = EXIT_CODES, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// True in the background process of `up --detach`.
    pub fn is_detached_child(&self) -> bool {
        matches!(&self.command, Command::Up(args) if args.detached_child)
    }
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    /// Server to talk to [env: HELIX_URL]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub url: Option<String>,
    /// File with the bearer token; without it the token is taken from HELIX_TOKEN
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub token_file: Option<PathBuf>,
    /// Directory of a one-machine Helix [env: HELIX_STATE_DIR] [default: ~/.local/state/helix]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub state_dir: Option<PathBuf>,
    /// Print one compact JSON object
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Say nothing but data, warnings and errors
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start bus, server and runner on this machine, and keep them running
    Up(UpArgs),
    /// End what `up` started: sessions, runner, server, bus
    Down,
    /// Show server, NATS, runners, pools and sessions; exit code 0 when healthy, 1 when not, 3 when there is no server
    Status(StatusArgs),
    /// Look whether a machine is fit for desktops and Zed, this one or others over SSH; exit code 0 when it is, 1 when not
    Doctor(DoctorArgs),
    /// Make runners of machines that you can log in to over SSH; run again, it changes only what differs
    Provision(Box<ProvisionArgs>),
    /// Make the key that signs what `provision` installs, or the server key
    #[command(subcommand)]
    Key(KeyCommand),
    /// Copy all that NATS keeps of the fleet into one file
    Backup(BackupArgs),
    /// Put a backup back into NATS; servers answer 503 meanwhile, sessions run on
    Restore(RestoreArgs),
    /// Make a pool have so many agents ready, and keep them so; the pool is made where there is none
    StartAgents(StartArgs),
    /// End the agents of a pool that are nobody's, and make no more
    StopAgents(StopArgs),
    /// Change how many agents of a pool are kept ready
    Scale(ScaleArgs),
    /// Make pools be what a file says: shows what would change, and does it with --yes
    Apply(ApplyArgs),
    /// Look at pools of agents that are kept ready, change them, and remove them
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Create, watch and end sessions
    #[command(subcommand)]
    Session(SessionCommand),
    /// Create a session, give it a prompt, show the answer and end it, in one line
    Run(Box<RunArgs>),
    /// Look at the conversations of a session, and steer them
    #[command(subcommand)]
    Thread(ThreadCommand),
    /// Store values that sessions get by name, such as model keys
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Create pieces of work that have one desktop and many threads, look at them, and end them
    #[command(subcommand)]
    SpecTask(SpecTaskCommand),
    /// Attach machines that run sessions, look at them, steer them, and remove them
    #[command(subcommand)]
    Runner(RunnerCommand),
    /// Make, list and revoke tokens: those that enrol runners, and those of people
    #[command(subcommand)]
    Token(TokenCommand),
    /// Look at recordings of desktops, prove them, and make films of them
    #[command(subcommand)]
    Recording(RecordingCommand),
    /// Images of agent desktops: build them from recipes, look at them, bring them to the server and roll back
    #[command(subcommand)]
    Image(ImageCommand),
    /// Build the Zed fork, or take a binary of it; build Helix's own programs and packages
    #[command(subcommand)]
    Build(BuildCommand),
    /// Build everything that the configuration names: programs and images
    BuildAll(BuildAllArgs),
    /// Build the Zed fork alone, as the configuration says
    BuildZed(BuildAllArgs),
    /// Build the images alone
    BuildAgents(BuildAllArgs),
    /// Start a session of each kind, see that it works, and end it
    TestAgents(TestAgentsArgs),
    /// Show what builds and the services of `up` said
    Logs(LogsArgs),
    /// Remove what builds keep
    Clean(CleanArgs),
    /// Do one job of a build, told on standard input
    #[command(hide = true)]
    ImageWorker,
    /// Remove what belongs to nothing any more, and show what else is in NATS
    Reap(ReapArgs),
    /// Show who did what, and who was refused
    Audit(AuditArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual, a page for each command
    #[command(hide = true)]
    Manual(ManualArgs),
    /// Print the version
    Version,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_whole_help_is_as_people_saw_it() {
        let mut text = String::new();
        let mut root = Cli::command().term_width(100);
        root.build();
        collect(&mut root, &mut text);
        // Clap indents empty lines, too.
        let text: Vec<_> = text.lines().map(str::trim_end).collect();
        insta::assert_snapshot!("help", text.join("\n"));
    }

    fn collect(command: &mut clap::Command, text: &mut String) {
        let name = command.get_bin_name().unwrap_or("helixctl").to_owned();
        let help = command.clone().term_width(100).render_long_help();
        writeln!(text, "$ {name} --help\n{help}").expect("a String takes everything");
        for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set()) {
            collect(sub, text);
        }
    }
}
