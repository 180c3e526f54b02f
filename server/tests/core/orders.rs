//! How much a runner is told at once.

use helix_protocol::ErrorCode;
use helix_protocol::link::{Reply, Request};
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
