//! Turns from acceptance to their end.

use helix_protocol::sync::AgentEvent;
use tokio::time::Instant;

use super::Engine;
use crate::bridge::agent::{Change, Order, Over, Question};
use crate::bridge::conversation::State;
use crate::bridge::record::{End, Origin, Record};

impl Engine {
    /// Begins this turn if it is its turn.
    pub(super) fn advance(&mut self, request: &str) {
        let Some(turn) = self.journal.state.turn(request) else { return };
        if !self.ready || turn.state != State::Queued || self.preparing.contains(request) {
            return;
        }
        // A thread that was made for it and never used may be gone: it is cheap to make one.
        let thread = turn.thread.clone().filter(|_| !turn.new_thread);
        if let Some(thread) = &thread {
            let turns = self.journal.state.turns_of(thread);
            let before = turns.iter().take_while(|other| *other != request);
            let waits = |other: &String| self.journal.state.turn(other).is_some_and(|turn| turn.state != State::Over);
            if before.clone().any(waits) {
                return;
            }
        }
        self.preparing.insert(request.to_owned());
        self.order(Order::Prepare { request: request.to_owned(), thread });
    }

    /// The thread is there: the turn runs.
    pub(super) fn start(&mut self, request: &str, thread: &str) {
        self.preparing.remove(request);
        // Until now an entry of the turn before may have changed after its end.
        let state = &self.journal.state;
        self.keys.retain(|(of, _), _| state.turn(of).is_some_and(|turn| turn.thread.as_deref() != Some(thread)));
        let Some(turn) = self.journal.state.turn(request) else { return };
        let (new_thread, origin, text) = (turn.new_thread, turn.origin, turn.message.clone());
        let cancelled = turn.cancelling;
        let first = self.journal.state.turns_of(thread).is_empty();
        if new_thread && !self.commit(Record::Bound { request: request.to_owned(), thread: thread.to_owned() }) {
            return self.finish_plainly(request, not_written());
        }
        if new_thread {
            self.tell_thread(request, first);
        }
        if cancelled {
            if new_thread {
                self.tell_offer(thread);
            }
            return self.finish_plainly(request, End::Cancelled);
        }
        let index = self.journal.state.next_index(thread);
        if !self.commit(Record::Started { request: request.to_owned(), index }) {
            return self.finish_plainly(request, not_written());
        }
        if origin != Origin::Server {
            let (tool, keep) = (None, 0);
            let entry =
                Record::Entry { request: request.to_owned(), index, user: true, tool, keep, text: text.clone() };
            self.note(entry);
            self.mark_saved(request, index);
            self.flush(request, index);
        }
        if new_thread {
            // Not before: to the server a thread that a person began is one with its first entry.
            self.tell_offer(thread);
        }
        self.view.prompt(request, &text, self.shell);
        self.heard.insert(request.to_owned(), Instant::now());
        self.order(Order::Prompt { request: request.to_owned(), thread: thread.to_owned(), text });
    }

    /// An entry changed.
    pub(super) fn change(&mut self, change: Change) {
        let Change { request, key, tool, keep, text } = change;
        self.hear(&request);
        let Some(turn) = self.journal.state.turn(&request) else { return };
        let Some(thread) = turn.thread.clone() else { return };
        let known = self.keys.get(&(request.clone(), key)).copied();
        let index = known.unwrap_or_else(|| self.journal.state.next_index(&thread));
        if known.is_none() {
            // In order of their appearance: nothing of an earlier entry comes after a new one for want of time.
            self.flush_turn(&request);
            self.keys.insert((request.clone(), key), index);
        }
        self.view.change(&request, key, tool.as_ref(), keep, &text);
        let at_once = tool.is_some();
        self.journal.state.apply(Record::Entry { request: request.clone(), index, user: false, tool, keep, text });
        if at_once {
            self.flush(&request, index);
        } else {
            self.flush_in_time(&request, index);
        }
    }

    /// The agent works on this turn.
    fn hear(&mut self, request: &str) {
        if let Some(heard) = self.heard.get_mut(request) {
            *heard = Instant::now();
        }
    }

    pub(super) fn asked(&mut self, question: Question) {
        // It crossed the turn's end.
        if self.journal.state.turn(&question.request).is_none_or(|turn| turn.state != State::Running) {
            return;
        }
        self.commit(Record::Asked { request: question.request.clone(), question: question.id.clone() });
        self.flush_turn(&question.request);
        self.tell_question(&question);
        self.view.question(&question);
        self.questions.push(question);
    }

    pub(super) fn closed(&mut self, id: &str, status: &str) {
        let Some(place) = self.questions.iter().position(|question| question.id == id) else { return };
        let question = self.questions.remove(place);
        self.hear(&question.request);
        self.close(&question.request, id, status);
        self.view.answered(&question, status);
    }

    fn close(&mut self, request: &str, question: &str, status: &str) {
        let (status, question) = (status.to_owned(), question.to_owned());
        let record = Record::Closed { request: request.to_owned(), question: question.clone(), status: status.clone() };
        self.note(record);
        self.tell_closed(request, &question, &status);
    }

    /// Ends the turn of this request, if the agent has it or is going to have it.
    pub(super) fn cancel(&mut self, request: &str) {
        let Some(turn) = self.journal.state.turn(request) else { return self.tell_cancel(request, "noop") };
        let (state, cancelling) = (turn.state, turn.cancelling);
        if state == State::Over {
            self.tell_cancel(request, "noop");
            // Whoever wants it ended has not heard that it is.
            return self.tell_again(request);
        }
        if !cancelling && !self.commit(Record::Cancelling { request: request.to_owned() }) {
            return self.tell_cancel(request, "noop");
        }
        self.tell_cancel(request, "cancelled");
        match state {
            State::Running => self.order(Order::Cancel { request: request.to_owned() }),
            // It ends when its thread is there.
            _ if self.preparing.contains(request) => {}
            _ => self.finish_plainly(request, End::Cancelled),
        }
    }

    /// Ends what runs in the thread, for a prompt that does not wait.
    pub(super) fn interrupt(&mut self, thread: &str) {
        let running = |request: &&String| {
            self.journal.state.turn(request).is_some_and(|turn| turn.state == State::Running && !turn.cancelling)
        };
        let Some(request) = self.journal.state.turns_of(thread).iter().find(running).cloned() else { return };
        self.interrupted.insert(request.clone());
        self.order(Order::Cancel { request });
    }

    pub(super) fn over(&mut self, over: Over) {
        let Over { request, end, usage, exit_status, tail } = over;
        let Some(turn) = self.journal.state.turn(&request).filter(|turn| turn.state == State::Running) else { return };
        let end = match end {
            End::Cancelled if self.interrupted.contains(&request) => End::Interrupted,
            End::Completed if turn.cancelling => End::Cancelled,
            end => end,
        };
        self.finish(Over { request, end, usage, exit_status, tail });
    }

    pub(super) fn finish_plainly(&mut self, request: &str, end: End) {
        self.finish(Over { request: request.to_owned(), end, usage: None, exit_status: None, tail: None });
    }

    fn finish(&mut self, over: Over) {
        let Over { request, end, usage, exit_status, tail } = over;
        let request = request.as_str();
        self.interrupted.remove(request);
        self.heard.remove(request);
        for question in self.questions.extract_if(.., |question| question.request == request).collect::<Vec<_>>() {
            self.view.answered(&question, "cancelled");
        }
        let Some(turn) = self.journal.state.turn(request) else { return };
        let open = turn.questions.iter().filter(|(_, status)| status.is_none()).map(|(id, _)| id.clone());
        for question in open.collect::<Vec<_>>() {
            self.close(request, &question, "cancelled");
        }
        self.say_failure(request, &end);
        self.flush_turn(request);
        let result = self.result_of(request, &end, exit_status, tail);
        let record = Record::Over { request: request.to_owned(), end: end.clone(), usage, exit_status, result };
        if !self.commit(record.clone()) {
            // It is over all the same. A later bridge would say that it does not know.
            self.journal.state.apply(record);
        }
        self.tell_end(request);
        self.view.end(request, &end, exit_status, self.shell);
        self.deliver_result();
        let Some(thread) = self.journal.state.turn(request).and_then(|turn| turn.thread.clone()) else { return };
        let next = self
            .journal
            .state
            .turns_of(&thread)
            .iter()
            .find(|request| self.journal.state.turn(request).is_some_and(|turn| turn.state == State::Queued));
        if let Some(next) = next.cloned() {
            self.advance(&next);
        }
    }

    /// An error without a thread means nothing to a server that did not send the prompt: it is told as an entry.
    fn say_failure(&mut self, request: &str, end: &End) {
        let (End::Failed { error } | End::NotStarted { error }) = end else { return };
        let Some(turn) = self.journal.state.turn(request).filter(|turn| turn.origin == Origin::Typed) else { return };
        let Some(thread) = turn.thread.clone() else { return };
        let index = self.journal.state.next_index(&thread);
        let (tool, user, keep, text) = (None, false, 0, format!("[{error}]"));
        self.note(Record::Entry { request: request.to_owned(), index, user, tool, keep, text });
        self.mark_saved(request, index);
    }

    pub(super) fn titled(&mut self, thread: String, title: String) {
        if self.journal.state.title(&thread) == Some(&title) {
            return;
        }
        let next = self.journal.state.next_index(&thread);
        self.note(Record::Thread { thread: thread.clone(), next, title: Some(title.clone()) });
        self.tell(&AgentEvent::ThreadTitleChanged { acp_thread_id: thread, title });
    }
}

fn not_written() -> End {
    End::Failed { error: "the session's disk cannot be written; the prompt was not run".to_owned() }
}
