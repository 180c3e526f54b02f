//! A session whose agent is our own bridge on a real runner: every prompt is a shell command that writes down that it ran.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::threads::TurnView;
use helix_protocol::thread::TurnState;
use helix_tests::process::signal_pid;
use helix_tests::{Cluster, parts};
use rustix::process::Signal;
use serde_json::json;

use super::clients::Asked;

/// Runner of such sessions.
pub const RUNNER: &str = "r1";
/// Written by every command, in the workspace.
const RAN: &str = "ran.txt";

/// The session.
#[derive(Debug, Clone)]
pub struct Bridge {
    /// Its id.
    pub session: String,
    workspace: PathBuf,
    slice: PathBuf,
}

impl Bridge {
    /// Starts one and waits until its agent takes prompts.
    pub async fn start(cluster: &Cluster, session: &str) -> Result<Self> {
        let view = cluster.ready(&json!({"id": session, "kind": "command"})).await?;
        let workspace = PathBuf::from(view.workspace.as_deref().context("no workspace")?);
        let slice = cluster.runners[0].state_dir.join("s").join(view.id.unit_key());
        Ok(Self { session: session.to_owned(), workspace, slice })
    }

    /// `kill -9` of the bridge. One that is just being started again is left alone.
    pub fn kill(&self) -> Result<()> {
        match parts::bridge(&self.slice) {
            Ok(pid) => signal_pid(pid, Signal::KILL),
            Err(_) => Ok(()),
        }
    }

    /// The promise: exactly once in effect, and the state is no lie.
    pub fn promise(&self, asked: &Asked, turn: &TurnView, text: &str) -> Result<()> {
        let ran = std::fs::read_to_string(self.workspace.join(RAN)).unwrap_or_default();
        let count = |word: &str| ran.lines().filter(|line| *line == format!("{} {word}", asked.name)).count();
        let (begun, done) = (count("begins"), count("ends"));
        ensure!(begun <= 1, "it ran {begun} times");
        ensure!(turn.prompt == asked.prompt, "another prompt");
        let by_us = turn.cause.is_some();
        match turn.state {
            TurnState::Completed => {
                ensure!((begun, done) == (1, 1), "completed, says the API: {begun} {done}");
                let expected = [0, 1, 2].map(|part| format!("part {part} of {}\n", asked.name)).concat();
                ensure!(text.replace('\r', "").trim_end() == expected.trim_end(), "the command said {expected:?}");
            }
            // A kill of the bridge cuts off what runs, or what was about to.
            TurnState::Failed => ensure!(by_us, "failed, says the API, and not why"),
            TurnState::Interrupted => {}
            TurnState::Cancelled => ensure!(asked.cancelled || by_us, "nobody cancelled it"),
            TurnState::Unknown => anyhow::bail!("the bridge knows everything, and still: {turn:?}"),
            TurnState::Queued | TurnState::Dispatched | TurnState::Running => anyhow::bail!("not over"),
        }
        Ok(())
    }
}

/// A prompt of this name, which takes so many milliseconds.
pub fn prompt(name: &str, milliseconds: u64) -> String {
    let nap = format!("sleep 0.{milliseconds:03}");
    let parts = [0, 1, 2].map(|part| format!("echo part {part} of {name}; {nap}; ")).concat();
    format!("echo {name} begins >>{RAN}; {parts}echo {name} ends >>{RAN}")
}
