//! `helixctl provision`: hosts that have sshd and no Helix become runners, and are as they were when it does not work.
//!
//! What makes a host a runner begins on bare ones, whose desktop comes by apt from a repository in the lab. Cases that
//! are about something else begin with the packages.

mod breaks;
mod control;
mod doctor;
mod faults;
mod full_store;
mod kills;
mod life;
mod many;
mod packages;
pub mod repository;
pub mod stage;
mod ways;

use anyhow::{Context, Result, ensure};
use helix_protocol::runner::Liveness;
use helix_tests::eventually::{eventually, secs};

use self::stage::Stage;
use crate::harness::{Boot, Case, Suite};

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("provision::a_bare_host_becomes_a_runner", a_bare_host_becomes_a_runner),
        Case::thorough("provision::a_bare_host_of_trixie_becomes_a_runner", a_bare_host_of_trixie_becomes_a_runner),
        Case::thorough("provision::a_bare_guest_becomes_a_runner", many::a_bare_guest_becomes_a_runner),
        Case::thorough("provision::three_hosts_at_once_and_one_that_is_not_there", many::three_hosts_at_once),
        Case::thorough("provision::twelve_hosts_become_a_fleet", many::twelve_hosts_become_a_fleet),
        Case::always("provision::packages_come_by_apt", packages::packages_come_by_apt),
        Case::thorough("provision::an_apt_that_is_never_free_is_told", packages::an_apt_that_is_never_free_is_told),
        Case::always("provision::by_jump_host_and_agent", ways::by_jump_host_and_agent),
        Case::always("provision::by_program_jumps_and_password", ways::by_program_jumps_and_password),
        Case::always("provision::two_runs_at_once_take_turns", ways::two_runs_at_once_take_turns),
        Case::always("provision::who_is_not_known_is_refused", faults::who_is_not_known_is_refused),
        Case::always("provision::who_is_not_fit_is_refused", faults::who_is_not_fit_is_refused),
        Case::always("provision::a_change_that_does_not_work_is_undone", faults::a_change_that_does_not_work_is_undone),
        Case::always("provision::what_is_not_signed_is_not_taken", faults::what_is_not_signed_is_not_taken),
        Case::always(
            "provision::a_disk_that_is_full_in_the_middle_changes_nothing",
            breaks::a_disk_that_is_full_in_the_middle_changes_nothing,
        ),
        Case::thorough(
            "provision::a_service_that_does_not_stay_up_is_undone",
            breaks::a_service_that_does_not_stay_up_is_undone,
        ),
        Case::always(
            "provision::a_runner_of_that_name_elsewhere_confirms_nothing",
            breaks::a_runner_of_that_name_elsewhere_confirms_nothing,
        ),
        Case::always(
            "provision::a_change_that_breaks_the_way_in_is_undone",
            breaks::a_change_that_breaks_the_way_in_is_undone,
        ),
        Case::always(
            "provision::a_change_that_nobody_confirms_is_undone",
            kills::a_change_that_nobody_confirms_is_undone,
        ),
        Case::thorough(
            "provision::a_connection_that_is_cut_leaves_the_host_as_it_was",
            kills::a_connection_that_is_cut_leaves_the_host_as_it_was,
        ),
        Case::always("provision::a_killed_run_is_finished_by_the_next", kills::a_killed_run_is_finished_by_the_next),
        Case::thorough("provision::a_lock_of_a_dead_controller_is_taken", kills::a_lock_of_a_dead_controller_is_taken),
        Case::always("provision::doctor_finds_what_is_wrong", doctor::doctor_finds_what_is_wrong),
        Case::always("provision::doctor_tells_ways_apart", doctor::doctor_tells_ways_apart),
        Case::always("provision::doctor_tells_that_nats_is_full", full_store::doctor_tells_that_nats_is_full),
        Case::thorough("provision::doctor_sees_a_clock_that_was_set", doctor::doctor_sees_a_clock_that_was_set),
        Case::always("provision::logs_and_commands_over_ssh", life::logs_and_commands_over_ssh),
        Case::always("provision::agentds_are_steered_over_ssh", control::agentds_are_steered_over_ssh),
        Case::always(
            "provision::an_upgrade_that_is_undone_keeps_what_is_held",
            control::an_upgrade_that_is_undone_keeps_what_is_held,
        ),
        Case::always("provision::an_upgrade_stops_by_itself", life::an_upgrade_stops_by_itself),
        Case::always("provision::remove_leaves_nothing", life::remove_leaves_nothing),
    ]
}

async fn a_bare_host_becomes_a_runner() -> Result<()> {
    becomes_a_runner(Boot::container().bare()).await
}

async fn a_bare_host_of_trixie_becomes_a_runner() -> Result<()> {
    becomes_a_runner(Boot::container().bare().suite(Suite::Trixie)).await
}

async fn becomes_a_runner(boot: Boot) -> Result<()> {
    let stage = Stage::start([boot]).await?.with_packages().await?;
    let host = &stage.hosts[0];
    let bare = stage::traces(host).await?;
    ensure!(!bare.contains("/agentd"), "it is not bare:\n{bare}");

    // Only looked at, nothing changes.
    let looked = stage.provision(&["--check", "--diff"]).await?;
    looked.expect(0, "would_change")?;
    ensure!(looked.host(0)["changes"].as_array().is_some_and(|changes| changes.len() > 20), "{}", looked.stdout);
    ensure!(looked.stdout.contains("+concurrency = 8"), "no difference is shown: {}", looked.stdout);
    ensure!(stage::traces(host).await? == bare, "a look changed it");

    // Not root, but by sudo.
    let made = stage.provision_as("ops", &["--label", "site=cellar"]).await?;
    made.expect(0, "changed")?;
    ensure!(made.host(0)["first_frame_ms"].as_u64().is_some_and(|ms| ms > 0), "no frame: {}", made.stdout);
    let runner = stage.runner(0).await?;
    ensure!(runner.liveness == Liveness::Online, "{runner:?}");
    let facts = runner.facts.context("an online runner has facts")?;
    ensure!(facts.labels.get("site").is_some_and(|site| site == "cellar") && facts.backend == "systemd", "{facts:?}");
    ensure!(stage.fleet.api()?.sessions().await?.is_empty(), "the test session is left");
    let owners = host.run_ok("stat -c '%a %U' /etc/helix/agentd.toml /etc/helix/agentd.token /usr/bin/agentd").await?;
    ensure!(owners == "600 root\n600 root\n755 root", "{owners}");
    let left = host.run_ok("ls /var/lib/helix/provision; systemctl list-timers --all --no-legend 'helix*'").await?;
    ensure!(left == "lock\nmasked\nowner\npackages.log\nproved\nruns", "left: {left}");

    // Again: nothing changes, in two round trips.
    let done = stage::traces(host).await?;
    let again = stage.provision(&["--label", "site=cellar"]).await?;
    again.expect(0, "unchanged")?;
    ensure!(again.host(0)["round_trips"].as_u64() <= Some(2), "{}", again.stdout);
    ensure!(again.host(0)["changes"].as_array().is_some_and(Vec::is_empty), "{}", again.stdout);
    ensure!(stage::traces(host).await? == done, "the second run changed something");

    // One difference is one change, and a session lives through it.
    stage.fleet.command("lives", "while :; do date >> ticks; sleep 0.2; done", host).await?;
    let changed = stage.provision(&["--label", "site=attic"]).await?;
    changed.expect(0, "changed")?;
    let lines: Vec<_> =
        changed.host(0)["changes"].as_array().into_iter().flatten().map(|line| line["name"].clone()).collect();
    ensure!(lines == ["/etc/helix/agentd.toml", "agentd.service"], "{lines:?}");
    let session = stage.fleet.api()?.session("lives").await?;
    ensure!(session.phase.to_string() == "Ready", "{session:#?}");

    // Stopped by hand, it is started, and no file is brought.
    host.run_ok("systemctl stop agentd").await?;
    let started = stage.provision(&["--label", "site=attic"]).await?;
    started.expect(0, "changed")?;
    ensure!(started.host(0)["changes"].as_array().is_some_and(|changes| changes.len() == 1), "{}", started.stdout);

    // Removed at the server, which it is not while it runs, and made a runner again: it enrols anew, under its own token.
    let api = stage.fleet.api()?;
    let remove = async || {
        stage
            .helixctl(&["--url", api.base(), "runner", "remove", "--server-only", &host.name])?
            .output()
            .await
            .context("remove")
    };
    ensure!(remove().await?.status.code() == Some(1), "a runner was removed that is online");
    host.run_ok("systemctl stop agentd").await?;
    eventually("it is removed", secs(60), || async {
        let output = remove().await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
    .await?;
    let again = stage.provision(&["--label", "site=attic"]).await?;
    again.expect(0, "changed")?;
    ensure!(stage.runner(0).await?.liveness == Liveness::Online, "it did not come back");
    stage.stop().await
}
