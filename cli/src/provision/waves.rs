//! Who comes when in the upgrade of a fleet: a few first, then batch after batch, and no further when too many failed. Pure.

use std::ops::Range;
use std::str::FromStr;

/// How many, or which share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(usize),
    /// Of a hundred.
    Percent(u32),
}

/// The order of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waves {
    /// Machines of the first wave. If one of them fails, nobody else is begun.
    pub canary: usize,
    /// Machines of each wave after it.
    pub batch: Amount,
    /// Share of those that were begun, in percent, that may fail.
    pub max_failures: u32,
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is neither a number from 1 on nor a share from 1% to 100%");
        match text.strip_suffix('%') {
            Some(share) => {
                share.parse().ok().filter(|share| (1..=100).contains(share)).map(Self::Percent).ok_or_else(bad)
            }
            None => text.parse().ok().filter(|count| *count > 0).map(Self::Count).ok_or_else(bad),
        }
    }
}

impl Waves {
    /// The waves of so many machines.
    pub fn of(&self, machines: usize) -> Vec<Range<usize>> {
        let batch = match self.batch {
            Amount::Count(count) => count,
            Amount::Percent(share) => (machines * share as usize).div_ceil(100),
        };
        let (mut waves, mut begun) = (Vec::new(), 0);
        while begun < machines {
            let size = if begun == 0 && self.canary > 0 { self.canary } else { batch.max(1) };
            let end = machines.min(begun + size);
            waves.push(begun..end);
            begun = end;
        }
        waves
    }

    /// Why no further wave is begun; None to go on.
    pub fn stop(&self, begun: usize, failed: usize) -> Option<String> {
        if failed == 0 {
            return None;
        }
        if begun <= self.canary {
            return Some(format!("{failed} of the first {begun} failed"));
        }
        let share = failed * 100 / begun;
        (failed * 100 > begun * self.max_failures as usize)
            .then(|| format!("{failed} of {begun} failed ({share} %), more than {} %", self.max_failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canaries_come_first_and_then_batches() {
        let waves = |canary, batch| Waves { canary, batch, max_failures: 10 };
        assert_eq!(waves(1, Amount::Count(3)).of(6), [0..1, 1..4, 4..6]);
        assert_eq!(waves(0, Amount::Percent(50)).of(3), [0..2, 2..3]);
        assert_eq!(waves(5, Amount::Percent(1)).of(3), std::iter::once(0..3).collect::<Vec<_>>());
        assert!(waves(1, Amount::Percent(1)).of(0).is_empty());
    }

    #[test]
    fn it_stops_when_more_than_the_share_failed_or_any_canary() {
        let waves = Waves { canary: 2, batch: Amount::Count(10), max_failures: 10 };
        assert_eq!(waves.stop(0, 0), None);
        assert_eq!(waves.stop(2, 0), None);
        assert!(waves.stop(2, 1).is_some_and(|why| why.contains("1 of the first 2")));
        assert_eq!(waves.stop(10, 1), None);
        assert!(waves.stop(10, 2).is_some_and(|why| why.contains("20 %")));
    }

    #[test]
    fn amounts_are_numbers_or_shares() {
        assert_eq!("3".parse(), Ok(Amount::Count(3)));
        assert_eq!("25%".parse(), Ok(Amount::Percent(25)));
        for bad in ["0", "0%", "101%", "x", "", "-1"] {
            assert!(bad.parse::<Amount>().is_err(), "{bad}");
        }
    }
}
