//! How old a stored time is, whatever becomes of this machine's clock.
//!
//! Records carry times by somebody's clock, so ages are differences of clocks; and a clock that is set right, or
//! wrong, would make everything old at once. A clock that runs on by itself (it stands still while the machine sleeps)
//! is compared with it at every look: what the one clock jumped and the other did not is no time that went by. Before
//! the first look of a process there is no such evidence, and the stored times are believed.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Less is no jump: the looks themselves take time.
const SMALLEST_JUMP: SignedDuration = SignedDuration::from_secs(2);
/// Jumps that are remembered one by one.
const REMEMBERED: usize = 64;

/// Ages of stored times. Looked at every few seconds.
#[derive(Debug, Default)]
pub struct Clock {
    last: Option<(Timestamp, Instant)>,
    /// Each with the first time after it, and how far it was.
    jumps: VecDeque<(Timestamp, SignedDuration)>,
}

impl Clock {
    /// Compares both clocks. Answers how far this machine's clock jumped since the last look, where it did.
    pub fn look(&mut self, wall: Timestamp, steady: Instant) -> Option<SignedDuration> {
        let (last_wall, last_steady) = self.last.replace((wall, steady))?;
        let passed = SignedDuration::try_from(steady.saturating_duration_since(last_steady)).unwrap_or_default();
        let jump = wall.duration_since(last_wall) - passed;
        if jump.abs() < SMALLEST_JUMP {
            return None;
        }
        self.jumps.push_back((wall, jump));
        if self.jumps.len() > REMEMBERED
            && let (Some((_, first)), Some((_, next))) = (self.jumps.pop_front(), self.jumps.front_mut())
        {
            *next = next.saturating_add(first);
        }
        Some(jump)
    }

    /// Time that went by since then, at the last look.
    pub fn age(&self, since: Timestamp) -> Duration {
        let Some((now, _)) = self.last else { return Duration::ZERO };
        let jumped = self.jumps.iter().filter(|(after, _)| since < *after);
        let age = jumped.fold(now.duration_since(since), |age, (_, jump)| age.saturating_sub(*jump));
        Duration::try_from(age).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("a time")
    }

    #[tokio::test]
    async fn time_that_a_clock_jumps_over_makes_nothing_old() {
        let begin = Instant::now();
        let steady = |seconds| begin + Duration::from_secs(seconds);
        let mut clock = Clock::default();
        assert_eq!(clock.age(at(-50)), Duration::ZERO, "nobody has looked yet");
        assert_eq!(clock.look(at(0), steady(0)), None);
        assert_eq!(clock.age(at(-50)), Duration::from_secs(50), "a stored time is believed");
        assert_eq!(clock.look(at(6), steady(5)), None, "a second is none");
        // A year ahead, within five seconds.
        let year = 365 * 24 * 3600;
        assert!(clock.look(at(year), steady(10)).is_some());
        assert_eq!(clock.age(at(-50)), Duration::from_secs(61));
        assert_eq!(clock.age(at(3)), Duration::from_secs(8));
        assert_eq!(clock.look(at(year + 5), steady(15)), None);
        assert_eq!(clock.age(at(year + 1)), Duration::from_secs(4), "what came after it counts by itself");
        assert_eq!(clock.age(at(-50)), Duration::from_secs(66));
        // And back.
        assert!(clock.look(at(20), steady(20)).is_some());
        assert_eq!(clock.age(at(-50)), Duration::from_secs(71));
        assert_eq!(clock.age(at(year + 1)), Duration::ZERO, "a time to come is not old");
        assert_eq!(clock.age(at(20)), Duration::ZERO);
    }

    #[tokio::test]
    async fn many_jumps_are_one() {
        let (begin, mut clock) = (Instant::now(), Clock::default());
        for round in 0..200_u32 {
            // An hour ahead with every second.
            clock.look(at(i64::from(round) * 3600), begin + Duration::from_secs(round.into()));
        }
        assert!(clock.jumps.len() <= REMEMBERED);
        assert_eq!(clock.age(at(-1)), Duration::from_secs(200));
    }
}
