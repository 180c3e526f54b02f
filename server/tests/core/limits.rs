//! Limits, what is reserved, and what is used: from the request to the runner and back.

use std::collections::BTreeMap;

use helix_protocol::api::{AmendSession, CreateSession};
use helix_protocol::link::Nudge;
use helix_protocol::record::Scope;
use helix_protocol::resources::{Bytes, Cpus, Limits, OnLost, Reserve, Resources, Usage};
use helix_protocol::session::{Desired, SessionPhase};
use helix_protocol::{ErrorCode, Generation};
use helix_server::app::App;
use helix_server::auth::Principal;
use helix_server::sessions::Filter;

use super::harness::{Fleet, SimRunner, eventually, id, within};
use super::http::Answer;
use super::{admin, command};

const GIB: u64 = 1 << 30;

fn memory(gib: u64) -> Resources {
    Resources { memory: Some(Bytes(gib * GIB)), ..Resources::default() }
}

fn reserve(gib: u64) -> Reserve {
    Reserve { cpu: None, memory: Some(Bytes(gib * GIB)) }
}

async fn cause(app: &App, session: &str) -> Option<String> {
    Some(app.sessions.get(&admin(), &id(session)).await.ok()?.cause?.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reserved_is_free_before_a_session_is_placed() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner
        .register_as(9, |facts| {
            facts.reservable = reserve(4);
            facts.max_resources = memory(8);
            facts.kind_reserve = BTreeMap::from([(facts.default_kind.clone(), reserve(3))]);
        })
        .await;
    // The runner's word for the kind: 3 of 4 GiB.
    app.sessions.create(&admin(), command("kind", "make")).await.expect("created");
    let epoch = eventually("assigned", async || runner.sync().await.first().map(|order| order.epoch)).await;
    let ask = |session: &str, resources, reserve| CreateSession { resources, reserve, ..command(session, "make") };
    for (session, resources, reserved, why) in [
        (
            "waits",
            memory(8),
            reserve(2),
            "not enough memory free to reserve (r1 has 1GiB of 4GiB memory free to reserve, 2GiB is needed)",
        ),
        (
            "never",
            Resources::default(),
            reserve(5),
            "no runner can give it that much (r1 has 1GiB of 4GiB memory free to reserve, 5GiB is needed: reserve less)",
        ),
        (
            "above",
            memory(9),
            reserve(1),
            "no runner can give it that much (r1 gives a session at most memory 8GiB, 9GiB is asked: ask for less, or \
             raise its maximum)",
        ),
    ] {
        app.sessions.create(&admin(), ask(session, resources, reserved)).await.expect("created");
        eventually(session, async || (cause(&app, session).await.as_deref() == Some(why)).then_some(())).await;
    }
    // What fits is not held up by who waits, in the very pass that gives the rest away.
    app.sessions.create(&admin(), ask("small", memory(8), reserve(1))).await.expect("created");
    eventually("assigned", async || {
        runner
            .sync()
            .await
            .iter()
            .any(|order| order.session == id("small") && order.spec.resources == memory(8))
            .then_some(())
    })
    .await;
    // The first ends: there is room.
    runner.report(&runner.seen("kind", epoch.0, 1, SessionPhase::Stopped)).await;
    eventually("its room is given on", async || {
        let phase = app.sessions.get(&admin(), &id("waits")).await.ok()?.phase;
        (phase == SessionPhase::Assigned).then_some(())
    })
    .await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_change_while_a_session_waits_and_while_it_runs() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let limit =
        async |session: &str, resources| app.sessions.limit(&admin(), &id(session), AmendSession { resources }).await;
    let request = CreateSession {
        resources: memory(16),
        reserve: reserve(2),
        on_lost: Some(OnLost::Restart),
        ..command("s", "make")
    };
    app.sessions.create(&admin(), request.clone()).await.expect("created");
    let mut runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register_as(2, |facts| facts.max_resources = memory(8)).await;
    eventually("why it waits", async || {
        cause(&app, "s").await?.starts_with("no runner can give it that much").then_some(())
    })
    .await;
    // It waits: the change makes it fit.
    let view = limit("s", memory(4)).await.expect("changed");
    assert_eq!((view.spec.resources, view.generation), (memory(4), Generation(2)));
    let order = eventually("assigned", async || runner.sync().await.into_iter().next()).await;
    assert_eq!((order.generation, order.spec.resources), (Generation(2), memory(4)));
    assert_eq!((order.spec.reserve, order.spec.on_lost), (reserve(2), Some(OnLost::Restart)));
    let ready = runner.seen("s", order.epoch.0, 1, SessionPhase::Ready);
    runner.report(&ready).await;

    // It runs: what is given replaces, the rest stays, and its runner is told.
    runner.drain_nudges().await;
    let cpu = Resources { cpu: Some(Cpus(1500)), ..Resources::default() };
    let both = cpu.or(memory(4));
    let view = limit("s", cpu).await.expect("changed");
    assert_eq!((view.spec.resources, view.generation, view.phase), (both, Generation(3), SessionPhase::Ready));
    assert_eq!(within("nudged", runner.nudge()).await, Nudge::Sync {});
    let order = runner.sync().await.remove(0);
    assert_eq!((order.generation, order.spec.resources, order.desired), (Generation(3), both, Desired::Running));

    // The same again, or nothing at all, changes nothing.
    for same in [cpu, both, Resources::default()] {
        assert_eq!(limit("s", same).await.expect("nothing to do").generation, Generation(3));
    }
    runner.drain_nudges().await;
    assert_eq!(runner.sync().await.remove(0).generation, Generation(3));
    // The request that made it is still the request that made it.
    assert!(!app.sessions.create(&admin(), request).await.expect("the same again").fresh);

    // What cannot be is refused, and changes nothing.
    let tiny = Resources { tasks: Some(5), ..Resources::default() };
    for (resources, code, words) in [
        (memory(9), ErrorCode::AboveMaximum, "resources.memory 9GiB is above 8GiB, the most that runner r1"),
        (tiny, ErrorCode::InvalidRequest, "resources.tasks 5 is below 32"),
        (memory(1), ErrorCode::InvalidRequest, "reserve.memory 2GiB is above resources.memory 1GiB"),
    ] {
        let error = limit("s", resources).await.expect_err(words);
        assert_eq!(error.code, code);
        assert!(error.detail.starts_with(words), "{}", error.detail);
    }
    assert_eq!(limit("none", cpu).await.expect_err("no session").code, ErrorCode::SessionNotFound);
    for (scope, code) in [(Scope::User, ErrorCode::SessionNotFound), (Scope::Viewer, ErrorCode::Forbidden)] {
        let by = Principal { name: "other".to_owned(), scope, token_hash: String::new() };
        let refused = app.sessions.limit(&by, &id("s"), AmendSession { resources: memory(5) }).await;
        assert_eq!(refused.expect_err("not its own").code, code);
    }
    assert_eq!(app.sessions.get(&admin(), &id("s")).await.expect("found").spec.resources, both);

    // Over HTTP it is a problem document that names both amounts.
    let address = fleet.serve(&app).await;
    let patch = async |body| Answer::send(address, "PATCH", "/api/v1/sessions/s", body).await.body().await;
    let mut settings = insta::Settings::clone_current();
    settings.set_sort_maps(true);
    let _sorted = settings.bind_to_scope();
    insta::assert_json_snapshot!(patch(r#"{"resources": {"memory": "9GiB"}}"#).await, @r#"
    {
      "code": "above_maximum",
      "detail": "resources.memory 9GiB is above 8GiB, the most that runner r1 gives a session; ask for less, or raise the maximum in its settings",
      "status": 422,
      "title": "the limit is above the runner's maximum",
      "type": "urn:helix:problem:above_maximum"
    }
    "#);
    let problem = patch(r#"{"resources": {"memroy": "5GiB"}}"#).await;
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("unknown field `memroy`")), "{problem}");
    let view = patch(r#"{"resources": {"memory": "5GiB"}}"#).await;
    assert_eq!((&view["spec"]["resources"]["memory"], &view["generation"]), (&(5 * GIB).into(), &4.into()));

    // Ended is ended.
    runner.report(&runner.seen("s", order.epoch.0, 2, SessionPhase::Stopped)).await;
    let error = limit("s", memory(5)).await.expect_err("ended");
    assert_eq!((error.code, error.code.status()), (ErrorCode::SessionEnded, 409));
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_uses_comes_with_its_runners_heartbeat() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner
        .register_as(1, |facts| {
            facts.enforced = vec!["memory".to_owned()];
            facts.missing = vec!["cpu: not delegated".to_owned()];
        })
        .await;
    let facts = app.runners.get(&runner.id).await.expect("found").facts.expect("registered");
    assert_eq!((facts.enforced, facts.missing), (vec!["memory".to_owned()], vec!["cpu: not delegated".to_owned()]));
    app.sessions.create(&admin(), command("s", "make")).await.expect("created");
    let epoch = eventually("assigned", async || runner.sync().await.first().map(|order| order.epoch)).await;
    let limits = Limits { resources: memory(4), enforced: vec!["memory".to_owned()], missing: Vec::new() };
    let mut seen = runner.seen("s", epoch.0, 1, SessionPhase::Ready);
    (seen.limits, seen.frozen) = (Some(limits.clone()), true);
    runner.report(&seen).await;
    let usage = Usage { memory_bytes: Some(23 << 20), cpu_milli: Some(250), tasks: Some(9), ..Usage::default() };
    runner.heartbeat_with(BTreeMap::from([(id("s"), usage), (id("other"), usage)])).await;

    let view = app.sessions.get(&admin(), &id("s")).await.expect("found");
    assert_eq!((view.usage, view.limits, view.frozen), (Some(usage), Some(limits), true));
    let all = Filter { limit: 10, ..Filter::default() };
    let listed = app.sessions.list(&admin(), &all).await.expect("listed").sessions;
    assert_eq!(listed.iter().map(|view| view.usage).collect::<Vec<_>>(), [Some(usage)]);
    // Thawed: watchers are told, although the phase is the same.
    let mut changes = Box::pin(app.events.subscribe(None).await.expect("a feed"));
    (seen.report, seen.frozen) = (2, false);
    runner.report(&seen).await;
    within("told", futures::StreamExt::next(&mut changes)).await.expect("the feed goes on");
    assert!(!app.sessions.get(&admin(), &id("s")).await.expect("found").frozen);

    runner.report(&runner.seen("s", epoch.0, 3, SessionPhase::Stopped)).await;
    assert_eq!(app.sessions.get(&admin(), &id("s")).await.expect("found").usage, None);
    fleet.stop(&[app]).await;
}
