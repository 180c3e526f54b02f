//! The server's core against a real nats-server: who is let in, what a session's way looks like on the bus, what an
//! emptied NATS does. HTTP is tested elsewhere; runners are simulated by their messages.

#[path = "core/audit.rs"]
mod audit;
#[path = "core/control.rs"]
mod control;
#[path = "core/credentials.rs"]
mod credentials;
#[path = "core/degraded.rs"]
mod degraded;
#[path = "core/grants.rs"]
mod grants;
#[path = "core/harness.rs"]
mod harness;
#[path = "core/http.rs"]
mod http;
#[path = "core/images.rs"]
mod images;
#[path = "core/limits.rs"]
mod limits;
#[path = "core/lists.rs"]
mod lists;
#[path = "core/logs.rs"]
mod logs;
#[path = "core/orders.rs"]
mod orders;
#[path = "core/pools.rs"]
mod pools;
#[path = "core/queue.rs"]
mod queue;
#[path = "core/reaper.rs"]
mod reaper;
#[path = "core/recordings.rs"]
mod recordings;
#[path = "core/room.rs"]
mod room;
#[path = "core/scale.rs"]
mod scale;
#[path = "core/secrets.rs"]
mod secrets;
#[path = "core/spec_tasks.rs"]
mod spec_tasks;
#[path = "core/sync.rs"]
mod sync;
#[path = "core/thread_events.rs"]
mod thread_events;
#[path = "core/threads.rs"]
mod threads;
#[path = "core/time_limits.rs"]
mod time_limits;

use std::time::Duration;

use futures::StreamExt as _;
use harness::{Fleet, PATIENCE, SimRunner, eventually, id, within};
use helix_protocol::api::CreateSession;
use helix_protocol::api::runners::EnrolRunner;
use helix_protocol::control::{Role, Viewer};
use helix_protocol::event::Event;
use helix_protocol::ids::secret_hash;
use helix_protocol::link::{Nudge, Reply, Stream};
use helix_protocol::record::{Scope, TicketRecord};
use helix_protocol::runner::Liveness;
use helix_protocol::session::{Desired, SessionPhase, SessionSpec, Unclaimed};
use helix_protocol::{Epoch, ErrorCode, Generation, SessionId, subject};
use helix_server::auth::Principal;
use helix_server::events::FeedMessage;
use helix_server::sessions::{Amendment, Filter};

fn admin() -> Principal {
    Principal { name: "admin".to_owned(), scope: Scope::Admin, token_hash: String::new() }
}

fn command(session: &str, input: &str) -> CreateSession {
    let session = SessionId::parse(session).expect("valid id");
    CreateSession { id: Some(session), input: Some(input.to_owned()), ..CreateSession::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_from_asked_to_ready_to_gone() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let feed = app.events.subscribe(Some(0)).await.expect("a feed");

    // No runner yet: it waits, and says why.
    let created = app.sessions.create(&admin(), command("s", "make")).await.expect("created");
    assert!(created.fresh && created.view.phase == SessionPhase::Pending && created.view.queue_position == Some(1));
    let again = app.sessions.create(&admin(), command("s", "make")).await.expect("the same again");
    assert!(!again.fresh);
    let other = app.sessions.create(&admin(), command("s", "make all")).await.expect_err("another body");
    assert_eq!(other.code, ErrorCode::SessionExists);
    eventually("the reason is told", async || {
        let cause = app.sessions.get(&admin(), &id("s")).await.ok()?.cause?;
        (cause.code == "queued" && cause.message == "no runner is enrolled").then_some(())
    })
    .await;

    // A runner registers: it is nudged and fetches its work.
    let mut runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    within("nudged", async { assert_eq!(runner.nudge().await, Nudge::Sync {}) }).await;
    let desired = runner.sync().await;
    assert_eq!(desired.len(), 1);
    let Epoch(epoch) = desired[0].epoch;
    assert_eq!((epoch, desired[0].desired), (created.view.epoch.0 + 1, Desired::Running));
    assert_eq!(app.sessions.get(&admin(), &id("s")).await.expect("found").phase, SessionPhase::Assigned);

    // All slots taken: the second waits with its place.
    app.sessions.create(&admin(), command("t", "make")).await.expect("created");
    eventually("the full fleet is told", async || {
        let view = app.sessions.get(&admin(), &id("t")).await.ok()?;
        let told = view.cause?.message == "all slots taken (r1 has 1 of 1 slots taken)";
        (told && view.queue_position == Some(1)).then_some(())
    })
    .await;

    // Reports: newer ones count, older ones and those of an old epoch are acknowledged without effect.
    let waiting = {
        let app = app.clone();
        tokio::spawn(async move { app.sessions.wait(&admin(), &id("s"), &[SessionPhase::Ready], PATIENCE).await })
    };
    let starting = runner.seen("s", epoch, 1, SessionPhase::Starting);
    let ready = runner.seen("s", epoch, 2, SessionPhase::Ready);
    assert!(matches!(runner.report(&starting).await, Reply::ReportAck { report: 1, .. }));
    assert!(matches!(runner.report(&ready).await, Reply::ReportAck { report: 2, .. }));
    assert!(matches!(runner.report(&starting).await, Reply::ReportAck { report: 1, .. }));
    let view = within("ready", async { waiting.await.expect("joined").expect("ready") }).await;
    assert!(view.phase == SessionPhase::Ready && view.endpoints.view.is_some());
    let stale = runner.seen("s", epoch - 1, 9, SessionPhase::Failed);
    assert!(matches!(runner.report(&stale).await, Reply::ReportAck { report: 9, .. }));
    assert_eq!(app.sessions.get(&admin(), &id("s")).await.expect("found").phase, SessionPhase::Ready);
    assert!(runner.sync().await.iter().all(|order| order.desired == Desired::Running));
    let absurd = runner.seen("s", u64::MAX, 1, SessionPhase::Failed);
    assert!(matches!(runner.report(&absurd).await, Reply::Refused { code: ErrorCode::Conflict, .. }));

    // Its own token works while it lives.
    let token = app.sessions.auth_token(&admin(), &view).expect("told to an admin");
    let principal = app.tokens.verify(&token).await.expect("valid");
    assert_eq!(principal.scope, Scope::Session(id("s")));

    // Deleted: the runner is told to end and forget it, and only then every key goes.
    let view = app.sessions.delete(&admin(), &id("s")).await.expect("deleted");
    assert_eq!(view.phase, SessionPhase::Stopping);
    eventually("told to end", async || {
        let desired = runner.sync().await;
        desired.iter().any(|order| order.deleted && order.desired == Desired::Stopped).then_some(())
    })
    .await;
    let stopped = runner.seen("s", epoch, 3, SessionPhase::Stopped);
    runner.report(&stopped).await;
    assert_eq!(app.tokens.verify(&token).await.expect_err("over").code, ErrorCode::TokenInvalid);
    within("its socket is told", app.tokens.revoked(&principal.token_hash)).await;
    let mut forgotten = runner.seen("s", epoch, 4, SessionPhase::Stopped);
    forgotten.forgotten = true;
    runner.report(&forgotten).await;
    eventually("its records are gone", async || {
        let gone = app.sessions.get(&admin(), &id("s")).await.is_err();
        // Its slot is free: the other has it.
        let next = app.sessions.get(&admin(), &id("t")).await.ok()?.phase == SessionPhase::Assigned;
        (gone && next).then_some(())
    })
    .await;
    assert!(runner.sync().await.iter().all(|order| order.session == id("t")));

    // The feed tells it in order, without hole or repeat.
    let phases = feed.filter_map(|message| {
        std::future::ready(match message {
            FeedMessage::Item(told) => match &told.item.event {
                Event::Session { session, phase, .. } if *session == id("s") => Some(phase.to_string()),
                Event::SessionDeleted { session, .. } if *session == id("s") => Some("deleted".to_owned()),
                _ => None,
            },
            FeedMessage::Gap { .. } => Some("gap".to_owned()),
        })
    });
    let mut phases = std::pin::pin!(phases);
    let mut told = Vec::new();
    within("the feed", async {
        while told.last().is_none_or(|last| last != "deleted") {
            told.push(phases.next().await.expect("the feed goes on"));
        }
    })
    .await;
    // While it waits, each new reason is an event.
    told.dedup();
    assert_eq!(told, ["Pending", "Assigned", "Starting", "Ready", "Stopping", "Stopped", "deleted"]);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_reaches_its_own_subjects_and_nothing_else() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let victim = SimRunner::enrol(&fleet, &app, "victim").await;
    victim.register(2).await;
    let hostile = SimRunner::enrol(&fleet, &app, "hostile").await;

    for credential in ["", "wrong", harness::ENROLMENT_TOKEN, harness::ADMIN_TOKEN] {
        assert!(fleet.connect_as(credential).await.is_err(), "{credential:?} was let in");
    }

    // Subscriptions beyond its own are refused by nats-server.
    for foreign in
        [">", "up.>", "down.>", "down.victim.>", "_INBOX.>", "_INBOX.victim.>", "$JS.>", "$SYS.>", "*.victim.sync"]
    {
        let _held = hostile.client.subscribe(foreign).await.expect("sent");
        within(foreign, hostile.violation("subscription")).await;
    }
    // So are publishes: other runners' requests, nudges, keys, a rollup, JetStream's API, the callout.
    for foreign in [
        "up.victim.heartbeat",
        "down.victim.sync",
        "$KV.helix_sessions.x",
        "$KV.helix_leases.runner.victim",
        "$JS.API.INFO",
        "$JS.API.STREAM.PURGE.KV_helix_sessions",
        "external_agents.response",
        subject::AUTH_CALLOUT,
    ] {
        let mut rollup = async_nats::HeaderMap::new();
        rollup.insert("Nats-Rollup", "all");
        hostile.client.publish_with_headers(foreign, rollup, "{}".into()).await.expect("sent");
        within(foreign, hostile.violation("publish")).await;
    }
    // On its own subject it cannot speak for another, nor say what the subject does not.
    let forged = serde_json::json!({ "runner": "victim", "type": "sync" });
    assert!(hostile.raw("sync", &forged).await.is_none());
    let forged = serde_json::json!({ "runner": "hostile", "type": "register" });
    assert!(hostile.raw("sync", &forged).await.is_none());
    // And it cannot report on the victim's session.
    app.sessions.create(&admin(), command("s", "make")).await.expect("created");
    let epoch = eventually("assigned", async || victim.sync().await.first().map(|order| order.epoch)).await;
    let lie = hostile.seen("s", epoch.0 + 7, 1, SessionPhase::Failed);
    assert!(matches!(hostile.report(&lie).await, Reply::ReportAck { .. }));
    assert_eq!(app.sessions.get(&admin(), &id("s")).await.expect("found").phase, SessionPhase::Assigned);
    // Nor take its id.
    let theft = EnrolRunner { id: harness::runner_id("victim"), token_hash: secret_hash("another token") };
    assert_eq!(app.runners.enrol(&admin(), theft).await.expect_err("taken").code, ErrorCode::RunnerEnrolledElsewhere);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_observer_reads_everything_and_writes_nothing() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let observer = fleet.observer().await;
    let mut heard = observer.client.subscribe(">").await.expect("sent");
    observer.client.flush().await.expect("flushed");

    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    runner.heartbeat().await;
    let mut subjects = Vec::new();
    within("the documents' subjects", async {
        while !subjects.iter().any(|subject| subject == subject::HEARTBEAT) {
            subjects.push(heard.next().await.expect("a message").subject.to_string());
        }
    })
    .await;
    assert!(subjects.iter().any(|subject| subject == subject::REGISTER), "{subjects:?}");
    assert!(!subjects.iter().any(|subject| subject == subject::AUTH_CALLOUT), "a runner's token was heard");

    let jetstream = async_nats::jetstream::new(observer.client.clone());
    assert!(jetstream.query_account().await.expect("readable").streams >= 13, "not the account of the servers");
    let stream = jetstream.get_stream(subject::STREAM_EXTERNAL_AGENTS).await.expect("readable");
    stream.get_last_raw_message_by_subject(subject::REGISTER).await.expect("readable");
    for foreign in ["up.r1.sync", "down.r1.sync", "$KV.helix_sessions.x", "$JS.API.STREAM.DELETE.KV_helix_sessions"] {
        observer.client.publish(foreign, "{}".into()).await.expect("sent");
        within(foreign, observer.violation("publish")).await;
    }
    let _held =
        observer.client.queue_subscribe(subject::UP_VERBS, subject::SERVER_QUEUE.to_owned()).await.expect("sent");
    within("queue", observer.violation("subscription")).await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_nats_gets_its_schema_again_and_kills_nothing() {
    let mut fleet = Fleet::start().await;
    let app = fleet.server().await;
    let mut runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    app.sessions.create(&admin(), command("s", "make")).await.expect("created");
    within("nudged", runner.nudge()).await;
    let epoch = runner.sync().await[0].epoch;

    fleet.stop_nats().await;
    let by = admin();
    let down = app.sessions.create(&by, command("u", "make"));
    assert_eq!(within("refused at once", down).await.expect_err("down").code, ErrorCode::StoreUnavailable);
    assert!(!app.bus.healthy());
    fleet.start_nats_emptied();
    eventually("usable again", async || app.bus.healthy().then_some(())).await;
    assert_eq!(app.sessions.get(&admin(), &id("s")).await.expect_err("gone").code, ErrorCode::SessionNotFound);

    // The runner enrols again with the same token, and tells what it runs.
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    assert!(runner.sync().await.is_empty(), "absence is not an order");
    let mut seen = runner.seen("s", epoch.0, 5, SessionPhase::Ready);
    seen.unclaimed = Some(Unclaimed { spec: SessionSpec::default(), received_at: jiff::Timestamp::now() });
    runner.report(&seen).await;
    let view = app.sessions.get(&admin(), &id("s")).await.expect("shown from its report alone");
    assert!(view.unclaimed && view.phase == SessionPhase::Ready);
    let taken = app.sessions.create(&admin(), command("s", "make")).await.expect_err("it runs");
    assert_eq!(taken.code, ErrorCode::SessionExists);
    let view = app.sessions.adopt(&admin(), &id("s")).await.expect("adopted");
    assert!(!view.unclaimed && view.phase == SessionPhase::Ready && view.epoch == epoch);
    eventually("desired again", async || {
        let desired = runner.sync().await;
        (desired.len() == 1 && desired[0].epoch == epoch && desired[0].desired == Desired::Running).then_some(())
    })
    .await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_serve_one_fleet_and_silence_is_told() {
    let fleet = Fleet::start().await;
    let (one, two) = (fleet.impatient_server().await, fleet.impatient_server().await);
    let mut runner = SimRunner::enrol(&fleet, &two, "r1").await;
    runner.register(4).await;
    let created = one.sessions.create(&admin(), command("s", "make")).await.expect("created");
    let all = Filter { limit: 10, ..Filter::default() };
    let listed = two.sessions.list(&admin(), &all).await.expect("listed").sessions;
    assert_eq!(listed.iter().map(|view| &view.id).collect::<Vec<_>>(), [&created.view.id]);
    let viewer =
        Viewer { by: "admin".to_owned(), token: String::new(), seat: None, role: Role::Control, password: None };
    let issue = async || one.tokens.issue_ticket(&admin(), &id("s"), Stream::Vnc, viewer.clone(), None).await;
    let ticket = issue().await.expect("issued");
    // Both know it, one gets it.
    let known = [
        two.tokens.ticket(&ticket.secret).await.expect("any replica takes it"),
        one.tokens.ticket(&ticket.secret).await.expect("nobody has it yet"),
    ];
    assert_eq!(known[0].value.viewer, viewer);
    two.tokens.consume_ticket(&ticket.secret, &known[0]).await.expect("the first");
    let late = one.tokens.consume_ticket(&ticket.secret, &known[1]).await.expect_err("once");
    assert_eq!(late.code, ErrorCode::TicketInvalid);
    assert_eq!(two.tokens.ticket(&ticket.secret).await.expect_err("gone").code, ErrorCode::TicketInvalid);
    // After its time nobody gets one, whether or not the store still has it.
    let old = issue().await.expect("issued");
    let known = one.tokens.ticket(&old.secret).await.expect("it is good for a minute");
    let record = TicketRecord { expires_at: jiff::Timestamp::now(), ..(*known.value).clone() };
    one.store.tickets.update(&secret_hash(&old.secret), &record, known.revision).await.expect("its time is over");
    assert_eq!(two.tokens.ticket(&old.secret).await.expect_err("too late").code, ErrorCode::TicketInvalid);

    // The leader leaves: the other leads at once, hears silence, and calls the runner lost.
    let epoch = eventually("assigned", async || runner.sync().await.first().map(|order| order.epoch)).await;
    one.stop().await;
    eventually("lost", async || {
        let lost = two.runners.get(&runner.id).await.ok()?.liveness == Liveness::Lost;
        let session = two.sessions.get(&admin(), &id("s")).await.ok()?;
        (lost && session.phase == SessionPhase::Lost).then_some(())
    })
    .await;
    // One heartbeat, and all is as it was.
    runner.heartbeat().await;
    let view = two.sessions.get(&admin(), &id("s")).await.expect("found");
    assert_eq!((view.phase, view.epoch), (SessionPhase::Assigned, epoch));

    // Deleted while nobody can be told: the records go, and whoever comes back with it is told to end and forget it.
    two.sessions.delete(&admin(), &id("s")).await.expect("deleted");
    eventually("gone", async || two.sessions.get(&admin(), &id("s")).await.is_err().then_some(())).await;
    assert_eq!(two.runners.get(&runner.id).await.expect("found").liveness, Liveness::Lost);
    runner.heartbeat().await;
    assert!(runner.sync().await.is_empty());
    let mut seen = runner.seen("s", epoch.0, 1, SessionPhase::Ready);
    seen.unclaimed = Some(Unclaimed { spec: SessionSpec::default(), received_at: jiff::Timestamp::now() });
    runner.drain_nudges().await;
    runner.report(&seen).await;
    assert_eq!(within("nudged", runner.nudge()).await, Nudge::Sync {});
    let orders = runner.sync().await;
    assert!(orders.len() == 1 && orders[0].deleted && orders[0].desired == Desired::Stopped, "{orders:?}");
    seen.forgotten = true;
    seen.report = 2;
    runner.report(&seen).await;
    assert!(runner.sync().await.is_empty());
    fleet.stop(&[two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_made_again_has_nothing_of_its_former_life() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let mut runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    let created = app.sessions.create(&admin(), command("s", "make")).await.expect("created");
    let token = app.sessions.auth_token(&admin(), &created.view).expect("told to an admin");
    app.tokens.verify(&token).await.expect("valid from the start");
    let first = eventually("assigned", async || runner.sync().await.first().map(|order| order.epoch)).await;
    let session = app.tokens.verify(&token).await.expect("still valid when it is assigned");
    let desktop = Scope::Desktop(id("s"));
    let link = app.tokens.issue("a link", desktop.clone(), Duration::from_mins(5)).await.expect("issued");
    assert_eq!(app.tokens.verify(&link.secret).await.expect("valid").scope, desktop);

    app.sessions.delete(&admin(), &id("s")).await.expect("deleted");
    let mut gone = runner.seen("s", first.0, 1, SessionPhase::Stopped);
    gone.forgotten = true;
    runner.drain_nudges().await;
    runner.report(&gone).await;
    eventually("gone", async || app.sessions.get(&admin(), &id("s")).await.is_err().then_some(())).await;
    assert_eq!(within("nudged", runner.nudge()).await, Nudge::Sync {});
    assert_eq!(app.tokens.verify(&link.secret).await.expect_err("gone").code, ErrorCode::TokenInvalid);

    let created = app.sessions.create(&admin(), command("s", "make")).await.expect("made again");
    let second = eventually("assigned", async || runner.sync().await.first().map(|order| order.epoch)).await;
    assert!(second > first, "{second} after {first}");
    for old in [&token, &link.secret] {
        assert_eq!(app.tokens.verify(old).await.expect_err("over").code, ErrorCode::TokenInvalid);
    }
    within("its socket is told", app.tokens.revoked(&session.token_hash)).await;
    let token = app.sessions.auth_token(&admin(), &created.view).expect("told to an admin");
    app.tokens.verify(&token).await.expect("valid");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_where_it_is_not_assigned_is_ended_there() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let owner = SimRunner::enrol(&fleet, &app, "owner").await;
    owner.register(1).await;
    app.sessions.create(&admin(), command("s", "make")).await.expect("created");
    let epoch = eventually("assigned", async || owner.sync().await.first().map(|order| order.epoch)).await;

    let mut other = SimRunner::enrol(&fleet, &app, "other").await;
    other.drain_nudges().await;
    let mut seen = other.seen("s", epoch.0 - 1, 1, SessionPhase::Ready);
    assert!(matches!(other.report(&seen).await, Reply::ReportAck { report: 1, .. }));
    assert_eq!(within("nudged", other.nudge()).await, Nudge::Sync {});
    let orders = other.sync().await;
    assert!(orders.len() == 1 && orders[0].deleted && orders[0].desired == Desired::Stopped, "{orders:?}");
    assert_eq!(orders[0].epoch, seen.epoch);
    // The one that it is assigned to goes on.
    let orders = owner.sync().await;
    assert!(orders.len() == 1 && !orders[0].deleted && orders[0].desired == Desired::Running, "{orders:?}");
    assert_eq!(app.sessions.get(&admin(), &id("s")).await.expect("found").phase, SessionPhase::Assigned);
    (seen.phase, seen.forgotten, seen.report) = (SessionPhase::Stopped, true, 2);
    assert!(matches!(other.report(&seen).await, Reply::ReportAck { report: 2, .. }));
    assert!(other.sync().await.is_empty());
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_asking_to_the_nudge_takes_no_timer() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let mut runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(64).await;
    // The first waits for leadership; the others measure.
    app.sessions.create(&admin(), command("warm", "make")).await.expect("created");
    within("nudged", runner.nudge()).await;
    let mut times = Vec::new();
    for round in 0..20 {
        let asked = tokio::time::Instant::now();
        app.sessions.create(&admin(), command(&format!("s{round}"), "make")).await.expect("created");
        within("nudged", runner.nudge()).await;
        times.push(asked.elapsed());
    }
    times.sort();
    // Far above what it takes on a busy machine, far below every timer of the server.
    assert!(times[10] < Duration::from_millis(250), "{times:?}");
    tracing::info!(p50 = ?times[10], worst = ?times[19], "asked to nudged");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_cannot_grow_beyond_what_is_stored() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let created = app.sessions.create(&admin(), command("s", &"🦀".repeat(50_000))).await.expect("created");
    let env = async |chars| {
        let env = Some([("A".to_owned(), "x".repeat(chars))].into());
        app.sessions.amend(&admin(), &created.view.id, Amendment { env, project_path: None }).await
    };
    assert_eq!(env(60_000).await.expect_err("too much together").code, ErrorCode::InvalidRequest);
    assert_eq!(env(20_000).await.expect("changed").generation, Generation(2));
    fleet.stop(&[app]).await;
}
