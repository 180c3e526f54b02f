//! Ends what belongs to this runner but to no session that it knows, and removes kept workspaces whose time is up
//! ([`kept`]): at start and every minute. What it did, and could not do, goes out with the heartbeat.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::kept;
use crate::session::Context;
use crate::supervisor::Supervisor;

const INTERVAL: Duration = Duration::from_mins(1);

/// Runs until dropped. `known` has a session's unit key before anything of it can be found.
pub(super) async fn run<S: Supervisor>(context: Arc<Context<S>>, known: watch::Receiver<BTreeSet<String>>) {
    let (supervisor, board, config) = (&context.supervisor, &context.leftovers, &context.config);
    loop {
        let mut stuck = Vec::new();
        match supervisor.found().await {
            Ok(found) => {
                for key in found {
                    // Read after looking and before each reap, which takes its time: a session that began in between
                    // is known by now.
                    if known.borrow().contains(&key) {
                        continue;
                    }
                    tracing::warn!(unit_key = key, "reaping what no known session has left");
                    match supervisor.reap(&key).await {
                        Ok(there) => board.reaped(&there),
                        Err(error) => {
                            tracing::error!(unit_key = key, "not reaped; trying again in a minute: {error}");
                            stuck.push(key);
                        }
                    }
                }
            }
            Err(error) => tracing::error!("the reaper cannot look: {error}"),
        }
        board.stuck(stuck);
        kept::look(supervisor, &config.workspace_dir, &config.kept, board).await;
        tokio::time::sleep(INTERVAL).await;
    }
}
