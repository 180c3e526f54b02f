//! The network of one run: a namespace of its own, in which the trials live, with a bridge that all hosts are on.
//!
//! Tests reach hosts as any program does, and hosts reach what a test listens with at [`SERVER`]. There is no way out:
//! neither to the machine's other networks nor to other runs, so that every run has the same addresses.
//! A partition sets the host's link down; a pair is cut by a filter on the bridge.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, Result, bail, ensure};

use super::cgroup::Cgroup;
use super::janitor::LAB;

/// The address of the machine that the tests run on, as hosts see it.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Of all addresses.
pub const PREFIX: u8 = 16;
/// What hosts are plugged into.
pub const BRIDGE: &str = "lab0";
/// Where X servers have their sockets.
const X_SOCKETS: &str = "/tmp/.X11-unix";
const NEEDED: [&str; 10] =
    ["setpriv", "unshare", "mount", "ip", "nft", "ssh", "mmdebstrap", "mke2fs", "systemd-nspawn", "linux.uml"];

/// Files of this run, in memory: they go with the namespace.
pub fn dir() -> PathBuf {
    PathBuf::from("/run/lab")
}

/// The cgroup of this run.
pub fn cgroup() -> Result<Cgroup> {
    Ok(Cgroup::of_lab(&std::env::var(LAB).context("not in a lab: hosts live in the `hosts` test alone")?))
}

/// A number that no other host of this run has, and the address that goes with it.
pub fn next_seat() -> Result<(u16, Ipv4Addr)> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = [u8::try_from(number / 250 + 1)?, u8::try_from(number % 250 + 1)?];
    Ok((number + 1, Ipv4Addr::new(10, 77, high, low)))
}

/// True for a program that is in PATH.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Fails with what to do about it.
pub fn check_prerequisites() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "booting hosts needs root (namespaces, cgroups, mounts): sudo -E env PATH=\"$PATH\" make test-hosts"
    );
    let missing: Vec<_> = NEEDED.into_iter().filter(|name| !has(name)).collect();
    ensure!(missing.is_empty(), "not in PATH: {}. Run: packaging/setup.sh test-hosts", missing.join(", "));
    Ok(())
}

/// Makes files, cgroup, bridge and filter, in the namespaces of this run.
pub fn lay(lab: &str) -> Result<()> {
    // Private, for three reasons: nspawn's and ssh's files vanish with it, what runs here cannot talk to the machine's
    // services by accident, and User-mode Linux wants its memory in a file of a tmpfs from which code may run.
    // The machine's named network namespaces go first: they would live as long as our copies of their mounts.
    let _ = succeed(Command::new("umount").args(["--lazy", "--recursive", "/run/netns"]), "");
    succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755,size=75%", "lab", "/run"]), "")?;
    // X servers share their sockets' names by the network, and their sockets by this directory: one that is private and one
    // that is not would give a display of ours the number of another one of the machine.
    std::fs::create_dir_all(X_SOCKETS)?;
    succeed(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=1777,size=1M", "lab-x", X_SOCKETS]), "")?;
    for part in ["hosts", "ssh"] {
        std::fs::create_dir_all(dir().join(part))?;
    }
    Cgroup::of_lab(lab).make()?;
    ip(&format!(
        "link set lo up
         link add {BRIDGE} type bridge stp_state 0 forward_delay 0
         address add {SERVER}/{PREFIX} dev {BRIDGE}
         link set {BRIDGE} up"
    ))?;
    nft("add table bridge lab")
}

/// Runs commands of `ip`, one per line.
pub fn ip(batch: &str) -> Result<()> {
    succeed(Command::new("ip").args(["-batch", "-"]), batch)
}

/// Lets no frame pass between two links.
pub fn cut(one: &str, other: &str) -> Result<()> {
    let chain = chain(one, other);
    nft(&format!(
        "add chain bridge lab {chain} {{ type filter hook forward priority 0; policy accept; }}
         add rule bridge lab {chain} iifname \"{one}\" oifname \"{other}\" drop
         add rule bridge lab {chain} iifname \"{other}\" oifname \"{one}\" drop"
    ))
}

/// Undoes [`cut`].
pub fn mend(one: &str, other: &str) -> Result<()> {
    let chain = chain(one, other);
    nft(&format!("flush chain bridge lab {chain}\ndelete chain bridge lab {chain}"))
}

/// Lets nothing pass between an address and a port of ours.
pub fn cut_port(address: Ipv4Addr, port: u16) -> Result<()> {
    let chain = format!("p{}_{port}", address.to_string().replace('.', "_"));
    nft(&format!(
        "add table inet lab
         add chain inet lab {chain}_in {{ type filter hook input priority 0; policy accept; }}
         add chain inet lab {chain}_out {{ type filter hook output priority 0; policy accept; }}
         add rule inet lab {chain}_in ip saddr {address} tcp dport {port} drop
         add rule inet lab {chain}_out ip daddr {address} tcp sport {port} drop"
    ))
}

/// Undoes [`cut_port`].
pub fn mend_port(address: Ipv4Addr, port: u16) -> Result<()> {
    let chain = format!("p{}_{port}", address.to_string().replace('.', "_"));
    nft(&format!(
        "flush chain inet lab {chain}_in\ndelete chain inet lab {chain}_in\nflush chain inet lab {chain}_out\n\
         delete chain inet lab {chain}_out"
    ))
}

/// The same name for both orders.
fn chain(one: &str, other: &str) -> String {
    let mut pair = [one.replace('-', "_"), other.replace('-', "_")];
    pair.sort();
    pair.join("__")
}

fn nft(script: &str) -> Result<()> {
    succeed(Command::new("nft").args(["-f", "-"]), script)
}

/// Runs a short command to its end.
fn succeed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{input}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
