//! Pools against a real NATS: agents are kept ready, taken once, given up, and never too many; runners are simulated.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use helix_protocol::PoolName;
use helix_protocol::api::CreateSession;
use helix_protocol::api::pools::{PoolView, ScalePool};
use helix_protocol::assignment::DesiredSession;
use helix_protocol::pool::PoolSpec;
use helix_protocol::record::Scope;
use helix_protocol::session::{Cause, Desired, SessionPhase};
use helix_protocol::{Epoch, ErrorCode, SessionId};
use helix_server::app::App;
use helix_server::auth::Principal;
use helix_server::sessions::Filter;

use crate::harness::{Fleet, SimRunner, eventually, id, within};

fn named(name: &str, scope: Scope) -> Principal {
    Principal { name: name.to_owned(), scope, token_hash: String::new() }
}

fn admin() -> Principal {
    named("admin", Scope::Admin)
}

fn pool(name: &str) -> PoolName {
    PoolName::parse(name).expect("valid")
}

fn spec(json: &str) -> PoolSpec {
    serde_json::from_str(json).expect("a pool")
}

fn asks(json: &str) -> CreateSession {
    serde_json::from_str(json).expect("a request")
}

async fn put(app: &App, name: &str, json: &str) -> PoolView {
    app.pools.put(&admin(), &pool(name), spec(json), None).await.expect("applied").0
}

async fn look(app: &App, name: &str) -> PoolView {
    app.pools.get(&admin(), &pool(name)).await.expect("found")
}

/// What a runner does with its orders: starts what shall run, ends and forgets what shall end. `phase` is how far a start
/// gets.
async fn obey(runner: &SimRunner, done: &mut BTreeMap<SessionId, (Epoch, u64)>, phase: SessionPhase) {
    for DesiredSession { session, epoch, desired, deleted, .. } in runner.sync().await {
        let reports = match (desired, deleted) {
            (Desired::Running, _) => 1,
            (Desired::Stopped, false) => 2,
            (Desired::Stopped, true) => 3,
        };
        if done.get(&session) == Some(&(epoch, reports)) {
            continue;
        }
        let end = if desired == Desired::Running { phase } else { SessionPhase::Stopped };
        let mut seen = runner.seen(session.as_str(), epoch.0, reports, end);
        seen.forgotten = deleted;
        if end == SessionPhase::Failed {
            seen.cause = Some(Cause::new("display_died", "Xtigervnc ended with status 1"));
        }
        runner.report(&seen).await;
        done.insert(session, (epoch, reports));
    }
}

/// Lets the runner work until the pool is as wanted.
async fn until(
    app: &App,
    name: &str,
    runner: &SimRunner,
    done: &mut BTreeMap<SessionId, (Epoch, u64)>,
    what: &str,
    holds: impl Fn(&PoolView) -> bool,
) -> PoolView {
    eventually(what, async || {
        obey(runner, done, SessionPhase::Ready).await;
        let view = look(app, name).await;
        holds(&view).then_some(view)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_kept_ready_and_each_is_taken_once() {
    let fleet = Fleet::start().await;
    let (app, other) = (fleet.server().await, fleet.server().await);
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(20).await;
    let mut done = BTreeMap::new();
    put(&app, "ci", r#"{"min_ready": 3, "labels": {"team": "web"}, "env": {"A": "1"}}"#).await;
    until(&app, "ci", &runner, &mut done, "three are ready", |pool| pool.ready == 3).await;

    // Nobody's: who owns nothing sees none of them.
    let ann = named("ann", Scope::User);
    assert_eq!(
        app.sessions.list(&ann, &Filter { limit: 100, ..Filter::default() }).await.expect("listed").sessions,
        []
    );

    // Two replicas, six sessions at once, three agents: each is had by one, and the rest start.
    let began = Instant::now();
    let request = || asks(r#"{"pool": "ci", "labels": {"mine": "yes"}}"#);
    let ask = |server: &App| {
        let (server, ann) = (server.clone(), ann.clone());
        async move { server.pools.begin(&ann, request(), None).await.expect("created").view }
    };
    let servers = [&app, &other, &app, &other, &app, &other];
    let all = servers.map(|server| Box::pin(ask(server)));
    let views = within("six sessions", futures::future::join_all(all)).await;
    let taken: Vec<_> = views.iter().filter(|view| view.phase == SessionPhase::Ready).collect();
    println!("six sessions at once took {:?}", began.elapsed());
    let mut ids: Vec<_> = views.iter().map(|view| view.id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((taken.len(), ids.len()), (3, 6), "{views:?}");
    for view in &taken {
        assert_eq!(
            (view.owner.as_str(), view.labels["team"].as_str(), view.labels["mine"].as_str()),
            ("ann", "web", "yes")
        );
        assert!(view.timeline.iter().any(|step| step.step == "claimed"), "{:?}", view.timeline);
        assert_eq!(view.spec.env["A"], "1");
    }
    // What started for somebody inherits all the same.
    let cold = views.iter().find(|view| view.phase != SessionPhase::Ready).expect("one of them");
    assert_eq!((cold.spec.env["A"].as_str(), cold.labels["team"].as_str()), ("1", "web"));

    // Refilled, and what was taken lives on.
    let view = until(&app, "ci", &runner, &mut done, "refilled", |pool| pool.ready == 3 && pool.claimed == 6).await;
    assert_eq!((view.queued, view.pending), (0, 0));
    for id in &ids {
        // One that started for her counts as had before it is ready.
        eventually("hers is ready", async || {
            obey(&runner, &mut done, SessionPhase::Ready).await;
            (app.sessions.get(&ann, id).await.expect("hers").phase == SessionPhase::Ready).then_some(())
        })
        .await;
    }
    let own = app.sessions.list(&ann, &Filter { limit: 100, ..Filter::default() }).await.expect("listed").sessions;
    assert_eq!(own.len(), 6);

    // An id of one's own is that id, and the same request is the same session.
    let mine = || asks(r#"{"pool": "ci", "id": "mine"}"#);
    let first = app.pools.begin(&ann, mine(), None).await.expect("created");
    let again = other.pools.begin(&ann, mine(), None).await.expect("the same");
    assert!(first.fresh && !again.fresh && again.view.id == id("mine"));
    fleet.stop(&[app, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_never_has_more_than_its_most_and_who_waits_goes_before_who_nobody_waits_for() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(20).await;
    let mut done = BTreeMap::new();
    put(&app, "ci", r#"{"min_ready": 2, "max": 3, "queue": 1}"#).await;
    until(&app, "ci", &runner, &mut done, "two are ready", |pool| pool.ready == 2).await;
    // What no agent is gets one of its own, and an agent goes for it only where there is no room.
    for (session, ready) in [("a", 2), ("b", 1), ("c", 0)] {
        let request = asks(&format!(r#"{{"pool": "ci", "id": "{session}"}}"#));
        app.pools.begin(&admin(), request, None).await.expect("created");
        let there = |pool: &PoolView| pool.ready == ready && pool.queued == 0;
        let view = until(&app, "ci", &runner, &mut done, "it has a runner", there).await;
        assert!(view.ready + view.starting + view.pending + view.claimed <= 3, "{view:?}");
    }
    // Full: one waits and is told why, one more is refused.
    app.pools.begin(&admin(), asks(r#"{"pool": "ci", "id": "d"}"#), None).await.expect("created");
    let cause = eventually("the reason is told", async || app.sessions.get(&admin(), &id("d")).await.ok()?.cause).await;
    assert_eq!(cause.message, "pool ci has 3 agents, which is its most; end one, or raise its max");
    let refused = app.pools.begin(&admin(), asks(r#"{"pool": "ci"}"#), None).await.expect_err("too many");
    assert_eq!(refused.code, ErrorCode::PoolQueueFull, "{refused}");
    app.pools.begin(&admin(), asks(r#"{"pool": "ci", "id": "d"}"#), None).await.expect("it waits already");
    // Whoever ends makes room.
    app.sessions.delete(&admin(), &id("a")).await.expect("deleted");
    let there = |pool: &PoolView| pool.queued == 0 && pool.claimed == 3;
    until(&app, "ci", &runner, &mut done, "the next one", there).await;
    for session in ["b", "c", "d"] {
        app.sessions.delete(&admin(), &id(session)).await.expect("deleted");
    }
    until(&app, "ci", &runner, &mut done, "ready again", |pool| pool.ready == 2 && pool.claimed == 0).await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_fails_stops_the_refill_with_its_cause() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(20).await;
    let mut done = BTreeMap::new();
    put(&app, "ci", r#"{"min_ready": 3}"#).await;
    let began = Instant::now();
    let view = eventually("a cause", async || {
        obey(&runner, &mut done, SessionPhase::Failed).await;
        let view = look(&app, "ci").await;
        view.retry_at.is_some().then_some(view)
    })
    .await;
    assert_eq!(view.cause.expect("told").code, "display_died");
    while began.elapsed() < Duration::from_secs(4) {
        obey(&runner, &mut done, SessionPhase::Failed).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Three at first, and then one at a time, later and later.
    let started = done.len();
    assert!((3..=5).contains(&started), "{started} were started within 4 s");
    // Nothing of them piles up, and once they work the pool is full.
    until(&app, "ci", &runner, &mut done, "it works at last", |pool| pool.ready >= 1).await;
    // Another spec is tried at once.
    put(&app, "ci", r#"{"min_ready": 3, "env": {"FIX": "1"}}"#).await;
    let view = until(&app, "ci", &runner, &mut done, "three are ready", |pool| pool.ready == 3).await;
    assert_eq!((view.cause, view.retry_at), (None, None));
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_pool_replaces_what_is_nobodys_and_a_deleted_one_ends_it() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(20).await;
    let mut done = BTreeMap::new();
    let view = put(&app, "ci", r#"{"min_ready": 2}"#).await;
    assert_eq!(view.version, 1);
    until(&app, "ci", &runner, &mut done, "two are ready", |pool| pool.ready == 2).await;
    let mine = app.pools.begin(&admin(), asks(r#"{"pool": "ci"}"#), None).await.expect("taken").view.id;
    until(&app, "ci", &runner, &mut done, "refilled", |pool| pool.ready == 2).await;

    // Numbers alone replace nothing.
    let before = done.len();
    app.pools.scale(&admin(), &pool("ci"), ScalePool { min_ready: Some(3), max: None }).await.expect("scaled");
    until(&app, "ci", &runner, &mut done, "one more", |pool| pool.ready == 3).await;
    assert_eq!(done.len(), before + 1);

    // Two people at once: the second is told what the first did, and changes nothing.
    let ann = named("ann", Scope::Operator);
    app.pools.put(&ann, &pool("ci"), spec(r#"{"min_ready": 3, "env": {"A": "1"}}"#), Some(2)).await.expect("the first");
    let late = app.pools.put(&admin(), &pool("ci"), spec(r#"{"min_ready": 1}"#), Some(2)).await.expect_err("late");
    assert_eq!(late.code, ErrorCode::Conflict);
    assert!(late.detail.contains("changed by ann") && late.detail.contains("\"min_ready\":3"), "{}", late.detail);
    assert!(!late.detail.contains("\"1\""), "a value of the environment: {}", late.detail);

    // The others are replaced, mine lives on.
    let replaced = |pool: &PoolView| pool.ready == 3 && pool.claimed == 1;
    until(&app, "ci", &runner, &mut done, "replaced", replaced).await;
    let view = app.pools.begin(&admin(), asks(r#"{"pool": "ci"}"#), None).await.expect("taken").view;
    assert_eq!((view.phase, view.spec.env["A"].as_str()), (SessionPhase::Ready, "1"));
    assert_eq!(app.sessions.get(&admin(), &mine).await.expect("mine").phase, SessionPhase::Ready);

    app.pools.delete(&admin(), &pool("ci"), false).await.expect("deleted");
    let left = eventually("only what somebody has is left", async || {
        obey(&runner, &mut done, SessionPhase::Ready).await;
        let all = app.sessions.list(&admin(), &Filter { limit: 100, ..Filter::default() }).await.ok()?.sessions;
        (all.len() == 2).then_some(all)
    })
    .await;
    assert!(left.iter().all(|view| view.owner == "admin" && view.phase == SessionPhase::Ready), "{left:?}");
    let gone = app.pools.get(&admin(), &pool("ci")).await.expect_err("gone");
    assert_eq!(gone.code, ErrorCode::PoolNotFound);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_finds_no_room_waits_and_says_why() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(2).await;
    let mut done = BTreeMap::new();
    put(&app, "big", r#"{"min_ready": 4}"#).await;
    let part = |pool: &PoolView| pool.ready == 2 && pool.cause.is_some();
    let view = until(&app, "big", &runner, &mut done, "two of four", part).await;
    assert_eq!(view.pending, 2);
    assert_eq!(view.cause.expect("told").message, "all slots taken (r1 has 2 of 2 slots taken)");
    put(&app, "far", r#"{"min_ready": 1, "selector": {"site": "moon"}}"#).await;
    let view = until(&app, "far", &runner, &mut done, "why not", |pool| pool.cause.is_some()).await;
    let why = "no runner of pool far can take it (r1 has not the label site=moon)";
    assert_eq!((view.pending, view.cause.expect("told").message.as_str()), (1, why));

    // Bad input changes nothing.
    for (bad, word) in [
        (r#"{"min_ready": 3, "max": 2}"#, "min_ready 3 is above max 2"),
        (r#"{"min_ready": 20000}"#, "at most 10000"),
        (r#"{"env": {"A-B": "1"}}"#, "A-B"),
        (r#"{"resources": {"tasks": 1}}"#, "resources.tasks"),
    ] {
        let error = app.pools.put(&admin(), &pool("bad"), spec(bad), None).await.expect_err(bad);
        assert!(error.code == ErrorCode::InvalidRequest && error.detail.contains(word), "{}", error.detail);
    }
    assert_eq!(app.pools.get(&admin(), &pool("bad")).await.expect_err("none").code, ErrorCode::PoolNotFound);
    // Who may not change pools sees no values of their environment.
    put(&app, "secret", r#"{"env": {"KEY": "hidden"}}"#).await;
    let view = app.pools.get(&named("ann", Scope::User), &pool("secret")).await.expect("seen");
    assert_eq!(view.spec.env["KEY"], "");
    fleet.stop(&[app]).await;
}
