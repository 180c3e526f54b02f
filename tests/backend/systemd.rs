//! What only the systemd backend has: gaps that a killed agentd leaves, somebody else's hand in its units, a bus that
//! goes away, memory that runs out.

mod desktop;
mod reloads;

use std::path::Path;
use std::time::Duration;

use helix_agentd::supervisor::systemd::slots::Slots;
use helix_agentd::supervisor::systemd::{SystemdError, SystemdSupervisor};
use helix_agentd::supervisor::{
    Adopted, Identity, SliceEvent, SliceSpec, Supervisor as _, SupervisorError, UnitName, UnitStatus,
};
use helix_protocol::RunnerId;
use helix_protocol::resources::{Bytes, Network, Resources};

use crate::conformance::{
    Fixture as _, PATIENCE, ended, exit_status, log, next_event, open, open_watched, session, shell,
};
use crate::host::{Host, command};

pub use self::desktop::*;
pub use self::reloads::*;

/// The list, handed on as in `conformance.rs`.
macro_rules! checks {
    ($each:ident!($($given:tt)*)) => {
        $each! { $($given)*
            what_a_killed_agentd_left_half_made_is_made_anew,
            a_slice_that_the_ledger_does_not_know_is_found,
            a_unit_that_was_not_recorded_is_found,
            a_kill_that_was_cut_short_is_finished,
            a_unit_stopped_by_hand_is_told,
            a_unit_started_anew_by_hand_is_told,
            a_slice_stopped_by_hand_is_told_and_not_made_anew,
            a_display_that_ends_takes_its_clients_with_it,
            events_survive_systemd_and_its_bus,
            a_daemon_reload_changes_no_unit,
            the_display_refuses_who_has_no_cookie,
            a_whole_desktop_can_begin_anew,
            every_session_has_a_user_of_its_own,
            when_all_slots_are_held_their_holders_are_named,
            another_runners_slice_is_left_alone,
            units_share_what_the_session_shares,
            only_the_greedy_process_dies_of_its_memory,
            what_is_missing_is_named_with_its_fix,
        }
    };
}
pub(crate) use checks;

/// What an agentd that was killed has: nothing but what is on disk.
async fn anew(host: &Host) -> SystemdSupervisor {
    host.supervisor().await
}

fn unit(session: &helix_protocol::SessionId, word: &str) -> String {
    format!("helix-s{}-{word}.service", session.unit_key())
}

fn slice(session: &helix_protocol::SessionId) -> String {
    format!("helix-s{}.slice", session.unit_key())
}

pub async fn what_a_killed_agentd_left_half_made_is_made_anew(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("half"));
    let dir = host.session_dir(&session);
    // Killed while the directory was built.
    let new = dir.with_extension("new");
    std::fs::create_dir_all(new.join("home/something")).unwrap();
    assert_eq!(supervisor.found().await.unwrap(), [session.unit_key()]);
    open(&supervisor, &session).await;
    assert!(!new.exists() && !dir.join("home/something").exists());
    supervisor.kill(&session).await.unwrap();

    // Killed between the directory and the slice; then between the slice and its record.
    let first = open(&supervisor, &session).await;
    command("systemctl", &["stop", &slice(&session)]);
    std::fs::write(dir.join("home/leftover"), "").unwrap();
    let second = open(&anew(host).await, &session).await;
    assert_ne!(first, second);
    assert!(!dir.join("home/leftover").exists(), "a former life's file is there");
    supervisor.kill(&session).await.unwrap();

    // Killed before the record was written at all.
    open(&supervisor, &session).await;
    std::fs::remove_file(dir.join("unit.json")).unwrap();
    open(&anew(host).await, &session).await;
    assert!(dir.join("unit.json").exists());
    supervisor.kill(&session).await.unwrap();

    // A slice whose directory somebody removed.
    open(&supervisor, &session).await;
    supervisor.start(&session, &shell(UnitName::App, "exec sleep 1000")).await.unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(supervisor.found().await.unwrap(), [session.unit_key()]);
    open(&anew(host).await, &session).await;
    assert!(host.processes(&session).is_empty());
    supervisor.kill(&session).await.unwrap();
    assert_eq!(supervisor.found().await.unwrap(), Vec::<String>::new());
}

pub async fn a_slice_that_the_ledger_does_not_know_is_found(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("unsaved"));
    let identity = open(&supervisor, &session).await;
    drop(supervisor);
    // As if agentd had died between the slice and its record.
    let record = host.session_dir(&session).join("unit.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["slice"] = serde_json::Value::Null;
    std::fs::write(&record, value.to_string()).unwrap();

    let supervisor = anew(host).await;
    assert_eq!(open(&supervisor, &session).await, identity);
    let mut events = supervisor.events(&session).await.unwrap();
    supervisor.start(&session, &shell(UnitName::App, "exit 2")).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::App).await, 2);
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_unit_that_was_not_recorded_is_found(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("unrecorded"));
    let identity = open(&supervisor, &session).await;
    let record = host.session_dir(&session).join("unit.json");
    let before = std::fs::read(&record).unwrap();
    let started = supervisor.start(&session, &shell(UnitName::App, "exec sleep 1000")).await.unwrap();
    supervisor.start(&session, &shell(UnitName::Wm, "exit 6")).await.unwrap();
    drop(supervisor);
    std::fs::write(&record, before).unwrap();

    let supervisor = anew(host).await;
    let units = loop {
        let adopted = supervisor.adopt(&session, &identity).await.unwrap();
        let Adopted::Alive { units, result: None } = adopted else { panic!("{adopted:?}") };
        if units.iter().any(|unit| unit.name == UnitName::Wm && unit.exit_status.is_some()) {
            break units;
        }
    };
    assert_eq!(units, [ended(UnitName::Wm, 6), started.clone()]);
    assert_eq!(supervisor.start(&session, &shell(UnitName::App, "exit 1")).await.unwrap(), started);
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_kill_that_was_cut_short_is_finished(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("cut"));
    open(&supervisor, &session).await;
    supervisor.start(&session, &shell(UnitName::App, "echo x >/home/workspace/work; exec sleep 1000")).await.unwrap();
    // After the slice was stopped, and after a part of the files went.
    command("systemctl", &["stop", &slice(&session)]);
    std::fs::remove_dir_all(host.session_dir(&session).join("home")).unwrap();
    let supervisor = anew(host).await;
    assert_eq!(supervisor.found().await.unwrap(), [session.unit_key()]);
    supervisor.reap(&session.unit_key()).await.unwrap();
    assert!(!host.session_dir(&session).exists());
    let workspace = supervisor.host_paths(&session).workspace;
    let owner = command("stat", &["-c", "%U", workspace.to_str().unwrap(), workspace.join("work").to_str().unwrap()]);
    assert_eq!(owner, "helix-keep\nhelix-keep\n", "the workspace still holds the slot");
}

pub async fn a_unit_stopped_by_hand_is_told(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("byhand"));
    let mut events = open_watched(&supervisor, &session).await;
    supervisor.start(&session, &shell(UnitName::Wm, "exec sleep 1000")).await.unwrap();
    supervisor.start(&session, &shell(UnitName::App, "trap 'exit 5' TERM; while :; do sleep 0.1; done")).await.unwrap();
    command("systemctl", &["stop", &unit(&session, "wm")]);
    assert_eq!(exit_status(&mut events, UnitName::Wm).await, 128 + 15);
    command("systemctl", &["stop", &unit(&session, "app")]);
    assert_eq!(exit_status(&mut events, UnitName::App).await, 5);
    // As a session does that starts it again.
    supervisor.stop(&session, UnitName::Wm, PATIENCE).await.unwrap();
    let again = supervisor.start(&session, &shell(UnitName::Wm, "exec sleep 1000")).await.unwrap();
    assert!(again.pid.is_some());
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_unit_started_anew_by_hand_is_told(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("replaced"));
    let mut events = open_watched(&supervisor, &session).await;
    let first = supervisor.start(&session, &shell(UnitName::App, "exec sleep 1000")).await.unwrap();
    command("systemctl", &["restart", &unit(&session, "app")]);
    assert_eq!(exit_status(&mut events, UnitName::App).await, 128 + 15);
    let SliceEvent::UnitReplaced(UnitStatus { name: UnitName::App, pid: Some(pid), .. }) =
        next_event(&mut events).await
    else {
        panic!("it was not told");
    };
    assert_ne!(Some(pid), first.pid);
    let units = supervisor.units(&session).await.unwrap();
    assert_eq!(units.iter().map(|unit| unit.pid).collect::<Vec<_>>(), [Some(pid)]);
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_slice_stopped_by_hand_is_told_and_not_made_anew(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("sliced"));
    let identity = open(&supervisor, &session).await;
    let mut events = supervisor.events(&session).await.unwrap();
    supervisor.start(&session, &shell(UnitName::App, "exec sleep 1000")).await.unwrap();
    command("systemctl", &["stop", &slice(&session)]);
    while !matches!(next_event(&mut events).await, SliceEvent::SliceGone(_)) {}
    let error = supervisor.start(&session, &shell(UnitName::Wm, "exec sleep 1000")).await.unwrap_err();
    assert!(error.to_string().contains("slice"), "{error}");
    assert!(host.processes(&session).is_empty(), "it runs without limits");
    let gone = supervisor.adopt(&session, &identity).await.unwrap();
    assert!(matches!(gone, Adopted::Gone { code: "slice_gone", .. }), "{gone:?}");
    assert!(supervisor.units(&session).await.is_err());
    supervisor.kill(&session).await.unwrap();
}

pub async fn every_session_has_a_user_of_its_own(host: &Host) {
    let supervisor = host.supervisor().await;
    let mut users = Vec::new();
    for name in ["one", "two", "three"] {
        let session = session(name);
        let Identity::Slice(identity) = open(&supervisor, &session).await else { panic!("no slice") };
        let mut events = supervisor.events(&session).await.unwrap();
        supervisor.start(&session, &shell(UnitName::App, "id -un; id -gn; ls -ld /home/agent /tmp")).await.unwrap();
        exit_status(&mut events, UnitName::App).await;
        let lines = log(&supervisor, &session, UnitName::App).await;
        assert_eq!(lines[..2], [format!("helix-u{}", identity.slot), format!("helix-u{}", identity.slot)]);
        users.push(identity.slot);
    }
    users.sort_unstable();
    users.dedup();
    assert_eq!(users.len(), 3, "{users:?}");
    for name in ["one", "two", "three"] {
        supervisor.kill(&session(name)).await.unwrap();
    }
}

pub async fn when_all_slots_are_held_their_holders_are_named(host: &Host) {
    let supervisor = host.supervisor().await;
    for number in 1..=4 {
        open(&supervisor, &session(&format!("held{number}"))).await;
    }
    let error = supervisor.open(&session("fifth"), &SliceSpec::default()).await.unwrap_err();
    assert!(matches!(&error, SupervisorError::NoSlot { .. }), "{error}");
    assert!(error.to_string().contains(&session("held1").unit_key()), "{error}");
    supervisor.kill(&session("held2")).await.unwrap();
    open(&supervisor, &session("fifth")).await;
    for name in ["held1", "held3", "held4", "fifth"] {
        supervisor.kill(&session(name)).await.unwrap();
    }
}

pub async fn another_runners_slice_is_left_alone(host: &Host) {
    let session = session("both");
    let other = Host { dir: host.dir.join("other"), runner: RunnerId::parse("other").unwrap() };
    let (ours, theirs) = (host.supervisor().await, other.supervisor().await);
    let identity = open(&theirs, &session).await;
    let started = theirs.start(&session, &shell(UnitName::App, "exec sleep 1000")).await.unwrap();
    assert_eq!(ours.found().await.unwrap(), Vec::<String>::new());
    let error = ours.open(&session, &SliceSpec::default()).await.unwrap_err();
    assert!(error.to_string().contains("other"), "{error}");
    assert!(ours.kill(&session).await.is_err());
    assert!(ours.reap(&session.unit_key()).await.is_err());
    let adopted = theirs.adopt(&session, &identity).await.unwrap();
    assert_eq!(adopted, Adopted::Alive { units: vec![started], result: None });
    theirs.kill(&session).await.unwrap();
}

pub async fn units_share_what_the_session_shares(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("shared"));
    supervisor.open(&session, &SliceSpec { network: Network::None, ..SliceSpec::default() }).await.unwrap();
    let mut events = supervisor.events(&session).await.unwrap();
    // The workspace and the bus may come before the display, and have networks of their own.
    let script = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; echo $0 >/tmp/$N; \
                  tail -n +3 /proc/net/dev | cut -d: -f1";
    let names = [UnitName::Workspace, UnitName::Dbus, UnitName::Display, UnitName::Wm, UnitName::App];
    let mut seen = Vec::new();
    for name in names {
        let mut unit = shell(name, script);
        unit.env.insert("N".to_owned(), name.as_str().to_owned());
        if name == UnitName::Display {
            unit.argv[2] = format!("{script}; exec sleep 1000");
            supervisor.start(&session, &unit).await.unwrap();
        } else {
            supervisor.start(&session, &unit).await.unwrap();
            exit_status(&mut events, name).await;
            seen.push(log(&supervisor, &session, name).await);
        }
    }
    let [workspace, dbus, wm, app] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(wm[..2], app[..2], "{seen:?}");
    let display = command("systemctl", &["show", "-P", "MainPID", &unit(&session, "display")]);
    let of_display = |kind: &str| std::fs::read_link(format!("/proc/{}/ns/{kind}", display.trim())).unwrap();
    for (line, kind) in app.iter().zip(["net", "ipc"]) {
        assert_eq!(Path::new(line), of_display(kind), "{seen:?}");
    }
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    for lines in [workspace, dbus, app] {
        assert_ne!(lines[0], own.to_str().unwrap(), "the session has the machine's network");
    }
    // The desktop's own programs see nothing of /proc but processes.
    for lines in [workspace, app] {
        assert_eq!(lines[2].trim(), "lo", "{seen:?}");
    }
    for name in names {
        assert!(host.outside(&session, Path::new("/tmp")).join(name.as_str()).exists(), "{name:?} has another /tmp");
    }
    supervisor.kill(&session).await.unwrap();
}

pub async fn only_the_greedy_process_dies_of_its_memory(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("greedy"));
    let resources = Resources { memory: Some(Bytes(96 << 20)), ..Resources::default() };
    supervisor.open(&session, &SliceSpec { resources, ..SliceSpec::default() }).await.unwrap();
    let mut events = supervisor.events(&session).await.unwrap();
    let wm = supervisor.start(&session, &shell(UnitName::Wm, "exec sleep 1000")).await.unwrap();
    // Bit by bit: a kernel that never promises more than it has refuses much at once.
    let greedy = "ulimit -v 400000; exec tail /dev/zero";
    let begun = std::time::Instant::now();
    supervisor.start(&session, &shell(UnitName::App, greedy)).await.unwrap();
    let (mut told, mut app) = (false, None);
    let version_2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    while app.is_none() || (version_2 && !told) {
        match next_event(&mut events).await {
            SliceEvent::OutOfMemory => told = true,
            SliceEvent::UnitExited(status) if status.name == UnitName::App => app = Some(status),
            other => panic!("{other:?}"),
        }
    }
    let app = app.unwrap();
    assert_eq!(app.exit_status, Some(128 + 9), "{app:?}");
    assert!(app.out_of_memory || !version_2, "{app:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let units = supervisor.units(&session).await.unwrap();
    assert!(units.contains(&wm), "{units:?}");
    assert!(units.contains(&app), "the reason is forgotten: {units:?}");
    // Killed by hand later: no lack of memory.
    tokio::time::sleep(Duration::from_secs(3)).await;
    command("systemctl", &["kill", "-s", "KILL", &unit(&session, "wm")]);
    loop {
        if let SliceEvent::UnitExited(status) = next_event(&mut events).await {
            assert_eq!(status, ended(UnitName::Wm, 128 + 9));
            break;
        }
    }
    supervisor.kill(&session).await.unwrap();
}

pub async fn what_is_missing_is_named_with_its_fix(host: &Host) {
    let mut config = host.config();
    config.slot_users.count = 500;
    let error = SystemdSupervisor::new(config).await.unwrap_err();
    assert!(matches!(error, SystemdError::Slots(_)), "{error}");
    assert!(error.to_string().contains("helix-u500") && error.to_string().contains("systemd-sysusers"), "{error}");
    assert!(Slots::resolve("helix-u", 1, 4).is_ok());
}
