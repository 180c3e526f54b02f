//! One turn, followed to its end: its answer streams onto the screen, and its outcome is judged.
//!
//! A turn ends when its thread says so. A session that ends first has [`GRACE`] to say it: then whoever waits is told
//! why the session ended instead of waiting for ever.

use std::time::Duration;

use helix_protocol::api::SessionView;
use helix_protocol::api::threads::TurnView;
use helix_protocol::session::SessionPhase;
use helix_protocol::thread::{Role, TurnState};
use helix_protocol::{SessionId, ThreadId, TurnId};
use serde::Serialize;

use crate::client::{Client, patiently};
use crate::error::{CliError, Result};
use crate::feed::Feed;
use crate::reading::{News, Reading};
use crate::transcript::{Moved, Piece, Question};
use crate::ui::Screen;

/// How long a session that has ended may take to say what became of its turns.
const GRACE: Duration = Duration::from_secs(15);
/// How long the server may be away at the end of a turn.
const AWAY: Duration = Duration::from_mins(1);

/// Which turn.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The session as it was named.
    pub session: &'a SessionId,
    /// The session whose desktop it is: the one whose events tell its end.
    pub desktop: &'a SessionId,
    /// The thread.
    pub thread: &'a ThreadId,
    /// The turn.
    pub turn: &'a TurnId,
}

/// A turn that is over. What `--json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Followed {
    /// The session.
    pub session: SessionId,
    /// The turn: its state, cause, exit status and usage.
    pub turn: TurnView,
    /// All that the agent said in it.
    pub answer: String,
}

/// Shows the turn until it is over.
pub async fn follow(client: &Client, task: Task<'_>, mut reading: Reading, screen: &mut Screen) -> Result<Followed> {
    let mut ended = std::pin::pin!(session_ends(client, task.session, task.desktop));
    while !reading.transcript.state(task.turn).is_some_and(TurnState::is_final) {
        // Both arms are cancel safe, and the second is the same future every time.
        let news = tokio::select! {
            news = reading.next() => news?,
            ended = &mut ended => return Err(ended_before(&ended?, task)),
        };
        show(task, news, screen)?;
    }
    while let Some(news) = reading.ready() {
        show(task, news, screen)?;
    }
    for piece in reading.transcript.settle(task.turn) {
        show(task, News::Piece(piece), screen)?;
    }
    screen.end()?;
    let turn = patiently(AWAY, async || client.turn(task.session, task.thread, task.turn).await).await?;
    Ok(Followed { session: task.session.clone(), turn, answer: reading.transcript.answer(task.turn) })
}

fn show(task: Task<'_>, news: News, screen: &mut Screen) -> Result<()> {
    match news {
        News::Piece(piece) => show_piece(task, piece, screen),
        News::Gap { from, to } => screen.say(&gap_words(from, to)),
        News::Broken(why) => screen.note(&format!("the line to the server broke: {why}; trying again")),
        News::Back => screen.note("the line is back, nothing was missed"),
    }
}

fn show_piece(task: Task<'_>, piece: Piece, screen: &mut Screen) -> Result<()> {
    match piece {
        Piece::Text { entry, role: Role::Assistant, how, text, .. } => screen.text(&entry, how, &text),
        Piece::Tool { entry, tool, .. } => screen.tool(&entry, &tool_words(&tool.name, &tool.status)),
        Piece::Moved(moved) if !moved.state.is_final() => screen.note(&moved_words(&moved)),
        Piece::Asked(question) => {
            let (session, thread, id) = (task.session, task.thread, &question.id);
            screen.say(&format!(
                "{}\n  answer it: helixctl session chat {session} --thread {thread}\n         or: helixctl thread answer \
                 {session} {thread} {id} --help",
                question_words(&question)
            ))
        }
        Piece::Settled { status, by, .. } => screen.note(&settled_words(&status, by.as_deref())),
        _ => Ok(()),
    }
}

/// Completes when the session has ended, and has had the time to say what became of its turns. Events name the session
/// whose desktop it is.
pub async fn session_ends(client: &Client, session: &SessionId, desktop: &SessionId) -> Result<SessionView> {
    let mut feed = patiently(AWAY, async || Feed::open(&client.connection).await).await?;
    loop {
        let view = patiently(AWAY, async || client.session(session).await).await?;
        if view.phase.is_terminal() {
            tokio::time::sleep(GRACE).await;
            return Ok(view);
        }
        feed.changed(desktop).await?;
    }
}

fn ended_before(session: &SessionView, task: Task<'_>) -> CliError {
    let what = format!("session {} ended before turn {} did: it is {}", session.id, task.turn, session.phase);
    because_ended(CliError::failed(what), session)
}

/// The error with the reason why the session ended.
pub fn because_ended(error: CliError, session: &SessionView) -> CliError {
    let error = error.next(format!("helixctl session logs {}", session.id));
    let Some(cause) = &session.cause else { return error };
    let head = format!("{} ({})", cause.message, cause.code);
    let tail = cause.log_tail.iter().map(|line| format!("| {line}"));
    error.because(std::iter::once(head).chain(tail).collect::<Vec<_>>().join("\n"))
}

/// Why a prompt may have to wait before the agent gets it; none where it need not.
pub fn waits_because(session: &SessionView) -> Option<String> {
    if session.phase != SessionPhase::Ready {
        return Some(format!("the session is {}: the prompt waits until its agent is ready", session.phase));
    }
    match (&session.sync.refused, session.sync.connected) {
        (Some(why), _) => Some(format!("the server refuses the session's agent, and the prompt waits: {why}")),
        (None, false) => Some("the session's agent is not connected: the prompt waits until it is".to_owned()),
        (None, true) => None,
    }
}

/// None when the turn did what it should; else what became of it, for people.
pub fn failure(session: &SessionId, turn: &TurnView) -> Option<CliError> {
    let (id, thread) = (&turn.id, &turn.thread);
    let what = match (turn.state, turn.exit_status) {
        (TurnState::Completed, None | Some(0)) => return None,
        (TurnState::Completed, Some(status)) => format!("the command ended with exit status {status}"),
        (TurnState::Unknown, _) => format!("nobody can tell what became of turn {id}"),
        (state, _) => format!("turn {id} is {state}"),
    };
    let mut error = CliError::failed(what).at(format!("session {session}, thread {thread}"));
    error.why = turn.cause.as_ref().map(|cause| format!("{} ({})", cause.message, cause.code));
    Some(match turn.state {
        TurnState::Completed => error,
        TurnState::Unknown => error.next(format!(
            "see what it did: helixctl thread show {session} {thread}; ask again: helixctl thread resend {session} \
             {thread} {id}"
        )),
        _ => error.next(format!("helixctl thread show {session} {thread}")),
    })
}

/// A tool's line.
pub fn tool_words(name: &str, status: &str) -> String {
    if status.is_empty() { format!("tool: {name}") } else { format!("tool: {name}: {status}") }
}

/// A new state of a turn, in a line.
pub fn moved_words(moved: &Moved) -> String {
    let cause = moved.cause.as_ref().map(|cause| format!(": {} ({})", cause.message, cause.code)).unwrap_or_default();
    let status = moved.exit_status.map(|status| format!(", exit status {status}")).unwrap_or_default();
    match moved.state {
        TurnState::Dispatched => "the prompt goes to the agent".to_owned(),
        TurnState::Running => "the agent works on it".to_owned(),
        state => format!("turn {state}{status}{cause}"),
    }
}

/// A question, in a line.
pub fn question_words(question: &Question) -> String {
    let about = match question.mode.as_str() {
        "permission" => "the agent asks for leave: ",
        "url" => "the agent asks you to open an address: ",
        _ => "the agent asks: ",
    };
    format!("{about}{}", question.message)
}

/// What became of a question, in a line.
pub fn settled_words(status: &str, by: Option<&str>) -> String {
    match by {
        Some(by) => format!("the question is {status} by {by}"),
        None => format!("the question is {status}"),
    }
}

/// What a gap means, in a line.
pub fn gap_words(from: u64, to: u64) -> String {
    format!("gap: events {from} to {} were not told; reading the thread again", to.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(json: serde_json::Value) -> TurnView {
        let mut view = serde_json::json!({
            "id": "int_1", "thread": "thr_1", "state": "completed", "cause": null, "origin": "api", "by": "admin",
            "prompt": "do it", "attachments": [], "interrupt": false, "cancel_requested": false, "resend_of": null,
            "usage": null, "exit_status": null, "queued_at": "2026-01-01T00:00:00Z", "dispatched_at": null,
            "finished_at": null
        });
        let serde_json::Value::Object(changes) = json else { panic!("not an object") };
        view.as_object_mut().expect("an object").extend(changes);
        serde_json::from_value(view).expect("a turn")
    }

    #[test]
    fn only_a_completed_turn_with_status_0_is_a_success() {
        let session = SessionId::parse("s1").expect("valid id");
        let failed = |json| failure(&session, &turn(json)).map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(failed(serde_json::json!({})), "");
        assert_eq!(failed(serde_json::json!({"exit_status": 0})), "");
        let told = [
            serde_json::json!({"exit_status": 3}),
            serde_json::json!({"state": "failed", "cause": {"code": "agent_error", "message": "the key is missing"}}),
            serde_json::json!({"state": "unknown", "cause": {"code": "not_proved", "message": "the agent restarted"}}),
            serde_json::json!({"state": "cancelled"}),
        ]
        .map(failed);
        insta::assert_snapshot!(told.join("\n"), @r"
        error: the command ended with exit status 3
          where: session s1, thread thr_1
        error: turn int_1 is failed
          where: session s1, thread thr_1
          why:   the key is missing (agent_error)
          next:  helixctl thread show s1 thr_1
        error: nobody can tell what became of turn int_1
          where: session s1, thread thr_1
          why:   the agent restarted (not_proved)
          next:  see what it did: helixctl thread show s1 thr_1; ask again: helixctl thread resend s1 thr_1 int_1
        error: turn int_1 is cancelled
          where: session s1, thread thr_1
          next:  helixctl thread show s1 thr_1
        ");
    }
}
