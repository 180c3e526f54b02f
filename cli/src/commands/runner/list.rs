//! `helixctl runner list`.

use clap::Args;
use helix_protocol::api::{RunnerList, RunnerView};
use helix_protocol::runner::RunnerFacts;

use super::super::session::create::parse_pair;
use crate::client::Client;
use crate::error::Result;
use crate::ui::{Ui, age};

/// Arguments of `runner list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those with this label; may be repeated: then with all of them
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
}

/// Lists runners.
pub async fn run(client: &Client, args: &ListArgs, ui: &Ui) -> Result<()> {
    let all = client.runners().await?.runners;
    let has = |runner: &RunnerView| args.labels.iter().all(|(name, value)| runner.labels.get(name) == Some(value));
    let list = RunnerList { runners: all.into_iter().filter(has).collect() };
    ui.answer(&list, || table(ui, &list.runners))
}

/// The runners as a table; also part of `status`.
pub fn table(ui: &Ui, runners: &[RunnerView]) -> Result<()> {
    let rows: Vec<_> = runners
        .iter()
        .map(|runner| {
            vec![
                runner.id.to_string(),
                status_word(runner),
                format!("{}/{}", runner.active_tasks, runner.slots),
                runner.facts.as_ref().map_or_else(String::new, kinds),
                label_list(runner).join(","),
                runner.last_seen_at.map_or_else(|| "never".to_owned(), |seen| format!("{} ago", age(seen))),
            ]
        })
        .collect();
    ui.table(&["runner", "status", "slots used", "kinds", "labels", "heard"], &rows)
}

/// Its kinds, in one word.
pub fn kinds(facts: &RunnerFacts) -> String {
    facts.kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The documents' word, and what it does not say.
pub fn status_word(runner: &RunnerView) -> String {
    let mut words = vec![format!("{:?}", runner.status).to_lowercase()];
    if runner.liveness != helix_protocol::runner::Liveness::Online {
        words.push(format!("{:?}", runner.liveness).to_lowercase());
    }
    if runner.draining {
        words.push("draining".to_owned());
    }
    if !runner.degraded.is_empty() {
        words.push("degraded".to_owned());
    }
    if runner.unsteady_until.is_some() {
        words.push("unsteady".to_owned());
    }
    if runner.cordoned {
        words.push("cordoned".to_owned());
    }
    if runner.rotating {
        words.push("rotating".to_owned());
    }
    words.join(",")
}

/// Its labels, each `name=value`.
pub fn label_list(runner: &RunnerView) -> Vec<String> {
    runner.labels.iter().map(|(name, value)| format!("{name}={value}")).collect()
}
