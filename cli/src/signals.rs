//! Signals, counted from the moment when they are caught: none is lost between two looks.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{CliError, Result};

/// A second signal within this time is meant for the whole command.
const TWICE: Duration = Duration::from_secs(2);

/// Signals that came. A task per kind counts them and ends with the process.
#[derive(Debug, Clone)]
pub struct Signals {
    caught: watch::Receiver<Caught>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Caught {
    count: u32,
    last: Option<Instant>,
    /// Once two came within [`TWICE`].
    twice: bool,
}

impl Caught {
    fn another(&mut self) {
        self.count += 1;
        self.twice |= self.last.is_some_and(|last| last.elapsed() <= TWICE);
        self.last = Some(Instant::now());
    }
}

impl Signals {
    /// From now on these kinds do not end the process.
    pub fn catch(kinds: &[SignalKind]) -> Result<Self> {
        let (counter, caught) = watch::channel(Caught::default());
        for kind in kinds {
            let mut signals = signal(*kind).map_err(|error| CliError::failed("cannot catch signals").because(error))?;
            let counter = counter.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    counter.send_modify(Caught::another);
                }
            });
        }
        Ok(Self { caught })
    }

    /// How many came.
    pub fn count(&self) -> u32 {
        self.caught.borrow().count
    }

    /// Two came shortly one after the other.
    pub fn is_twice(&self) -> bool {
        self.caught.borrow().twice
    }

    /// Completes when that is so. Cancel safe.
    pub async fn came_twice(&self) {
        self.until(|caught| caught.twice).await;
    }

    /// Completes when so many came. Cancel safe.
    pub async fn came(&self, wanted: u32) {
        self.until(|caught| caught.count >= wanted).await;
    }

    async fn until(&self, wanted: impl FnMut(&Caught) -> bool) {
        let mut caught = self.caught.clone();
        if caught.wait_for(wanted).await.is_err() {
            // The tasks live as long as the process.
            std::future::pending::<()>().await;
        }
    }
}
