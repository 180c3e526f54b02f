//! JetStream's snapshots: the stored bytes of one stream, out and in. async-nats has no call for them.
//!
//! Out: a request names an inbox, its pieces come there, each is acknowledged (JetStream sends 16 MiB ahead), and an
//! empty message with status 204 ends them. In: a request with configuration and state is answered with a subject; each
//! piece sent there is answered ([`AHEAD`] are on their way at once); an empty one ends them, and its answer says what was
//! made. A stream is there whole or not at all.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use helix_protocol::subject;
use serde_json::{Value, json};

use super::archive::Stream;
use super::{ANSWER, Fault};

/// Bytes of a piece: below the smallest `max_payload`.
const CHUNK: usize = 512 << 10;
/// Longest silence within a snapshot, and longest wait while a stream is made of one.
const SILENCE: Duration = Duration::from_mins(1);
/// Pieces of a restore that wait for their answers.
const AHEAD: usize = 16;
/// What JetStream says of a stream that is not there.
const STREAM_NOT_FOUND: u64 = 10_059;
/// Status of the message that ends a snapshot well.
const NO_CONTENT: u16 = 204;

/// Copies one stream: what it is to `begin`, its pieces to `piece`. False when there is no such stream.
pub async fn out(
    client: &Client,
    name: &str,
    mut begin: impl FnMut(&Stream) -> Result<(), Fault>,
    mut piece: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<bool, Fault> {
    let failed = |why: String| Fault::failed(format!("cannot copy stream {name}")).because(why).next("try again");
    let inbox = client.new_inbox();
    let mut pieces = client.subscribe(inbox.clone()).await.map_err(|err| failed(err.to_string()))?;
    let asked = json!({ "deliver_subject": inbox, "no_consumers": true, "chunk_size": CHUNK });
    let told = ask(client, format!("{}.{name}", subject::SNAPSHOT), asked.to_string().into()).await;
    let told = match told {
        Err(Refused::JetStream(STREAM_NOT_FOUND, _)) => return Ok(false),
        told => told.map_err(|err| failed(err.to_string()))?,
    };
    begin(&Stream { name: name.to_owned(), config: told["config"].clone(), state: told["state"].clone() })?;
    loop {
        let next = tokio::time::timeout(SILENCE, pieces.next()).await;
        let message = next
            .map_err(|_| failed(format!("JetStream said nothing for {} s", SILENCE.as_secs())))?
            .ok_or_else(|| failed("the connection to NATS ended".to_owned()))?;
        if message.payload.is_empty() {
            let status = message.status.map(|status| status.as_u16());
            return match (status, message.description) {
                (None | Some(NO_CONTENT), _) => Ok(true),
                (Some(status), why) => Err(failed(format!("{} ({status})", why.unwrap_or_default()))),
            };
        }
        piece(&message.payload)?;
        if let Some(reply) = message.reply {
            client.publish(reply, Bytes::new()).await.map_err(|err| failed(err.to_string()))?;
        }
    }
}

/// A stream that is being made of a snapshot.
pub struct In<'a> {
    client: &'a Client,
    name: String,
    to: String,
    inbox: String,
    answers: Subscriber,
    waiting: usize,
}

impl<'a> In<'a> {
    /// Begins. There must be no such stream.
    pub async fn begin(client: &'a Client, stream: &Stream, replicas: usize) -> Result<Self, Fault> {
        let mut config = stream.config.clone();
        config["num_replicas"] = replicas.into();
        let asked = json!({ "config": config, "state": stream.state });
        let told = ask(client, format!("{}.{}", subject::RESTORE, stream.name), asked.to_string().into()).await;
        let told = told.map_err(|err| failed_in(&stream.name, &err))?;
        let to = told["deliver_subject"].as_str().unwrap_or_default().to_owned();
        let (name, inbox) = (stream.name.clone(), client.new_inbox());
        let answers = client.subscribe(inbox.clone()).await;
        let answers = answers.map_err(|err| failed_in(&name, &Refused::Silent(err.to_string())))?;
        Ok(Self { client, name, to, inbox, answers, waiting: 0 })
    }

    /// A piece. Messages of one connection stay in order.
    pub async fn piece(&mut self, bytes: Vec<u8>) -> Result<(), Fault> {
        if self.waiting >= AHEAD {
            self.answer().await?;
        }
        self.waiting += 1;
        let sent = self.client.publish_with_reply(self.to.clone(), self.inbox.clone(), bytes.into()).await;
        sent.map_err(|err| failed_in(&self.name, &Refused::Silent(err.to_string())))
    }

    /// All of it was sent: what was made.
    pub async fn end(mut self) -> Result<Value, Fault> {
        while self.waiting > 0 {
            self.answer().await?;
        }
        ask(self.client, self.to.clone(), Bytes::new()).await.map_err(|err| failed_in(&self.name, &err))
    }

    async fn answer(&mut self) -> Result<(), Fault> {
        let silent = || Refused::Silent(format!("nothing for {} s", SILENCE.as_secs()));
        let answer = tokio::time::timeout(SILENCE, self.answers.next()).await.ok().flatten();
        self.waiting -= 1;
        match answer {
            // Nobody takes it any more: what restores it has given up, and the server's log says why.
            Some(answer) if answer.status == Some(StatusCode::NO_RESPONDERS) => {
                Err(failed_in(&self.name, &Refused::Nobody))
            }
            Some(answer) => parsed(&answer.payload).map(|_| ()).map_err(|err| failed_in(&self.name, &err)),
            None => Err(failed_in(&self.name, &silent())),
        }
    }
}

fn failed_in(name: &str, why: &Refused) -> Fault {
    let text = why.to_string();
    let next = if text.contains("storage") || text.contains("resource") || text.contains("no suitable peers") {
        "give JetStream more room (max_file_store of server.toml, then a new nats.conf), or as many nats-servers as [nats] \
         replicas says, and repeat the command"
    } else {
        "repeat the command"
    };
    Fault::failed(format!("cannot restore stream {name}")).because(text).next(next)
}

/// Why JetStream did not do it.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// Its own words.
    #[error("JetStream says: {1} ({0})")]
    JetStream(u64, String),
    /// No answer.
    #[error("NATS does not answer: {0}")]
    Silent(String),
    /// No JetStream.
    #[error("no JetStream answers: in a cluster, most of its nats-servers must be there")]
    Nobody,
}

async fn ask(client: &Client, to: String, payload: Bytes) -> Result<Value, Refused> {
    let request = async_nats::Request::new().payload(payload).timeout(Some(ANSWER.max(SILENCE)));
    let answer = client.send_request(to, request).await.map_err(|err| match err.kind() {
        RequestErrorKind::NoResponders => Refused::Nobody,
        _ => Refused::Silent(err.to_string()),
    })?;
    parsed(&answer.payload)
}

fn parsed(payload: &Bytes) -> Result<Value, Refused> {
    if payload.is_empty() {
        return Ok(Value::Null);
    }
    let told: Value = serde_json::from_slice(payload).map_err(|err| Refused::Silent(err.to_string()))?;
    match told.get("error") {
        Some(error) => {
            let why = error["description"].as_str().unwrap_or_default().to_owned();
            Err(Refused::JetStream(error["err_code"].as_u64().unwrap_or(0), why))
        }
        None => Ok(told),
    }
}
