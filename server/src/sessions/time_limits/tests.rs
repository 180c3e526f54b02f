use helix_protocol::assignment::Assignment;
use helix_protocol::pool::Warm;
use helix_protocol::runner::Liveness;
use helix_protocol::{Epoch, SessionId};
use tokio::time::Instant;

use super::super::view::Known;
use super::*;
use crate::store::Versioned;

const MINUTE: i64 = 60;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// Assigned at second 0.
fn record(idle_timeout: Option<&str>, lifetime: Option<&str>) -> SessionRecord {
    let json = serde_json::json!({
        "id": "s", "owner": "o", "spec": {}, "request_hash": "", "desired": "running", "generation": 1, "epoch": 1,
        "created_at": at(-500), "claimed_at": null,
    });
    let mut record: SessionRecord = serde_json::from_value(json).expect("a record");
    let runner = helix_protocol::RunnerId::parse("r").expect("valid");
    record.assignment = Some(Assignment { runner, epoch: Epoch(1), assigned_at: at(0) });
    record.spec.idle_timeout = idle_timeout.map(|text| text.parse().expect("a limit"));
    record.spec.lifetime = lifetime.map(|text| text.parse().expect("a limit"));
    record
}

fn ready() -> ObservedSession {
    let json = serde_json::json!({
        "session": "s", "runner": "r", "epoch": 1, "generation": 1, "report": 1, "phase": "Ready", "cause": null,
        "result": null, "timeline": [], "kind": "command", "display": null, "pid": null, "workspace": null,
    });
    serde_json::from_value(json).expect("a report")
}

fn used(second: Option<i64>) -> Content<Lease> {
    let mut leases = Content::default();
    if let Some(second) = second {
        let lease = Lease { server: "a".to_owned(), renewed_at: at(second), heartbeat: None, sync: None, scale: None };
        leases.apply("used.s", 1, Some(Versioned::new(lease, 1)));
    }
    leases
}

fn clock(second: i64) -> Clock {
    let mut clock = Clock::default();
    clock.look(at(second), Instant::now());
    clock
}

fn left(seconds: u64) -> Judged {
    Judged::GoesOn(Some(Duration::from_secs(seconds)))
}

fn ends(code: &str, why: &str) -> Judged {
    Judged::Ends(Cause::new(code, why))
}

#[tokio::test]
async fn idle_time_begins_again_with_each_use_and_is_judged_while_the_runner_is_heard() {
    let (record, seen) = (record(Some("10m"), None), ready());
    let judge = |used_at, now, heard| judge(&record, Some(&seen), heard, &used(used_at), &clock(now));
    assert_eq!(judge(None, 9 * MINUTE, true), left(60), "from its start, where nobody used it yet");
    assert_eq!(judge(None, 10 * MINUTE, true), ends(IDLE, "idle for 10m"));
    assert_eq!(judge(Some(5 * MINUTE), 14 * MINUTE, true), left(60));
    assert_eq!(judge(Some(5 * MINUTE), 15 * MINUTE, true), ends(IDLE, "idle for 10m"));
    assert_eq!(judge(Some(5 * MINUTE), 60 * MINUTE, false), Judged::GoesOn(None), "who looks at it is not known");
    assert_eq!(judge(Some(-5 * MINUTE), 9 * MINUTE, true), left(60), "a use of a former life is none");
    assert_eq!(judge(Some(90 * MINUTE), MINUTE, true), left(600), "a time to come is now");
    // A clock that jumps by a year makes nothing idle.
    let mut jumped = clock(MINUTE);
    jumped.look(at(365 * 24 * 60 * MINUTE), Instant::now());
    assert!(matches!(super::judge(&record, Some(&seen), true, &used(None), &jumped), Judged::GoesOn(Some(_))));
}

#[tokio::test]
async fn a_lifetime_counts_from_whoever_has_it_now_and_needs_no_idleness() {
    let mut long = record(Some("10m"), Some("1h"));
    let seen = ready();
    let judge = |record: &SessionRecord, used_at, now, heard| {
        super::judge(record, Some(&seen), heard, &used(used_at), &clock(now))
    };
    assert_eq!(judge(&long, Some(59 * MINUTE), 59 * MINUTE, true), left(60), "the first that comes");
    let over = ends(OUTLIVED, "it ran for 1h, its lifetime");
    assert_eq!(judge(&long, Some(60 * MINUTE), 60 * MINUTE, true), over);
    assert_eq!(judge(&long, None, 60 * MINUTE, false), over, "also while its runner is not heard");
    long.claimed_at = Some(at(30 * MINUTE));
    assert_eq!(judge(&long, Some(60 * MINUTE), 60 * MINUTE, true), left(600));
    for unjudged in [
        SessionRecord { warm: Some(Warm { generation: 1, gave_way_to: None }), ..long.clone() },
        SessionRecord { desired: Desired::Stopped, ..long.clone() },
        SessionRecord { desktop_of: SessionId::parse("d").ok(), ..long.clone() },
        SessionRecord { assignment: None, ..long.clone() },
        record(None, None),
    ] {
        assert_eq!(judge(&unjudged, None, 999 * MINUTE, true), Judged::GoesOn(None), "{unjudged:?}");
    }
}

#[test]
fn people_are_shown_when_it_ends_and_afterwards_why() {
    let (mut own, seen) = (record(Some("10m"), Some("1h")), ready());
    let shown = |record: &SessionRecord, seen: &ObservedSession, used_at| {
        let known = Known {
            id: &record.id,
            record: Some(record),
            observed: Some(seen),
            liveness: Some(Liveness::Online),
            usage: None,
            name: None,
        };
        let mut view = known.view(None, "http://h");
        show(&mut view, record, &used(used_at));
        view
    };
    let view = shown(&own, &seen, Some(20 * MINUTE));
    assert_eq!((view.idle_since, view.expires_at), (Some(at(20 * MINUTE)), Some(at(30 * MINUTE))));
    let view = shown(&own, &seen, Some(55 * MINUTE));
    assert_eq!(view.expires_at, Some(at(60 * MINUTE)), "the lifetime comes first");
    let starting = ObservedSession { phase: SessionPhase::Starting, ..seen.clone() };
    let view = shown(&own, &starting, None);
    assert_eq!((view.idle_since, view.expires_at), (None, Some(at(60 * MINUTE))));

    own.desired = Desired::Stopped;
    own.cause = Some(Cause::new(IDLE, "idle for 10m"));
    let on_request = Some(Cause::new("stopped_by_user", "stopped on request"));
    let stopped = ObservedSession { phase: SessionPhase::Stopped, cause: on_request, ..seen.clone() };
    for seen in [&seen, &stopped] {
        let view = shown(&own, seen, None);
        assert_eq!(view.cause.map(|cause| cause.message).as_deref(), Some("idle for 10m"), "{}", view.phase);
        assert_eq!((view.idle_since, view.expires_at), (None, None));
    }
    let died = Some(Cause::new("display_died", "it died"));
    let failed = ObservedSession { phase: SessionPhase::Failed, cause: died, ..seen };
    assert_eq!(shown(&own, &failed, None).cause.map(|cause| cause.code).as_deref(), Some("display_died"));
}
