//! When the reaper looks: the leader alone, a while after an owner was removed, and at everything now and then.
//!
//! One task. It sleeps until the next look is due; a removed session, runner or recording makes that the moment at which
//! the grace time after it is over, and what waits makes it the moment at which the first of it may go.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Reaper;

/// The first look of a leader, unless looks are more frequent anyway: what begins anew has other things to do.
const FIRST: Duration = Duration::from_mins(1);
/// Shortest pause between two looks, and longest after one that failed.
const PAUSE: Duration = Duration::from_mins(1);

impl Reaper {
    /// Runs until dropped.
    pub async fn run(self, mut leading: watch::Receiver<Option<Instant>>) {
        let (mut sessions, mut runners, mut recordings) = (
            self.store.sessions.view().changes(),
            self.store.runners.view().changes(),
            self.store.recordings.view().changes(),
        );
        let mut health = self.bus.health();
        let (interval, pause) = (self.settings.interval, PAUSE.min(self.settings.interval));
        loop {
            if leading.wait_for(Option::is_some).await.is_err() {
                return;
            }
            let Ok(up) = health.wait_for(|health| health.up_since.is_some()).await.map(|health| *health) else {
                return;
            };
            self.store.synced(up.generation).await;
            let mut due = Instant::now() + self.jittered(FIRST.min(interval));
            let mut known = self.deletions();
            while leading.borrow_and_update().is_some() {
                // Every arm is cancel safe: watches and a timer.
                let woken = tokio::select! {
                    woken = sessions.changed() => woken,
                    woken = runners.changed() => woken,
                    woken = recordings.changed() => woken,
                    woken = leading.changed() => woken,
                    () = tokio::time::sleep_until(due) => {
                        let after = match Box::pin(self.pass(false)).await {
                            Ok((_, next)) => next.map_or(interval, until).clamp(pause, interval),
                            Err(error) => {
                                tracing::warn!(source = ?error.source, "the reaper could not look at everything: {error}");
                                pause
                            }
                        };
                        due = Instant::now() + self.jittered(after);
                        known = self.deletions();
                        Ok(())
                    }
                };
                if woken.is_err() {
                    return;
                }
                let now_known = self.deletions();
                if now_known > known {
                    due = due.min(Instant::now() + self.settings.grace + pause);
                }
                known = now_known;
            }
        }
    }

    /// Grows with each owner that is removed.
    fn deletions(&self) -> usize {
        let store = &self.store;
        let sessions = store.sessions.view().read().deletions();
        let runners = store.runners.view().read().deletions();
        sessions + runners + store.recordings.view().read().deletions()
    }

    /// Up to a tenth more, another share for each server: those that began together do not look together.
    fn jittered(&self, time: Duration) -> Duration {
        let share = self.server_id.bytes().fold(0_u32, |share, byte| (share * 31 + u32::from(byte)) % 100);
        time + time * share / 1000
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}
