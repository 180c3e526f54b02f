//! Whether something may go. Pure: evidence and a clock in, a verdict out.

use std::time::Duration;

use helix_protocol::reap::Suspect;
use jiff::Timestamp;

/// Two looks are at least so far apart, unless the grace time is shorter.
const APART: Duration = Duration::from_mins(1);

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owned {
    /// It is there, or something else still needs what it left.
    Yes,
    /// It was removed on purpose, then: its key has a marker.
    Removed(Timestamp),
    /// It is not there, and nothing says why: the store may have lost it.
    Unknown,
}

/// What one look found.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// Its owner.
    pub owner: Owned,
    /// When it was written last.
    pub written: Timestamp,
    /// Its last sequence.
    pub last: u64,
    /// What a former look found there.
    pub before: Option<Suspect>,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Owned,
    /// It stays: it cannot be proved that nobody needs it.
    Unproved,
    /// It may go from then on, if it is the same then; to be remembered as this.
    Waiting(Suspect, Timestamp),
    /// It goes, up to its last sequence.
    Gone,
}

/// The rule.
pub fn judge(evidence: &Evidence, now: Timestamp, grace: Duration) -> Verdict {
    let removed = match evidence.owner {
        Owned::Yes => return Verdict::Owned,
        Owned::Unknown => return Verdict::Unproved,
        Owned::Removed(at) => at,
    };
    let same = evidence.before.filter(|before| before.last == evidence.last);
    let suspect = same.unwrap_or(Suspect { last: evidence.last, since: now });
    // A time that cannot be is one that never comes.
    let after = |at: Timestamp, time: Duration| at.checked_add(time).unwrap_or(Timestamp::MAX);
    let may_go = after(removed.max(evidence.written), grace).max(after(suspect.since, APART.min(grace)));
    if same.is_some() && may_go <= now { Verdict::Gone } else { Verdict::Waiting(suspect, may_go) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_hours(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    fn judged(owner: Owned, written: i64, before: Option<(u64, i64)>, now: i64) -> Verdict {
        let before = before.map(|(last, since)| Suspect { last, since: at(since) });
        judge(&Evidence { owner, written: at(written), last: 7, before }, at(now), GRACE)
    }

    #[test]
    fn what_has_an_owner_or_may_have_one_stays_for_ever() {
        assert_eq!(judged(Owned::Yes, 0, Some((7, 0)), 1_000_000), Verdict::Owned);
        assert_eq!(judged(Owned::Unknown, 0, Some((7, 0)), 1_000_000), Verdict::Unproved);
    }

    #[test]
    fn it_goes_at_the_second_look_once_its_time_is_up() {
        let removed = Owned::Removed(at(100));
        let first = Suspect { last: 7, since: at(10_000) };
        // However long ago it was: one look is no look.
        assert_eq!(judged(removed, 0, None, 10_000), Verdict::Waiting(first, at(10_060)));
        assert_eq!(judged(removed, 0, Some((7, 10_000)), 10_059), Verdict::Waiting(first, at(10_060)));
        assert_eq!(judged(removed, 0, Some((7, 10_000)), 10_060), Verdict::Gone);
        // Neither before the grace time after its owner's end, nor before that after its own last change.
        let first = Suspect { last: 7, since: at(110) };
        assert_eq!(judged(removed, 0, Some((7, 110)), 3_699), Verdict::Waiting(first, at(3_700)));
        assert_eq!(judged(removed, 500, Some((7, 110)), 3_700), Verdict::Waiting(first, at(4_100)));
        assert_eq!(judged(removed, 500, Some((7, 110)), 4_100), Verdict::Gone);
    }

    #[test]
    fn whoever_writes_to_it_starts_the_time_anew() {
        let removed = Owned::Removed(at(100));
        let anew = Suspect { last: 7, since: at(10_000) };
        assert_eq!(judged(removed, 0, Some((6, 200)), 10_000), Verdict::Waiting(anew, at(10_060)));
    }

    #[test]
    fn a_clock_that_went_back_removes_nothing() {
        let removed = Owned::Removed(at(100_000));
        assert!(matches!(judged(removed, 0, Some((7, 0)), 10_000), Verdict::Waiting(..)));
    }
}
