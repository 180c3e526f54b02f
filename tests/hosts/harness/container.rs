//! Containers: systemd-nspawn over the shared tree. A second or two to boot, a few megabytes; the machine's own kernel.
//!
//! Writes go to an overlay of the host's own, in memory, that outlives a power cut and is gone with the host. What a
//! container cannot show: limits of cgroup version 2 where the machine has version 1 (there a unit that runs out of
//! memory ends with the result `signal`), `IPAddressDeny=`, and anything for which the machine lacks the capability.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Pid;
use tokio::process::Child;

use super::cgroup;
use super::host::{Seat, spawn_in};
use super::lab::{BRIDGE, PREFIX, SERVER};

/// The link on the bridge; nspawn makes it under this name.
pub fn link(name: &str) -> String {
    format!("vb-{name}")
}

/// Lays the host's file system over the shared tree, once per host.
pub fn furnish(seat: &Seat) -> Result<()> {
    let dir = &seat.dir;
    for part in ["upper", "work", "root"] {
        fs::create_dir_all(dir.join(part))?;
    }
    // Version 1 does not tell a container's systemd that a cgroup is empty: a user's manager, which is gone at once, is
    // waited for as long as it may take, which is two minutes.
    let managers = dir.join("upper/etc/systemd/system/user@.service.d");
    fs::create_dir_all(&managers)?;
    fs::write(managers.join("lab.conf"), "[Service]\nTimeoutStopSec=1s\n")?;
    let [lower, upper, work] = [seat.root.tree(), dir.join("upper"), dir.join("work")];
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let status = Command::new("mount")
        .args(["-t", "overlay", "-o", &options, "overlay"])
        .arg(dir.join("root"))
        .status()
        .context("cannot start mount")?;
    anyhow::ensure!(status.success(), "no overlay over {}", lower.display());
    Ok(())
}

/// Undoes [`furnish`].
pub fn clear(seat: &Seat) {
    let _ = Command::new("umount").arg("--lazy").arg(seat.dir.join("root")).status();
}

/// Starts nspawn.
pub fn spawn(seat: &Seat) -> Result<Child> {
    let name = &seat.name;
    let variable = |key: &str, value: &str| format!("--setenv={key}={value}");
    let mut args = vec![
        "--quiet".to_owned(),
        // Of nobody's service manager: the cgroup is ours, and the machine's may not run systemd at all.
        "--register=no".to_owned(),
        "--keep-unit".to_owned(),
        format!("--directory={}", seat.dir.join("root").display()),
        format!("--machine={name}"),
        format!("--bind-ro={}:/srv/inbox", seat.inbox().display()),
        format!("--network-bridge={BRIDGE}"),
        "--capability=all".to_owned(),
        // As on any machine: nspawn forbids keyrings otherwise, and an attack on them would prove nothing.
        "--system-call-filter=@keyring".to_owned(),
        "--kill-signal=SIGRTMIN+3".to_owned(),
        "--link-journal=no".to_owned(),
        "--resolv-conf=off".to_owned(),
        "--timezone=off".to_owned(),
        variable("LAB_NAME", name),
        variable("LAB_ADDRESS", &format!("{}/{PREFIX}", seat.address)),
        variable("LAB_GATEWAY", &SERVER.to_string()),
    ];
    let unified = cgroup::unified();
    if !unified {
        // From systemd 256 on, version 1 is refused unless it is asked for twice.
        let line = "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1";
        args.push(variable("SYSTEMD_PROC_CMDLINE", line));
    }
    args.push("/usr/local/sbin/lab-init".to_owned());
    let mut command = Command::new("unshare");
    // nspawn makes directories in /tmp, and leaves them when it is killed: it gets a /tmp of its own.
    command.args(["--mount", "sh", "-c", "mount -t tmpfs nspawn /tmp && exec \"$@\"", "sh", "systemd-nspawn"]);
    command.args(args);
    command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", if unified { "1" } else { "0" });
    // Each has a tree of its own; the lock would be a file beside it.
    command.env("SYSTEMD_NSPAWN_LOCK", "0");
    spawn_in(seat, &command)
}

/// True for what runs inside. nspawn itself, which shares the cgroup, has to live on to clean up: killed first, it
/// would leave the container's process 1 an orphan.
pub fn inside(pid: Pid) -> bool {
    let namespace = |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns/pid"));
    match (namespace(&pid.as_raw_nonzero().to_string()), namespace("self")) {
        (Ok(its), Ok(ours)) => its != ours,
        _ => false,
    }
}
