//! Ends what belongs to this runner but to no session that it knows: at start and every minute.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;

use crate::supervisor::Supervisor;

const INTERVAL: Duration = Duration::from_mins(1);

/// Runs until dropped. `known` has a session's unit key before anything of it can be found.
pub(super) async fn run<S: Supervisor>(supervisor: S, known: watch::Receiver<BTreeSet<String>>) {
    loop {
        match supervisor.found().await {
            Ok(found) => {
                for key in found {
                    // Read after looking and before each reap, which takes its time: a session that began in between
                    // is known by now.
                    if known.borrow().contains(&key) {
                        continue;
                    }
                    tracing::warn!(unit_key = key, "reaping what no known session has left");
                    if let Err(error) = supervisor.reap(&key).await {
                        tracing::error!(unit_key = key, "not reaped; trying again in a minute: {error}");
                    }
                }
            }
            Err(error) => tracing::error!("the reaper cannot look: {error}"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
