//! Children that a killed supervisor left: found by their record, or by a command line that names our own settings
//! file (a child may have been started in the moment before it was recorded). Ended in order.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use super::process::{Held, Process, own_processes};
use super::record::UpRecord;
use super::state_dir::StateDir;

/// The children, in the order in which they are ended.
pub const SERVICES: [&str; 3] = ["agentd", "server", "nats"];
/// agentd ends its sessions and reports them.
pub const AGENTD_GRACE: Duration = Duration::from_secs(45);
/// The others have nothing to wait for.
pub const GRACE: Duration = Duration::from_secs(10);

/// What shall become of the sessions that a left agentd runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// agentd is killed; the next one finds its sessions and goes on.
    Keep,
    /// agentd ends them.
    End,
}

/// Arguments of a child: also what it is recognised by.
pub fn arguments(dir: &StateDir, service: &str) -> Vec<OsString> {
    match service {
        "agentd" => vec!["run".into(), "--config".into(), dir.agentd_toml().into()],
        "server" => vec!["--config".into(), dir.server_toml().into()],
        _ => vec!["-c".into(), dir.nats_conf().into()],
    }
}

/// Every child of this state directory that still lives, in the order of [`SERVICES`].
pub fn find(dir: &StateDir, record: Option<&UpRecord>) -> Vec<(&'static str, Held)> {
    let running = own_processes();
    let mut found = Vec::new();
    for service in SERVICES {
        let arguments = arguments(dir, service);
        let by_command = running
            .iter()
            .filter(|(_, line)| {
                line.get(1..)
                    .is_some_and(|args| args.iter().map(Vec::as_slice).eq(arguments.iter().map(|a| a.as_bytes())))
            })
            .filter_map(|(pid, _)| Process::of(*pid));
        let recorded = record.and_then(|record| record.process(service));
        let mut processes: Vec<Process> = by_command.chain(recorded).collect();
        processes.sort_by_key(|process| (process.pid, process.start_time));
        processes.dedup();
        found.extend(processes.into_iter().filter_map(Process::hold).map(|held| (service, held)));
    }
    found
}

/// Ends them in order; returns when they are gone.
pub async fn end(found: Vec<(&'static str, Held)>, sessions: Sessions) {
    for (service, held) in found {
        tracing::info!(service, pid = held.process.pid, "ending a child that was left behind");
        match (service, sessions) {
            ("agentd", Sessions::Keep) => held.kill().await,
            ("agentd", Sessions::End) => held.end(AGENTD_GRACE).await,
            _ => held.end(GRACE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_child_is_found_by_its_command_line_alone_and_ended() {
        let temp = tempfile::tempdir_in("/tmp").expect("a directory");
        let dir = StateDir::new(temp.path()).expect("a path").create().expect("created");
        // A shell whose script is called `run` has the command line of agentd, and waits on its open input.
        std::fs::write(dir.root().join("run"), "echo; read -r _\n").expect("written");
        let start = async |arguments: Vec<OsString>| {
            let mut shell = tokio::process::Command::new("sh");
            shell.args(arguments).current_dir(dir.root()).kill_on_drop(true);
            let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell starts");
            // In the moment after a start the kernel shows no command line yet.
            shell.stdout.as_mut().expect("its output").read_exact(&mut [0]).await.expect("it runs");
            shell
        };
        let _other = start(vec!["run".into(), "--config".into(), "/elsewhere/agentd.toml".into()]).await;
        assert!(find(&dir, None).is_empty(), "another directory's agentd is not ours");

        let mut ours = start(arguments(&dir, "agentd")).await;
        let found = find(&dir, None);
        let names: Vec<_> = found.iter().map(|(service, held)| (*service, Some(held.process.pid))).collect();
        assert_eq!(names, [("agentd", ours.id())]);
        end(found, Sessions::End).await;
        assert!(ours.wait().await.is_ok());
        assert!(find(&dir, None).is_empty());
    }
}
