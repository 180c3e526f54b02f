//! Runners of whose machine something is wrong, and runners that come and go.

use std::time::Duration;

use helix_protocol::api::CreateSession;
use helix_protocol::record::Scope;
use helix_protocol::runner::{Degradation, Degraded, Heartbeat, Liveness};
use helix_protocol::session::SessionPhase;
use helix_server::app::App;
use helix_server::auth::Principal;
use jiff::{SignedDuration, Timestamp};

use crate::harness::{Fleet, SimRunner, eventually, id};

fn admin() -> Principal {
    Principal { name: "admin".to_owned(), scope: Scope::Admin, token_hash: String::new() }
}

async fn create(app: &App, session: &str) {
    let request = CreateSession { id: Some(id(session)), ..CreateSession::default() };
    app.sessions.create(&admin(), request).await.expect("created");
}

/// Waits until the session waits and is told this.
async fn waits_for(app: &App, session: &str, why: &str) {
    eventually(why, async || {
        let view = app.sessions.get(&admin(), &id(session)).await.ok()?;
        (view.phase == SessionPhase::Pending && view.cause?.message.contains(why)).then_some(())
    })
    .await;
}

async fn is_placed(app: &App, session: &str) {
    eventually("it is placed", async || {
        let view = app.sessions.get(&admin(), &id(session)).await.ok()?;
        (view.phase == SessionPhase::Assigned).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_degraded_runner_takes_nothing_new_until_it_is_well() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(4).await;
    let detail = "1MiB are free on the disk of /w: make room";
    let degraded = vec![Degraded { what: Degradation::Disk, detail: detail.to_owned() }];
    runner.beat(Heartbeat { degraded: degraded.clone(), ..Heartbeat::default() }).await;
    create(&app, "s1").await;
    waits_for(&app, "s1", "r1 is degraded: disk;").await;
    assert_eq!(app.runners.get(&runner.id).await.expect("known").degraded, degraded);
    runner.heartbeat().await;
    is_placed(&app, "s1").await;

    let behind = Timestamp::now() - SignedDuration::from_mins(7);
    runner.beat(Heartbeat { at: Some(behind), ..Heartbeat::default() }).await;
    create(&app, "s2").await;
    waits_for(&app, "s2", "r1 is degraded: clock;").await;
    let view = app.runners.get(&runner.id).await.expect("known");
    assert_eq!(view.degraded[0].detail, "its clock is 7 minutes behind this server's: keep both by NTP");
    runner.beat(Heartbeat { at: Some(Timestamp::now()), ..Heartbeat::default() }).await;
    is_placed(&app, "s2").await;
    fleet.stop(&[app]).await;
}

/// By its silence it would be suspect after fifteen seconds, which is all that this test waits for anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_whose_connection_ends_is_suspect_at_once() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(4).await;
    runner.heartbeat().await;
    let id = runner.id.clone();
    let began = std::time::Instant::now();
    drop(runner);
    eventually("it is suspect", async || {
        let view = app.runners.get(&id).await.ok()?;
        (view.liveness == Liveness::Suspect).then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_comes_and_goes_is_the_last_choice() {
    let fleet = Fleet::start().await;
    let app = fleet.impatient_server().await;
    let flaps = SimRunner::enrol(&fleet, &app, "a-flaps").await;
    flaps.register(8).await;
    let lost = async |times: u32| {
        eventually("it is lost once more", async || {
            let record = app.runners.known(&flaps.id).await.ok()?;
            (record.losses.count == times).then_some(())
        })
        .await;
        flaps.heartbeat().await;
    };
    lost(1).await;
    assert_eq!(app.runners.get(&flaps.id).await.expect("known").unsteady_until, None);
    lost(2).await;
    assert!(app.runners.get(&flaps.id).await.expect("known").unsteady_until.is_some());
    let steady = SimRunner::enrol(&fleet, &app, "b-steady").await;
    steady.register(4).await;
    // By its name and its free slots the other one would come first.
    let all = [&steady.id, &steady.id, &steady.id, &steady.id, &flaps.id];
    for (session, runner) in ["s1", "s2", "s3", "s4", "s5"].into_iter().zip(all) {
        flaps.heartbeat().await;
        steady.heartbeat().await;
        create(&app, session).await;
        is_placed(&app, session).await;
        let view = app.sessions.get(&admin(), &id(session)).await.expect("there");
        assert_eq!(view.runner.as_ref(), Some(runner), "{session}");
    }
    fleet.stop(&[app]).await;
}
