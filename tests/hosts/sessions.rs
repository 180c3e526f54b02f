//! Sessions as systemd units, on containers: what starts, what ends with what, what somebody does by hand, and what
//! agentd's own end means. Nothing here says anything about cgroup v2.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use helix_tests::random::Random;
use helix_tests::rfb::{Frame, Rfb};
use serde_json::json;

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case, Host, Suite};
use crate::units::{OF_A_COMMAND, Units, invocations_of};

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("a_session_is_a_slice_of_units", || a_session_is_a_slice_of_units(Suite::Bookworm)),
        Case::always("a_session_runs_on_trixie", || a_session_is_a_slice_of_units(Suite::Trixie)),
        Case::always("only_what_died_is_started_again", only_what_died_is_started_again),
        Case::always("an_editor_that_crashes_is_started_again", an_editor_that_crashes_is_started_again),
        Case::always("units_touched_by_hand_are_seen", units_touched_by_hand_are_seen),
        Case::always("agentd_ends_and_sessions_do_not", agentd_ends_and_sessions_do_not),
        Case::always("a_reboot_is_told", a_reboot_is_told),
        Case::always("logs_come_from_the_journal", logs_come_from_the_journal),
        Case::always("what_cannot_work_is_refused_at_start", what_cannot_work_is_refused_at_start),
        Case::always(
            "a_slot_that_cannot_be_cleaned_is_not_given_away",
            a_slot_that_cannot_be_cleaned_is_not_given_away,
        ),
    ]
}

pub async fn one_runner(boot: Boot) -> Result<(Fleet, Host)> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), boot.start())?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    Ok((fleet, host))
}

async fn a_session_is_a_slice_of_units(suite: Suite) -> Result<()> {
    let (fleet, host) = one_runner(Boot::container().suite(suite)).await?;
    let view = fleet.command("s", "id -un; echo $HOME; touch ran; echo done", &host).await?;
    let done = fleet.api()?.wait_result("s", secs(20)).await?;
    let result = done.result.context("no result")?;
    ensure!(result.exit_status == 0, "{result:?}");
    ensure!(result.output_tail.contains("helix-u") && result.output_tail.contains("/home/agent"), "{result:?}");

    let units = Units::of(&host, "s");
    let invocations = units.invocations().await?;
    for word in OF_A_COMMAND {
        ensure!(invocations.contains_key(&units.service(word)?), "no {word} in {invocations:?}");
        ensure!(units.property(word, "Slice").await? == units.slice()?, "{word} is not in the slice");
        ensure!(units.property(word, "NoNewPrivileges").await? == "yes", "{word}");
    }
    let user = units.user().await?;
    ensure!(user.starts_with("helix-u"), "{user}");
    ensure!(view.display.context("no display")?.number == 0, "a session's display is its own :0");
    // On cgroup v1 what is missing is said.
    let limits = view.limits.context("no limits")?;
    ensure!(!limits.missing.is_empty(), "{limits:?}");

    fleet.api()?.stop("s").await?;
    fleet.api()?.wait_phase("s", SessionPhase::Stopped, secs(20)).await?;
    units.gone(&user, secs(10)).await?;
    // The workspace stays, nobody's any more, until the session is deleted.
    let kept =
        host.run_ok("stat -c %U /var/lib/helix/agentd/workspaces/s /var/lib/helix/agentd/workspaces/s/ran").await?;
    ensure!(kept == "helix-keep\nhelix-keep", "{kept}");
    fleet.api()?.delete_session("s", secs(20)).await?;
    let left =
        host.run_ok("ls /var/lib/helix/agentd/workspaces /var/lib/helix/agentd/s /var/lib/helix/agentd/ledger").await?;
    ensure!(!left.contains("json") && !left.contains("\ns\n"), "{left}");
    host.stop().await?;
    fleet.stop().await
}

async fn only_what_died_is_started_again() -> Result<()> {
    let (fleet, host) = one_runner(Boot::container()).await?;
    fleet.ready(&json!({ "id": "t", "kind": "terminal" }), secs(60)).await?;
    let units = Units::of(&host, "t");
    let before = units.invocations().await?;
    let wm = units.pid("wm").await?;
    host.run_ok(&format!("kill -9 {wm}")).await?;
    only_restarted(&units, "wm", &before).await?;
    ensure!(fleet.api()?.session("t").await?.phase == SessionPhase::Ready);

    // What ends a session is its cause within a second.
    fleet.ready(&json!({ "id": "u", "kind": "terminal" }), secs(60)).await?;
    let display = Units::of(&host, "u").pid("display").await?;
    host.run_ok(&format!("kill -9 {display}")).await?;
    let killed = Instant::now();
    let ended = fleet.until("u", "has a cause", secs(5), |view| view.cause.is_some()).await?;
    ensure!(killed.elapsed() < secs(1), "told after {:?}", killed.elapsed());
    ensure!(ended.cause.is_some_and(|cause| cause.code == "display_died"));

    // The display takes everything with it, by the units' own dependencies: also without agentd.
    let user = units.user().await?;
    host.run_ok("systemctl kill -s STOP agentd").await?;
    host.run_ok(&format!("kill -9 {}", units.pid("display").await?)).await?;
    eventually("wm and app end with the display", secs(5), || async {
        let left = units.invocations().await?;
        let (wm, app) = (units.service("wm")?, units.service("app")?);
        let running = host.run_ok(&format!("pgrep -u {user} -l 'openbox|xterm' || true")).await?;
        ensure!(running.is_empty(), "{wm} {app}: {left:?} {running}");
        Ok(())
    })
    .await?;
    host.run_ok("systemctl kill -s CONT agentd").await?;
    let ended = fleet.until("t", "ends with its display", secs(10), |view| view.phase.is_terminal()).await?;
    ensure!(ended.phase == SessionPhase::Failed, "{ended:?}");
    let cause = ended.cause.context("no cause")?;
    ensure!(cause.code == "display_died" && cause.unit.as_deref() == Some("display"), "{cause:?}");
    units.gone(&user, secs(10)).await?;
    host.stop().await?;
    fleet.stop().await
}

/// Waits until this unit was started anew, and proves that no other was.
async fn only_restarted(units: &Units<'_>, word: &str, before: &BTreeMap<String, String>) -> Result<()> {
    let expected = units.service(word)?;
    eventually(&format!("{word} runs again"), secs(10), || async {
        let after = units.invocations().await?;
        let changed: Vec<_> = before.iter().filter(|(unit, id)| after.get(*unit) != Some(id)).collect();
        ensure!(after.len() == before.len() && changed.len() == 1 && *changed[0].0 == expected, "{before:?} {after:?}");
        Ok(())
    })
    .await
}

/// In the place of the editor: a window that shows what it was started with.
const EDITOR: &str = "#!/bin/sh\necho \"$@\" >\"$HOME/arguments\"\nexec xterm -e sleep infinity\n";

/// Kind `zed`, with the documents' limits and reservation.
async fn an_editor_that_crashes_is_started_again() -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
    host.write("/opt/zed/zed", EDITOR, 0o755).await?;
    // In the place of a Mesa of its own, beside the system's.
    let manifest = r#"{"ICD": {"library_path": "../libvulkan_lvp.so"}}"#;
    host.write("/opt/helix/mesa/25.0.7/icd.d/lvp_icd.json", manifest, 0o644).await?;
    host.write("/opt/helix/mesa/25.0.7/libvulkan_lvp.so", "Mesa 25.0.7 (LLVM", 0o644).await?;
    let settings = RunnerSettings { more: "zed_binary = \"/opt/zed/zed\"", ..RunnerSettings::default() };
    fleet.join(&host, &settings).await?;
    let view = fleet.ready(&json!({ "id": "z", "project_path": "app" }), secs(60)).await?;
    ensure!(view.kind.as_ref().is_some_and(|kind| kind.as_str() == "zed"), "the editor is not the default: {view:?}");
    let limits = view.limits.context("no limits")?.resources;
    ensure!(limits.cpu.map(f64::from) == Some(2.0) && limits.memory.map(u64::from) == Some(4 << 30), "{limits:?}");
    let units = Units::of(&host, "z");
    let slice = host.run_ok(&format!("systemctl show -p MemoryMax,CPUQuotaPerSecUSec {}", units.slice()?)).await?;
    ensure!(slice.contains("MemoryMax=4294967296") && slice.contains("CPUQuotaPerSecUSec=2s"), "{slice}");
    let arguments = host.run_ok(&format!("cat /var/lib/helix/agentd/s/{}/home/arguments", units.key()?)).await?;
    ensure!(arguments.ends_with("/app"), "{arguments}");
    let workspace = "/var/lib/helix/agentd/workspaces/z";
    host.run_ok(&format!("grep -q 127.0.0.1: {workspace}/.helix-home/.config/zed/settings.json")).await?;

    let before = units.invocations().await?;
    host.run_ok(&format!("kill -9 {}", units.pid("app").await?)).await?;
    only_restarted(&units, "app", &before).await?;
    // An editor that is closed comes back, too: only an order ends the session.
    let user = units.user().await?;
    let before = units.invocations().await?;
    host.run_ok(&format!("pkill -u {user} sleep")).await?;
    only_restarted(&units, "app", &before).await?;
    fleet.api()?.stop("z").await?;
    fleet.api()?.wait_phase("z", SessionPhase::Stopped, secs(20)).await?;
    units.gone(&user, secs(10)).await?;
    host.stop().await?;
    fleet.stop().await
}

async fn units_touched_by_hand_are_seen() -> Result<()> {
    let (fleet, host) = one_runner(Boot::container()).await?;
    for id in ["a", "b", "c"] {
        fleet.command(id, "true", &host).await?;
    }
    let (a, b, c) = (Units::of(&host, "a"), Units::of(&host, "b"), Units::of(&host, "c"));
    let wm = a.pid("wm").await?;
    host.run_ok(&format!("systemctl stop {}", a.service("wm")?)).await?;
    eventually("a window manager that was stopped is started again", secs(10), || async {
        ensure!(a.pid("wm").await? != wm);
        Ok(())
    })
    .await?;
    // Started anew by hand: another desktop than the one that the session was.
    // The command itself may be told that its job was cancelled: agentd ends the session at once.
    host.run(&format!("systemctl restart {}", b.service("display")?)).await?;
    let ended = fleet.until("b", "ends", secs(10), |view| view.phase.is_terminal()).await?;
    ensure!(ended.cause.as_ref().is_some_and(|cause| cause.code == "display_died"), "{ended:?}");
    host.run(&format!("systemctl stop {}", c.slice()?)).await?;
    // On cgroup v1 systemd does not hear that a group is empty: a stop takes as long as it may.
    let ended = fleet.until("c", "ends", secs(40), |view| view.phase.is_terminal()).await?;
    ensure!(ended.phase == SessionPhase::Failed && ended.cause.is_some(), "{ended:?}");
    ensure!(fleet.api()?.session("a").await?.phase == SessionPhase::Ready, "another session was touched");
    host.stop().await?;
    fleet.stop().await
}

async fn agentd_ends_and_sessions_do_not() -> Result<()> {
    let (fleet, host) = one_runner(Boot::container()).await?;
    fleet.command("runs", "while :; do date >> ticks; sleep 0.1; done", &host).await?;
    let gate = "until [ -e go ]; do sleep 0.05; done; echo finished; exit 7";
    fleet.command("ends", gate, &host).await?;
    fleet.ready(&json!({ "id": "shell", "kind": "terminal" }), secs(60)).await?;
    let all = async || invocations_of(&host, &["runs", "ends", "shell"]).await;
    let before = all().await?;
    // A viewer comes through the server and agentd to the desktop, and finds it again after agentd's end.
    let look = async || -> Result<Frame> {
        let ticket = fleet.api()?.ticket("shell").await?;
        Ok(Rfb::ticket(&ticket.url).await?.full_frame().await?.clone())
    };
    let seen = look().await.context("a viewer")?;
    ensure!(seen.colours() > 1, "an empty desktop: {seen:?}");
    let mut random = Random::seeded(7);
    for round in 0..5 {
        host.run_ok("systemctl kill -s KILL agentd").await?;
        if round == 2 {
            // An upgrade: another file under the same name.
            host.run_ok("cp /usr/bin/agentd /usr/bin/agentd.new && mv /usr/bin/agentd.new /usr/bin/agentd").await?;
        }
        tokio::time::sleep(std::time::Duration::from_millis(random.below(400))).await; // the random point
    }
    host.run_ok("systemctl restart agentd").await?;
    fleet.online("r1").await?;
    ensure!(all().await? == before, "a unit was started anew");
    let again = eventually("the viewer finds its desktop again", secs(20), look).await?;
    ensure!(again.differs(&seen) < 2000, "another desktop: {} pixels differ", again.differs(&seen));

    // What ends while agentd is down keeps its outcome.
    host.run_ok("systemctl stop agentd").await?;
    host.run_ok("touch /var/lib/helix/agentd/workspaces/ends/go").await?;
    let guest = format!("/var/lib/helix/agentd/s/{}/ready/guest", Units::of(&host, "ends").key()?);
    eventually("the command ends", secs(10), || async {
        ensure!(host.run_ok(&format!("cat {guest}")).await?.contains("finished"));
        Ok(())
    })
    .await?;
    host.run_ok("systemctl start agentd").await?;
    let view = fleet.api()?.wait_result("ends", secs(20)).await?;
    let result = view.result.context("no result")?;
    ensure!(result.exit_status == 7 && result.output_tail.contains("finished"), "{result:?}");
    ensure!(all().await? == before, "a unit was started anew");
    host.stop().await?;
    fleet.stop().await
}

async fn a_reboot_is_told() -> Result<()> {
    let (fleet, mut host) = one_runner(Boot::container()).await?;
    fleet.command("s", "true", &host).await?;
    host.kill().await?;
    host.boot().await?;
    // A container of this machine has its machine's boot id: what is gone is the slice.
    let ended = fleet.until("s", "is told as ended", secs(60), |view| view.phase == SessionPhase::Failed).await?;
    let cause = ended.cause.context("no cause")?;
    ensure!(["host_rebooted", "slice_gone"].contains(&cause.code.as_str()), "{cause:?}");
    fleet.online("r1").await?;
    fleet.command("again", "true", &host).await?;
    host.stop().await?;
    fleet.stop().await
}

async fn logs_come_from_the_journal() -> Result<()> {
    let (fleet, host) = one_runner(Boot::container()).await?;
    fleet.command("s", "true", &host).await?;
    let logs = fleet.api()?.get("/api/v1/sessions/s/logs?lines=50&unit=display").await?.expect(200)?;
    let lines = logs["lines"].as_array().context("no lines")?;
    ensure!(!lines.is_empty() && lines.iter().all(|line| line["unit"] == "display"), "{logs}");
    // One field finds everything about a session: its units' lines and agentd's.
    let all = host.run_ok("journalctl -o json HELIX_SESSION=s").await?;
    ensure!(all.contains("session ready") && all.contains("Xtigervnc"), "{all}");
    ensure!(all.contains("\"HELIX_RUNNER\":\"r1\""), "{all}");
    host.stop().await?;
    fleet.stop().await
}

async fn what_cannot_work_is_refused_at_start() -> Result<()> {
    let (fleet, host) = one_runner(Boot::container()).await?;
    let refused = async |break_it: &str, mend_it: &str, says: &[&str]| -> Result<()> {
        host.run_ok(&format!("systemctl stop agentd; {break_it}")).await?;
        // As the unit starts it, but in the foreground: what it says is what an operator reads.
        let told = host.run("timeout 60 /usr/bin/agentd run --config /etc/helix/agentd.toml").await?;
        host.run_ok(mend_it).await?;
        ensure!(told.code == 1, "{break_it}: exit code {}: {}", told.code, told.stderr);
        for word in says {
            ensure!(told.stderr.contains(word), "{break_it}: {}", told.stderr);
        }
        Ok(())
    };
    refused(
        "sed -i 's/^helix-u3:/helix-x3:/' /etc/passwd",
        "sed -i 's/^helix-x3:/helix-u3:/' /etc/passwd",
        &["helix-u3", "systemd-sysusers"],
    )
    .await?;
    refused(
        "systemctl stop dbus.socket dbus.service",
        "systemctl start dbus.socket",
        &["system bus", "systemctl start dbus.socket"],
    )
    .await?;
    let hierarchy = "/sys/fs/cgroup/memory";
    refused(
        &format!("mount -o remount,ro,bind {hierarchy}"),
        &format!("mount -o remount,rw,bind {hierarchy}"),
        &["sessions could not be limited", "/sys/fs/cgroup/memory is mounted read-only", "process backend"],
    )
    .await?;
    // A /proc that hides processes is none of these: systemd gives the service one of its own, which shows them all.
    host.run_ok("mount -o remount,hidepid=2,gid=27 /proc && systemctl start agentd").await?;
    fleet.online("r1").await?;
    let process = "/proc/$(systemctl show --value -p MainPID agentd)/mountinfo";
    let seen = host.run_ok(&format!("grep ' /proc ' {process}")).await?;
    ensure!(!seen.contains("hidepid"), "{seen}");
    host.run_ok("mount -o remount,hidepid=off,gid=0 /proc").await?;
    // Nobody else than root starts units: said at once, and what to do.
    let told = host.run_as("ops", "timeout 20 /usr/bin/agentd run --backend systemd --state-dir /tmp/ops").await?;
    ensure!(told.code == 1 && told.stderr.contains("root"), "{}: {}", told.code, told.stderr);

    let small = json!({ "id": "small", "kind": "command", "input": "true", "resources": { "memory": "1MiB" } });
    let problem = fleet.api()?.post("/api/v1/sessions", &small).await?;
    ensure!(problem.status.as_u16() == 400 && problem.text.contains("64MiB"), "{problem:?}");
    host.stop().await?;
    fleet.stop().await
}

/// A slot user whose files cannot be removed is not given to anybody else, and who holds it is said.
async fn a_slot_that_cannot_be_cleaned_is_not_given_away() -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
    fleet.join(&host, &RunnerSettings { slots: 1, ..RunnerSettings::default() }).await?;
    let stuck = "/var/lib/helix/agentd/s/0123456789abcdef";
    // A mount cannot be removed.
    host.run_ok(&format!(
        "systemctl stop agentd; mkdir -p {stuck}/home/mounted; chown -R helix-u1: {stuck}/home; \
         mount -t tmpfs none {stuck}/home/mounted; systemctl start agentd"
    ))
    .await?;
    fleet.online("r1").await?;
    let api = fleet.api()?;
    api.create(&json!({ "id": "s", "kind": "command", "input": "true" })).await?;
    let failed = fleet.until("s", "is refused", secs(30), |view| view.phase == SessionPhase::Failed).await?;
    let cause = failed.cause.context("no cause")?;
    ensure!(cause.code == "no_slot_user" && cause.message.contains("helix-u1"), "{cause:?}");
    ensure!(cause.message.contains("0123456789abcdef"), "who holds it is not said: {cause:?}");
    // Once it can be removed, it is, and the slot is given away again.
    host.run_ok(&format!("umount {stuck}/home/mounted; systemctl restart agentd")).await?;
    eventually("what was stuck is removed", secs(70), || async {
        ensure!(host.run(&format!("test -e {stuck}")).await?.code == 1);
        Ok(())
    })
    .await?;
    fleet.command("again", "true", &host).await?;
    host.stop().await?;
    fleet.stop().await
}
