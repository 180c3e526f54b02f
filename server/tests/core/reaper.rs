//! The reaper against a real NATS: what removed owners have left goes, whatever kind it is, and nothing else does.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Config;
use helix_protocol::api::reap::{Leftovers, ReaperView};
use helix_protocol::api::runners::EnrolRunner;
use helix_protocol::assignment::Lease;
use helix_protocol::checkpoint::CheckpointsRecord;
use helix_protocol::control::{Role, Viewer};
use helix_protocol::ids::secret_hash;
use helix_protocol::image::Digest;
use helix_protocol::link::Stream;
use helix_protocol::reap::{KeptWorkspace, LeftoverKind, Reaped, RunnerLeftovers};
use helix_protocol::record::{RecordingRecord, Scope, SpecTaskRecord, TokenRecord};
use helix_protocol::recording::Keep;
use helix_protocol::session::SessionPhase;
use helix_protocol::{Epoch, RecordingId, SpecTaskId, ThreadId, subject};
use helix_server::app::App;
use helix_server::audit::AuditFilter;
use jiff::Timestamp;

use crate::harness::{Fleet, SimRunner, eventually, id, runner_id, within};
use crate::{admin, command};

/// Looks only when it is asked to; what is gone for this long goes.
const SETTINGS: &str = "[reaper]\ninterval = \"1h\"\ngrace = \"400ms\"\nuploads = \"400ms\"\n";
const GRACE: Duration = Duration::from_millis(400);

/// A session that was there and was deleted.
async fn deleted(app: &App, session: &str) {
    app.sessions.create(&admin(), command(session, "make")).await.expect("created");
    app.sessions.delete(&admin(), &id(session)).await.expect("deleted");
    eventually("its record is gone", async || app.store.sessions.view().get(session).is_none().then_some(())).await;
}

/// A runner that was there and was removed.
async fn removed(app: &App, runner: &str) {
    let enrolled = EnrolRunner { id: runner_id(runner), token_hash: secret_hash(runner) };
    app.runners.enrol(&admin(), enrolled).await.expect("enrolled");
    app.runners.remove(&admin(), &runner_id(runner), true).await.expect("removed");
}

async fn store(jetstream: &Context, subject: String, payload: &str) {
    jetstream.publish(subject, payload.to_owned().into()).await.expect("sent").await.expect("stored");
}

async fn say(app: &App, session: &str, text: &str) {
    let thread = ThreadId::parse("t").expect("valid id");
    store(app.bus.jetstream(), subject::thread(&id(session), &thread), text).await;
}

fn lease() -> Lease {
    Lease { server: "s".to_owned(), renewed_at: Timestamp::now(), heartbeat: None, sync: None, scale: None }
}

fn recording(id: &RecordingId, session: &str) -> RecordingRecord {
    let now = Timestamp::now();
    RecordingRecord {
        id: id.clone(),
        session: crate::harness::id(session),
        owner: "admin".to_owned(),
        runner: runner_id("r"),
        epoch: Epoch(1),
        started_at: now,
        width: 0,
        height: 0,
        chunks: 1,
        bytes: 4,
        gaps: 0,
        duration_us: 0,
        last_hash: String::new(),
        last_at: now,
        keep: Keep::LONGEST,
        complete: true,
        deleted: None,
        purged: false,
    }
}

/// One of everything that belongs to a session, and to a runner. Answers how many there are of each kind.
async fn plant(app: &App, session: &str, runner: &str, sim: &SimRunner) -> BTreeMap<LeftoverKind, u64> {
    use LeftoverKind::{Checkpoint, Conversation, Lease, Recording, Report, SpecTask, Ticket, Token};

    let (jetstream, now) = (app.bus.jetstream(), Timestamp::now());
    say(app, session, "first").await;
    say(app, session, "second").await;
    for key in [subject::sync_lease_key(&id(session)), subject::runner_lease_key(&runner_id(runner))] {
        app.store.leases.create(&key, &lease()).await.expect("created");
    }
    app.tokens.issue("a link", Scope::Desktop(id(session)), Duration::from_hours(1)).await.expect("issued");
    let scope = Scope::Runner(runner_id(runner));
    let token = TokenRecord { name: runner.to_owned(), scope, created_at: now, expires_at: None, used_by: None };
    app.store.tokens.create(&secret_hash(&format!("of {runner}")), &token).await.expect("created");
    let (by, token) = ("admin".to_owned(), "digest".to_owned());
    let viewer = Viewer { by, token, seat: None, role: Role::Control, password: None };
    app.tokens.issue_ticket(&admin(), &id(session), Stream::Vnc, viewer, None).await.expect("issued");
    let task = SpecTaskId::parse(format!("task-of-{session}")).expect("valid id");
    let record = SpecTaskRecord { id: task.clone(), owner: "admin".to_owned(), session: id(session), created_at: now };
    app.store.spec_tasks.create(task.as_str(), &record).await.expect("created");
    let seen = sim.seen(session, 7, 1, SessionPhase::Ready);
    app.store.observed.create(&format!("{runner}.{session}"), &seen).await.expect("created");
    let rec = RecordingId::of(&id(session), Epoch(1));
    store(jetstream, subject::recording_chunk(&rec, 0), "data").await;
    store(jetstream, subject::recording_page(&rec, 0), "[]").await;
    store(jetstream, subject::checkpoint_blob(&id(session), &Digest::of(session.as_bytes())), "pack").await;
    let one = [Report, Ticket, SpecTask, Conversation, Recording, Checkpoint].map(|kind| (kind, 1));
    one.into_iter().chain([(Lease, 2), (Token, 2)]).collect()
}

async fn reap(app: &App) -> ReaperView {
    within("a look", app.reaper.reap(false)).await.expect("looked")
}

fn counts(list: &[Leftovers]) -> BTreeMap<LeftoverKind, u64> {
    list.iter().map(|of| (of.kind, of.count)).collect()
}

/// Looks until nothing waits any more; what went, together.
async fn reap_all(app: &App) -> BTreeMap<LeftoverKind, u64> {
    let mut all = BTreeMap::new();
    eventually("nothing waits", async || {
        let last = reap(app).await.last.expect("a look");
        for (kind, count) in counts(&last.removed) {
            *all.entry(kind).or_default() += count;
        }
        last.waiting.is_empty().then_some(())
    })
    .await;
    all
}

async fn is_stored(app: &App, stream: &str, filter: &str) -> bool {
    let stream = app.bus.jetstream().get_stream(stream).await.expect("there");
    let subjects = stream.info_with_subjects(filter).await.expect("answered");
    futures::StreamExt::count(subjects).await > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_removed_owners_have_left_goes_at_the_second_look_and_nothing_else() {
    let fleet = Fleet::start().await;
    let app = fleet.server_with(SETTINGS).await;
    let jetstream = app.bus.jetstream().clone();
    let sim = SimRunner::enrol(&fleet, &app, "alive-runner").await;
    deleted(&app, "gone").await;
    removed(&app, "gone-runner").await;
    app.sessions.create(&admin(), command("alive", "make")).await.expect("created");
    // What proves that a recording and checkpoints were removed, and not lost.
    let rec = RecordingId::of(&id("gone"), Epoch(1));
    let revision = app.store.recordings.create(rec.as_str(), &recording(&rec, "gone")).await.expect("created");
    app.store.recordings.delete(rec.as_str(), revision).await.expect("deleted");
    let checkpoints =
        CheckpointsRecord { session: id("gone"), family: id("gone"), last: 0, list: Vec::new(), at: Timestamp::now() };
    let revision = app.store.checkpoints.create("gone", &checkpoints).await.expect("created");
    app.store.checkpoints.delete("gone", revision).await.expect("deleted");
    let image = Digest::of(b"an image");
    let mut marker = HeaderMap::new();
    marker.insert("KV-Operation", "DEL");
    let key = format!("$KV.{}.{}", subject::BUCKET_IMAGES, subject::image_key(&image));
    jetstream.publish_with_headers(key, marker, "".into()).await.expect("sent").await.expect("stored");
    let chunk = subject::image_chunk(&Digest::of(b"a chunk"));

    let mut planted = plant(&app, "gone", "gone-runner", &sim).await;
    store(&jetstream, chunk.clone(), "a chunk").await;
    planted.insert(LeftoverKind::ImageChunk, 1);
    // The same of those that are there: the recording's session has ended long ago, and it is kept.
    let kept = RecordingId::of(&id("alive"), Epoch(1));
    app.store.recordings.create(kept.as_str(), &recording(&kept, "a-session-of-last-week")).await.expect("created");
    let checkpoints = CheckpointsRecord { session: id("alive"), family: id("alive"), ..checkpoints };
    app.store.checkpoints.create("alive", &checkpoints).await.expect("created");
    plant(&app, "alive", "alive-runner", &sim).await;
    // Of a session that nobody has removed: the store may have lost it.
    say(&app, "lost", "hello").await;
    // And what others have put there.
    store(&jetstream, "$KV.helix_pools.broken".to_owned(), "no record").await;
    store(&jetstream, "$KV.helix_tokens.notes".to_owned(), "mine").await;
    let orders = Config { name: "ORDERS".to_owned(), subjects: vec!["orders".to_owned()], ..Config::default() };
    jetstream.create_stream(orders).await.expect("made");
    store(&jetstream, "orders".to_owned(), "one").await;
    store(&jetstream, format!("$O.{}.M.cmVwb3J0", subject::OBJECTS), "of an object").await;
    store(&jetstream, format!("$O.{}.C.nuid", subject::OBJECTS), "bytes").await;

    // Whoever only looks changes nothing, not even for the next look.
    tokio::time::sleep(GRACE * 2).await;
    for _ in 0..2 {
        let view = app.reaper.reap(true).await.expect("looked");
        let last = view.last.expect("a look");
        let mut waiting = planted.clone();
        let chunks = waiting.remove(&LeftoverKind::ImageChunk).expect("planted");
        assert_eq!(counts(&last.waiting), waiting);
        assert_eq!(counts(&last.removed), [(LeftoverKind::ImageChunk, chunks)].into());
    }
    assert_eq!(reap_all(&app).await, planted);

    let told = app.reaper.view().await.expect("told");
    assert_eq!(told.last, told.last_removal);
    let last = reap(&app).await.last.expect("a look");
    assert_eq!(counts(&last.removed), BTreeMap::new());
    assert_eq!(counts(&last.unproved), [(LeftoverKind::Conversation, 1)].into());
    assert_eq!(last.unproved[0].examples, ["HELIX_THREADS/threads.lost.t"]);
    let foreign = [(LeftoverKind::Key, 2), (LeftoverKind::Object, 1), (LeftoverKind::Stream, 1)];
    assert_eq!(counts(&last.foreign), foreign.into());
    for (stream, filter) in [("HELIX_THREADS", "threads.gone.*"), ("HELIX_IMAGES", ">")] {
        assert!(!is_stored(&app, stream, filter).await, "{stream}/{filter} is there");
    }
    for (stream, filter) in [
        ("HELIX_THREADS", "threads.alive.*"),
        ("HELIX_THREADS", "threads.lost.*"),
        ("HELIX_RECORDINGS", &subject::recording_all(&kept)),
        ("HELIX_CHECKPOINTS", "checkpoints.alive.*"),
        ("KV_helix_leases", "$KV.helix_leases.sync.alive"),
        ("KV_helix_observed", "$KV.helix_observed.alive-runner.alive"),
        ("KV_helix_pools", "$KV.helix_pools.broken"),
        ("KV_helix_tokens", "$KV.helix_tokens.notes"),
        ("OBJ_HELIX_BLOBS", "$O.HELIX_BLOBS.>"),
        ("ORDERS", "orders"),
    ] {
        assert!(is_stored(&app, stream, filter).await, "{stream}/{filter} is gone");
    }
    assert!(!is_stored(&app, "HELIX_RECORDINGS", &subject::recording_all(&rec)).await);
    // Everybody can see it afterwards.
    let ours = AuditFilter { limit: 1000, principal: Some("helix".to_owned()), ..AuditFilter::default() };
    let page = app.audit.page(&ours).await.expect("read");
    let told = page.entries.into_iter().filter(|item| item.entry.action == "reap");
    let told: Vec<_> = told.map(|item| item.entry.target).collect();
    assert!(told.iter().any(|target| target.contains("conversation: 1")), "{told:?}");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_made_again_and_a_session_that_runs_without_a_record_keep_what_they_have() {
    let fleet = Fleet::start().await;
    let app = fleet.server_with(SETTINGS).await;
    let sim = SimRunner::enrol(&fleet, &app, "r").await;
    deleted(&app, "again").await;
    deleted(&app, "runs").await;
    say(&app, "again", "of the former life").await;
    say(&app, "runs", "hello").await;
    // Both are noted, and would go with the next look.
    assert_eq!(counts(&reap(&app).await.last.expect("a look").waiting), [(LeftoverKind::Conversation, 2)].into());
    app.sessions.create(&admin(), command("again", "make")).await.expect("made again");
    let mut seen = sim.seen("runs", 7, 1, SessionPhase::Ready);
    seen.unclaimed = Some(helix_protocol::session::Unclaimed {
        spec: helix_protocol::session::SessionSpec::default(),
        received_at: Timestamp::now(),
    });
    app.store.observed.create("r.runs", &seen).await.expect("created");
    tokio::time::sleep(GRACE * 2).await;
    assert_eq!(reap_all(&app).await, BTreeMap::new());
    assert!(is_stored(&app, "HELIX_THREADS", "threads.again.*").await);
    assert!(is_stored(&app, "HELIX_THREADS", "threads.runs.*").await);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_to_between_two_looks_waits_anew() {
    let fleet = Fleet::start().await;
    let app = fleet.server_with(SETTINGS).await;
    deleted(&app, "gone").await;
    say(&app, "gone", "one").await;
    tokio::time::sleep(GRACE * 2).await;
    let waits = [(LeftoverKind::Conversation, 1)];
    assert_eq!(counts(&reap(&app).await.last.expect("a look").waiting), waits.into());
    tokio::time::sleep(GRACE * 2).await;
    // It could go now.
    say(&app, "gone", "two").await;
    let last = reap(&app).await.last.expect("a look");
    assert_eq!((counts(&last.waiting), counts(&last.removed)), (waits.into(), BTreeMap::new()));
    assert_eq!(reap_all(&app).await, waits.into());
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_remove_each_thing_once_and_the_leader_does_so_unasked() {
    let fleet = Fleet::start().await;
    let (one, two) = (fleet.server_with(SETTINGS).await, fleet.server_with(SETTINGS).await);
    deleted(&one, "gone").await;
    for thread in 0..8 {
        let thread = ThreadId::parse(format!("t{thread}")).expect("valid id");
        store(one.bus.jetstream(), subject::thread(&id("gone"), &thread), "hello").await;
    }
    let mut removed = 0;
    eventually("nothing waits", async || {
        let (first, second) = tokio::join!(one.reaper.reap(false), two.reaper.reap(false));
        let mut waits = false;
        for view in [first.expect("looked"), second.expect("looked")] {
            let last = view.last.expect("a look");
            removed += counts(&last.removed).get(&LeftoverKind::Conversation).copied().unwrap_or_default();
            waits |= !last.waiting.is_empty();
        }
        (!waits).then_some(())
    })
    .await;
    assert_eq!(removed, 8);
    fleet.stop(&[one, two]).await;

    let fleet = Fleet::start().await;
    let often = "[reaper]\ninterval = \"300ms\"\ngrace = \"200ms\"\n";
    let (one, two) = (fleet.server_with(often).await, fleet.server_with(often).await);
    deleted(&one, "gone").await;
    say(&one, "gone", "hello").await;
    eventually("it went", async || (!is_stored(&one, "HELIX_THREADS", ">").await).then_some(())).await;
    let removal = eventually("it is told", async || two.reaper.view().await.ok()?.last_removal).await;
    assert_eq!(counts(&removal.removed), [(LeftoverKind::Conversation, 1)].into());
    fleet.stop(&[one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_runner_has_removed_and_keeps_is_part_of_the_report() {
    let fleet = Fleet::start().await;
    let app = fleet.server_with(SETTINGS).await;
    let sim = SimRunner::enrol(&fleet, &app, "r").await;
    sim.register(1).await;
    sim.heartbeat().await;
    let kept = KeptWorkspace { path: "/w/s.kept-1".to_owned(), since: Timestamp::now(), until: Timestamp::MAX };
    let reaped = Reaped { sessions: 2, processes: 5, ..Reaped::default() };
    let leftovers = RunnerLeftovers { reaped, stuck: Vec::new(), kept: vec![kept] };
    // Told with every heartbeat, and once in the trail.
    sim.heartbeat_left(leftovers.clone()).await;
    sim.heartbeat_left(leftovers.clone()).await;
    eventually("it is told", async || {
        let view = app.reaper.view().await.ok()?;
        (view.runners.len() == 1 && view.runners[0].leftovers == leftovers).then_some(())
    })
    .await;
    assert_eq!(app.runners.get(&runner_id("r")).await.expect("found").leftovers, leftovers);
    let told = eventually("it is in the trail", async || {
        let filter = AuditFilter { limit: 1000, principal: Some("runner r".to_owned()), ..AuditFilter::default() };
        let page = app.audit.page(&filter).await.ok()?;
        let told: Vec<_> = page.entries.into_iter().filter(|item| item.entry.action == "reap").collect();
        (!told.is_empty()).then_some(told)
    })
    .await;
    assert_eq!((told.len(), told[0].entry.target.as_str()), (1, "leftover sessions: 2"));
    fleet.stop(&[app]).await;
}
