//! Debian's packages on hosts with systemd: installed, joined, replaced under a running session, removed, purged. And what
//! their programs, which are linked statically, find by name on another system than the one that they were built on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use helix_tests::packages::{self, Packages};
use helix_tests::repository;
use tokio::sync::Mutex;

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case, Host, Suite, lab};
use crate::service::uninstall::everything;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("packages::from_the_first_to_the_purge", from_the_first_to_the_purge),
        Case::always("packages::from_the_first_to_the_purge_on_trixie", from_the_first_to_the_purge_on_trixie),
        Case::always("packages::static_programs_find_names", static_programs_find_names),
    ]
}

/// The packages of a version, made once per run.
pub async fn of_version(version: &str) -> Result<Packages> {
    static MADE: Mutex<()> = Mutex::const_new(());
    let dir = lab::dir().join("packages").join(version);
    // What is there already is found to be unchanged.
    let _one_at_a_time = MADE.lock().await;
    packages::packages(&dir, version).await
}

/// The image has no documents; whatever is installed from here on has its own.
pub async fn with_documents(host: &Host) -> Result<()> {
    host.run_ok("sed -i /path-exclude/d /etc/dpkg/dpkg.cfg.d/*").await.map(|_| ())
}

async fn install(host: &Host, packages: &Packages, names: &[&str]) -> Result<String> {
    let debs: Vec<PathBuf> = names.iter().map(|name| packages.deb(name)).collect::<Result<_>>()?;
    let there: Vec<_> = names.iter().map(|name| format!("/tmp/{name}.deb")).collect();
    let files: Vec<_> = debs.iter().zip(&there).map(|(deb, path)| (deb.as_path(), path.as_str(), 0o644)).collect();
    host.install(&files).await?;
    let there = there.join(" ");
    host.run_ok(&format!("dpkg -i {there} 2>&1 && rm {there}")).await
}

/// What tells one run of a unit from another.
async fn invocation(host: &Host, unit: &str) -> Result<String> {
    let id = host.run_ok(&format!("systemctl show --value -p InvocationID '{unit}'")).await?;
    ensure!(!id.is_empty(), "{unit} does not run");
    Ok(id)
}

async fn from_the_first_to_the_purge() -> Result<()> {
    life_of_packages(Boot::container()).await
}

async fn from_the_first_to_the_purge_on_trixie() -> Result<()> {
    life_of_packages(Boot::container().suite(Suite::Trixie)).await
}

async fn life_of_packages(boot: Boot) -> Result<()> {
    let (first, second) = (of_version("0.1.0").await?, of_version("0.1.1").await?);
    let (fleet, host) = tokio::try_join!(Fleet::start(), boot.start())?;
    with_documents(&host).await?;
    let before = everything(&host).await?;

    // Installed, nothing runs, and people are told what is next.
    let said = install(&host, &first, &["helixctl", "helix-agentd", "helix-server"]).await?;
    for next in ["systemctl enable --now agentd", "systemctl enable --now helix-server"] {
        ensure!(said.contains(next), "{next} is not said:\n{said}");
    }
    let states =
        "systemctl is-enabled agentd helix-server; systemctl is-active agentd helix-server; systemctl --failed -q";
    let states = host.run(states).await?.stdout;
    ensure!(states.split_whitespace().eq(["disabled", "disabled", "inactive", "inactive"]), "{states}");
    let owners = "stat -c '%a %U' /etc/helix /etc/helix/server.toml /var/lib/helix /run/helix; \
                  getent passwd helix-u32 helix-keep helix-recorder helix-server | wc -l; helixctl version";
    let owners = host.run_ok(owners).await?;
    ensure!(owners == "755 root\n644 root\n711 root\n700 root\n4\nhelixctl 0.1.0", "{owners}");

    // Settings make it a runner, and a session runs.
    fleet.configure(&host, &RunnerSettings::default()).await?;
    host.run_ok("systemctl enable -q --now agentd").await?;
    fleet.online("r1").await?;
    fleet.command("lives", "while :; do date >>ticks; sleep 0.2; done", &host).await?;
    let display = "helix-s*-display.service";
    let (agentd, screen) = (invocation(&host, "agentd").await?, invocation(&host, display).await?);

    // Another version: another agentd, the same session.
    let said = install(&host, &second, &["helix-agentd"]).await?;
    ensure!(!said.contains("nothing was started"), "it forgot that agentd runs:\n{said}");
    let version = host.run_ok("dpkg-query -W -f '${Version}' helix-agentd").await?;
    ensure!(version == "0.1.1" && invocation(&host, "agentd").await? != agentd, "agentd is the one of before");
    ensure!(invocation(&host, display).await? == screen, "the session's display is another one");
    fleet.online("r1").await?;
    let session = fleet.api()?.session("lives").await?;
    ensure!(session.phase == SessionPhase::Ready, "{session:#?}");
    let ticks = || host.run_ok("stat -c %s /var/lib/helix/agentd/workspaces/lives/ticks");
    let then = ticks().await?;
    eventually("the session goes on", secs(30), || async {
        ensure!(ticks().await? != then, "no tick since {then}");
        Ok(())
    })
    .await?;

    // Removed, nothing runs; settings, state and users stay, and with the package the runner is back.
    host.run_ok("dpkg -r helix-agentd 2>&1").await?;
    let runs = host.run("pgrep -lu \"$(seq -s, -f helix-u%g 32)\"; pgrep -l agentd; systemctl list-units --all -q 'helix*' 'agentd*'; \
                         ls -d /sys/fs/cgroup/helix.slice /sys/fs/cgroup/systemd/helix.slice 2>/dev/null").await?;
    ensure!(runs.stdout.trim().is_empty(), "runs on: {}", runs.stdout);
    host.run_ok(
        "test -e /etc/helix/agentd.toml && test -e /var/lib/helix/agentd/enrolled.json && getent passwd helix-u1",
    )
    .await?;
    install(&host, &second, &["helix-agentd"]).await?;
    host.run_ok("systemctl enable -q --now agentd").await?;
    fleet.online("r1").await?;
    fleet.command("again", "sleep 1000", &host).await?;

    // Purged under a running session, one after the other: each leaves what is the other's, and both leave nothing.
    host.run_ok("dpkg -P helix-agentd helixctl 2>&1").await?;
    host.run_ok("test -e /etc/helix/server.toml && ! test -e /etc/helix/agentd.toml").await?;
    host.run_ok("dpkg -P helix-server 2>&1").await?;
    let after = everything(&host).await?;
    let left: Vec<_> = after.difference(&before).collect();
    ensure!(left.is_empty(), "left: {left:#?}");
    let lost: Vec<_> = before.difference(&after).collect();
    ensure!(lost.is_empty(), "taken along: {lost:#?}");
    host.stop().await?;
    fleet.stop().await
}

/// A program as packages have them: linked statically, here. It does nothing but look names up.
fn lookup(dir: &Path) -> Result<PathBuf> {
    let output = Command::new("cargo")
        .args(["build", "--quiet", "--locked", "--offline", "--package", "helix-names", "--example", "lookup"])
        .args(["--target", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH), "--target-dir"])
        .arg(dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(repository())
        .output()
        .context("cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(dir.join(format!("{}-unknown-linux-gnu/debug/examples/lookup", std::env::consts::ARCH)))
}

/// A plug-in of the C library of Debian 13 is not for the one of Debian 12 that is in the program.
async fn static_programs_find_names() -> Result<()> {
    let program = lookup(&lab::dir().join("lookup"))?;
    let host = Boot::container().suite(Suite::Trixie).start().await?;
    host.put(&program, "/tmp/empty/lookup", 0o755).await?;
    host.run_ok("echo '192.0.2.7 helix.test' >>/etc/hosts").await?;
    // The plug-in `compat` is part of the C library's own package.
    for sources in ["files dns", "compat files dns", "compat [NOTFOUND=return] files"] {
        host.run_ok(&format!("sed -i '/^hosts:/d' /etc/nsswitch.conf; echo 'hosts: {sources}' >>/etc/nsswitch.conf"))
            .await?;
        let found = host.run_ok("/tmp/empty/lookup helix.test").await.context(sources)?;
        ensure!(found == "helix.test 192.0.2.7", "{sources}: {found}");
    }
    // A root without anything, hence without a C library. What it does not find is an error and no crash.
    let found = host.run("chroot /tmp/empty /lookup 127.0.0.1 && chroot /tmp/empty /lookup nowhere.test").await?;
    ensure!(found.code == 1 && found.stdout.trim() == "127.0.0.1 127.0.0.1", "{found:?}");
    host.stop().await
}
