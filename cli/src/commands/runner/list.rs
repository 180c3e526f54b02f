//! `helixctl runner list`.

use helix_protocol::api::RunnerView;
use helix_protocol::runner::RunnerFacts;

use crate::client::Client;
use crate::error::Result;
use crate::ui::{Ui, age};

/// Lists every runner.
pub async fn run(client: &Client, ui: &Ui) -> Result<()> {
    let list = client.runners().await?;
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
                runner.last_seen_at.map_or_else(|| "never".to_owned(), |seen| format!("{} ago", age(seen))),
            ]
        })
        .collect();
    ui.table(&["runner", "status", "slots used", "kinds", "heard"], &rows)
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
    if runner.cordoned {
        words.push("cordoned".to_owned());
    }
    words.join(",")
}
