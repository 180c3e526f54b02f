//! How much a runner is told at once.

use helix_protocol::ErrorCode;
use helix_protocol::link::{PROTOCOL, Reply, Request};
use helix_protocol::session::{Desired, SessionPhase};
use helix_server::sessions::Filter;

use super::harness::{Fleet, SimRunner, eventually};
use super::{admin, command};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_sessions_do_not_fill_what_nats_carries() {
    const SESSIONS: usize = 24;
    let fleet = Fleet::start_with("max_payload = \"1MiB\"").await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(64).await;
    let input = "x".repeat(50_000);
    for number in 0..SESSIONS {
        app.sessions.create(&admin(), command(&format!("s{number}"), &input)).await.expect("created");
    }
    // All of them at once are too much: the runner hears so.
    let refused = eventually("refused", async || match runner.request(Request::Sync {}).await? {
        Reply::Refused { code, detail } => Some((code, detail)),
        _ => None,
    })
    .await;
    assert!(refused.0 == ErrorCode::Internal && refused.1.contains("max_payload of 1048576"), "{refused:?}");

    // Ended, they are little, however large they were.
    let assigned = Filter { phases: vec![SessionPhase::Assigned], limit: 100, ..Filter::default() };
    let views = eventually("all are assigned", async || {
        let views = app.sessions.list(&admin(), &assigned).await.ok()?.sessions;
        (views.len() == SESSIONS).then_some(views)
    })
    .await;
    for view in views {
        runner.report(&runner.seen(view.id.as_str(), view.epoch.0, 1, SessionPhase::Stopped)).await;
    }
    let orders = eventually("answered", async || match runner.request(Request::Sync {}).await? {
        Reply::DesiredSet { sessions, .. } if sessions.iter().all(|order| order.desired == Desired::Stopped) => {
            Some(sessions)
        }
        _ => None,
    })
    .await;
    assert_eq!(orders.len(), SESSIONS);
    assert!(orders.iter().all(|order| order.spec.input.is_none() && order.spec.env.is_empty()), "{orders:?}");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agentd_one_version_away_is_taken_and_one_further_is_told() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    for near in [PROTOCOL - 1, PROTOCOL, PROTOCOL + 1] {
        let reply = runner.request(SimRunner::registration(4, near, |_| {})).await;
        assert!(matches!(reply, Some(Reply::Registered { protocol: PROTOCOL, .. })), "{near}: {reply:?}");
    }
    // Nor does one that says nothing of it, as the first ones did, say anything new.
    let silent = serde_json::to_value(SimRunner::registration(4, PROTOCOL, |_| {})).expect("JSON");
    let mut silent = silent.as_object().expect("an object").clone();
    silent.remove("protocol");
    let heard: Request = serde_json::from_value(silent.into()).expect("a registration");
    assert!(matches!(heard, Request::Register { protocol: 1, .. }), "{heard:?}");
    let reply = runner.request(SimRunner::registration(4, PROTOCOL + 2, |_| {})).await;
    let Some(Reply::Refused { code: ErrorCode::Conflict, detail }) = reply else { panic!("{reply:?}") };
    assert!(detail.contains("may be one apart; upgrade the servers first"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_room_is_told_as_such() {
    let fleet = Fleet::start_with("max_file_store = \"16MiB\"").await;
    let app = fleet.server().await;
    let store = app.bus.store_status().await.expect("it answers");
    assert!(!store.full && store.nats.starts_with("2."), "{store:?}");
    let input = "x".repeat(50_000);
    let mut refused = None;
    for number in 0..1000 {
        if let Err(error) = app.sessions.create(&admin(), command(&format!("s{number}"), &input)).await {
            refused = Some(error);
            break;
        }
    }
    let error = refused.expect("16 MiB are more than enough for a thousand");
    assert!(error.code == ErrorCode::StoreUnavailable && error.detail.contains("max_file_store is full"), "{error:?}");
    assert!(app.bus.store_status().await.expect("it answers").full, "nobody can tell");
}
