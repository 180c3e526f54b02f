//! Time limits of sessions and pools against a real NATS: what nobody uses and what ran for long enough is stopped, told
//! before and after, by whichever server leads; runners are simulated. Nobody waits for real time: what is stored is
//! made older.

use std::time::Duration;

use helix_protocol::api::{CreateSession, SessionView};
use helix_protocol::pool::PoolSpec;
use helix_protocol::record::{Scope, SessionRecord};
use helix_protocol::session::{Desired, SessionPhase};
use helix_protocol::{ErrorCode, PoolName, SessionId, subject};
use helix_server::app::App;
use helix_server::auth::Principal;
use helix_server::error::Error;
use jiff::{SignedDuration, Timestamp};

use crate::harness::{Fleet, SimRunner, eventually};
use crate::http::{Answer, Caller};

fn admin() -> Principal {
    Principal { name: "admin".to_owned(), scope: Scope::Admin, token_hash: String::new() }
}

fn asks(json: &str) -> CreateSession {
    serde_json::from_str(json).expect("a request")
}

fn missing() -> Error {
    Error::new(ErrorCode::SessionNotFound, "it is gone")
}

/// Starts what the runner shall run, ends what it shall end.
async fn obey(runner: &SimRunner, reports: &mut u64) {
    runner.heartbeat().await;
    for order in runner.sync().await {
        *reports += 1;
        let phase = if order.desired == Desired::Running { SessionPhase::Ready } else { SessionPhase::Stopped };
        let mut seen = runner.seen(order.session.as_str(), order.epoch.0, *reports, phase);
        seen.forgotten = order.deleted;
        seen.cause = phase.is_terminal().then(|| helix_protocol::session::Cause::new("stopped_by_user", "on request"));
        runner.report(&seen).await;
    }
}

async fn until<T>(what: &str, runner: &SimRunner, reports: &mut u64, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    eventually(what, async || {
        obey(runner, reports).await;
        probe().await
    })
    .await
}

async fn look(app: &App, session: &SessionId) -> SessionView {
    app.sessions.get(&admin(), session).await.expect("found")
}

/// It began, and was used last, so long ago.
async fn make_older(app: &App, session: &SessionId, by: Duration) {
    let past = Timestamp::now() - SignedDuration::try_from(by).expect("a span");
    let older = |record: &SessionRecord| {
        let mut record = record.clone();
        record.assignment.as_mut().expect("assigned").assigned_at = past;
        record.claimed_at = record.claimed_at.map(|_| past);
        Ok(Some(record))
    };
    app.store.sessions.modify(session.as_str(), older, missing).await.expect("made older");
    let key = subject::used_key(session);
    if let Some(entry) = app.store.leases.get(&key).await.expect("asked").found() {
        let mut used = (*entry.value).clone();
        used.renewed_at = past;
        app.store.leases.update(&key, &used, entry.revision).await.expect("made older");
    }
}

async fn ready(app: &App, runner: &SimRunner, reports: &mut u64, request: &str) -> SessionId {
    let session = app.pools.begin(&admin(), asks(request), None).await.expect("created").view.id;
    until("it is ready", runner, reports, async || {
        (look(app, &session).await.phase == SessionPhase::Ready).then_some(())
    })
    .await;
    session
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_uses_is_stopped_with_the_reason_by_whoever_leads() {
    let fleet = Fleet::start().await;
    let (first, second) = (fleet.impatient_server().await, fleet.impatient_server().await);
    let (runner, mut reports) = (SimRunner::enrol(&fleet, &first, "r1").await, 0);
    runner.register(20).await;
    let idle = ready(&first, &runner, &mut reports, r#"{"idle_timeout": "30m"}"#).await;
    let used = ready(&first, &runner, &mut reports, r#"{"idle_timeout": "30m"}"#).await;
    let old = ready(&first, &runner, &mut reports, r#"{"lifetime": "8h", "idle_timeout": "10h"}"#).await;
    let watched = ready(&first, &runner, &mut reports, r#"{"idle_timeout": "30m"}"#).await;
    let view = look(&second, &idle).await;
    let (since, end) = (view.idle_since.expect("shown"), view.expires_at.expect("shown"));
    assert_eq!(end.duration_since(since).as_secs(), 30 * 60);

    // The leader goes in the middle: the other one judges by what is stored, once it could have heard of uses.
    first.stop().await;
    for session in [&idle, &used, &watched] {
        make_older(&second, session, Duration::from_mins(29)).await;
    }
    make_older(&second, &old, Duration::from_hours(8)).await;
    let over = until("its lifetime is over", &runner, &mut reports, async || {
        let view = look(&second, &old).await;
        view.phase.is_terminal().then_some(view)
    })
    .await;
    let cause = over.cause.expect("a cause");
    assert_eq!((cause.code.as_str(), cause.message.as_str()), ("lifetime", "it ran for 8h, its lifetime"));
    assert_eq!(look(&second, &idle).await.phase, SessionPhase::Ready, "a minute is left");

    // One is called, one is looked at, as its runner says; the third is not used.
    let address = fleet.serve(&second).await;
    let root = Caller::admin(address);
    let call = Answer::ask(address, &format!("/api/v1/sessions/{used}/display")).await;
    runner.heartbeat_viewed([watched.clone()].into()).await;
    let noted = until("the call is noted", &runner, &mut reports, async || {
        let since = look(&second, &used).await.idle_since?;
        (since.duration_since(Timestamp::now()).abs().as_secs() < 60).then_some(since)
    })
    .await;
    assert!(noted <= Timestamp::now());
    until("that somebody looks is noted", &runner, &mut reports, async || {
        let since = look(&second, &watched).await.idle_since?;
        (Timestamp::now().duration_since(since).as_secs() < 60).then_some(())
    })
    .await;
    drop(call);
    make_older(&second, &idle, Duration::from_mins(31)).await;
    let over = until("it is stopped", &runner, &mut reports, async || {
        let view = look(&second, &idle).await;
        view.phase.is_terminal().then_some(view)
    })
    .await;
    let cause = over.cause.expect("a cause");
    assert_eq!((cause.code.as_str(), cause.message.as_str()), ("idle_timeout", "idle for 30m"));
    for session in [&used, &watched] {
        assert_eq!(look(&second, session).await.phase, SessionPhase::Ready);
    }
    // Whoever reads the trail sees that nobody asked for it.
    let (_, trail) = root.get(&format!("/api/v1/audit?target={idle}&limit=1000")).await;
    assert!(trail.to_string().contains("idle_timeout"), "{trail}");

    // What is deleted leaves no word of its uses.
    second.sessions.delete(&admin(), &idle).await.expect("deleted");
    until("its uses are forgotten", &runner, &mut reports, async || {
        let lookup = second.store.leases.get(&subject::used_key(&idle)).await.expect("asked");
        lookup.found().is_none().then_some(())
    })
    .await;
    fleet.stop(&[second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_replaced_in_time_and_who_takes_one_has_all_of_it() {
    let fleet = Fleet::start().await;
    let app = fleet.impatient_server().await;
    let (runner, mut reports) = (SimRunner::enrol(&fleet, &app, "r1").await, 0);
    runner.register(20).await;
    let name = PoolName::parse("ci").expect("valid");
    let spec: PoolSpec =
        serde_json::from_str(r#"{"min_ready": 2, "idle_timeout": "1h", "lifetime": "8h"}"#).expect("a pool");
    app.pools.put(&admin(), &name, spec, None).await.expect("made");
    let members = async |app: &App| {
        let entry = app.store.pools.get(name.as_str()).await.expect("asked").found().expect("there");
        entry.value.members.clone()
    };
    let two_ready = async |app: &App| {
        let view = app.pools.get(&admin(), &name).await.expect("found");
        (view.ready == 2 && view.starting + view.pending == 0).then_some(())
    };
    until("two are ready", &runner, &mut reports, async || two_ready(&app).await).await;
    let first = members(&app).await;
    for session in &first {
        make_older(&app, session, Duration::from_hours(9)).await;
    }
    let mut fewest = 2;
    until("both are replaced", &runner, &mut reports, async || {
        fewest = fewest.min(app.pools.get(&admin(), &name).await.expect("found").ready);
        two_ready(&app).await?;
        members(&app).await.is_disjoint(&first).then_some(())
    })
    .await;
    assert_eq!(fewest, 2, "there are always enough");

    // Hours old, and the session that takes it has its whole time, and its own word.
    for session in members(&app).await {
        make_older(&app, &session, Duration::from_hours(7)).await;
    }
    let request = asks(r#"{"pool": "ci", "idle_timeout": "2h"}"#);
    let taken = app.pools.begin(&admin(), request, None).await.expect("taken").view;
    assert!(taken.spec.idle_timeout.is_some_and(|limit| limit.to_string() == "2h"), "{:?}", taken.spec);
    let left = taken.expires_at.expect("shown").duration_since(Timestamp::now());
    assert_eq!(left.as_secs().div_euclid(60), 119, "{left:#}");
    let another = app.pools.begin(&admin(), asks(r#"{"pool": "ci"}"#), None).await.expect("taken").view;
    assert!(another.spec.idle_timeout.is_some_and(|limit| limit.to_string() == "1h"), "{:?}", another.spec);
    assert!(another.spec.lifetime.is_some_and(|limit| limit.to_string() == "8h"));
    assert_ne!(taken.id, another.id);
    fleet.stop(&[app]).await;
}
