//! Signs of life, at an interval: servers give up turns that are silent, and close questions that nobody vouches for.

use std::collections::BTreeMap;

use serde_json::json;

use super::Engine;
use super::telling::now;
use crate::bridge::conversation::State;

impl Engine {
    /// Shows what runs and what is asked. Nothing of it is news: servers store none of it.
    pub(super) fn beat(&self) {
        if self.ready && self.anything_works() {
            self.tell_ready(None, None);
        }
        let mut open = BTreeMap::<_, Vec<_>>::new();
        for question in &self.questions {
            open.entry(&question.thread).or_default().push(&question.id);
        }
        for (thread, questions) in open {
            let data = json!({"acp_thread_id": thread, "elicitation_ids": questions, "timestamp": now()});
            self.tell_custom("elicitation_resync", &data);
        }
    }

    fn anything_works(&self) -> bool {
        self.journal.state.turns().iter().any(|(request, turn)| turn.state == State::Running && self.works(request))
    }

    /// Whether the running turn is vouched for. A command may work for hours without a word, and that its process lives is
    /// known here. So it is of an agent, whose model may think for minutes; but one that hangs lives, too, and is vouched
    /// for no longer than it is likely to think. What is asked waits for a person.
    pub(super) fn works(&self, request: &str) -> bool {
        self.shell
            || self.heard.get(request).is_some_and(|heard| heard.elapsed() < self.patience)
            || self.questions.iter().any(|question| question.request == request)
    }
}
