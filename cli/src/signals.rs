//! Signals, counted from the moment when they are caught: none is lost between two looks.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{CliError, Result};

/// Signals that came. A task per kind counts them and ends with the process.
#[derive(Debug, Clone)]
pub struct Signals {
    count: watch::Receiver<u32>,
}

impl Signals {
    /// From now on these kinds do not end the process.
    pub fn catch(kinds: &[SignalKind]) -> Result<Self> {
        let (counter, count) = watch::channel(0);
        for kind in kinds {
            let mut caught = signal(*kind).map_err(|error| CliError::failed("cannot catch signals").because(error))?;
            let counter = counter.clone();
            tokio::spawn(async move {
                while caught.recv().await.is_some() {
                    counter.send_modify(|count| *count += 1);
                }
            });
        }
        Ok(Self { count })
    }

    /// How many came.
    pub fn count(&self) -> u32 {
        *self.count.borrow()
    }

    /// Completes at the second one within this time after another.
    pub async fn came_twice(&self, within: Duration) {
        let mut last: Option<Instant> = None;
        let mut seen = 0;
        loop {
            self.came(seen + 1).await;
            let count = self.count();
            if count > seen + 1 || last.is_some_and(|last| last.elapsed() <= within) {
                return;
            }
            (last, seen) = (Some(Instant::now()), count);
        }
    }

    /// Completes when so many came. Cancel safe.
    pub async fn came(&self, wanted: u32) {
        let mut count = self.count.clone();
        if count.wait_for(|count| *count >= wanted).await.is_err() {
            // The tasks live as long as the process.
            std::future::pending::<()>().await;
        }
    }
}
