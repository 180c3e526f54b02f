//! Pure: how a runner is heard, by the age of its last heartbeat.

use std::time::Duration;

use helix_protocol::runner::Liveness;
use tokio::time::Instant;

/// A runner whose connection has ended is suspect when nothing of it is heard for so long beyond its next heartbeat. What has
/// ended may be a former connection, which nats-server missed only now, while heartbeats come by a newer one.
const GRACE: Duration = Duration::from_secs(2);

/// When silence means what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between two heartbeats.
    pub interval: Duration,
    /// After so long without a heartbeat a runner is suspect.
    pub suspect: Duration,
    /// After so long it is lost.
    pub lost: Duration,
    /// Since when the bus is healthy and this process leads. Nobody is declared lost before one full lost-timeout of
    /// that: an outage of the bus looks like every runner dying.
    pub steady_since: Instant,
}

impl Timing {
    /// The verdict, and when it may change by silence alone. `ended`: when its connection ended last, as far as is known.
    pub fn judge(
        &self,
        known: Liveness,
        heard: Option<Instant>,
        ended: Option<Instant>,
        now: Instant,
    ) -> (Liveness, Option<Instant>) {
        let may_declare = self.steady_since + self.lost;
        // No lease: silent for longer than it lived.
        let lost_at = heard.map_or(may_declare, |heard| (heard + self.lost).max(may_declare));
        let gone = |heard: Instant| ended.filter(|ended| *ended > heard).map(|ended| ended + self.interval + GRACE);
        let suspect_at = heard.map(|heard| gone(heard).into_iter().fold(heard + self.suspect, Instant::min));
        if known == Liveness::Lost && heard.is_none() || now >= lost_at {
            return (Liveness::Lost, None);
        }
        match suspect_at {
            Some(suspect_at) if now < suspect_at => (Liveness::Online, Some(suspect_at)),
            _ => (Liveness::Suspect, Some(lost_at)),
        }
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
            interval: Duration::from_secs(5),
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
            let judged = timing(steady).judge(known, heard.map(at), None, at(now));
            assert_eq!(judged, (verdict, next.map(at)), "steady {steady} {known:?} heard {heard:?} now {now}");
        }
    }

    #[tokio::test]
    async fn whose_connection_ended_is_suspect_sooner_and_lost_no_sooner() {
        use Liveness::{Lost, Online, Suspect};
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (suspect, lost) = (Duration::from_secs(15), Duration::from_secs(30));
        let timing = Timing { interval: Duration::from_secs(5), suspect, lost, steady_since: start };
        // known, heard at, ended at, now → verdict, next look
        let table = [
            (Online, 100, Some(101), 107, Online, Some(108)),
            (Online, 100, Some(101), 108, Suspect, Some(130)),
            (Suspect, 100, Some(101), 130, Lost, None),
            // Heard since, or at that moment: a connection that was renewed, or a former one.
            (Online, 102, Some(101), 109, Online, Some(117)),
            (Suspect, 109, Some(101), 110, Online, Some(124)),
            (Online, 101, Some(101), 109, Online, Some(116)),
            // It ended late: silence alone says it sooner.
            (Online, 100, Some(114), 116, Suspect, Some(130)),
            (Online, 100, None, 104, Online, Some(115)),
        ];
        for (known, heard, ended, now, verdict, next) in table {
            let judged = timing.judge(known, Some(at(heard)), ended.map(at), at(now));
            assert_eq!(judged, (verdict, next.map(at)), "heard {heard} ended {ended:?} now {now}");
        }
    }
}
