//! Room for sessions that wait, against a real NATS: agents that are nobody's give way, and are there again once there is
//! room; runners are simulated.

use std::collections::BTreeMap;

use helix_protocol::api::CreateSession;
use helix_protocol::checkpoint::WorkSeen;
use helix_protocol::pool::PoolSpec;
use helix_protocol::record::Scope;
use helix_protocol::session::{Desired, SessionPhase};
use helix_protocol::{Epoch, PoolName, SessionId};
use helix_server::app::App;
use helix_server::audit::AuditFilter;
use helix_server::auth::Principal;

use crate::harness::{Fleet, SimRunner, eventually, id};

/// What a runner has done of its orders: epoch and number of the last report.
type Done = BTreeMap<SessionId, (Epoch, u64)>;

fn admin() -> Principal {
    Principal { name: "admin".to_owned(), scope: Scope::Admin, token_hash: String::new() }
}

fn pool(name: &str) -> PoolName {
    PoolName::parse(name).expect("valid")
}

async fn put(app: &App, name: &str, json: &str) {
    let spec: PoolSpec = serde_json::from_str(json).expect("a pool");
    app.pools.put(&admin(), &pool(name), spec, None).await.expect("applied");
}

async fn create(app: &App, json: &str) {
    let request: CreateSession = serde_json::from_str(json).expect("a request");
    app.pools.begin(&admin(), request, None).await.expect("created");
}

/// Starts what shall run; ends and forgets what shall end, unless `ends` is false.
async fn obey(runner: &SimRunner, done: &mut Done, ends: bool) {
    for order in runner.sync().await {
        let number = match (order.desired, order.deleted) {
            (Desired::Running, _) => 1,
            // Above whatever else was reported of it.
            (Desired::Stopped, deleted) => 100 + u64::from(deleted),
        };
        let is_end = order.desired == Desired::Stopped;
        if done.get(&order.session) == Some(&(order.epoch, number)) || is_end && !ends {
            continue;
        }
        let phase = if is_end { SessionPhase::Stopped } else { SessionPhase::Ready };
        let mut seen = runner.seen(order.session.as_str(), order.epoch.0, number, phase);
        seen.forgotten = order.deleted;
        runner.report(&seen).await;
        done.insert(order.session, (order.epoch, number));
    }
}

async fn ready(app: &App, runner: &SimRunner, done: &mut Done, name: &str, many: u32) {
    eventually("agents are ready", async || {
        obey(runner, done, true).await;
        (app.pools.get(&admin(), &pool(name)).await.ok()?.ready == many).then_some(())
    })
    .await;
}

async fn phase(app: &App, session: &str) -> SessionPhase {
    app.sessions.get(&admin(), &id(session)).await.expect("found").phase
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_are_nobodys_give_way_and_come_back_once_there_is_room() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(3).await;
    let mut done = Done::new();
    put(&app, "low", r#"{"min_ready": 1, "priority": -5}"#).await;
    ready(&app, &runner, &mut done, "low", 1).await;
    put(&app, "high", r#"{"min_ready": 2}"#).await;
    ready(&app, &runner, &mut done, "high", 2).await;

    // The runner is full of agents that nobody has. One is enough, of the pool with the lower priority; while it ends,
    // nothing else does, and everybody is told.
    create(&app, r#"{"id": "mine"}"#).await;
    let made_room = eventually("one gives way", async || {
        obey(&runner, &mut done, false).await;
        let told = app.sessions.explain(&admin(), &id("mine")).await.ok()?;
        let cause = told.cause?.message;
        (told.made_room.len() == 1 && cause.ends_with(&format!("; {} gives way to it on r1", told.made_room[0])))
            .then_some(told.made_room)
    })
    .await;
    let low = eventually("the pool says so", async || {
        obey(&runner, &mut done, false).await;
        let low = app.pools.get(&admin(), &pool("low")).await.ok()?;
        low.cause.as_ref().is_some_and(|cause| cause.code == "gave_way").then_some(low)
    })
    .await;
    assert!(low.cause.expect("told").message.starts_with("gave way to session mine;"), "who it was for");
    let gone = app.sessions.explain(&admin(), &made_room[0]).await.expect("explained");
    assert_eq!((gone.gives_way_to, gone.phase), (Some(id("mine")), SessionPhase::Stopping));
    assert_eq!(gone.cause.expect("told").code, "gave_way");
    assert_eq!(app.pools.get(&admin(), &pool("high")).await.expect("found").ready, 2);

    // It has the room, and the agent that is made again waits.
    eventually("it runs", async || {
        obey(&runner, &mut done, true).await;
        (phase(&app, "mine").await == SessionPhase::Ready).then_some(())
    })
    .await;
    let low = app.pools.get(&admin(), &pool("low")).await.expect("found");
    assert_eq!((low.ready, low.pending, low.cause.expect("told").code.as_str()), (0, 1, "gave_way"));
    assert_eq!(app.pools.get(&admin(), &pool("high")).await.expect("found").ready, 2);
    let filter = AuditFilter { limit: 9, target: Some(made_room[0].to_string()), ..AuditFilter::default() };
    let trail = app.audit.page(&filter).await.expect("read").entries;
    let found = trail.iter().find(|item| item.entry.action == "session.gave_way").expect("it is in the trail");
    assert_eq!((found.entry.principal.as_str(), found.entry.result.as_str()), ("session mine", "ok"));

    // What somebody has never gives way: two more have the agents' room, and the next one waits.
    for session in ["two", "three", "four"] {
        create(&app, &format!(r#"{{"id": "{session}"}}"#)).await;
        if session != "four" {
            eventually("it runs", async || {
                obey(&runner, &mut done, true).await;
                (phase(&app, session).await == SessionPhase::Ready).then_some(())
            })
            .await;
        }
    }
    eventually("it waits for those that somebody has", async || {
        obey(&runner, &mut done, true).await;
        let cause = app.sessions.get(&admin(), &id("four")).await.ok()?.cause?.message;
        (cause == "all slots taken (r1 has 3 of 3 slots taken)").then_some(())
    })
    .await;
    for session in ["mine", "two", "three"] {
        assert_eq!(phase(&app, session).await, SessionPhase::Ready);
        app.sessions.delete(&admin(), &id(session)).await.expect("deleted");
    }
    // Room for all: the pools are as they were.
    ready(&app, &runner, &mut done, "high", 2).await;
    app.sessions.delete(&admin(), &id("four")).await.expect("deleted");
    ready(&app, &runner, &mut done, "low", 1).await;
    assert_eq!(app.pools.get(&admin(), &pool("low")).await.expect("found").cause, None);
    fleet.stop(&[app]).await;
}

/// Reports what became of the checkpoint that is asked for as number `asked`.
async fn save(runner: &SimRunner, session: &str, asked: u64, error: Option<&str>) {
    let order = eventually("a checkpoint is asked for", async || {
        let order = runner.sync().await.into_iter().find(|order| order.session == id(session))?;
        (order.work.asked == asked && order.desired == Desired::Running).then_some(order)
    })
    .await;
    let mut seen = runner.seen(session, order.epoch.0, 10 + asked, SessionPhase::Ready);
    seen.work = Some(WorkSeen { asked, error: error.map(str::to_owned), ..WorkSeen::default() });
    runner.report(&seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preemption_is_given_up_where_nobody_waits_any_more_or_nothing_can_be_saved() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    let mut done = Done::new();
    put(&app, "urgent", r#"{"priority": 5}"#).await;
    create(&app, r#"{"id": "batch", "preemptible": true, "on_lost": "restart"}"#).await;
    eventually("it runs", async || {
        obey(&runner, &mut done, true).await;
        (phase(&app, "batch").await == SessionPhase::Ready).then_some(())
    })
    .await;
    let gives_way = async |to: Option<&str>| {
        eventually("whom it gives way to", async || {
            let told = app.sessions.explain(&admin(), &id("batch")).await.ok()?;
            (told.gives_way_to == to.map(id) && told.phase == SessionPhase::Ready).then_some(())
        })
        .await;
    };
    // Who waits is stopped in the meantime: nothing ends.
    create(&app, r#"{"id": "first", "pool": "urgent"}"#).await;
    gives_way(Some("first")).await;
    app.sessions.stop(&admin(), &id("first")).await.expect("stopped");
    gives_way(None).await;
    // It cannot be saved: it goes on, and is left alone.
    create(&app, r#"{"id": "second", "pool": "urgent"}"#).await;
    gives_way(Some("second")).await;
    save(&runner, "batch", 2, Some("the disk is full")).await;
    gives_way(None).await;
    let why = eventually("the other one waits", async || {
        let cause = app.sessions.get(&admin(), &id("second")).await.ok()?.cause?.message;
        (!cause.contains("way")).then_some(cause)
    })
    .await;
    assert_eq!(why, "all slots taken (r1 has 1 of 1 slots taken)");
    let order = runner.sync().await.into_iter().find(|order| order.session == id("batch")).expect("there");
    assert_eq!((order.desired, order.work.asked), (Desired::Running, 2));
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_preempted_waits_and_goes_on_and_one_session_preempts_once() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(2).await;
    let mut done = Done::new();
    put(&app, "urgent", r#"{"priority": 5}"#).await;
    for session in ["old", "young"] {
        create(&app, &format!(r#"{{"id": "{session}", "preemptible": true, "on_lost": "restart"}}"#)).await;
        eventually("it runs", async || {
            obey(&runner, &mut done, true).await;
            (phase(&app, session).await == SessionPhase::Ready).then_some(())
        })
        .await;
    }
    create(&app, r#"{"id": "now", "pool": "urgent"}"#).await;
    save(&runner, "young", 1, None).await;
    eventually("it runs in its place", async || {
        obey(&runner, &mut done, true).await;
        (phase(&app, "now").await == SessionPhase::Ready).then_some(())
    })
    .await;
    let young = eventually("what was preempted waits", async || {
        let view = app.sessions.get(&admin(), &id("young")).await.ok()?;
        view.cause.as_ref().is_some_and(|cause| cause.message.ends_with("slots taken)")).then_some(view)
    })
    .await;
    let why = "preempted by session now; all slots taken (r1 has 2 of 2 slots taken)";
    assert_eq!((young.phase, young.cause.expect("told").message.as_str()), (SessionPhase::Pending, why));
    let now = app.sessions.explain(&admin(), &id("now")).await.expect("explained");
    assert_eq!((now.made_room, now.priority), (vec![id("young")], 5));
    assert_eq!(phase(&app, "old").await, SessionPhase::Ready, "one was enough");
    app.sessions.stop(&admin(), &id("now")).await.expect("stopped");
    eventually("it goes on", async || {
        obey(&runner, &mut done, true).await;
        let told = app.sessions.explain(&admin(), &id("young")).await.ok()?;
        (told.phase == SessionPhase::Ready && told.gives_way_to.is_none()).then_some(())
    })
    .await;
    fleet.stop(&[app]).await;
}
