//! Asks a host what it is: one script, one round trip.

use std::time::Duration;

use super::facts::Facts;
use super::wanted;
use crate::error::{CliError, Result};
use crate::ssh::Shell;

const FACTS: &str = include_str!("host_scripts/facts.sh");
const MORE: &str = concat!(
    include_str!("host_scripts/apt_holder.sh"),
    include_str!("host_scripts/last_words.sh"),
    include_str!("host_scripts/doctor.sh")
);
/// Digests of everything on a slow disk, names that nobody knows, addresses that do not answer.
const WITHIN: Duration = Duration::from_mins(1);

/// What is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Question<'a> {
    /// What the host is to reach, by name and URL.
    pub reach: &'a [(&'a str, &'a str)],
    /// More than provisioning needs, with the programs of agents and the server of a host that has no settings yet.
    pub more: Option<(&'a [String], &'a str)>,
}

/// Asks.
pub async fn look(shell: &mut Shell, question: Question<'_>) -> Result<Facts> {
    let reach = question.reach.iter().filter_map(|(name, url)| readable(url).map(|url| format!("{name} {url}")));
    let (reach, targets) = (reach.collect::<Vec<_>>().join("\n"), wanted::paths().join("\n"));
    let proofs = wanted::package_proofs();
    let (programs, fallback) = question.more.unwrap_or_default();
    let programs = programs.join(" ");
    let given = [
        ("targets", targets.as_str()),
        ("proofs", proofs.as_str()),
        ("state", super::STATE),
        ("reach", reach.as_str()),
        ("programs", programs.as_str()),
        ("fallback", fallback),
    ];
    let script = if question.more.is_some() { [FACTS, MORE].join("\n") } else { FACTS.to_owned() };
    let answer = shell.run(&given, &script, WITHIN).await?;
    Facts::parse(&answer.stdout).ok_or_else(|| {
        CliError::failed("what the host says of itself is not whole")
            .because(answer.last_words())
            .next("is its login's shell in order?")
    })
}

/// A URL that the script can take apart; None for one that only its reader understands.
fn readable(url: &str) -> Option<&str> {
    let parsed = reqwest::Url::parse(url).ok()?;
    (parsed.host_str().is_some() && !url.contains(char::is_whitespace)).then_some(url)
}
