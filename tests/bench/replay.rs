//! A seek in the page, anywhere in a recording of eight hours.
//!
//! What is played back was recorded: one segment of a terminal that scrolls all the time. It is brought to the server again
//! and again under later times, as its runner would have brought it, until it lasts eight hours. The runner itself is held
//! meanwhile, so that it does not begin a recording of its own under the same name. There is no peer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use helix_protocol::recording::chunk::{self, CLOSE_BYTES, Hash, Header, RecordKind};
use helix_protocol::recording::{RecordingDetail, RecordingId, Start};
use helix_tests::browser::Browser;
use helix_tests::process;
use helix_tests::random::Random;
use helix_tests::rfb::Frame;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;

use crate::measure::{quantile, summary};
use crate::product::Product;
use crate::recording::SCROLL;
use crate::{report, rounds, say};

const LENGTH: Duration = Duration::from_hours(8);
/// For the segment to be whole: it ends after half a minute.
const RECORD: Duration = Duration::from_mins(3);
/// In one round.
const SEEKS: usize = 10;
/// Places within the segment that are looked at: what is there is the same in each repetition.
const PHASES: u64 = 8;

type Records = Vec<(RecordKind, u64, Vec<u8>)>;

pub async fn run() -> Result<()> {
    let product = Product::start(2, &[])?;
    let (segment, lasts_us) = segment(&product).await?;
    say(&format!("recorded a segment of {:.1} s", lasts_us as f64 / 1e6));
    let held = Held::stop(product.pid("agentd"))?;
    let detail = bring(&product, &segment, lasts_us).await?;
    let recording = &detail.recording;
    say(&format!("{} chunks, {} MB", recording.chunks, recording.bytes / 1_000_000));

    let mut browser = Browser::start(product.dir()).await?;
    browser.resize(1280, 800).await?;
    let begun = Instant::now();
    let url = format!("{}/recordings/{}/view#token={}", product.url(), recording.id, product.token());
    browser.open(&url).await?;
    browser.wait("#status[data-state=connected]").await?;
    let opened = begun.elapsed().as_secs_f64() * 1e3;
    let (mut random, mut taken, mut seen) = (Random::seeded(1), Vec::new(), HashMap::<u64, Frame>::new());
    let repetitions = recording.duration_us / lasts_us - 1;
    for round in 0..rounds() {
        for _ in 0..SEEKS {
            let phase = random.below(PHASES);
            let at_us = random.below(repetitions) * lasts_us + lasts_us * (2 * phase + 1) / (2 * PHASES);
            taken.push(browser.seek(at_us / 1000).await?);
            let shown = browser.canvas(product.dir()).await?;
            ensure!(shown.colours() > 1, "an empty picture at {at_us}");
            let before = seen.entry(phase).or_insert_with(|| shown.clone());
            ensure!(before.differs(&shown) == 0, "at {at_us} it is not the picture of that moment");
        }
        say(&format!("round {round}: {:.0} ms", quantile(&taken, 0.5)));
    }
    let mut pictures = seen.values();
    let first = pictures.next().context("no round")?;
    ensure!(pictures.any(|picture| picture.differs(first) > 0), "every moment shows the same");
    browser.close().await?;
    drop(held);
    report(
        "\n## Replay: a seek in the page to any moment of eight hours, until it is shown (1280x720, scrolling all the time)",
    );
    report(&format!(
        "- {} chunks, {} MB, {} segments: {}, at most {:.0} ms",
        recording.chunks,
        recording.bytes / 1_000_000,
        detail.chunk_list.iter().map(|chunk| chunk.segments.len()).sum::<usize>(),
        summary(&taken, "ms"),
        quantile(&taken, 1.0),
    ));
    report(&format!("- the page with its first picture: {opened:.0} ms"));
    Ok(())
}

/// A process that does nothing for now.
struct Held(u32);

impl Held {
    fn stop(pid: u32) -> Result<Self> {
        process::signal_pid(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may be gone.
        let _ = process::signal_pid(self.0, Signal::CONT);
    }
}

async fn manifest(product: &Product, id: &RecordingId) -> Result<RecordingDetail> {
    let answer = product.call(Method::GET, &format!("/api/v1/recordings/{id}"), None).await?;
    Ok(serde_json::from_value(answer)?)
}

/// Records a terminal until a segment of it is whole. Answers its records from time 0 on, and how long it lasts.
async fn segment(product: &Product) -> Result<(Records, u64)> {
    let session = product.create(&json!({"kind": "terminal", "geometry": "1280x720", "recording": true})).await?;
    let actions = json!({"actions": [{"type": "text", "text": SCROLL}]});
    product.call(Method::POST, &format!("/api/v1/sessions/{}/input", session.id), Some(actions)).await?;
    let id = session.recording.context("it is not recorded")?;
    let begun = Instant::now();
    loop {
        let detail = manifest(product, &id).await?;
        let segments: Vec<u64> =
            detail.chunk_list.iter().flat_map(|chunk| &chunk.segments).map(|segment| segment.at_us).collect();
        // The first one began before anything scrolled.
        let Some([from, to]) = segments.get(1..3) else {
            ensure!(begun.elapsed() < RECORD, "no whole segment after {RECORD:?}: {segments:?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let mut records = Records::new();
        for entry in &detail.chunk_list {
            let bytes = product.bytes(&format!("/api/v1/recordings/{id}/chunks/{}", entry.number)).await?;
            for record in chunk::records(&bytes) {
                let record = record?;
                let is_picture = matches!(record.kind, RecordKind::Segment | RecordKind::Display);
                // At the same time as the next segment's begin: none of the display's is.
                if is_picture && (*from..*to).contains(&record.at_us) {
                    records.push((record.kind, record.at_us - from, record.payload.to_vec()));
                }
            }
        }
        product.call(Method::DELETE, &format!("/api/v1/sessions/{}", session.id), None).await?;
        return Ok((records, to - from));
    }
}

/// Brings eight hours of that segment to the server, under the name of a new session's recording.
async fn bring(product: &Product, segment: &Records, lasts_us: u64) -> Result<RecordingDetail> {
    let asked = json!({"kind": "terminal", "geometry": "1280x720", "recording": true});
    let asked = product.call(Method::POST, "/api/v1/sessions", Some(asked)).await?;
    let asked: SessionView = serde_json::from_value(asked)?;
    let begun = Instant::now();
    let session = loop {
        let path = format!("/api/v1/sessions/{}", asked.id);
        let view: SessionView = serde_json::from_value(product.call(Method::GET, &path, None).await?)?;
        if view.runner.is_some() {
            break view;
        }
        ensure!(begun.elapsed() < Duration::from_secs(10), "the session is not placed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let recording = RecordingId::of(&session.id, session.epoch);
    let started_at = Timestamp::now().checked_sub(SignedDuration::try_from(LENGTH)?)?;
    let runner = session.runner.context("the session is not placed")?;
    let start =
        Start { recording: recording.clone(), session: session.id.clone(), epoch: session.epoch, runner, started_at };
    let mut writer = Writer {
        product,
        token: std::fs::read_to_string(product.dir().join("agentd/token"))?.trim().to_owned(),
        query: format!("session={}&epoch={}", session.id, session.epoch),
        previous: chunk::first_link(&recording),
        recording,
        number: 0,
        records: Vec::new(),
    };
    writer.record(RecordKind::Start, 0, &serde_json::to_vec(&start)?).await?;
    let whole = u64::try_from(LENGTH.as_micros())? / lasts_us;
    for repetition in 0..whole {
        for (kind, at_us, payload) in segment {
            writer.record(*kind, repetition * lasts_us + at_us, payload).await?;
        }
    }
    writer.record(RecordKind::End, whole * lasts_us, &[]).await?;
    writer.close().await?;
    manifest(product, &writer.recording).await
}

/// Chunks of a recording, each brought when it is full.
struct Writer<'a> {
    product: &'a Product,
    token: String,
    query: String,
    recording: RecordingId,
    number: u32,
    previous: Hash,
    records: Vec<u8>,
}

impl Writer<'_> {
    async fn record(&mut self, kind: RecordKind, at_us: u64, payload: &[u8]) -> Result<()> {
        self.records.extend(chunk::record_head(kind, at_us, payload.len()));
        self.records.extend(payload);
        if self.records.len() >= CLOSE_BYTES { self.close().await } else { Ok(()) }
    }

    async fn close(&mut self) -> Result<()> {
        let mut bytes = Header { number: self.number, previous: self.previous }.encode().to_vec();
        bytes.append(&mut self.records);
        self.previous = chunk::link(&bytes);
        let path = format!("/api/v1/recordings/{}/chunks/{}?{}", self.recording, self.number, self.query);
        self.number += 1;
        self.product.put(&path, &self.token, bytes).await
    }
}
