//! Waiting on a session with the running step named: the event feed says when to look, a GET says what there is.

use std::collections::BTreeSet;
use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::api::SessionView;
use helix_protocol::session::{SessionPhase, TimelineStep};
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::feed::Feed;
use crate::ui::{Progress, Ui, span};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Desktop and agent are up.
    Ready,
    /// The command has ended.
    Result,
    /// Nothing of it runs any more.
    Ended,
}

impl Goal {
    fn words(self) -> &'static str {
        match self {
            Self::Ready => "become ready",
            Self::Result => "have a result",
            Self::Ended => "end",
        }
    }
}

/// An open event feed and a deadline.
pub struct Watch {
    client: Client,
    feed: Feed,
    patience: Duration,
    deadline: Instant,
}

impl Watch {
    /// Opens the feed. The deadline runs from now.
    pub async fn open(client: &Client, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let feed = Feed::open(&client.connection).await?;
        Ok(Self { client: client.clone(), feed, patience, deadline })
    }

    /// Waits for the goal; an error when it cannot be reached any more, or not in time.
    pub async fn until(&mut self, id: &SessionId, goal: Goal, ui: &Ui) -> Result<SessionView> {
        let mut steps = Steps::new(ui.progress());
        let (deadline, patience) = (self.deadline, self.patience);
        let outcome = tokio::time::timeout_at(deadline, async {
            loop {
                let session = self.client.session(id).await?;
                steps.show(&session);
                if let Some(end) = judge(&session, goal) {
                    steps.finish(&session);
                    return end.map(|()| session);
                }
                self.feed.changed(id).await?;
            }
        })
        .await;
        outcome.unwrap_or_else(|_elapsed| {
            Err(CliError::new(Kind::TimedOut, format!("session {id} did not {} in time", goal.words()))
                .at(&self.client.connection.url)
                .because(format!("{} s are over; {}", patience.as_secs(), steps.last_seen()))
                .next(format!("it goes on: helixctl session show {id}")))
        })
    }
}

/// None while it is worth waiting.
fn judge(session: &SessionView, goal: Goal) -> Option<Result<()>> {
    let reached = match goal {
        Goal::Ready => session.phase == SessionPhase::Ready,
        Goal::Result => session.result.is_some(),
        Goal::Ended => session.phase.is_terminal(),
    };
    if reached {
        return Some(Ok(()));
    }
    let over = session.phase.is_terminal() || session.phase == SessionPhase::Stopping;
    (over && goal != Goal::Ended).then(|| Err(missed(session, goal)))
}

fn missed(session: &SessionView, goal: Goal) -> CliError {
    let id = &session.id;
    let mut error = CliError::failed(format!("session {id} did not {}: it is {}", goal.words(), session.phase));
    if let Some(cause) = &session.cause {
        let head = format!("{} ({})", cause.message, cause.code);
        let lines: Vec<_> =
            std::iter::once(head).chain(cause.log_tail.iter().map(|line| format!("| {line}"))).collect();
        error = error.because(lines.join("\n"));
        let step = cause.step.as_deref().or(cause.unit.as_deref());
        error.place = step.map(|step| format!("step {step}"));
    }
    error.next(format!("helixctl session logs {id}"))
}

/// Steps that are moments: they are over when they are seen.
const MOMENTS: [&str; 7] = ["accepted", "assigned", "claimed", "received", "ready", "stopped", "failed"];

/// Prints each step of the timeline once, when it is over, with its duration.
struct Steps {
    progress: Progress,
    /// Places in the timeline that were printed: steps run side by side and end in any order.
    printed: BTreeSet<usize>,
    last: String,
    waiting: Option<String>,
}

impl Steps {
    fn new(progress: Progress) -> Self {
        progress.now("waiting for the server");
        Self { progress, printed: BTreeSet::new(), last: "nothing was seen yet".to_owned(), waiting: None }
    }

    fn show(&mut self, session: &SessionView) {
        self.print(session, is_over);
        let running = session.timeline.iter().rfind(|step| !is_over(step));
        let running = running.map_or_else(String::new, |step| format!(", step {}", step.step));
        self.last = format!("it is {}{running}", session.phase);
        self.progress.now(&format!("session {} {}{running}", session.id, session.phase));
        if session.phase == SessionPhase::Pending {
            self.say_why_it_waits(session);
        }
    }

    fn finish(&mut self, session: &SessionView) {
        self.print(session, |_| true);
    }

    fn last_seen(&self) -> &str {
        &self.last
    }

    fn print(&mut self, session: &SessionView, wanted: fn(&TimelineStep) -> bool) {
        for (place, step) in session.timeline.iter().enumerate().filter(|(_, step)| wanted(step)) {
            if self.printed.insert(place) {
                self.progress.done(&step_line(step));
            }
        }
    }

    fn say_why_it_waits(&mut self, session: &SessionView) {
        let Some(cause) = &session.cause else { return };
        let place = session.queue_position.map(|place| format!(" (place {place})")).unwrap_or_default();
        let text = format!("queued{place}: {}", cause.message);
        if self.waiting.as_ref() != Some(&text) {
            self.progress.done(&text);
            self.waiting = Some(text);
        }
    }
}

fn is_over(step: &TimelineStep) -> bool {
    step.duration_ms.is_some() || MOMENTS.contains(&step.step.as_str())
}

fn step_line(step: &TimelineStep) -> String {
    let took = step.duration_ms.map(|ms| format!("  {}", span(Duration::from_millis(ms)))).unwrap_or_default();
    let detail = step.detail.as_ref().map(|detail| format!("  {detail}")).unwrap_or_default();
    format!("{:<15}{took}{detail}", step.step).trim_end().to_owned()
}

#[cfg(test)]
mod tests;
