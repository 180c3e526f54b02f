//! How long things take here: not a check, only said when asked for (`helix-backend-suite measure`).

use std::time::Instant;

use helix_agentd::supervisor::process::{ProcessConfig, ProcessSupervisor};
use helix_agentd::supervisor::{SliceSpec, Stdout, Supervisor, UnitName};

use crate::conformance::{Fixture as _, ready, session, shell};
use crate::host::Host;
use crate::say;

/// Rounds of each.
const ROUNDS: usize = 10;

fn middle(name: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let all: Vec<String> = times.iter().map(|time| format!("{time:.1}")).collect();
    say(&format!("     {name}: median {:.1} ms of {}", times[times.len() / 2], all.join(" ")));
}

pub async fn times(host: &Host) {
    say("     systemd backend:");
    of(&host.supervisor().await).await;
    say("     process backend:");
    let dirs = host.dir.join("process");
    let config =
        ProcessConfig { program: host.program(), ..ProcessConfig::new(dirs.join("state"), dirs.join("workspaces")) };
    of(&ProcessSupervisor::new(config).unwrap()).await;
}

async fn of<S: Supervisor>(supervisor: &S) {
    let mut times: [Vec<f64>; 5] = Default::default();
    for round in 0..ROUNDS {
        let session = session(&format!("measure{round}"));
        let begun = Instant::now();
        supervisor.open(&session, &SliceSpec::default()).await.unwrap();
        times[0].push(begun.elapsed().as_secs_f64() * 1e3);
        let _events = supervisor.events(&session).await.unwrap();
        let begun = Instant::now();
        let mut unit = shell(UnitName::Display, "echo up; exec sleep 1000");
        unit.stdout = Stdout::Ready;
        supervisor.start(&session, &unit).await.unwrap();
        times[1].push(begun.elapsed().as_secs_f64() * 1e3);
        ready(supervisor, &session, UnitName::Display).await;
        let begun = Instant::now();
        let rest = [UnitName::Workspace, UnitName::Dbus, UnitName::Wm].map(|name| {
            let (supervisor, session) = (supervisor.clone(), session.clone());
            async move { supervisor.start(&session, &shell(name, "exec sleep 1000")).await.unwrap() }
        });
        futures::future::join_all(rest).await;
        times[2].push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        supervisor.stop(&session, UnitName::Wm, std::time::Duration::from_secs(5)).await.unwrap();
        times[3].push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        supervisor.kill(&session).await.unwrap();
        times[4].push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let names = ["open", "start of a unit", "start of three units at once", "stop of a unit", "kill with three units"];
    for (name, times) in names.into_iter().zip(times) {
        middle(name, times);
    }
}
