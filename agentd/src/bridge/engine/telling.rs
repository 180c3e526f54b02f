//! What the server is told, and when.
//!
//! Entries have their own pace (`engine/entries.rs`). A new connection is told: the turns that run, whole; then those that ended and
//! of which no later ping was answered, and the last of each thread in any case, since an answered ping proves that a
//! frame has arrived and not that it was stored. Servers know by content what they have already.

use helix_protocol::sync::{ActiveTurn, AgentEvent, AgentReady, ElicitationRequested, MessageCompleted};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Engine, Question};
use crate::bridge::conversation::State;
use crate::bridge::record::{End, Origin, Record};

/// Threads whose last turn is told again.
pub(super) const RETOLD_THREADS: usize = 50;

impl Engine {
    pub(super) fn tell(&self, event: &AgentEvent) {
        if let Some(connection) = &self.connection {
            connection.send(event);
        }
    }

    pub(super) fn tell_custom(&self, name: &str, data: &Value) {
        if let Some(connection) = &self.connection {
            connection.send(&json!({"event_type": name, "data": data}));
        }
    }

    /// Everything that a new connection must know, in the order of the contract: ping, backlog, ready.
    pub(super) fn greet(&mut self) {
        self.journal.state.nothing_told();
        self.awaited.clear();
        self.tell(&AgentEvent::Ping { timestamp: now() });
        let turns = self.journal.state.turns();
        let mut last = std::collections::BTreeMap::new();
        for (request, turn) in &turns {
            last.insert(turn.thread.clone().unwrap_or_default(), (turn.number, (*request).clone()));
        }
        let mut last: Vec<_> = last.into_values().collect();
        last.sort();
        let last: Vec<_> = last.into_iter().rev().take(RETOLD_THREADS).map(|(_, request)| request).collect();
        let wanted = |(request, turn): &(&String, &crate::bridge::conversation::Turn)| match turn.state {
            State::Queued => false,
            State::Running => true,
            State::Over => !turn.told || last.contains(request),
        };
        let wanted: Vec<String> = turns.into_iter().filter(wanted).map(|(request, _)| request.clone()).collect();
        for request in wanted {
            self.tell_whole(&request);
        }
        for question in self.questions.clone() {
            self.tell_question(&question);
        }
        self.tell_offers();
        if self.ready {
            self.tell_ready(None, None);
        }
    }

    /// A turn that is known is asked for: all of it again.
    pub(super) fn tell_again(&mut self, request: &str) {
        if let Some(turn) = self.journal.state.turn_mut(request) {
            for entry in &mut turn.entries {
                entry.told = None;
            }
        }
        self.tell_whole(request);
    }

    fn tell_whole(&mut self, request: &str) {
        let Some(turn) = self.journal.state.turn(request) else { return };
        let (state, cancelling) = (turn.state, turn.cancelling);
        let closed: Vec<_> =
            turn.questions.iter().filter_map(|(id, status)| Some((id.clone(), status.clone()?))).collect();
        if turn.new_thread && turn.thread.is_some() {
            self.tell_thread(request, true);
        }
        self.flush_turn(request);
        for (question, status) in closed {
            self.tell_closed(request, &question, &status);
        }
        if cancelling {
            self.tell_cancel(request, "cancelled");
        }
        if state == State::Over {
            self.tell_end(request);
        }
    }

    /// The turn's thread is new.
    pub(super) fn tell_thread(&self, request: &str, first: bool) {
        let Some(turn) = self.journal.state.turn(request) else { return };
        let Some(thread) = turn.thread.clone() else { return };
        match turn.origin {
            Origin::Server | Origin::Simulated => {
                self.tell_ready(Some(&thread), Some(turn.agent.clone()));
                self.tell(&AgentEvent::ThreadCreated { acp_thread_id: thread, request_id: request.to_owned() });
            }
            Origin::Typed if first => {
                let title = self.journal.state.title(&thread).map(ToOwned::to_owned);
                self.tell(&AgentEvent::UserCreatedThread { acp_thread_id: thread, title });
            }
            Origin::Typed => {}
        }
    }

    /// It takes prompts. `agent` is the name by which the server asked.
    pub(super) fn tell_ready(&self, thread: Option<&str>, agent: Option<String>) {
        let turns = self.journal.state.turns().into_iter();
        let active = turns.filter(|(_, turn)| turn.state != State::Over && !turn.cancelling);
        let active = active.map(|(request, turn)| ActiveTurn {
            request_id: request.clone(),
            state: if turn.state == State::Running { "running" } else { "queued" }.to_owned(),
            acp_thread_id: turn.thread.clone(),
            // What is queued waits for what works, and is to be seen with it.
            vouched: (turn.state == State::Running && !self.works(request)).then_some(false),
        });
        self.tell(&AgentEvent::AgentReady(AgentReady {
            agent_name: agent.filter(|agent| !agent.is_empty()).unwrap_or_else(|| self.name.clone()),
            thread_id: thread.map(ToOwned::to_owned),
            active_turns: Some(active.collect()),
            deduplicates: true,
            concurrent: true,
        }));
    }

    pub(super) fn tell_cancel(&self, request: &str, status: &str) {
        self.tell(&AgentEvent::TurnCancelled { request_id: request.to_owned(), status: status.to_owned() });
    }

    pub(super) fn tell_ui_state(&self, query: &str) {
        let thread = self.journal.state.newest_thread();
        let count = thread.map_or(0, |thread| self.journal.state.next_index(thread));
        self.tell(&AgentEvent::UiStateResponse(json!({
            "query_id": query, "active_view": "headless", "thread_id": thread, "entry_count": count,
            "mcp_servers": {}, "active_model": null,
        })));
    }

    pub(super) fn tell_question(&self, question: &Question) {
        let index = question.key.and_then(|key| self.keys.get(&(question.request.clone(), key)));
        self.tell(&AgentEvent::ElicitationRequested(ElicitationRequested {
            acp_thread_id: question.thread.clone(),
            request_id: question.request.clone(),
            entry_index: index.map(ToString::to_string).unwrap_or_default(),
            elicitation_id: question.id.clone(),
            tool_call_id: question.tool_call.clone(),
            mode: question.mode.to_owned(),
            message: question.message.clone(),
            requested_schema: question.schema.clone(),
            status: "pending".to_owned(),
            timestamp: now(),
        }));
    }

    pub(super) fn tell_closed(&self, request: &str, question: &str, status: &str) {
        let thread = self.journal.state.turn(request).and_then(|turn| turn.thread.clone()).unwrap_or_default();
        self.tell(&AgentEvent::ElicitationResolved {
            acp_thread_id: thread,
            elicitation_id: question.to_owned(),
            status: status.to_owned(),
        });
    }

    /// The last frame of a turn.
    pub(super) fn tell_end(&mut self, request: &str) {
        let Some(turn) = self.journal.state.turn(request) else { return };
        let (acp_thread_id, request_id) = (turn.thread.clone().unwrap_or_default(), request.to_owned());
        let Some(end) = turn.end.clone() else { return };
        let typed = turn.origin == Origin::Typed;
        let event = match end {
            End::Failed { error } if !typed => AgentEvent::ChatResponseError { request_id, error },
            End::NotStarted { error } if !typed => AgentEvent::ThreadLoadError { acp_thread_id, request_id, error },
            _ => AgentEvent::MessageCompleted(MessageCompleted {
                acp_thread_id,
                message_id: "0".to_owned(),
                request_id,
                agent_name: self.name.clone(),
                usage: turn.usage,
                exit_status: turn.exit_status,
            }),
        };
        self.tell(&event);
        if let Some(connection) = &self.connection {
            self.pings += 1;
            connection.ping(self.pings);
            self.awaited.push((self.pings, vec![request.to_owned()]));
        }
    }

    pub(super) fn on_pong(&mut self, number: u64) {
        let told: Vec<_> =
            self.awaited.extract_if(.., |(ping, _)| *ping <= number).flat_map(|(_, told)| told).collect();
        for request in told {
            if self.journal.state.turn(&request).is_some_and(|turn| !turn.told && turn.state == State::Over) {
                self.note(Record::Told { request });
            }
        }
    }
}

pub(super) fn now() -> i64 {
    Timestamp::now().as_second()
}
