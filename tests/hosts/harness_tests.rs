//! The harness itself: what every other suite relies on.

mod ends;

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use helix_tests::eventually::{eventually, secs};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::harness::{Boot, Case, Host, Kind, Suite, lab, start_all};

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::always("harness::containers_boot", containers_boot),
        Case::always("harness::files_go_in_and_out", files_go_in_and_out),
        Case::always("harness::partitions", partitions),
        Case::always("harness::a_container_loses_power_and_reboots", a_container_loses_power_and_reboots),
        Case::always("harness::a_guest_enforces_limits", a_guest_enforces_limits),
        Case::thorough("harness::a_guest_loses_power_and_reboots", a_guest_loses_power_and_reboots),
        Case::thorough("harness::kinds_share_a_network", kinds_share_a_network),
    ];
    cases.extend(ends::cases());
    cases
}

async fn containers_boot() -> Result<()> {
    let started = Instant::now();
    let [old, new] = start_all([Boot::container(), Boot::container().suite(Suite::Trixie)]).await?;
    ensure!(started.elapsed() < secs(30), "two containers took {:?}", started.elapsed());
    for (host, version) in [(&old, "252"), (&new, "257")] {
        let said = host.run_ok("systemctl --version").await?;
        ensure!(said.starts_with(&format!("systemd {version}")), "{}: {said}", host.name);
        ensure!(host.run_ok("systemctl is-system-running").await? == "running", "{} does not run", host.name);
        ensure!(host.run_ok("hostname").await? == host.name, "{} has another name", host.name);
        // Limits take effect: the controllers are the container's own. Version 1 tells systemd only of the signal.
        let unit = "systemd-run -q --wait -p MemoryMax=64M -p MemorySwapMax=0";
        ensure!(host.run(&format!("{unit} {HOG}")).await?.code != 0, "{}: a limit of memory has no effect", host.name);
        host.run_ok(&format!("systemd-run -q --wait -p MemoryMax=400M {HOG}")).await?;
    }
    old.stop().await?;
    new.stop().await
}

/// Uses 200 MB.
const HOG: &str = "dd if=/dev/zero of=/dev/null bs=200M count=1";

async fn files_go_in_and_out() -> Result<()> {
    let host = Boot::container().start().await?;
    files(&host).await?;
    ensure!(host.run_as("ops", "id -un").await?.ok()? == "ops", "ops cannot log in");
    ensure!(host.run_as("ops", "sudo -n id -un").await?.ok()? == "root", "ops may not use sudo");
    let refused = host.run("false").await?;
    ensure!(refused.code == 1 && refused.ok().is_err(), "a failure does not show");
    ensure!(host.key.is_file(), "there is no key to log in with");
    // The connection stays open: a command costs milliseconds, not a login.
    let started = Instant::now();
    for _ in 0..10 {
        host.run_ok("true").await?;
    }
    ensure!(started.elapsed() < secs(5), "ten commands took {:?}", started.elapsed());
    // What a test listens with, hosts reach.
    let listener = TcpListener::bind((lab::SERVER, 0)).await?;
    let port = listener.local_addr()?.port();
    let line = format!("bash -c '</dev/tcp/{}/{port}'", lab::SERVER);
    let (call, heard) = tokio::join!(host.run_ok(&line), timeout(secs(10), listener.accept()));
    call?;
    let (_, caller) = heard??;
    ensure!(caller.ip() == host.address, "somebody else called: {caller}");
    host.stop().await
}

/// A program and a text arrive as they were.
async fn files(host: &Host) -> Result<()> {
    host.put(&std::env::current_exe()?, "/opt/lab/bin/program", 0o755).await?;
    let listed = host.run_ok("stat -c '%a %s' /opt/lab/bin/program").await?;
    let size = std::fs::metadata(std::env::current_exe()?)?.len();
    ensure!(listed == format!("755 {size}"), "arrived as {listed}, sent {size} bytes");
    host.write("/etc/lab/secret", "one\ntwo\n", 0o600).await?;
    ensure!(host.get("/etc/lab/secret").await? == "one\ntwo", "a text changed on its way");
    ensure!(host.run_ok("stat -c %a /etc/lab/secret").await? == "600", "a secret is open");
    Ok(())
}

async fn partitions() -> Result<()> {
    let [one, two, three] = start_all([Boot::container(); 3]).await?;
    one.cut(&two)?;
    ensure!(!reaches(&one, &two).await? && !reaches(&two, &one).await?, "a cut pair still talks");
    ensure!(reaches(&one, &three).await? && reaches(&two, &three).await?, "a cut pair talks to nobody");
    two.mend(&one)?;
    eventually("the pair talks again", secs(5), async || talks(&one, &two).await).await?;
    three.partition()?;
    ensure!(!reaches(&one, &three).await?, "a partitioned host still talks");
    ensure!(reaches(&one, &two).await?, "others suffer from a partition");
    let ssh = (three.address, 22);
    ensure!(!matches!(timeout(secs(1), TcpStream::connect(ssh)).await, Ok(Ok(_))), "the trials reach it still");
    three.heal()?;
    eventually("the host is back", secs(5), async || talks(&one, &three).await).await?;
    three.run_ok("true").await?;
    for host in [one, two, three] {
        host.stop().await?;
    }
    Ok(())
}

async fn a_container_loses_power_and_reboots() -> Result<()> {
    loses_power_and_reboots(Boot::container().start().await?).await
}

async fn a_guest_loses_power_and_reboots() -> Result<()> {
    loses_power_and_reboots(Boot::guest().start().await?).await
}

async fn loses_power_and_reboots(mut host: Host) -> Result<()> {
    let first = host.run_ok("cat /proc/sys/kernel/random/boot_id").await?;
    host.write("/var/lib/lab/state", "kept", 0o644).await?;
    host.run_ok("sync").await?;
    host.kill().await?;
    ensure!(TcpStream::connect((host.address, 22)).await.is_err(), "somebody answers in place of a dead host");
    host.boot().await?;
    ensure!(host.get("/var/lib/lab/state").await? == "kept", "the disk did not survive a power cut");
    let second = host.run_ok("cat /proc/sys/kernel/random/boot_id").await?;
    host.run_ok("echo changed >/var/lib/lab/state").await?;
    host.reboot().await?;
    ensure!(host.get("/var/lib/lab/state").await? == "changed", "the disk did not survive a reboot");
    let third = host.run_ok("cat /proc/sys/kernel/random/boot_id").await?;
    ensure!(first != second && second != third, "the host never was away");
    host.stop().await
}

async fn a_guest_enforces_limits() -> Result<()> {
    let guest = Boot::guest().memory(640).start().await?;
    let controllers = guest.run_ok("cat /sys/fs/cgroup/cgroup.controllers").await?;
    for controller in ["cpu", "io", "memory", "pids"] {
        ensure!(controllers.split(' ').any(|word| word == controller), "no {controller} in {controllers}");
    }
    let hog = "systemd-run -q --unit=hog --wait -p MemoryMax=64M -p MemorySwapMax=0";
    ensure!(guest.run(&format!("{hog} {HOG}")).await?.code != 0, "a limit of memory has no effect");
    let result = guest.run_ok("systemctl show -p Result --value hog").await?;
    ensure!(result == "oom-kill", "the unit that used too much memory ended with {result:?}");
    guest.run_ok(&format!("systemd-run -q --wait -p MemoryMax=400M {HOG}")).await?;
    let fork = "sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait'";
    let refused = guest.run(&format!("systemd-run -q --wait --pipe -p TasksMax=5 {fork}")).await?;
    ensure!(refused.stderr.contains("fork"), "a limit of processes has no effect: {refused:?}");
    files(&guest).await?;
    guest.stop().await
}

async fn kinds_share_a_network() -> Result<()> {
    let [container, guest] = start_all([Boot::container(), Boot::guest().suite(Suite::Trixie)]).await?;
    ensure!(container.kind == Kind::Container && guest.kind == Kind::Guest, "other kinds than asked for");
    talks(&guest, &container).await?;
    guest.cut(&container)?;
    ensure!(!reaches(&container, &guest).await?, "a cut pair still talks");
    guest.mend(&container)?;
    eventually("the pair talks again", secs(10), async || talks(&container, &guest).await).await?;
    guest.partition()?;
    ensure!(!reaches(&container, &guest).await?, "a partitioned guest still talks");
    guest.heal()?;
    eventually("the guest is back", secs(10), async || talks(&guest, &container).await).await?;
    guest.stop().await?;
    container.stop().await
}

async fn reaches(from: &Host, to: &Host) -> Result<bool> {
    Ok(from.run(&format!("ping -q -c 1 -W 1 {}", to.address)).await?.code == 0)
}

async fn talks(from: &Host, to: &Host) -> Result<()> {
    if !reaches(from, to).await? {
        bail!("{} does not reach {}", from.name, to.name);
    }
    Ok(())
}
