//! `agentd guest open`: finds the session's guest or starts it, and prints its identity as one JSON line.
//!
//! Safe to run twice and to be killed at any step: everything happens under `open.lock`, a guest that lives is
//! answered, and what a dead one left is ended before the next is started.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use helix_protocol::ids::hex;
use rustix::fs::Mode;

use super::GuestArgs;
use super::call::call;
use super::wire::{Answer, Request};
use crate::supervisor::process::layout::Layout;
use crate::supervisor::process::lock::Lock;
use crate::supervisor::process::sweep::{self, Mark};
use crate::supervisor::{GuestIdentity, SessionPaths};

/// A guest that lives answers at once; one that does not is hung or gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Where X servers put their sockets; shared by all displays of the machine.
const X_SOCKETS: &str = "/tmp/.X11-unix";

pub(super) fn open(args: &GuestArgs) -> anyhow::Result<()> {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let layout = Layout::new(&args.root);
    make_dir(&layout.root)?;
    let _lock = Lock::wait(&layout.open_lock()).context("cannot lock the session's directory")?;

    let identity = match living(&layout) {
        Some(identity) => identity,
        None => start(args, &layout)?,
    };
    // The reader may be gone (agentd was killed); the guest lives all the same and the next agentd asks again.
    let _ = io::stdout().write_all(&super::wire::line(&identity)?);
    Ok(())
}

fn living(layout: &Layout) -> Option<GuestIdentity> {
    match call(&layout.guest_socket(), &Request::List, ANSWER_TIMEOUT) {
        Ok(Answer::State { guest, .. }) => Some(guest),
        _ => None,
    }
}

fn start(args: &GuestArgs, layout: &Layout) -> anyhow::Result<GuestIdentity> {
    let mark = Mark::load(layout, args.mark.clone()).sparing_openers();
    sweep::end_marked(&mark).map_err(|left| anyhow!("a former life of the session cannot be ended: {left}"))?;
    sweep::remove_session_files(layout).context("cannot remove what a former life of the session left")?;
    make_dirs(&layout.session_paths(args.workspace.clone()), layout)?;

    let marker = format!("{}{}", args.mark, random_hex()?);
    write_private(&layout.slice(), &marker).context("cannot write the session's marker")?;

    let log = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(layout.guest_log())?;
    let mut guest = super::detached_command(super::own_program().as_ref())
        .arg0("agentd")
        .args(args.to_arguments("serve"))
        .env(sweep::VARIABLE, marker)
        .current_dir(&layout.root)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start agentd guest")?;
    let output = guest.stdout.take().context("the guest has no output")?;
    let mut ready = String::new();
    BufReader::new(output).read_line(&mut ready)?;
    if ready.is_empty() {
        let complaint = fs::read_to_string(layout.guest_log()).unwrap_or_default();
        let last = complaint.lines().last().unwrap_or("it wrote nothing").to_owned();
        bail!("agentd guest ended at its start: {last}");
    }
    serde_json::from_str(&ready).context("agentd guest said something else than its identity")
}

fn make_dirs(paths: &SessionPaths, layout: &Layout) -> anyhow::Result<()> {
    for dir in [&paths.home, &paths.tmp, &paths.runtime, &layout.ready_dir(), &layout.logs(), &paths.workspace] {
        make_dir(dir)?;
    }
    if !Path::new(X_SOCKETS).exists() {
        // Usually made at boot. Two sessions may race for it; what counts is that it is there.
        let made = fs::DirBuilder::new().mode(0o1777).create(X_SOCKETS);
        if made.is_ok() {
            // The umask does not apply to an explicit mode.
            fs::set_permissions(X_SOCKETS, fs::Permissions::from_mode(0o1777))?;
        } else if !Path::new(X_SOCKETS).is_dir() {
            made.with_context(|| format!("cannot make {X_SOCKETS}; make it once as root: mkdir -m 1777 {X_SOCKETS}"))?;
        }
    }
    Ok(())
}

fn make_dir(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make directory {}", path.display()))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    fs::rename(draft, path)
}

fn random_hex() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("the system gives no random bytes: {error}"))?;
    Ok(hex(&bytes))
}
