//! `helixctl runner remove`, the machine's part: one script that takes off what provisioning put there.
//!
//! Under the same lock as a provisioning run, and like it the script runs to its end whatever becomes of the connection;
//! run again it goes on from whatever it finds.

use std::time::Duration;

use serde::Serialize;

use super::wanted;
use crate::error::{CliError, Result};
use crate::ssh::Shell;

const REMOVE: &str = include_str!("host_scripts/remove.sh");
/// A runner with many sessions, and three dozen users.
const WITHIN: Duration = Duration::from_mins(5);

/// What became of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// What was there and is gone: `file /usr/bin/agentd`, `user helix-u1`.
    pub gone: Vec<String>,
    /// What stays, and why.
    pub kept: Vec<String>,
}

/// Takes everything off. Whoever calls holds the machine's lock.
pub async fn remove(shell: &mut Shell) -> Result<Removed> {
    let paths = wanted::paths().join("\n");
    let answer = shell.run(&[("state", super::STATE), ("paths", &paths)], REMOVE, WITHIN).await?;
    let lines = |word: &str| -> Vec<String> {
        answer.stdout.lines().filter_map(|line| line.strip_prefix(word)).map(str::to_owned).collect()
    };
    if answer.stdout.lines().last() == Some("removed") {
        return Ok(Removed { gone: lines("gone "), kept: lines("kept ") });
    }
    let left = lines("left ");
    let why = if left.is_empty() { answer.last_words() } else { format!("still there: {}", left.join(", ")) };
    Err(CliError::failed("not everything could be taken off the machine").because(why).next("run it again"))
}
