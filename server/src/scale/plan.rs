//! Pure: whether what is missing, or what could go, is worth a call now.

use std::time::Duration;

use helix_protocol::scale::{SCALE_VERSION, ScaleCall, ScaleRecord, Shortage, Wanted};
use jiff::{SignedDuration, Timestamp};

/// Longest pause after calls that failed.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, before something changes.
    Rest,
    /// Look again then.
    Wait(Timestamp),
    /// Write this, then make its call.
    Call(Box<ScaleRecord>),
}

/// Decides. `last` is what was written last, `server` this process; nothing is told again before `patience` is over, in
/// which the call either ends or its server is gone.
pub fn next(last: Option<&ScaleRecord>, wanted: &Wanted, server: &str, now: Timestamp, patience: Duration) -> Step {
    let is_news = match last {
        None => !is_empty(wanted),
        Some(last) => !is_same(&last.call.wanted, wanted),
    };
    if !is_news && last.is_none_or(|last| last.done) {
        return Step::Rest;
    }
    // Later than any pause lasts: a clock was ahead when that was written.
    let longest = after(now, LONGEST_PAUSE.max(patience));
    if let Some(last) = last.filter(|last| now < last.not_before && last.not_before <= longest) {
        return Step::Wait(last.not_before);
    }
    let call = match last {
        Some(last) if !is_news => ScaleCall { repeats: last.call.repeats.saturating_add(1), ..last.call.clone() },
        _ => {
            // Above whatever was told before the store was emptied.
            let number = last.map_or(0, |last| last.call.number).saturating_add(1);
            let number = number.max(u64::try_from(now.as_millisecond()).unwrap_or_default());
            let (key, server) = (format!("scale-{number}"), server.to_owned());
            ScaleCall { version: SCALE_VERSION, key, number, repeats: 0, server, at: now, wanted: wanted.clone() }
        }
    };
    let (failures, error) = last.map_or((0, None), |last| (last.failures, last.error.clone()));
    let call = ScaleCall { server: server.to_owned(), ..call };
    Step::Call(Box::new(ScaleRecord { call, done: false, failures, error, not_before: after(now, patience) }))
}

/// What is written once the call was made.
pub fn made(record: ScaleRecord, outcome: Result<(), String>, now: Timestamp, pause: Duration) -> ScaleRecord {
    match outcome {
        Ok(()) => ScaleRecord { done: true, failures: 0, error: None, not_before: after(now, pause), ..record },
        Err(error) => {
            let failures = record.failures.saturating_add(1);
            let pause = pause.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_PAUSE.max(pause));
            ScaleRecord { done: false, failures, error: Some(error), not_before: after(now, pause), ..record }
        }
    }
}

fn after(now: Timestamp, pause: Duration) -> Timestamp {
    now.saturating_add(SignedDuration::try_from(pause).unwrap_or_default()).unwrap_or(now)
}

fn is_empty(wanted: &Wanted) -> bool {
    wanted.shortages.is_empty() && wanted.idle_runners.is_empty()
}

/// Which session waits longest, and its very words, are no news.
fn is_same(one: &Wanted, other: &Wanted) -> bool {
    let same = |(one, other): (&Shortage, &Shortage)| {
        let (oldest, why) = (other.oldest.clone(), other.why.clone());
        Shortage { oldest, why, ..one.clone() } == *other
    };
    one.idle_runners == other.idle_runners
        && one.shortages.len() == other.shortages.len()
        && one.shortages.iter().zip(&other.shortages).all(same)
}

#[cfg(test)]
mod tests {
    use helix_protocol::{RunnerId, SessionId};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(40);
    const PAUSE: Duration = Duration::from_secs(10);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("a time")
    }

    fn queued(count: u32, oldest: &str) -> Wanted {
        let shortage = Shortage {
            pool: None,
            queued: count,
            agents: 0,
            missing_slots: count,
            missing_cpu: None,
            missing_memory: None,
            selector: [].into(),
            oldest: SessionId::parse(oldest).expect("valid"),
            why: format!("{oldest} waits"),
        };
        Wanted { shortages: vec![shortage], idle_runners: Vec::new() }
    }

    fn call(last: Option<&ScaleRecord>, wanted: &Wanted, now: Timestamp) -> ScaleRecord {
        match next(last, wanted, "a", now, PATIENCE) {
            Step::Call(record) => *record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_shortage_is_told_once_and_again_when_it_changes_or_ends() {
        let none = Wanted::default();
        assert_eq!(next(None, &none, "a", at(0), PATIENCE), Step::Rest);
        let first = call(None, &queued(2, "x"), at(0));
        assert!(!first.done);
        let done = made(first.clone(), Ok(()), at(1), PAUSE);
        assert_eq!(next(Some(&done), &queued(2, "x"), "a", at(500), PATIENCE), Step::Rest);
        assert_eq!(next(Some(&done), &queued(2, "y"), "a", at(500), PATIENCE), Step::Rest, "who waits is no news");
        let more = queued(3, "x");
        assert_eq!(next(Some(&done), &more, "a", at(5), PATIENCE), Step::Wait(at(11)), "not too often");
        let second = call(Some(&done), &more, at(11));
        assert!(second.call.number > first.call.number && second.call.key != first.call.key);
        let over = call(Some(&made(second, Ok(()), at(12), PAUSE)), &none, at(30));
        assert_eq!(over.call.wanted, none, "that all is well is told, too");
        let over = made(over, Ok(()), at(31), PAUSE);
        assert_eq!(next(Some(&over), &none, "a", at(99), PATIENCE), Step::Rest);
        let idle = Wanted { idle_runners: vec![RunnerId::parse("r").expect("valid")], ..none };
        assert_eq!(call(Some(&over), &idle, at(100)).call.wanted, idle);
    }

    #[test]
    fn a_call_that_fails_is_repeated_under_its_key_after_longer_and_longer_pauses() {
        let wanted = queued(1, "x");
        let mut record = call(None, &wanted, at(0));
        let key = record.call.key.clone();
        let mut now = at(0);
        let mut pauses = Vec::new();
        for round in 1..9 {
            record = made(record, Err("it exited with 1".to_owned()), now, PAUSE);
            assert_eq!((record.failures, record.error.as_deref()), (round, Some("it exited with 1")));
            pauses.push(record.not_before.duration_since(now).as_secs());
            assert_eq!(next(Some(&record), &wanted, "a", now, PATIENCE), Step::Wait(record.not_before));
            now = record.not_before;
            record = call(Some(&record), &wanted, now);
            assert_eq!((record.call.key.as_str(), record.call.repeats), (key.as_str(), round));
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
        // Something else is missing by now: a new call, and the hook is as broken as it was.
        let failed = made(record, Err("again".to_owned()), now, PAUSE);
        let other = call(Some(&failed), &queued(5, "x"), failed.not_before);
        assert!(other.call.key != key && other.call.repeats == 0 && other.failures == 9);
        assert_eq!(made(other, Ok(()), now, PAUSE).failures, 0);
    }

    #[test]
    fn a_leader_that_died_in_a_call_leaves_it_to_the_next() {
        let wanted = queued(1, "x");
        let left = call(None, &wanted, at(0));
        assert_eq!(next(Some(&left), &wanted, "b", at(5), PATIENCE), Step::Wait(at(40)), "it may be under way");
        let Step::Call(again) = next(Some(&left), &wanted, "b", at(40), PATIENCE) else { panic!("not called") };
        assert_eq!((&again.call.key, again.call.server.as_str(), again.call.repeats), (&left.call.key, "b", 1));
        // A clock that was a year ahead does not keep it for a year.
        let ahead = ScaleRecord { not_before: at(365 * 24 * 3600), ..left };
        assert!(matches!(next(Some(&ahead), &wanted, "b", at(5), PATIENCE), Step::Call(_)));
    }
}
