//! Group commit: events of many sessions that wait for the disk at the same moment are stored together.
//!
//! JetStream writes and syncs every message by itself, one after the other, but an atomic batch only once. So one task
//! per process takes whatever waits, at most one event of each thread, and publishes it as one batch; what comes
//! meanwhile is the next. Each event has its expected last sequence and its id as if it had come alone. A batch is
//! stored whole or not at all: where it is refused, for one of its events or by an older NATS, each goes by itself and
//! gets its own answer. Under light load a batch is one event, which goes as it always did.

use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID,
};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::{HeaderMap, Request};
use bytes::Bytes;
use futures::future::join_all;
use helix_protocol::ErrorCode;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, REQUEST_TIMEOUT, unavailable};
use crate::error::{Error, Result};
use crate::keys::random_id;

/// Events of a batch, at most; JetStream takes a thousand.
const MOST: usize = 256;
/// Events that wait for the task; whoever has more waits.
const QUEUE: usize = 1024;

/// An event on its way to the disk.
struct Pending {
    subject: String,
    payload: Bytes,
    expected: u64,
    id: Option<String>,
    done: oneshot::Sender<Result<u64>>,
}

/// The way to the disk. Cheap to clone.
#[derive(Clone)]
pub struct Commits {
    pending: mpsc::Sender<Pending>,
}

/// What JetStream answers to a batch.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

impl Commits {
    /// Begins; ends with the token.
    pub fn begin(bus: Bus, tasks: &tokio_util::task::TaskTracker, shutdown: CancellationToken) -> Self {
        let (pending, received) = mpsc::channel(QUEUE);
        tasks.spawn(async move {
            tokio::select! {
                () = run(bus, received) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Self { pending }
    }

    /// Stores an event; answers its sequence. `Conflict`: another writer was faster.
    pub async fn commit(&self, subject: String, payload: Bytes, expected: u64, id: Option<String>) -> Result<u64> {
        let (done, answer) = oneshot::channel();
        self.pending.send(Pending { subject, payload, expected, id, done }).await.map_err(unavailable)?;
        // The task ends only with the process.
        answer.await.map_err(unavailable)?
    }
}

async fn run(bus: Bus, mut received: mpsc::Receiver<Pending>) {
    let mut waiting = Vec::new();
    loop {
        if waiting.is_empty() && received.recv_many(&mut waiting, MOST).await == 0 {
            return;
        }
        // The second event of a thread expects the sequence of the first.
        let (mut batch, mut later) = (Vec::with_capacity(waiting.len()), Vec::new());
        for pending in waiting.drain(..) {
            let is_second = batch.iter().any(|before: &Pending| before.subject == pending.subject);
            if is_second { later.push(pending) } else { batch.push(pending) }
        }
        waiting = later;
        match store_together(&bus, &batch).await {
            Some(first) => {
                for (place, pending) in batch.into_iter().enumerate() {
                    // Nobody waits for it where a request was given up.
                    let _ = pending.done.send(Ok(first + place as u64));
                }
            }
            None => drop(join_all(batch.into_iter().map(|pending| store_alone(&bus, pending))).await),
        }
    }
}

/// Sequence of the first event of the batch; `None` where each has to go by itself.
async fn store_together(bus: &Bus, batch: &[Pending]) -> Option<u64> {
    let (last, before) = batch.split_last().filter(|(_, before)| !before.is_empty())?;
    let id = random_id().ok()?;
    let headers = |pending: &Pending, place: usize| {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_BATCH_ID, id.as_str());
        headers.insert(NATS_BATCH_SEQUENCE, (place + 1).to_string());
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, pending.expected.to_string());
        if let Some(id) = &pending.id {
            headers.insert(NATS_MESSAGE_ID, id.as_str());
        }
        headers
    };
    for (place, pending) in before.iter().enumerate() {
        let (subject, headers) = (pending.subject.clone(), headers(pending, place));
        bus.client().publish_with_headers(subject, headers, pending.payload.clone()).await.ok()?;
    }
    let mut commit = headers(last, before.len());
    commit.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
    let request = Request::new().headers(commit).payload(last.payload.clone()).timeout(Some(REQUEST_TIMEOUT));
    let answer = bus.client().send_request(last.subject.clone(), request).await.ok()?;
    let answer: Answer = serde_json::from_slice(&answer.payload).ok()?;
    match answer.error {
        None => (answer.seq + 1).checked_sub(batch.len() as u64),
        Some(error) => {
            tracing::debug!(events = batch.len(), "a batch is refused; its events go one by one: {error}");
            None
        }
    }
}

async fn store_alone(bus: &Bus, pending: Pending) {
    let Pending { subject, payload, expected, id, done } = pending;
    let mut message = PublishMessage::build().payload(payload).expected_last_subject_sequence(expected);
    if let Some(id) = id {
        message = message.message_id(id);
    }
    let stored = async {
        let sent = bus.jetstream().send_publish(subject, message).await.map_err(unavailable)?;
        match sent.await {
            Ok(ack) => Ok(ack.sequence),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(Error::new(ErrorCode::Conflict, "another writer was faster"))
            }
            Err(error) => Err(unavailable(error)),
        }
    };
    let _ = done.send(stored.await);
}
