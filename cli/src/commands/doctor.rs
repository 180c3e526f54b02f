//! `helixctl doctor`: is a machine fit for sessions, and would Zed be seen on their desktops?
//!
//! Of other machines ([`hosts`]) a script tells, over SSH, and the server what it knows of their runners ([`diagnosis`]).
//! Of this one more can be seen: no server is asked. [`machine`] looks for the programs of a session, [`agents`] for those of kinds, [`zed`] into the editor's binary, [`vulkan`] at
//! the driver that it draws with, and [`window`] starts the display stack of a session ([`stack`]) with a window of
//! Zed's own toolkit and reads its pixels ([`pixels`]): what no other check can tell. Each look is bounded
//! ([`PATIENCE`]); a signal ends it, and nothing is left behind.

mod agents;
mod diagnosis;
pub(crate) mod elf;
mod hosts;
mod machine;
mod pixels;
mod stack;
mod vulkan;
mod window;
pub(crate) mod zed;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use helix_mesa::{Driver, Places};

use super::machines::{MachineArgs, SshArgs};
use crate::checks::{Check, Report};
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::settings::process_env;
use crate::ui::Ui;
use crate::up::supervise::Signals;

/// For each check.
const PATIENCE: Duration = Duration::from_secs(20);

const AFTER: &str = "\
Without a machine it looks at this one, and at a window of Zed's toolkit. With some it looks at them over SSH, as root,
changes nothing, and asks the server about their runners. The exit code is the worst machine's: 0 when nothing failed, 1
when something did, 3 not reached, 4 its key or our login was refused, 5 too slow. More: docs/fleet.md";

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub struct DoctorArgs {
    #[command(flatten)]
    machines: MachineArgs,
    #[command(flatten)]
    ssh: SshArgs,
    /// The Zed editor's program [env: ZED_BINARY] [default: zed_binary of /etc/helix/agentd.toml, else zed in PATH]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["hosts", "inventory"])]
    pub zed: Option<PathBuf>,
    /// Manifest of the Vulkan driver [env: HELIX_VULKAN_ICD] [default: the one that the runner takes]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hosts", "inventory"])]
    pub vulkan_icd: Option<PathBuf>,
    /// X server to look at the window on; sessions have tigervnc
    #[arg(long, value_enum, default_value_t = Display::Tigervnc, conflicts_with_all = ["hosts", "inventory"])]
    pub display: Display,
}

/// An X server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Display {
    /// Xtigervnc, as in sessions
    Tigervnc,
    /// Xvfb
    Xvfb,
}

impl Display {
    /// The program.
    fn program(self) -> &'static str {
        match self {
            Self::Tigervnc => "Xtigervnc",
            Self::Xvfb => "Xvfb",
        }
    }
}

/// Looks at everything; exit code 1 when a check failed.
pub async fn run(args: &DoctorArgs, client: impl FnOnce() -> Result<Client>, ui: &Ui) -> Result<ExitCode> {
    let machines = args.machines.machines()?;
    if !machines.is_empty() {
        return hosts::run(args.ssh.ssh(ui), machines, client(), ui).await;
    }
    let mut signals = Signals::catch()?;
    let progress = ui.progress();
    let mut report = Report::default();
    progress.now("looking at programs and libraries");
    let looked = tokio::select! {
        looked = look(args, &mut report) => looked,
        signal = signals.next() => return Err(interrupted(signal)),
    };
    progress.now("looking at a window");
    report.add(window::check(args.display, &looked, &mut signals).await?);
    drop(progress);
    ui.answer(&report.told(), || report.show(ui))?;
    Ok(if report.healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the look at the window needs to know from the others.
struct Looked {
    zed: bool,
    vulkan: Option<Driver>,
}

/// Everything that needs no display.
async fn look(args: &DoctorArgs, report: &mut Report) -> Looked {
    report.add(machine::desktop());
    report.add(machine::git().await);
    report.add(machine::rdp());
    report.add(machine::nats().await);
    report.add(agents::check());
    let settings = machine::runner_settings();
    let places = Places::new(&process_env, machine::sees_homes(settings.as_ref()));
    let settings = settings.unwrap_or_default();
    let setting = |name: &str| settings.get(name).and_then(toml::Value::as_str).map(PathBuf::from);
    let zed =
        args.zed.clone().or_else(|| process_env("ZED_BINARY").map(PathBuf::from)).or_else(|| setting("zed_binary"));
    let zed = zed::check(zed, report).await;
    let icd = args.vulkan_icd.clone().or_else(|| process_env("HELIX_VULKAN_ICD").map(PathBuf::from));
    let vulkan = vulkan::check(icd.or_else(|| setting("vulkan_icd")), &places, zed, report);
    Looked { zed, vulkan }
}

/// A check of what only Zed needs: without the editor its absence is nothing wrong.
fn for_zed(zed: bool, name: &'static str, found: impl Into<String>) -> Check {
    if zed { Check::fail(name, found) } else { Check::warn(name, found) }
}

fn interrupted(signal: &str) -> CliError {
    CliError::failed("the look at this machine was interrupted").because(signal).next("helixctl doctor")
}
