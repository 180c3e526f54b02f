//! Programs on a PTY. A controlling terminal is made by the process that will have it: the program is started through
//! `agentd tools tty`, which makes standard input its terminal and becomes the program.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use helix_protocol::tools::TerminalSize;
use rustix::process::{Signal, kill_process_group};
use rustix::termios::{Winsize, tcgetpgrp, tcsetwinsize};

use crate::bridge::terminal::{Pty, PtyOutput};
use crate::guest::own_program;

/// Exit status of a program that was not found, as shells have it.
const NOT_FOUND: u8 = 127;
/// More than a PTY holds.
const HELD_BYTES: usize = 64 * 1024;

/// A PTY, and a command that will run on it: `program`, called `called`, with `args`.
pub(super) fn command(
    size: TerminalSize,
    called: &OsStr,
    program: &OsStr,
    args: &[String],
) -> anyhow::Result<(Pty, Command)> {
    let mut pty = Pty::open(Some(winsize(size)))?;
    let [stdin, stdout, stderr] = pty.take_command_side()?;
    let mut command = Command::new(own_program());
    command.arg0("agentd").args(["tools", "tty"]).arg(called).arg(program).args(args);
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    Ok((pty, command))
}

/// `agentd tools tty CALLED PROGRAM ARGS…`. Returns only where that fails, with what a shell would end with.
pub(super) fn become_program(mut args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let (Some(called), Some(program)) = (args.next(), args.next()) else {
        anyhow::bail!("agentd tools is internal: agentd starts it");
    };
    rustix::process::setsid().context("cannot begin a session")?;
    rustix::process::ioctl_tiocsctty(io::stdin()).context("cannot take the terminal")?;
    let error = Command::new(&program).arg0(called).args(args).exec();
    // On the terminal, where whoever has started it looks.
    let _ = writeln!(io::stderr(), "{}: {error}", program.display());
    Ok(ExitCode::from(NOT_FOUND))
}

/// What is there now, at most what a PTY holds: whoever still writes there keeps nobody here.
pub(super) fn rest(output: &mut PtyOutput) -> Vec<u8> {
    let mut rest = Vec::new();
    while rest.len() < HELD_BYTES
        && let Some(bytes) = output.read_now()
    {
        rest.extend(bytes);
    }
    rest
}

/// Tells the programs on it that their window changed.
pub(super) fn resize(ours: &File, size: TerminalSize) {
    // A PTY that nobody uses any more needs no size.
    let _ = tcsetwinsize(ours, winsize(size));
}

/// To whoever has the terminal now, as keys would send it. False where nobody has.
pub(super) fn signal(ours: &File, signal: Signal) -> bool {
    tcgetpgrp(ours).and_then(|group| kill_process_group(group, signal)).is_ok()
}

fn winsize(size: TerminalSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}
