//! How runners are heard: the leader's verdict by the age of their leases.

use helix_protocol::record::RunnerRecord;
use helix_protocol::runner::{Liveness, RunnerStatus};
use helix_protocol::{ErrorCode, RunnerId, subject};
use jiff::Timestamp;
use tokio::time::Instant;

use super::Reconciler;
use crate::error::{Error, Result};
use crate::runners::liveness::Timing;
use crate::store::Versioned;

/// What a look at all runners said.
struct Judged {
    changes: Vec<Change>,
    any_lost: bool,
    /// When silence changes something next.
    next: Instant,
}

struct Change {
    entry: Versioned<RunnerRecord>,
    verdict: Liveness,
}

impl Reconciler {
    /// Judges every runner and writes what changed. Answers when to judge again.
    pub(super) async fn judge_runners(&self, steady_since: Instant) -> Result<Instant> {
        let timing = Timing {
            interval: self.config.heartbeat_interval,
            suspect: self.config.suspect_timeout,
            lost: self.config.lost_timeout,
            steady_since,
        };
        let mut judged = self.judge_by(timing);
        if judged.any_lost {
            // A process that stood still, or whose watch is behind, knows old leases only.
            self.store.leases.catch_up().await?;
            judged = self.judge_by(timing);
        }
        for change in judged.changes {
            self.declare(change).await?;
        }
        Ok(judged.next)
    }

    fn judge_by(&self, timing: Timing) -> Judged {
        let now = Instant::now();
        let mut judged = Judged { changes: Vec::new(), any_lost: false, next: now + timing.lost };
        let (runners, leases) = (self.store.runners.view().read(), self.store.leases.view().read());
        for (_, entry) in runners.iter() {
            let known = entry.value.liveness;
            let heard = leases.get(&subject::runner_lease_key(&entry.value.id)).map(|lease| lease.seen);
            let ended = self.runners.disconnects().of(&entry.value.id);
            let (verdict, due) = timing.judge(known, heard, ended, now);
            judged.next = due.map_or(judged.next, |due| judged.next.min(due));
            judged.any_lost |= verdict == Liveness::Lost;
            if verdict != known {
                judged.changes.push(Change { entry: entry.clone(), verdict });
            }
        }
        judged
    }

    async fn declare(&self, Change { entry, verdict }: Change) -> Result<()> {
        let mut record = RunnerRecord { liveness: verdict, ..(*entry.value).clone() };
        if verdict == Liveness::Lost {
            record.losses = record.losses.and_one(Timestamp::now());
        }
        let revision = match self.store.runners.update(record.id.as_str(), &record, entry.revision).await {
            Ok(revision) => revision,
            // It was heard, registered or removed meanwhile.
            Err(Error { code: ErrorCode::Conflict, .. }) => return Ok(()),
            Err(err) => return Err(err),
        };
        log(&record.id, verdict);
        let status = self.runners.get(&record.id).await.map_or(RunnerStatus::Offline, |view| view.status);
        self.runners.tell(&record.id, status, verdict, revision).await;
        if verdict == Liveness::Lost || entry.value.liveness == Liveness::Lost {
            self.sessions.tell_of_runner(&record.id, &format!("runner.{revision}")).await;
        }
        Ok(())
    }
}

fn log(id: &RunnerId, verdict: Liveness) {
    match verdict {
        Liveness::Online => tracing::info!(runner.id = %id, "runner is online"),
        Liveness::Suspect => tracing::warn!(runner.id = %id, "runner is suspect: no heartbeat"),
        Liveness::Lost => tracing::error!(runner.id = %id, "runner is lost: its sessions may run on, unseen"),
    }
}
