//! Somebody who can write to the store changes a recording: `verify` says what was done. And the end of recordings.

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{self, Context as Jetstream};
use helix_protocol::ids::hex;
use helix_protocol::record::RecordingRecord;
use helix_protocol::recording::chunk::{self, HEADER_BYTES, RECORD_HEAD_BYTES, RecordKind, record_head, records};
use helix_protocol::recording::{ChunkEntry, HeadList};
use helix_protocol::{RecordingId, subject};
use helix_tests::Cluster;
use helix_tests::eventually::{eventually, secs};
use serde_json::{Value, json};

use super::{complete, recorded, recorder, types};
use crate::cli::Cli;

/// Somebody with the servers' own password.
struct Intruder {
    jetstream: Jetstream,
    recording: RecordingId,
}

impl Intruder {
    async fn new(cluster: &Cluster, recording: &str) -> Result<Self> {
        let jetstream = jetstream::new(cluster.bus().await?);
        Ok(Self { jetstream, recording: RecordingId::parse(recording)? })
    }

    async fn read(&self, stream: &str, subject: &str) -> Result<Vec<u8>> {
        let stream = self.jetstream.get_stream(stream).await?;
        Ok(stream.get_last_raw_message_by_subject(subject).await?.payload.to_vec())
    }

    async fn write(&self, subject: String, bytes: Vec<u8>) -> Result<()> {
        self.jetstream.publish(subject, bytes.into()).await?.await?;
        Ok(())
    }

    async fn chunk(&self, number: u32) -> Result<Vec<u8>> {
        self.read(subject::STREAM_RECORDINGS, &subject::recording_chunk(&self.recording, number)).await
    }

    async fn record(&self) -> Result<RecordingRecord> {
        let stream = format!("KV_{}", subject::BUCKET_RECORDINGS);
        let key = format!("$KV.{}.{}", subject::BUCKET_RECORDINGS, self.recording);
        Ok(serde_json::from_slice(&self.read(&stream, &key).await?)?)
    }

    /// The record, and a manifest that fits.
    async fn pretend(&self, record: &RecordingRecord, entries: &[ChunkEntry]) -> Result<()> {
        self.write(subject::recording_page(&self.recording, 0), serde_json::to_vec(entries)?).await?;
        let key = format!("$KV.{}.{}", subject::BUCKET_RECORDINGS, self.recording);
        self.write(key, serde_json::to_vec(record)?).await
    }

    /// Puts chunks in the place of those that are there, with everything beside the trail made to fit.
    async fn replace(&self, chunks: &[Vec<u8>]) -> Result<()> {
        let (mut entries, mut after_us) = (Vec::new(), 0);
        for (number, bytes) in (0..).zip(chunks) {
            self.write(subject::recording_chunk(&self.recording, number), bytes.clone()).await?;
            let entry = chunk::check(bytes, after_us)?.entry;
            after_us = entry.to_us;
            entries.push(entry);
        }
        let last_hash = entries.last().context("no chunk")?.hash.clone();
        let record = RecordingRecord { chunks: chunks.len() as u32, last_hash, ..self.record().await? };
        self.pretend(&record, &entries).await
    }
}

/// The chunk with another picture: bytes of the first large display record are turned around.
fn altered(chunk: &[u8]) -> Result<Vec<u8>> {
    let mut altered = chunk.to_vec();
    let records: Vec<_> = records(chunk).collect::<Result<_, _>>()?;
    let display = records.iter().find(|record| record.kind == RecordKind::Display).context("no picture")?;
    let last = display.offset + RECORD_HEAD_BYTES + display.payload.len() - 1;
    altered[last] ^= 0xff;
    Ok(altered)
}

/// The chunk behind another one.
fn behind(chunk: &[u8], before: &[u8]) -> Vec<u8> {
    let mut linked = chunk.to_vec();
    linked[16..HEADER_BYTES].copy_from_slice(&chunk::link(before));
    linked
}

async fn verify(cli: &Cli, recording: &str) -> Result<(Value, String)> {
    let verdict = cli.json(1, &["recording", "verify", recording]).await?;
    ensure!(verdict["verified"] == false, "{verdict}");
    let said = cli.run(&["recording", "verify", recording]).await?;
    ensure!(said.code == 1, "exit code {}", said.code);
    Ok((verdict, said.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_a_recording_is_found_out() -> Result<()> {
    let cluster = Cluster::small().await?;
    let (api, cli) = (cluster.api()?, Cli::new(&cluster)?);
    let (view, recording) = recorded(&cluster, "desk", &json!(true)).await?;
    types(&api, &view, "seq 50").await?;
    let detail = complete(&api, "desk", &recording).await?;
    let intruder = Intruder::new(&cluster, &recording).await?;
    let (record, entries) = (intruder.record().await?, detail.chunk_list.clone());
    let mut chunks = Vec::new();
    for number in 0..record.chunks {
        chunks.push(intruder.chunk(number).await?);
    }
    ensure!(chunks.len() >= 2, "too short to lose an end: {entries:?}");
    ensure!(cli.json(0, &["recording", "verify", &recording]).await?["verified"] == true);
    let picture = entries.iter().position(|entry| !entry.segments.is_empty()).context("no picture")?;

    // One chunk, and nothing else.
    let mut one = chunks.clone();
    one[picture] = altered(&chunks[picture])?;
    intruder.write(subject::recording_chunk(&intruder.recording, picture as u32), one[picture].clone()).await?;
    let (verdict, said) = verify(&cli, &recording).await?;
    ensure!(verdict["fault"] == "changed" && verdict["chunk"] == picture, "{verdict}");
    ensure!(said.contains(&format!("chunk {picture} was changed")), "{said}");
    // The same with a manifest that fits.
    intruder.replace(&one).await?;
    ensure!(verify(&cli, &recording).await?.0["fault"] == "changed");

    // The end is gone, and nothing that says that there was one.
    intruder.replace(&chunks[..chunks.len() - 1]).await?;
    let stream = intruder.jetstream.get_stream(subject::STREAM_RECORDINGS).await?;
    let gone = subject::recording_chunk(&intruder.recording, chunks.len() as u32 - 1);
    stream.purge().filter(gone).await?;
    let (verdict, said) = verify(&cli, &recording).await?;
    ensure!(verdict["fault"] == "cut_off" && verdict["chunk"] == chunks.len() - 1, "{verdict}");
    ensure!(said.contains("cut off"), "{said}");

    // A whole other recording, with a chain of its own.
    let mut anew = chunks.clone();
    anew[0].extend(record_head(RecordKind::Event, entries[0].to_us, 2));
    anew[0].extend(b"{}");
    for number in 1..anew.len() {
        anew[number] = behind(&anew[number], &anew[number - 1]);
    }
    intruder.replace(&anew).await?;
    let (verdict, said) = verify(&cli, &recording).await?;
    ensure!(verdict["fault"] == "written_anew", "{verdict}");
    ensure!(said.contains("written anew"), "{said}");

    // Everything in its place again.
    for (number, bytes) in (0..).zip(&chunks) {
        intruder.write(subject::recording_chunk(&intruder.recording, number), bytes.clone()).await?;
    }
    intruder.pretend(&record, &entries).await?;
    ensure!(cli.json(0, &["recording", "verify", &recording]).await?["verified"] == true);
    let heads: HeadList = api.get(&format!("/api/v1/recordings/{recording}/heads")).await?.json()?;
    ensure!(
        heads
            .heads
            .last()
            .is_some_and(|head| head.is_last && head.hash == hex(&chunk::link(&chunks[chunks.len() - 1])))
    );
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_ends_when_its_time_is_up_or_somebody_deletes_it() -> Result<()> {
    let cluster = Cluster::builder()
        .runner(helix_tests::runner::RunnerSpec::new("r1"))
        .settings("[recording]\ndefault = true\nkeep = \"1h\"\n")
        .start()
        .await?;
    let (api, cli) = (cluster.api()?, Cli::new(&cluster)?);
    // The server's default; and one that says no.
    let (_, long) = recorded(&cluster, "long", &Value::Null).await?;
    let plain = cluster.ready(&json!({"id": "plain", "kind": "terminal", "recording": false})).await?;
    ensure!(plain.recording.is_none(), "recorded although it asked not to be");
    let (_, short) = recorded(&cluster, "short", &json!({"keep": "1s"})).await?;
    ensure!(recorder(&cluster, &short).is_ok());
    // While its session may record, nothing of it ends.
    eventually("it is there", secs(20), || async { super::manifest(&api, &short).await }).await?;
    helix_tests::eventually::throughout("it is kept while its session runs", secs(7), || async {
        super::manifest(&api, &short).await.map(drop)
    })
    .await?;
    api.stop("short").await?;
    eventually("its time is up", secs(30), || async {
        api.get(&format!("/api/v1/recordings/{short}")).await?.problem(410, "recording_deleted")
    })
    .await?;
    let (verdict, said) = verify(&cli, &short).await?;
    ensure!(verdict["fault"] == "deleted" && verdict["deletion"]["retention"] == true, "{verdict}");
    ensure!(said.contains("its time was up"), "{said}");

    let detail = complete(&api, "long", &long).await?;
    ensure!(detail.recording.keep.to_string() == "1h", "{:?}", detail.recording);
    cli.plain(0, &["recording", "delete", &long]).await?;
    api.get(&format!("/api/v1/recordings/{long}/chunks/0")).await?.problem(410, "recording_deleted")?;
    ensure!(verify(&cli, &long).await?.0["deletion"]["by"] == "admin");
    let stream = cluster.bus().await?;
    let stream = jetstream::new(stream).get_stream(subject::STREAM_RECORDINGS).await?;
    ensure!(stream.cached_info().state.messages == 0, "something of a deleted recording is left");
    // The trail has both ends, and who looked.
    let trail = cli.plain(0, &["audit", "-n", "1000"]).await?;
    for line in [
        format!("recording.expired  {short}"),
        format!("recording.deleted  {long}"),
        format!("GET /recordings/{{id}}  {long}"),
    ] {
        ensure!(trail.contains(&line), "no {line} in\n{trail}");
    }
    cluster.shutdown().await
}
