//! Chunks as runners bring them, and what the server takes of them.

use helix_protocol::api::CreateSession;
use helix_protocol::recording::chunk::{Header, MAX_PAYLOAD, RecordKind, first_link, link, record_head};
use helix_protocol::recording::{RecordingChoice, Start};
use helix_protocol::session::SessionPhase;
use helix_protocol::{Epoch, ErrorCode, RecordingId, SessionId};
use helix_server::app::App;
use helix_server::recordings::Brought;
use jiff::{SignedDuration, Timestamp};

use super::harness::{Fleet, SimRunner, eventually, id, was_logged};
use super::{admin, command};

/// What a runner records of a session.
struct Recorder<'a> {
    runner: &'a SimRunner,
    session: SessionId,
    epoch: Epoch,
    recording: RecordingId,
    number: u32,
    previous: [u8; 32],
}

impl<'a> Recorder<'a> {
    /// Of a new session that is to be recorded.
    async fn of(app: &App, runner: &'a SimRunner, session: &str) -> Self {
        let request = CreateSession { recording: Some(RecordingChoice::Plain(true)), ..command(session, "make") };
        app.sessions.create(&admin(), request).await.expect("created");
        let of_it = async || runner.sync().await.into_iter().find(|order| order.session == id(session));
        let epoch = eventually("assigned", of_it).await.epoch;
        runner.report(&runner.seen(session, epoch.0, 1, SessionPhase::Ready)).await;
        let recording = RecordingId::of(&id(session), epoch);
        let previous = first_link(&recording);
        Self { runner, session: id(session), epoch, recording, number: 0, previous }
    }

    /// The next chunk, with these records.
    fn chunk(&self, started_at: Timestamp, records: &[(u64, usize)]) -> Vec<u8> {
        let mut bytes = Header { number: self.number, previous: self.previous }.encode().to_vec();
        if self.number == 0 {
            let start = Start {
                recording: self.recording.clone(),
                session: self.session.clone(),
                epoch: self.epoch,
                runner: self.runner.id.clone(),
                started_at,
            };
            let start = serde_json::to_vec(&start).expect("JSON");
            bytes.extend(record_head(RecordKind::Start, 0, start.len()));
            bytes.extend(start);
        }
        for (at_us, length) in records {
            bytes.extend(record_head(RecordKind::Display, *at_us, *length));
            bytes.extend(vec![7; *length]);
        }
        bytes
    }

    async fn bring(&mut self, app: &App, bytes: Vec<u8>) -> Result<(), helix_server::error::Error> {
        let previous = link(&bytes);
        let brought = Brought {
            runner: &self.runner.id,
            recording: &self.recording,
            number: self.number,
            session: &self.session,
            epoch: self.epoch,
            bytes: bytes.into(),
        };
        app.recordings.put(&brought).await?;
        self.number += 1;
        self.previous = previous;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_recordings_that_is_full_stops_nothing_else() {
    let fleet = Fleet::start_with("[recording]\nmax_store = \"1MiB\"").await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(4).await;
    let mut desk = Recorder::of(&app, &runner, "desk").await;
    let half = [(1, MAX_PAYLOAD); 7];
    for _ in 0..2 {
        desk.bring(&app, desk.chunk(Timestamp::now(), &half)).await.expect("room");
    }
    let (waits, link) = (desk.chunk(Timestamp::now(), &half), desk.previous);
    let refused = desk.bring(&app, waits.clone()).await.expect_err("more than the bound");
    assert_eq!(refused.code, ErrorCode::RecordingsFull, "{refused:?}");
    assert!(refused.detail.contains("helixctl recording delete"), "{refused}");
    assert!(was_logged("the store of recordings is full"));

    // Everything else has its room, and one recording less is room for another.
    let mut other = Recorder::of(&app, &runner, "other").await;
    other.bring(&app, other.chunk(Timestamp::now(), &half)).await.expect_err("full for everybody");
    // Its session need not be there any more when there is room.
    app.sessions.delete(&admin(), &id("other")).await.expect("deleted");
    let mut gone = runner.seen("other", other.epoch.0, 2, SessionPhase::Stopped);
    gone.forgotten = true;
    runner.report(&gone).await;
    eventually("gone", async || app.sessions.get(&admin(), &id("other")).await.is_err().then_some(())).await;
    app.recordings.delete(&admin(), &desk.recording).await.expect("deleted");
    other.bring(&app, other.chunk(Timestamp::now(), &half)).await.expect("room again");
    assert_eq!((desk.number, desk.previous), (2, link), "what was refused was not taken");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_that_nats_cannot_reserve_is_refused_by_name() {
    let fleet = Fleet::start_with("max_file_store = \"16MiB\"").await;
    let error = fleet.refused_server("max_store = \"1GiB\"").await;
    assert!(error.contains("max_store") && error.contains("max_file_store"), "{error}");
    fleet.stop(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_of_the_future_or_of_the_past_is_refused() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(4).await;
    let mut desk = Recorder::of(&app, &runner, "desk").await;
    let hours = SignedDuration::from_hours(8);
    let (began, second) = (Timestamp::now() - hours, 1_000_000);
    let eight_hours = 8 * 3600 * second;
    desk.bring(&app, desk.chunk(began, &[(second, 1)])).await.expect("the first one");
    for at_us in [u64::MAX, eight_hours + 400 * second] {
        let refused = desk.bring(&app, desk.chunk(began, &[(at_us, 1)])).await.expect_err("of the future");
        assert_eq!(refused.code, ErrorCode::InvalidRequest);
        assert!(refused.detail.contains("look at the clocks"), "{refused}");
    }
    for records in [&[(0, 1)][..], &[(3 * second, 1), (2 * second, 1)]] {
        let refused = desk.bring(&app, desk.chunk(began, records)).await.expect_err("of the past");
        assert!(refused.detail.contains("older than the one before"), "{refused}");
    }
    // The whole of it at once, as a runner brings it that was cut off; and its clock may be a little ahead.
    desk.bring(&app, desk.chunk(began, &[(eight_hours + 200 * second, 1)]))
        .await
        .expect("now, as far as anybody knows");
    fleet.stop(&[app]).await;
}
