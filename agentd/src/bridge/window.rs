//! `agentd acp-bridge window PROGRAM…`: the session's app, around the terminal in which the bridge runs.
//!
//! A terminal's exit status says nothing about what ran in it, and its last lines are gone with it. So the bridge, when
//! it gives up, leaves its reason in a file; whoever waits for the terminal tells it on standard error, which is the
//! unit's log, and ends with [`GIVEN_UP`]: starting it again would change nothing. A bridge that was killed leaves no
//! reason, and the app ends with status 1.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

/// `EX_CONFIG` of sysexits.h: a supervisor that starts it again changes nothing.
pub const GIVEN_UP: u8 = 78;
/// Names the file for the reason.
const REASON_FILE: &str = "HELIX_BRIDGE_REASON";

/// Runs the terminal and tells how the bridge in it ended.
pub fn main(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let args: Vec<_> = args.collect();
    let (program, args) = args.split_first().context("agentd acp-bridge window needs the terminal's command")?;
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let file = dir.join(format!("bridge.{}", std::process::id()));
    let _ = fs::remove_file(&file);
    // The terminal ends with us, and the bridge with the terminal: there is never a second one.
    let mut terminal = Command::new("/proc/self/exe");
    terminal.arg0("agentd").args(["acp-bridge", "exec"]).arg(program).args(args).env(REASON_FILE, &file);
    let status = terminal.status().with_context(|| format!("cannot run {}", program.display()))?;
    let reason = fs::read_to_string(&file);
    let _ = fs::remove_file(&file);
    let Ok(reason) = reason else { anyhow::bail!("the bridge in the window was ended ({status})") };
    // Nobody reads it if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{}", reason.trim_end());
    Ok(ExitCode::from(GIVEN_UP))
}

/// Leaves the reason for whoever waits for the terminal, or says it.
pub fn give_up(reason: &str) -> ExitCode {
    let left = std::env::var_os(REASON_FILE).is_some_and(|file| fs::write(file, reason).is_ok());
    if !left {
        let _ = writeln!(std::io::stderr(), "{reason}");
    }
    ExitCode::from(GIVEN_UP)
}
