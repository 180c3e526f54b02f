//! The queue against a real NATS: whose turn it is, who has as many as may be, and what a session is told of each runner.

use std::collections::BTreeMap;

use helix_protocol::api::CreateSession;
use helix_protocol::record::Scope;
use helix_protocol::session::SessionPhase;
use helix_protocol::{PoolName, SessionId};
use helix_server::app::App;
use helix_server::auth::Principal;
use helix_server::sessions::Filter;

use crate::harness::{Fleet, SimRunner, eventually, id};

fn named(name: &str) -> Principal {
    Principal { name: name.to_owned(), scope: Scope::User, token_hash: String::new() }
}

fn admin() -> Principal {
    Principal { name: "admin".to_owned(), scope: Scope::Admin, token_hash: String::new() }
}

async fn create(app: &App, by: &str, session: &str) {
    let request = CreateSession { id: Some(id(session)), ..CreateSession::default() };
    app.sessions.create(&named(by), request).await.expect("created");
}

async fn places(app: &App) -> Vec<(u32, String)> {
    let page = app.sessions.list(&admin(), &Filter { limit: 100, ..Filter::default() }).await.expect("listed");
    let place = |view: &helix_protocol::api::SessionView| Some((view.queue_position?, view.id.to_string()));
    let mut places: Vec<_> = page.sessions.iter().filter_map(place).collect();
    places.sort();
    places
}

async fn phases(app: &App) -> BTreeMap<SessionId, SessionPhase> {
    let page = app.sessions.list(&admin(), &Filter { limit: 100, ..Filter::default() }).await.expect("listed");
    page.sessions.into_iter().map(|view| (view.id, view.phase)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_take_turns_up_to_their_quotas_and_are_told_why_they_wait() {
    let fleet = Fleet::start().await;
    let app = fleet.server_with("[quotas]\n\"*\" = 2\nbob = 1\n").await;
    for session in ["a1", "a2", "a3"] {
        create(&app, "ann", session).await;
    }
    for session in ["b1", "b2"] {
        create(&app, "bob", session).await;
    }
    let turns = ["a1", "b1", "a2", "b2", "a3"];
    let expected: Vec<_> = (1..).zip(turns.map(str::to_owned)).collect();
    assert_eq!(places(&app).await, expected);
    let nowhere = app.sessions.explain(&named("ann"), &id("a3")).await.expect("explained");
    assert_eq!((nowhere.queue_position, nowhere.runners.len()), (Some(5), 0));

    // Room for all, and quotas for three.
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(10).await;
    eventually("the two that may not run are told why", async || {
        let cause = async |session| app.sessions.get(&admin(), &id(session)).await.ok()?.cause;
        let told = |message: &str| message.contains("which is its quota") && message.contains("[quotas]");
        let (ann, bob) = (cause("a3").await?.message, cause("b2").await?.message);
        (told(&ann) && ann.starts_with("ann has 2 ") && told(&bob) && bob.starts_with("bob has 1 ")).then_some(())
    })
    .await;
    let waiting: Vec<_> = phases(&app).await.into_iter().filter(|(_, phase)| *phase == SessionPhase::Pending).collect();
    assert_eq!(waiting, [(id("a3"), SessionPhase::Pending), (id("b2"), SessionPhase::Pending)]);

    let waits = app.sessions.explain(&named("ann"), &id("a3")).await.expect("explained");
    let said: Vec<_> = waits.runners.iter().map(|of| (of.runner.as_str(), of.runs_it, of.fits, &*of.reason)).collect();
    assert_eq!(said, [("r1", false, true, "has 3 of 10 slots taken")], "the runner would take it: it is the quota");
    let runs = app.sessions.explain(&named("ann"), &id("a1")).await.expect("explained");
    assert!(runs.runners[0].runs_it && runs.assigned_at.is_some() && runs.cause.is_none(), "{runs:?}");
    assert!(app.sessions.explain(&named("bob"), &id("a1")).await.is_err(), "what is somebody else's is not there");

    // One that ends makes room for the next one of its owner, and of nobody else.
    let order = runner.sync().await.into_iter().find(|order| order.session == id("a1")).expect("assigned");
    runner.report(&runner.seen("a1", order.epoch.0, 1, SessionPhase::Stopped)).await;
    eventually("the third one runs", async || {
        let phases = phases(&app).await;
        (phases[&id("a3")] == SessionPhase::Assigned && phases[&id("b2")] == SessionPhase::Pending).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_higher_priority_goes_first_and_a_quota_keeps_agents_for_others() {
    let fleet = Fleet::start().await;
    let app = fleet.server_with("[quotas]\nann = 1\n").await;
    let pool = |name: &str| PoolName::parse(name).expect("valid");
    for (name, priority) in [("urgent", 50), ("later", -50)] {
        let spec = serde_json::from_value(serde_json::json!({ "priority": priority })).expect("a pool");
        app.pools.put(&admin(), &pool(name), spec, None).await.expect("applied");
        app.pools.get(&admin(), &pool(name)).await.expect("known");
    }
    let begin = async |by: &str, name: &str, of: Option<&str>| {
        let request = CreateSession { id: Some(id(name)), pool: of.map(pool), ..CreateSession::default() };
        app.pools.begin(&named(by), request, None).await.expect("created")
    };
    begin("bob", "l1", Some("later")).await;
    begin("cy", "n1", None).await;
    begin("bob", "u1", Some("urgent")).await;
    eventually("the urgent one is first and the other one last", async || {
        let places: Vec<_> = places(&app).await.into_iter().map(|(_, id)| id).collect();
        (places == ["u1", "n1", "l1"]).then_some(())
    })
    .await;
    let wrong = serde_json::from_value(serde_json::json!({ "priority": 101 })).expect("a pool");
    let refused = app.pools.put(&admin(), &pool("urgent"), wrong, None).await.expect_err("refused");
    assert!(refused.detail.contains("-100 to 100"), "{}", refused.detail);

    // An agent that is ready is not had by who has as many as may be.
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(10).await;
    create(&app, "ann", "a1").await;
    let spec = serde_json::from_value(serde_json::json!({ "min_ready": 1 })).expect("a pool");
    app.pools.put(&admin(), &pool("warm"), spec, None).await.expect("applied");
    eventually("an agent is ready", async || {
        for order in runner.sync().await {
            runner.report(&runner.seen(order.session.as_str(), order.epoch.0, 1, SessionPhase::Ready)).await;
        }
        (app.pools.get(&admin(), &pool("warm")).await.expect("found").ready == 1).then_some(())
    })
    .await;
    let asks = || CreateSession { pool: Some(pool("warm")), ..CreateSession::default() };
    let ann = app.pools.begin(&named("ann"), asks(), None).await.expect("created").view;
    assert_eq!(ann.phase, SessionPhase::Pending, "{ann:?}");
    let bob = app.pools.begin(&named("dora"), asks(), None).await.expect("created").view;
    assert_eq!(bob.phase, SessionPhase::Ready, "{bob:?}");
}
