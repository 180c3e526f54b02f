//! How often a desktop is looked at: up to ten times a second while little changes, seldom while much does.
//!
//! A bucket of bytes fills at [`FILL`] a second up to [`BURST`]; each picture takes out what it cost. Text is smaller as it is
//! (a screen of it 30 KB, as JPEG 140 KB), a film is not: a picture that costs too much makes those of the next minute lossy.
//! Pure.

use std::time::Duration;

/// Between two looks at least.
const SHORTEST: Duration = Duration::from_millis(100);
/// Between two looks at most, however much changes.
const LONGEST: Duration = Duration::from_millis(2500);
/// Bytes a second in the long run: 0.84 MB a minute, so that with the whole pictures of new segments it stays below one.
const FILL: f64 = 14_000.0;
/// Bytes that may be spent at once after a quiet time.
const BURST: f64 = 512.0 * 1024.0;
/// Most that can be owed: a film is over at some time, and typing is to be seen again.
const DEBT: f64 = 5.0 * FILL;
/// A picture without loss that costs so much is followed by lossy ones for so long.
const TOO_MUCH: usize = 256 * 1024;
const LOSSY_FOR: Duration = Duration::from_mins(1);

/// The bucket.
#[derive(Debug)]
pub struct Pace {
    bytes: f64,
    /// For how long pictures are lossy.
    lossy: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { bytes: BURST, lossy: Duration::ZERO }
    }
}

impl Pace {
    /// Whether the next picture may be lossy.
    pub fn is_lossy(&self) -> bool {
        !self.lossy.is_zero()
    }

    /// How long to wait after a look that cost so many bytes, `since` after the one before.
    pub fn after(&mut self, cost: usize, since: Duration) -> Duration {
        self.lossy = if !self.is_lossy() && cost > TOO_MUCH { LOSSY_FOR } else { self.lossy.saturating_sub(since) };
        self.bytes = (self.bytes + since.as_secs_f64() * FILL).min(BURST) - cost as f64;
        self.bytes = self.bytes.max(-DEBT);
        if self.bytes >= 0.0 {
            return SHORTEST;
        }
        Duration::from_secs_f64(-self.bytes / FILL).clamp(SHORTEST, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at pictures of this size for so many seconds; answers how many it were.
    fn looks(pace: &mut Pace, cost: usize, seconds: u64) -> usize {
        let (mut time, mut since, mut looks) = (Duration::ZERO, Duration::ZERO, 0);
        while time < Duration::from_secs(seconds) {
            since = pace.after(cost, since);
            time += since;
            looks += 1;
        }
        looks
    }

    #[test]
    fn typing_is_seen_at_once_and_a_film_costs_little() {
        let mut pace = Pace::default();
        assert_eq!(looks(&mut pace, 500, 60), 600, "typing");
        for cost in [9_000, 33_000] {
            looks(&mut pace, cost, 60);
            let minute = looks(&mut pace, cost, 60) * cost;
            assert!((700_000..900_000).contains(&minute), "text that scrolls: {minute} bytes a minute");
        }
        assert!(!pace.is_lossy());
        assert_eq!(looks(&mut pace, 200_000, 60), 24, "a film: never less than every two and a half seconds");
        looks(&mut pace, 0, 11);
        assert_eq!(looks(&mut pace, 500, 10), 100, "typing again, some ten seconds later");
    }

    #[test]
    fn a_film_is_lossy_and_looked_at_anew_each_minute() {
        let (mut pace, second) = (Pace::default(), Duration::from_secs(1));
        pace.after(TOO_MUCH + 1, second);
        let lossy = (0..200).filter(|_| {
            let lossy = pace.is_lossy();
            pace.after(if lossy { 100_000 } else { 2 * TOO_MUCH }, second);
            lossy
        });
        assert!((190..200).contains(&lossy.count()));
    }
}
