//! What can be chosen in each thread, modes and models, and that the server hears of it where it knows the thread.

use serde_json::Value;

use super::Engine;
use super::telling::RETOLD_THREADS;

impl Engine {
    /// The agent offers this in a thread from now on.
    pub(super) fn offered(&mut self, thread: &str, data: Value) {
        let known = self.is_known(thread);
        self.offers.insert(thread.to_owned(), data);
        // A thread that is only just made comes first: the server could not tell whose offer it is.
        if known {
            self.tell_offer(thread);
        }
    }

    /// Tells what the thread offers, if it offers anything.
    pub(super) fn tell_offer(&self, thread: &str) {
        if let Some(data) = self.offers.get(thread) {
            self.tell_custom("agent_modes", data);
        }
    }

    /// A new connection may have missed any of them.
    pub(super) fn tell_offers(&self) {
        let mut threads: Vec<_> = self.offers.keys().filter(|thread| self.is_known(thread)).collect();
        let newest =
            |thread: &&String| self.journal.state.turns_of(thread).last().and_then(|request| self.number(request));
        threads.sort_by_key(|thread| std::cmp::Reverse(newest(thread)));
        for thread in threads.into_iter().take(RETOLD_THREADS) {
            self.tell_offer(thread);
        }
    }

    /// The server named this thread, or was told of it.
    fn is_known(&self, thread: &str) -> bool {
        self.named.contains(thread) || self.journal.state.has_thread(thread)
    }

    fn number(&self, request: &str) -> Option<u64> {
        Some(self.journal.state.turn(request)?.number)
    }
}
