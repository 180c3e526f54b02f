//! `session explain`: why a session has the runner that it has, or why it has none.

use helix_protocol::SessionId;
use helix_protocol::api::placement::{PlacementView, RunnerVerdict};

use crate::client::Client;
use crate::error::Result;
use crate::ui::Ui;

/// Prints where it stands, then what each runner says to it.
pub async fn run(client: &Client, id: &SessionId, ui: &Ui) -> Result<()> {
    let placement = client.placement(id).await?;
    ui.answer(&placement, || {
        ui.line(&standing(&placement))?;
        if let Some(to) = &placement.gives_way_to {
            ui.line(&format!("it gives way to {to}"))?;
        }
        for id in &placement.made_room {
            ui.line(&format!("{id} gives way to it"))?;
        }
        let rows: Vec<_> = placement.runners.iter().map(row).collect();
        if rows.is_empty() { ui.line("no runner is enrolled") } else { ui.table(&["RUNNER", "", "WHY"], &rows) }
    })?;
    if !ui.json && placement.runner.is_none() && !placement.phase.is_terminal() {
        ui.note("the queue: helixctl session list --phase Pending; runners: helixctl runner list");
    }
    Ok(())
}

/// One line: what it does, where it stands in the queue, why.
fn standing(placement: &PlacementView) -> String {
    let PlacementView { id, phase, runner, cause, queue_position, priority, assigned_at, .. } = placement;
    let parts = [
        Some(format!("{id} is {phase}")),
        runner.as_ref().map(|runner| format!(" on {runner}")),
        assigned_at.map(|at| format!(" since {}", at.strftime("%Y-%m-%dT%H:%M:%SZ"))),
        queue_position.map(|place| format!(", place {place} in the queue")),
        (*priority != 0).then(|| format!(", priority {priority}")),
        cause.as_ref().map(|cause| format!(": {}", cause.message)),
    ];
    parts.into_iter().flatten().collect()
}

fn row(verdict: &RunnerVerdict) -> Vec<String> {
    let word = match (verdict.runs_it, verdict.fits) {
        (true, _) => "runs it",
        (false, true) => "could take it",
        (false, false) => "cannot take it",
    };
    [verdict.runner.as_str(), word, &verdict.reason].map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_where_it_stands() {
        let mut value = json!({
            "id": "s1", "phase": "pending", "runner": null, "assigned_at": null, "queue_position": 2, "priority": 5,
            "cause": {"code": "queued", "message": "all slots taken"}, "runners": [],
        });
        value["phase"] = serde_json::to_value(helix_protocol::session::SessionPhase::Pending).expect("a phase");
        let placement: PlacementView = serde_json::from_value(value).expect("a placement");
        assert_eq!(standing(&placement), "s1 is Pending, place 2 in the queue, priority 5: all slots taken");
    }
}
