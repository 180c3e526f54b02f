//! A session for people: a row of a table, or a page.

use helix_protocol::api::threads::ThreadList;
use helix_protocol::api::{SessionView, SyncStatus};

use super::limits;
use crate::error::Result;
use crate::ui::{Ui, age, span};

/// Sessions as a table; also part of `status`.
pub fn table(ui: &Ui, sessions: &[SessionView]) -> Result<()> {
    let rows: Vec<_> = sessions
        .iter()
        .map(|session| {
            vec![
                session.id.to_string(),
                phase(session),
                session.kind.as_ref().map(ToString::to_string).unwrap_or_default(),
                session.runner.as_ref().map(ToString::to_string).unwrap_or_default(),
                age(session.created_at),
                session.cause.as_ref().map(|cause| first_line(&cause.message)).unwrap_or_default(),
            ]
        })
        .collect();
    ui.table(&["session", "phase", "kind", "runner", "age", "cause"], &rows)
}

fn phase(session: &SessionView) -> String {
    let notes = [
        session.queue_position.map(|place| format!(" (place {place})")),
        session.unclaimed.then(|| " (unclaimed)".to_owned()),
        session.frozen.then(|| " (frozen)".to_owned()),
        session.result.as_ref().map(|result| format!(" (exit {})", result.exit_status)),
    ];
    std::iter::once(session.phase.to_string()).chain(notes.into_iter().flatten()).collect()
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= 60 {
        return line.to_owned();
    }
    let cut: String = line.chars().take(59).collect();
    format!("{cut}…")
}

/// `name  value` lines.
pub fn facts(ui: &Ui, rows: &[(&str, String)]) -> Result<()> {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in rows {
        for (number, line) in value.lines().enumerate() {
            let name = if number == 0 { name } else { "" };
            ui.line(format!("{name:<width$}  {line}").trim_end())?;
        }
    }
    Ok(())
}

/// The line between the session's agent and the server, and what is wrong with it.
fn sync_rows(session: &SessionView) -> Vec<(&'static str, String)> {
    let SyncStatus { connected, ready, connected_at, agent, refused } = &session.sync;
    let mut rows = Vec::new();
    if session.phase.is_terminal() {
        return rows;
    }
    let named = agent.as_ref().map(|agent| format!(" ({agent})")).unwrap_or_default();
    let since = connected_at.map(|at| format!(" since {at}")).unwrap_or_default();
    rows.push((
        "agent",
        match (connected, ready) {
            (true, true) => format!("connected and ready{named}{since}"),
            (true, false) => format!("connected, not ready yet{named}{since}"),
            (false, _) => "not connected: prompts wait".to_owned(),
        },
    ));
    if let Some(why) = refused {
        rows.push((
            "refused",
            format!(
                "{why}\nWhatever dials tries again for ever and says nothing. If it is the session's own agent, begin anew: \
                 helixctl session stop {}",
                session.id
            ),
        ));
    }
    rows
}

fn threads_words(session: &SessionView, list: &ThreadList) -> String {
    let count = list.threads.len();
    let asks: u32 = list.threads.iter().map(|thread| thread.open_questions).sum();
    let mut words = count.to_string();
    if list.usage.total_tokens > 0 {
        words.extend([", ", &list.usage.total_tokens.to_string(), " tokens"]);
    }
    if asks > 0 {
        let asks = asks.to_string();
        words.extend(["\nthe agent waits for ", &asks, " answers: helixctl session chat ", session.id.as_str()]);
    }
    words
}

/// Its own time limits, before they stop it.
fn time_rows(session: &SessionView) -> Vec<(&'static str, String)> {
    let limits = [("idle_timeout", session.spec.idle_timeout), ("lifetime", session.spec.lifetime)];
    let named = limits.into_iter().filter_map(|(name, limit)| Some(format!("{name} {}", limit?)));
    let named = named.collect::<Vec<_>>().join(", ");
    let since = session.idle_since.map(|at| ("idle since", at.to_string()));
    let end = session.expires_at.map(|at| ("stops at", format!("{at} ({named})")));
    since.into_iter().chain(end).collect()
}

/// Everything about one session; `threads` where they could be read.
pub fn show(ui: &Ui, session: &SessionView, threads: Option<&ThreadList>) -> Result<()> {
    let mut rows = vec![("session", session.id.to_string()), ("phase", phase(session))];
    rows.extend(time_rows(session));
    if let Some(cause) = &session.cause {
        rows.push(("cause", format!("{} ({})", cause.message, cause.code)));
        rows.extend(cause.step.iter().map(|step| ("step", step.clone())));
        rows.extend(cause.unit.iter().map(|unit| ("unit", unit.clone())));
        if !cause.log_tail.is_empty() {
            rows.push(("last log lines", cause.log_tail.join("\n")));
        }
    }
    rows.extend(session.kind.iter().map(|kind| ("kind", kind.to_string())));
    rows.extend(session.runner.iter().map(|runner| ("runner", runner.to_string())));
    rows.push(("owner", session.owner.clone()));
    rows.push(("created", session.created_at.to_string()));
    if let Some(project) = &session.spec.project {
        let branch = project.branch.as_ref().map(|branch| format!(" ({branch})")).unwrap_or_default();
        rows.push(("project", format!("{}{branch}", project.git)));
    }
    rows.extend(session.spec_task.iter().map(|task| ("spec task", task.to_string())));
    rows.extend(sync_rows(session));
    rows.extend(threads.map(|list| ("threads", threads_words(session, list))));
    rows.extend(session.workspace.iter().map(|path| ("workspace", path.clone())));
    rows.extend(limits::rows(&session.spec.resources, &session.spec.reserve, session.limits.as_ref()));
    rows.extend(session.usage.iter().flat_map(limits::usage_rows));
    if let Some(network) = session.spec.network {
        rows.push(("network", format!("{network:?}").to_lowercase()));
    }
    if let Some(on_lost) = session.spec.on_lost {
        rows.push(("when lost", format!("{on_lost:?}").to_lowercase()));
    }
    if session.spec.preemptible == Some(true) {
        rows.push(("preemptible", "by sessions of higher priority".to_owned()));
    }
    rows.extend(session.spec.image.iter().map(|image| ("image", image.to_string())));
    if let Some(server) = session.spec.display_server {
        rows.push(("display server", format!("{server:?}").to_lowercase()));
    }
    rows.extend(session.recording.iter().map(|id| ("recorded as", id.to_string())));
    rows.extend(session.display.iter().map(|display| ("display", format!(":{} {}", display.number, display.geometry))));
    rows.extend(session.endpoints.view.iter().map(|view| ("desktop", view.clone())));
    rows.extend(session.labels.iter().map(|(key, value)| ("label", format!("{key}={value}"))));
    if let Some(result) = &session.result {
        rows.push(("exit status", result.exit_status.to_string()));
        let cut = if result.output_truncated { "(the beginning is cut off)\n" } else { "" };
        rows.push(("output", format!("{cut}{}", result.output_tail.trim_end())));
    }
    facts(ui, &rows)?;
    ui.line("")?;
    let steps: Vec<_> = session
        .timeline
        .iter()
        .map(|step| {
            vec![
                step.step.clone(),
                step.at.to_string(),
                step.duration_ms.map(|ms| span(std::time::Duration::from_millis(ms))).unwrap_or_default(),
                step.detail.clone().unwrap_or_default(),
            ]
        })
        .collect();
    ui.table(&["step", "began", "took", "detail"], &steps)
}
