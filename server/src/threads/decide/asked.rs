//! Questions of the agent's.

use std::time::Duration;

use helix_protocol::sync::ElicitationRequested;
use helix_protocol::thread::{AnswerAction, ThreadEvent};
use serde_json::Value;
use tokio::time::Instant;

use super::hear::{custom, turn_in};
use super::outcome::oldest_active;
use super::{Append, Desk, turn_of};
use crate::threads::model::{Conversation, Question, Thread};

/// How long a question may be missing from the agent's list of those that wait.
const GRACE: Duration = Duration::from_mins(1);

impl Desk {
    pub(super) fn hear_asked(
        &mut self,
        conversation: &Conversation,
        asked: &ElicitationRequested,
        now: Instant,
    ) -> Vec<Append> {
        let by_acp = conversation.thread_of_acp(&asked.acp_thread_id);
        let Some(thread) = by_acp.or_else(|| turn_of(conversation, &asked.request_id).map(|(thread, _)| thread)) else {
            let data = serde_json::to_value(asked).unwrap_or(Value::Null);
            return vec![custom(conversation, "elicitation_requested", &data)];
        };
        self.questions.insert(asked.elicitation_id.clone(), now);
        let turn = turn_in(conversation, thread, &asked.request_id).filter(|turn| !turn.state.is_final());
        let turn = turn.or_else(|| oldest_active(thread)).map(|turn| turn.id.clone());
        if let Some(turn) = &turn {
            self.show(turn, now);
        }
        if thread.question(&asked.elicitation_id).is_some() {
            return Vec::new();
        }
        let event = ThreadEvent::QuestionAsked {
            question: asked.elicitation_id.clone(),
            turn,
            mode: if asked.mode.is_empty() { "form".to_owned() } else { asked.mode.clone() },
            message: asked.message.clone(),
            schema: asked.requested_schema.clone(),
            entry: Some(asked.entry_index.clone()).filter(|entry| !entry.is_empty()),
        };
        vec![Append { thread: thread.id.clone(), event }]
    }

    pub(super) fn hear_resolved(conversation: &Conversation, acp: &str, question: &str, status: &str) -> Vec<Append> {
        let found = open(conversation, question).filter(|(thread, _)| {
            acp.is_empty() || thread.acp_ids.iter().any(|id| id == acp) || conversation.thread_of_acp(acp).is_none()
        });
        found.map(|(thread, question)| closed(thread, question, status)).into_iter().collect()
    }

    pub(super) fn hear_answer_taken(conversation: &Conversation, question: &str, status: &str) -> Vec<Append> {
        let Some((thread, question)) = open(conversation, question) else { return Vec::new() };
        let status = match (status, question.answer.as_ref().map(|answer| answer.action)) {
            ("accepted", Some(AnswerAction::Decline)) => "declined",
            ("accepted", Some(AnswerAction::Cancel)) => "cancelled",
            ("accepted", _) => "accepted",
            // The agent does not wait for it any more.
            _ => "expired",
        };
        vec![closed(thread, question, status)]
    }

    /// What is not named any more, and was not heard of for a while, does not wait any more.
    pub(super) fn hear_still_asked(
        &mut self,
        conversation: &Conversation,
        acp: &str,
        questions: &[String],
        now: Instant,
    ) -> Vec<Append> {
        for question in questions {
            self.questions.insert(question.clone(), now);
        }
        let Some(thread) = conversation.thread_of_acp(acp) else { return Vec::new() };
        // Who asks works on, however long a person takes to answer.
        let asking = thread.questions.iter().filter(|question| questions.contains(&question.id));
        for turn in asking.filter_map(|question| question.turn.as_ref()) {
            self.show(turn, now);
        }
        let mut expired = Vec::new();
        for question in thread.questions.iter().filter(|question| question.closed.is_none()) {
            // Of one that was asked before this server was the owner the time counts from now.
            let heard = *self.questions.entry(question.id.clone()).or_insert(now);
            if now.duration_since(heard) >= GRACE {
                expired.push(closed(thread, question, "expired"));
            }
        }
        expired
    }
}

/// A question that waits.
fn open<'a>(conversation: &'a Conversation, question: &str) -> Option<(&'a Thread, &'a Question)> {
    let find = |thread: &'a Thread| Some((thread, thread.question(question)?));
    conversation.threads().iter().rev().filter_map(find).find(|(_, question)| question.closed.is_none())
}

pub(super) fn closed(thread: &Thread, question: &Question, status: &str) -> Append {
    let event = ThreadEvent::QuestionClosed { question: question.id.clone(), status: status.to_owned() };
    Append { thread: thread.id.clone(), event }
}
