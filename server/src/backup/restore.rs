//! Putting a backup back: all of it, or nothing that a server would look at.
//!
//! 1. The whole file is read and proved. Until here nothing is changed.
//! 2. A store with content is refused without `force`.
//! 3. The mark is set; after [`settle`] no server writes any more.
//! 4. Every stream of ours is removed, and those of the backup are made.
//! 5. The mark goes.
//!
//! A failure between 3 and 5 leaves the mark, unless the store was empty before: then it is made so again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::client::RequestErrorKind;
use async_nats::jetstream::Context;
use futures::StreamExt as _;
use helix_protocol::subject;
use jiff::Timestamp;

use super::archive::{Frame, Header, Reader, Stream, verify};
use super::snapshot::In;
use super::{Done, Fault, Kind, Say, connected, kept, shown};
use crate::bus::restoring::{self, Mark};
use crate::bus::{PROBE_INTERVAL, REQUEST_TIMEOUT, schema};
use crate::config::ServerConfig;
use crate::keys::Keys;

/// How long nothing is changed yet. Every server that can reach the store sees the mark meanwhile, what it had begun is
/// done or refused, and every runner's heartbeat is refused once: runners then say again all that they see.
fn settle(config: &ServerConfig) -> Duration {
    PROBE_INTERVAL + 2 * REQUEST_TIMEOUT + config.heartbeat_interval
}

/// How long a restore that runs may take to say so.
const RUNS: Duration = Duration::from_secs(2);

/// Restores `file`. With `force` over what the store has.
pub async fn restore(
    config: &ServerConfig,
    keys: &Arc<Keys>,
    file: &Path,
    force: bool,
    say: Say<'_>,
) -> Result<Done, Fault> {
    let begun = Instant::now();
    say("reading the backup");
    let (header, streams, digest, bytes) = verify(file, keys)?;
    let (client, jetstream) = connected(config, "helix-server restore").await?;
    let answering = alone(&client).await?;
    let whole = async {
        let mark = standing(config, &jetstream).await?;
        let content = content(&jetstream).await?;
        let was_empty = match &mark {
            Some(mark) => mark.was_empty,
            None => content.is_empty(),
        };
        if mark.is_none() && !content.is_empty() && !force {
            return Err(refused(&header, &content));
        }
        if let Some(mark) = &mark {
            say(&format!("a restore that was begun at {} did not end; beginning again", mark.begun_at));
        }
        let new = Mark { backup: digest.clone(), begun_at: Timestamp::now().to_string(), was_empty };
        restoring::set(&jetstream, config.nats.replicas, &new).await.map_err(|err| {
            Fault::failed("cannot mark the store").because(format!("{err:#}")).next("repeat the command")
        })?;
        say(&format!("servers stand still; waiting {} s for the last of them", settle(config).as_secs()));
        tokio::time::sleep(settle(config)).await;
        match replace(config, &client, &jetstream, file, keys, say).await {
            Err(fault) if was_empty => {
                take_back(&jetstream).await;
                return Err(fault);
            }
            done => done?,
        }
        restoring::clear(&jetstream).await.map_err(|err| {
            let next = format!("repeat the command, or: nats stream rm {}", subject::STREAM_RESTORE);
            Fault::failed("all is restored, but servers are still kept away").because(format!("{err:#}")).next(next)
        })
    };
    tokio::select! {
        done = whole => done?,
        () = answering => return Err(Fault::new(Kind::Unreachable, "the connection to NATS ended")),
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Done { file: shown(file), created_at: header.created_at, digest, streams, bytes, seconds })
}

/// Refuses while another restore runs; else what answers that this one does, until dropped.
async fn alone(client: &Client) -> Result<impl Future<Output = ()>, Fault> {
    let failed = |why: String| Fault::new(Kind::Unreachable, "cannot reach NATS").because(why);
    match tokio::time::timeout(RUNS, client.request(subject::RESTORE_RUNS, "".into())).await {
        Ok(Ok(answer)) => {
            let who = String::from_utf8_lossy(&answer.payload).into_owned();
            let next = "wait for it to end";
            return Err(Fault::new(Kind::Refused, "another restore is running").at(who).next(next));
        }
        Ok(Err(err)) if err.kind() == RequestErrorKind::NoResponders => {}
        Ok(Err(err)) => return Err(failed(err.to_string())),
        Err(_) => return Err(failed(format!("no answer within {RUNS:?}"))),
    }
    let mut asked = client.subscribe(subject::RESTORE_RUNS).await.map_err(|err| failed(err.to_string()))?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let who = format!("{host}, process {}", std::process::id());
    let client = client.clone();
    Ok(async move {
        while let Some(message) = asked.next().await {
            let Some(reply) = message.reply else { continue };
            // An asker that is gone needs no answer.
            let _ = client.publish(reply, who.clone().into()).await;
        }
    })
}

async fn standing(config: &ServerConfig, jetstream: &Context) -> Result<Option<Mark>, Fault> {
    restoring::standing(jetstream).await.map_err(|err| {
        let next = "look whether JetStream is up; in a cluster most of its nats-servers must be there";
        Fault::new(Kind::Unreachable, "cannot read the store")
            .at(&config.nats.url)
            .because(format!("{err:#}"))
            .next(next)
    })
}

/// Streams with something in them, and how much.
async fn content(jetstream: &Context) -> Result<Vec<(String, u64)>, Fault> {
    let mut content = Vec::new();
    for name in kept() {
        match jetstream.get_stream(&name).await {
            Ok(stream) => content.push((name, stream.cached_info().state.messages)),
            Err(err) if schema::is_missing(&err.kind()) => {}
            Err(err) => return Err(Fault::failed(format!("cannot look at stream {name}")).because(err)),
        }
    }
    content.retain(|(_, messages)| *messages > 0);
    Ok(content)
}

fn refused(header: &Header, content: &[(String, u64)]) -> Fault {
    let list: Vec<_> = content.iter().map(|(name, messages)| format!("  {name}: {messages}")).collect();
    let why = format!(
        "it would be replaced by what was at {}; what came since is lost: sessions of runners stay as they are and are shown \
         as unclaimed, tokens and secrets that are not in the backup end\n{}",
        header.created_at,
        list.join("\n")
    );
    Fault::new(Kind::Refused, "the store is not empty")
        .because(why)
        .next("make a backup of what is there, then repeat the command with --force")
}

/// Removes every stream of ours and makes those of the backup.
async fn replace(
    config: &ServerConfig,
    client: &Client,
    jetstream: &Context,
    file: &Path,
    keys: &Arc<Keys>,
    say: Say<'_>,
) -> Result<(), Fault> {
    remove_all(jetstream).await?;
    let mut reader = Reader::open(file, keys)?;
    let mut current: Option<(Stream, In<'_>)> = None;
    loop {
        match reader.step()? {
            Frame::Stream(stream) => {
                let made = In::begin(client, &stream, config.nats.replicas).await?;
                current = Some((stream, made));
            }
            Frame::Chunk(bytes) => {
                if let Some((_, made)) = &mut current {
                    made.piece(bytes).await?;
                }
            }
            Frame::End(bytes) => {
                let Some((stream, made)) = current.take() else { continue };
                let there = made.end().await?;
                check(&stream, &there)?;
                let messages = stream.number("messages");
                say(&format!("{}: {messages} messages, {} KiB", stream.name, bytes.div_ceil(1024)));
            }
            Frame::Whole(_) => return Ok(()),
        }
    }
}

/// Sequences are what records, cursors and proofs refer to. Messages can be fewer: what is too old goes at once.
fn check(stream: &Stream, there: &serde_json::Value) -> Result<(), Fault> {
    let (wanted, found) = (stream.number("last_seq"), there["state"]["last_seq"].as_u64().unwrap_or(0));
    if found >= wanted {
        return Ok(());
    }
    let why = format!("it ends at {found}, and in the backup at {wanted}");
    Err(Fault::failed(format!("stream {} is not as it was", stream.name)).because(why).next("repeat the command"))
}

async fn remove_all(jetstream: &Context) -> Result<(), Fault> {
    for name in schema::names() {
        schema::remove(jetstream, &name).await.map_err(|err| {
            Fault::failed(format!("cannot remove stream {name}")).because(format!("{err:#}")).next("repeat the command")
        })?;
    }
    Ok(())
}

/// The store was empty: it is again. What fails here leaves the mark, and servers say so.
async fn take_back(jetstream: &Context) {
    if remove_all(jetstream).await.is_ok() {
        let _ = restoring::clear(jetstream).await;
    }
}
