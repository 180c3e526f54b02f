//! A host is one run's at a time. The lock is held by the root shell that took it, and by what that started.

use std::time::Duration;

use super::STATE;
use crate::error::{CliError, Kind, Result};
use crate::ssh::Shell;

const BEGIN: &str = include_str!("host_scripts/begin.sh");
/// For another run to end, in seconds; one that is dead is noticed after a minute.
const PATIENCE: u64 = 75;
/// What another run left is undone first.
const WITHIN: Duration = Duration::from_secs(PATIENCE + 180);

/// Takes the host, and undoes what a run left that was killed.
pub async fn take(shell: &mut Shell, owner: &str) -> Result<()> {
    let (patience, connection) = (PATIENCE.to_string(), shell.connection.clone());
    let given =
        [("state", STATE), ("owner", owner), ("patience", patience.as_str()), ("connection", connection.as_str())];
    let answer = shell.run_in_place(&given, BEGIN, WITHIN).await?;
    if let Some(stuck) = answer.stdout.lines().find_map(|line| line.strip_prefix("stuck ")) {
        let why = format!("see {STATE}/runs/{stuck}/log on the host");
        return Err(CliError::failed("a former run cannot be undone").because(why));
    }
    if answer.stdout.lines().any(|line| line == "taken") {
        return Ok(());
    }
    let busy = answer.stdout.lines().find_map(|line| line.strip_prefix("busy "));
    let why = busy
        .and_then(|busy| busy.split_once(' '))
        .map_or_else(|| answer.last_words(), |(age, owner)| format!("{owner} is at work there, since {age} s"));
    Err(CliError::new(Kind::Refused, "the host is being provisioned by somebody else")
        .because(why)
        .next("run it again later"))
}
