//! How many requests of an agent are answered at once: each answer may be a whole file, and an agent may not read.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that are answered at once.
const QUICK: usize = 16;
/// Requests that wait for a person or for the end of a command.
const SLOW: usize = 256;
/// Those.
const SLOW_METHODS: [&str; 4] =
    ["session/request_permission", "session/elicitation", "elicitation/create", "terminal/wait_for_exit"];

/// Places for requests.
pub struct Places {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

/// A place for one request.
pub enum Place {
    /// It is answered.
    Granted(Option<OwnedSemaphorePermit>),
    /// Too much is waited for: it is refused.
    Refused(Option<OwnedSemaphorePermit>),
}

impl Default for Places {
    fn default() -> Self {
        Self { quick: Arc::new(Semaphore::new(QUICK)), slow: Arc::new(Semaphore::new(SLOW)) }
    }
}

impl Places {
    /// Waits for a place, unless the request itself may wait: the agent must be heard while its questions are open.
    pub async fn take(&self, method: &str) -> Place {
        let slow = SLOW_METHODS.contains(&method);
        if slow && let Ok(place) = self.slow.clone().try_acquire_owned() {
            return Place::Granted(Some(place));
        }
        // The semaphore is never closed. A refusal is an answer, too.
        let place = self.quick.clone().acquire_owned().await.ok();
        if slow { Place::Refused(place) } else { Place::Granted(place) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_that_reads_no_answer_gets_no_more_and_is_heard_while_it_asks() {
        let places = Places::default();
        let mut held = Vec::new();
        for _ in 0..QUICK {
            held.push(places.take("fs/read_text_file").await);
        }
        for _ in 0..SLOW {
            let place = places.take("elicitation/create").await;
            assert!(matches!(place, Place::Granted(Some(_))));
            held.push(place);
        }
        let short = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(short, places.take("fs/read_text_file")).await.is_err());
        held.remove(0);
        assert!(matches!(places.take("elicitation/create").await, Place::Refused(Some(_))));
    }
}
