//! systemd and its bus are started anew, or read everything again, while sessions run.

use std::collections::BTreeSet;

use helix_agentd::supervisor::{Stdout, Supervisor as _, UnitName};

use super::unit;
use crate::conformance::{Fixture as _, PATIENCE, exit_status, open_watched, session, shell};
use crate::host::{Host, command};

pub async fn events_survive_systemd_and_its_bus(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("bus"));
    let mut events = open_watched(&supervisor, &session).await;
    for name in [UnitName::Wm, UnitName::Dbus, UnitName::App] {
        supervisor.start(&session, &shell(name, "exec sleep 1000")).await.unwrap();
    }
    command("systemctl", &["daemon-reexec"]);
    command("systemctl", &["kill", "-s", "KILL", &unit(&session, "wm")]);
    assert_eq!(exit_status(&mut events, UnitName::Wm).await, 128 + 9);

    // Ended while nobody can be told of it.
    let pid = command("systemctl", &["show", "-P", "MainPID", &unit(&session, "dbus")]);
    command("systemctl", &["kill", "-s", "KILL", "dbus.service"]);
    command("kill", &["-9", pid.trim()]);
    assert_eq!(exit_status(&mut events, UnitName::Dbus).await, 128 + 9);
    supervisor.stop(&session, UnitName::Wm, PATIENCE).await.unwrap();
    let wm = supervisor.start(&session, &shell(UnitName::Wm, "exec sleep 1000")).await.unwrap();
    assert!(wm.pid.is_some());
    command("systemctl", &["daemon-reload"]);
    command("systemctl", &["kill", "-s", "TERM", &unit(&session, "app")]);
    assert_eq!(exit_status(&mut events, UnitName::App).await, 128 + 15);
    supervisor.kill(&session).await.unwrap();
}

/// What systemd has of a unit, but for what passes.
fn kept(unit: &str) -> BTreeSet<String> {
    let text = command("systemctl", &["show", "--no-pager", unit]);
    // The command's own line has its process id, until systemd reads the command anew.
    let passing =
        ["MemoryCurrent", "MemoryAvailable", "CPUUsage", "IOR", "IOW", "IPI", "IPE", "TasksCurrent", "ExecStart"];
    let lasting = text.lines().filter(|line| !passing.iter().any(|word| line.starts_with(word)));
    lasting
        .map(|line| {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            let mut words: Vec<_> = value.split(' ').collect();
            words.sort_unstable();
            format!("{name}={}", words.join(" "))
        })
        .collect()
}

/// Every package that has a unit makes systemd read all units anew when it is installed.
pub async fn a_daemon_reload_changes_no_unit(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("reload"));
    let mut events = open_watched(&supervisor, &session).await;
    let mut display = shell(UnitName::Display, "echo 0; exec sleep 1000");
    display.stdout = Stdout::Ready;
    supervisor.start(&session, &display).await.unwrap();
    let mut app = shell(UnitName::App, "exec sleep 1000");
    app.has_task = true;
    supervisor.start(&session, &app).await.unwrap();
    let names = ["display", "app", "guest"].map(|word| unit(&session, word));
    let before = names.each_ref().map(|name| kept(name));
    command("systemctl", &["daemon-reload"]);
    for (name, before) in names.iter().zip(&before) {
        let after = kept(name);
        let lost: Vec<_> = before.difference(&after).chain(after.difference(before)).collect();
        assert!(lost.is_empty(), "{name}: {lost:#?}");
    }
    command("systemctl", &["kill", "-s", "KILL", &names[1]]);
    assert_eq!(exit_status(&mut events, UnitName::App).await, 128 + 9);
    supervisor.stop(&session, UnitName::App, PATIENCE).await.unwrap();
    assert!(supervisor.start(&session, &app).await.unwrap().pid.is_some());
    supervisor.kill(&session).await.unwrap();
}
