//! What every session uses, sampled by one task and told with each heartbeat. Kept in memory only: the next sample
//! replaces it, and nobody decides anything by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use helix_protocol::SessionId;
use helix_protocol::resources::Usage;

use crate::link::reports::Reports;
use crate::supervisor::Supervisor;

/// Between two samples: as often as it is told.
const INTERVAL: Duration = Duration::from_secs(5);

/// The last sample of every live session. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct UsageBoard(Arc<Mutex<BTreeMap<SessionId, Sample>>>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    usage: Usage,
    at: Instant,
}

impl UsageBoard {
    /// All of them, for a heartbeat.
    pub fn all(&self) -> BTreeMap<SessionId, Usage> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = samples.iter().filter(|(_, sample)| sample.usage != Usage::default());
        told.map(|(id, sample)| (id.clone(), sample.usage)).collect()
    }

    fn put(&self, samples: BTreeMap<SessionId, Sample>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = samples;
    }

    fn get(&self, session: &SessionId) -> Option<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(session).copied()
    }
}

/// Samples until it is dropped.
pub async fn run<S: Supervisor>(supervisor: S, reports: Reports, board: UsageBoard) {
    loop {
        let mut samples = BTreeMap::new();
        for id in reports.live() {
            // A session that just ends has nothing to say.
            let Ok(usage) = supervisor.usage(&id).await else { continue };
            let at = Instant::now();
            samples.insert(id.clone(), Sample { usage: with_rate(usage, at, board.get(&id)), at });
        }
        board.put(samples);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// `usage` with the processor time since the sample before, per time.
fn with_rate(mut usage: Usage, at: Instant, before: Option<Sample>) -> Usage {
    let used = |before: Sample| usage.cpu_usec?.checked_sub(before.usage.cpu_usec?);
    if let Some(before) = before
        && let Some(used) = used(before)
    {
        let passed = at.duration_since(before.at).as_micros().max(1);
        usage.cpu_milli = u32::try_from(u128::from(used) * 1000 / passed).ok();
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_time_used_by_time_passed() {
        let at = Instant::now();
        let usage = |usec| Usage { cpu_usec: Some(usec), ..Usage::default() };
        assert_eq!(with_rate(usage(5), at, None).cpu_milli, None);
        let before = Sample { usage: usage(1_000_000), at };
        let later = at + Duration::from_secs(2);
        assert_eq!(with_rate(usage(2_000_000), later, Some(before)).cpu_milli, Some(500));
        assert_eq!(with_rate(usage(1), later, Some(before)).cpu_milli, None, "the counter began anew");
    }
}
