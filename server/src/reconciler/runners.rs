//! How runners are heard: the leader's verdict by the age of their leases.

use std::time::Duration;

use helix_protocol::record::RunnerRecord;
use helix_protocol::runner::{Liveness, RunnerStatus};
use helix_protocol::{ErrorCode, RunnerId, subject};
use tokio::time::Instant;

use super::Reconciler;
use crate::error::{Error, Result};
use crate::store::Versioned;

/// When silence means what.
#[derive(Debug, Clone, Copy)]
struct Timing {
    suspect: Duration,
    lost: Duration,
    /// Since when the bus is healthy and this process leads. Nobody is declared lost before one full lost-timeout of
    /// that: an outage of the bus looks like every runner dying.
    steady_since: Instant,
}

impl Timing {
    /// The verdict, and when it may change by silence alone.
    fn judge(&self, known: Liveness, heard: Option<Instant>, now: Instant) -> (Liveness, Option<Instant>) {
        let may_declare = self.steady_since + self.lost;
        // No lease: silent for longer than it lived.
        let lost_at = heard.map_or(may_declare, |heard| (heard + self.lost).max(may_declare));
        let suspect_at = heard.map(|heard| heard + self.suspect);
        if known == Liveness::Lost && heard.is_none() || now >= lost_at {
            return (Liveness::Lost, None);
        }
        match suspect_at {
            Some(suspect_at) if now < suspect_at => (Liveness::Online, Some(suspect_at)),
            _ => (Liveness::Suspect, Some(lost_at)),
        }
    }
}

struct Change {
    entry: Versioned<RunnerRecord>,
    verdict: Liveness,
}

impl Reconciler {
    /// Judges every runner and writes what changed. Answers when to judge again.
    pub(super) async fn judge_runners(&self, steady_since: Instant) -> Result<Instant> {
        let timing = Timing { suspect: self.config.suspect_timeout, lost: self.config.lost_timeout, steady_since };
        let now = Instant::now();
        let mut next = now + timing.lost;
        let mut changes = Vec::new();
        {
            let (runners, leases) = (self.store.runners.view().read(), self.store.leases.view().read());
            for (_, entry) in runners.iter() {
                let known = entry.value.liveness;
                let heard = leases.get(&subject::runner_lease_key(&entry.value.id)).map(|lease| lease.seen);
                let (verdict, due) = timing.judge(known, heard, now);
                next = due.map_or(next, |due| next.min(due));
                if verdict != known {
                    changes.push(Change { entry: entry.clone(), verdict });
                }
            }
        }
        for change in changes {
            self.declare(change).await?;
        }
        Ok(next)
    }

    async fn declare(&self, Change { entry, verdict }: Change) -> Result<()> {
        let record = RunnerRecord { liveness: verdict, ..(*entry.value).clone() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_is_judged_by_age_and_nobody_is_lost_before_one_steady_timeout() {
        use Liveness::{Lost, Online, Suspect};
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let timing = |steady| Timing {
            suspect: Duration::from_secs(15),
            lost: Duration::from_secs(30),
            steady_since: at(steady),
        };
        // steady since, known, heard at, now → verdict, next look
        let table = [
            (0, Online, Some(100), 110, Online, Some(115)),
            (0, Online, Some(100), 115, Suspect, Some(130)),
            (0, Suspect, Some(100), 129, Suspect, Some(130)),
            (0, Suspect, Some(100), 130, Lost, None),
            (0, Lost, Some(100), 101, Online, Some(115)),
            (0, Lost, None, 101, Lost, None),
            (0, Online, None, 200, Lost, None),
            // The bus came back, or this process began to lead, at 190.
            (190, Online, None, 200, Suspect, Some(220)),
            (190, Online, Some(100), 200, Suspect, Some(220)),
            (190, Suspect, None, 220, Lost, None),
        ];
        for (steady, known, heard, now, verdict, next) in table {
            let judged = timing(steady).judge(known, heard.map(at), at(now));
            assert_eq!(judged, (verdict, next.map(at)), "steady {steady} {known:?} heard {heard:?} now {now}");
        }
    }
}
