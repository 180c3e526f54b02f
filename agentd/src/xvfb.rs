//! `agentd xvfb`: the second way to a desktop, run as unit `display` by the session's user: Xvfb, and `X0tigervnc` that
//! shows it to viewers.
//!
//! The unit's main process becomes Xvfb, so that its end is the display's as with Xtigervnc. Before that it starts this
//! program once more, as its child: that starts X0tigervnc, tells the display's number on stdout when a viewer could
//! connect, and stays connected: X0tigervnc makes a shared picture of the screen for the first of its viewers and keeps it
//! in Xvfb's memory when the last one has left, one more each time (measured with 1.12). Neither is of use alone: when
//! X0tigervnc ends, its parent ends Xvfb; without Xvfb, X0tigervnc ends by itself.

use std::ffi::OsString;
use std::io::{self, BufRead as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, anyhow, bail};
use clap::Parser as _;
use helix_protocol::session::Geometry;
use rustix::event::{Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal};

use crate::supervisor::SessionPaths;

/// Between the moment when a socket's file is there and that when somebody listens on it.
const ALMOST: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// All that a viewer says before it asks for anything: version, no password, others stay (RFC 6143, 7.1 to 7.3).
const VIEWER: &[u8] = b"RFB 003.008\n\x01\x01";

/// What to start. Nothing of it is secret.
#[derive(Debug, clap::Parser)]
#[command(name = "agentd xvfb", about = "Runs Xvfb and X0tigervnc as one display (internal)")]
struct Args {
    /// Size of the screen.
    #[arg(long)]
    geometry: Geometry,
    /// The display's Xauthority file.
    #[arg(long)]
    authority: PathBuf,
    /// RFB socket that it makes.
    #[arg(long)]
    vnc_socket: PathBuf,
    /// The session has a /tmp of its own: the display needs no abstract socket, and has none.
    #[arg(long)]
    private_tmp: bool,
    /// Show the display of this process, which tells its number on our standard input.
    #[arg(long)]
    show: Option<i32>,
    /// What X0tigervnc is told besides its display.
    #[arg(last = true)]
    rfb: Vec<String>,
}

/// Arguments of the unit, after the program's own path.
pub fn arguments(paths: &SessionPaths, geometry: Geometry, rfb: Vec<String>) -> Vec<String> {
    let SessionPaths { xauthority, vnc_socket, private_tmp, .. } = paths;
    let mut arguments = vec![
        "xvfb".to_owned(),
        format!("--geometry={geometry}"),
        format!("--authority={}", xauthority.display()),
        format!("--vnc-socket={}", vnc_socket.display()),
    ];
    arguments.extend(private_tmp.then(|| "--private-tmp".to_owned()));
    arguments.push("--".to_owned());
    arguments.extend(rfb);
    arguments
}

/// Runs `agentd xvfb`; `args` are the arguments after that word. Ends only with an error.
pub fn main(args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let words: Vec<OsString> = args.collect();
    let args = Args::parse_from(std::iter::once(OsString::from("agentd xvfb")).chain(words.iter().cloned()));
    let Some(screen) = args.show else { return become_screen(&args, &words) };
    let screen = parent(screen)?;
    let ended = show(&args);
    // It may have ended already.
    let _ = pidfd_send_signal(&screen, Signal::TERM);
    ended
}

/// The process that started this one, if it is still there.
fn parent(pid: i32) -> anyhow::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).context("no process has that number")?;
    let parent = pidfd_open(pid, PidfdFlags::empty()).context("Xvfb has ended")?;
    // Now its number cannot be somebody else's without this being seen.
    if getppid() == Some(pid) { Ok(parent) } else { bail!("Xvfb has ended") }
}

fn become_screen(args: &Args, words: &[OsString]) -> anyhow::Result<()> {
    let (number, tells) = io::pipe().context("no pipe")?;
    let own = std::env::current_exe().context("cannot tell where agentd's own program is")?;
    let shown = format!("--show={}", getpid().as_raw_nonzero());
    let show = Command::new(own).args(["xvfb", &shown]).args(words).stdin(number).spawn();
    show.context("cannot start what shows the display")?;
    let Geometry { width, height } = args.geometry;
    let mut command = Command::new("Xvfb");
    command.args(["-displayfd", "1", "-screen", "0", &format!("{width}x{height}x24"), "-dpi", "96", "-auth"]);
    command.arg(&args.authority).args(["-nolisten", "tcp", "-noreset", "-extension", "GLX"]);
    if args.private_tmp {
        command.args(["-nolisten", "local"]);
    }
    // Only where it cannot be started.
    Err(missing("Xvfb", "xvfb", command.stdin(Stdio::null()).stdout(tells).exec()))
}

/// Shows the display until that is over, and says why.
fn show(args: &Args) -> anyhow::Result<()> {
    let mut number = String::new();
    if io::stdin().lock().read_line(&mut number)? == 0 {
        bail!("Xvfb ended before it told its number");
    }
    let number = number.trim();
    // Directly: `x0tigervncserver` is a script around it that knows no socket.
    let mut command = Command::new("X0tigervnc");
    command.args(["-display", &format!(":{number}")]).args(&args.rfb).env("XAUTHORITY", &args.authority);
    // Our own standard output is for the number.
    let mut view = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let view = view.as_mut().map_err(|error| {
        let error = io::Error::new(error.kind(), error.to_string());
        missing("X0tigervnc", "tigervnc-scraping-server", error)
    })?;
    let mut viewer = loop {
        if let Some(viewer) = listens(&args.vnc_socket)? {
            break viewer;
        }
        if let Some(status) = view.try_wait()? {
            bail!("X0tigervnc ended ({status})");
        }
        // Event-driven it could only be known that the file is there, which is a little too early.
        poll(&mut [], Some(&ALMOST))?;
    };
    viewer.write_all(VIEWER).context("cannot look at the display")?;
    let mut out = io::stdout();
    writeln!(out, "{number}").and_then(|()| out.flush()).context("cannot say that the display is there")?;
    // Bells and clipboards, until it ends; its status says why.
    let _ = io::copy(&mut viewer, &mut io::sink());
    Err(anyhow!("X0tigervnc ended ({})", view.wait()?))
}

/// A connection, once a viewer can have one.
fn listens(socket: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}

fn missing(name: &str, package: &str, error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::NotFound {
        return anyhow!("{name} is not installed; install package {package}");
    }
    anyhow!(error).context(format!("cannot start {name}"))
}
