//! Guests: User-mode Linux, a kernel of its own as a process. Ten seconds to boot, a hundred megabytes; cgroup version 2
//! with cpu, io, memory and pids, on any machine, without KVM.
//!
//! The disk is the shared image under a file of differences. A guest is slow: a fork costs 40 ms, a login 2 s.
//! There is one processor, no cpuset controller, and no pressure information.

use std::process::Command;

use anyhow::Result;
use tokio::process::Child;

use super::host::{Seat, spawn_in};
use super::lab::{self, BRIDGE, PREFIX, SERVER};

/// The link on the bridge.
pub fn link(name: &str) -> String {
    format!("tap-{name}")
}

/// Makes the link, once per host.
pub fn furnish(seat: &Seat) -> Result<()> {
    let link = link(&seat.name);
    lab::ip(&format!("tuntap add dev {link} mode tap\nlink set {link} master {BRIDGE} up"))
}

/// Starts the kernel.
pub fn spawn(seat: &Seat) -> Result<Child> {
    let name = &seat.name;
    let dir = seat.dir.display();
    let mut command = Command::new("linux.uml");
    command.args([
        format!("mem={}M", seat.memory),
        format!("umid={name}"),
        format!("uml_dir={dir}/"),
        format!("ubd0={dir}/differences,{}", seat.root.disk().display()),
        "root=/dev/ubda".to_owned(),
        "rw".to_owned(),
        "quiet".to_owned(),
        format!("vec0:transport=tap,ifname={},depth=128,gro=1", link(name)),
        // All that the guest sees of the outer file system.
        format!("hostfs={}", seat.inbox().display()),
        // No terminals: the console goes to the log.
        "con=null".to_owned(),
        "ssl=null".to_owned(),
        "con0=null,fd:1".to_owned(),
        "systemd.unified_cgroup_hierarchy=1".to_owned(),
        "cgroup_no_v1=all".to_owned(),
        "systemd.show_status=0".to_owned(),
        // What the kernel does not know it hands to process 1.
        format!("LAB_NAME={name}"),
        format!("LAB_ADDRESS={}/{PREFIX}", seat.address),
        format!("LAB_GATEWAY={SERVER}"),
    ]);
    command.args(Some(seat.kernel).filter(|word| !word.is_empty()));
    // Its memory is a file here: of a disk, every write of the guest would be a write to the disk.
    command.env("TMPDIR", lab::dir());
    spawn_in(seat, &command)
}
