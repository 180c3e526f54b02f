//! Waiting times between attempts: 1, 2, 4 … s, capped at 60 s, each shortened by chance to between half and all of
//! it, so that a fleet does not come back in one instant.

use std::time::Duration;

const CAP_SECONDS: u64 = 60;

/// Grows with every failure in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait now; the next answer is longer.
    pub fn pause(&mut self) -> Duration {
        self.pause_below(Duration::MAX)
    }

    /// The same, but never longer than this.
    pub fn pause_below(&mut self, most: Duration) -> Duration {
        let seconds = 1_u64.checked_shl(self.failures).unwrap_or(CAP_SECONDS).min(CAP_SECONDS);
        self.failures = (self.failures + 1).min(u64::BITS - 1);
        jitter(Duration::from_secs(seconds).min(most))
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Between half of `whole` and all of it.
pub fn jitter(whole: Duration) -> Duration {
    let mut random = [0; 4];
    // Without random bytes everybody waits the whole time: late, but right.
    let share =
        getrandom::fill(&mut random).map_or(1.0, |()| f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX));
    whole.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_cap_within_its_jitter() {
        let mut backoff = Backoff::default();
        for whole in [1, 2, 4, 8, 16, 32, 60, 60, 60].map(Duration::from_secs) {
            let wait = backoff.pause();
            assert!((whole / 2..=whole).contains(&wait), "{wait:?} for {whole:?}");
        }
        (0..200).for_each(|_| assert!(backoff.pause() <= Duration::from_secs(CAP_SECONDS)));
        let most = Duration::from_millis(7500);
        (0..200).for_each(|_| assert!(backoff.pause_below(most) <= most));
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_secs(1));
    }
}
