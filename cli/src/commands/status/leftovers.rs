//! What the reaper found, as part of the status: its last look, and what is for people to decide.

use helix_protocol::api::status::FleetStatus;

use crate::ui;

/// Its last look, in a line.
pub(super) fn line(fleet: &FleetStatus) -> Option<String> {
    let last = fleet.reaper.as_ref()?;
    let (ago, waits) = (ui::age(last.at), last.waiting);
    Some(format!("reaper: looked {ago} ago, removed {} ({} bytes), {waits} wait", last.removed, last.removed_bytes))
}

/// What nobody needs, perhaps, and nobody but people may remove; what goes soon. None of it makes a fleet degraded.
pub(super) fn warnings(fleet: &FleetStatus) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(last) = fleet.reaper.as_ref().filter(|last| last.foreign + last.unproved > 0) {
        warnings.push(format!(
            "NATS has {} things that are none of Helix's and {} whose owner cannot be told; look: helixctl reap --last",
            last.foreign, last.unproved
        ));
    }
    for runner in &fleet.runners {
        let (id, leftovers) = (&runner.id, &runner.leftovers);
        if let Some(next) = leftovers.kept.first() {
            warnings.push(format!(
                "runner {id} keeps {} workspaces of sessions that live elsewhere; the next stays {}; look: helixctl runner \
                 show {id}",
                leftovers.kept.len(),
                crate::commands::reap::until(next.until)
            ));
        }
        if !leftovers.stuck.is_empty() {
            warnings.push(format!(
                "runner {id} cannot remove what is left of {} sessions; look: helixctl reap --last",
                leftovers.stuck.len()
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_have_to_decide_about_is_told() {
        let mut fleet: FleetStatus = serde_json::from_str(
            r#"{"version":"1","server":"s","runners":[],"sessions":{},
              "reaper":{"at":"2026-01-01T00:00:00Z","removed":3,"removed_bytes":90,"waiting":0,"unproved":1,"foreign":2}}"#,
        )
        .expect("a status");
        insta::assert_snapshot!(warnings(&fleet).join("\n"), @"NATS has 2 things that are none of Helix's and 1 whose owner cannot be told; look: helixctl reap --last");
        let last = fleet.reaper.as_mut().expect("a look");
        (last.unproved, last.foreign) = (0, 0);
        assert_eq!(warnings(&fleet), Vec::<String>::new());
        assert!(line(&fleet).is_some_and(|line| line.ends_with("removed 3 (90 bytes), 0 wait")));
    }
}
