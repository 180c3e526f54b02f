//! Every bucket and stream, made where it is missing. What exists is left as its operator configured it, once it has
//! what the server depends on.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::Context;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use helix_protocol::resources::Bytes;
use helix_protocol::subject;
use tokio::time::Instant;

use super::restoring::{self, Restoring};

/// Life of a ticket.
pub const TICKET_TTL: Duration = Duration::from_mins(1);
/// Life of the marker that an expired key leaves behind.
const LIMIT_MARKER_TTL: Duration = Duration::from_secs(5);
/// Between two tries at the start.
const RETRY: Duration = Duration::from_millis(250);
const EVENTS_MAX_AGE: Duration = Duration::from_hours(30 * 24);

/// What the operator says of streams that are made.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Copies of each.
    pub replicas: usize,
    /// Most that the recordings take.
    pub recordings: Bytes,
    /// Rather nothing than recordings without this bound.
    pub is_chosen: bool,
}

/// The same, again while JetStream is not there yet: a cluster that has just come up has no leader for a while.
pub async fn ensure_within(jetstream: &Context, wanted: Wanted, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match ensure(jetstream, wanted).await {
            Err(err) if Instant::now() < deadline && !err.is::<Restoring>() => {
                tracing::warn!(error = format!("{err:#}"), "cannot ensure the schema yet; trying again");
                tokio::time::sleep(RETRY).await;
            }
            done => return done,
        }
    }
}

/// JetStream says nothing, not even what there is not.
#[derive(Debug, thiserror::Error)]
#[error("JetStream does not answer")]
pub struct Silent;

/// Makes what is missing. [`Silent`] where nobody answers. Two servers may do so at once: the same creation twice is one. While a backup is restored,
/// nothing is.
pub async fn ensure(jetstream: &Context, wanted: Wanted) -> anyhow::Result<()> {
    if let Some(mark) = restoring::standing(jetstream).await.context(Silent)? {
        return Err(Restoring(mark).into());
    }
    for config in configs(wanted) {
        let name = config.name.clone();
        ensure_stream(jetstream, config, wanted.is_chosen).await.with_context(|| format!("stream {name}"))?;
    }
    Ok(())
}

async fn ensure_stream(jetstream: &Context, config: Config, bound_is_chosen: bool) -> anyhow::Result<()> {
    let (needs_ttl, max_bytes) = (config.allow_message_ttl, config.max_bytes);
    let stream = match jetstream.get_stream(&config.name).await {
        Ok(stream) => stream,
        Err(err) if is_missing(&err.kind()) => match jetstream.create_stream(config.clone()).await {
            Err(err) if max_bytes > 0 && has_no_room(&err.kind()) && !bound_is_chosen => {
                jetstream.create_stream(Config { max_bytes: -1, ..config }).await?
            }
            // Another server was faster, with other settings: its are as good.
            Err(err) if is_taken(&err.kind()) => jetstream.get_stream(&config.name).await?,
            Err(err) if max_bytes > 0 && has_no_room(&err.kind()) => {
                return Err(anyhow::Error::new(err).context(format!(
                    "NATS has no {} to reserve for recordings; fix: write less as [recording] max_store of server.toml, \
                     or more as max_file_store of nats-server",
                    Bytes(max_bytes.unsigned_abs())
                )));
            }
            created => created?,
        },
        Err(err) => return Err(err.into()),
    };
    if max_bytes > 0 && stream.cached_info().config.max_bytes <= 0 {
        tracing::warn!(
            "stream {} has no bound, so that recordings can fill JetStream and stop everything else; fix: nats stream \
             edit {0} --max-bytes {max_bytes}",
            stream.cached_info().config.name
        );
    }
    // Older servers drop options that they do not know without a word.
    anyhow::ensure!(
        !needs_ttl || stream.cached_info().config.allow_message_ttl,
        "it does not allow a TTL per message; fix: use nats-server 2.11 or newer, or set allow_msg_ttl on the stream"
    );
    Ok(())
}

/// Removes a stream, if it is there.
pub async fn remove(jetstream: &Context, name: &str) -> anyhow::Result<()> {
    match jetstream.delete_stream(name).await {
        Err(err) if !is_missing(&err.kind()) => Err(err.into()),
        _ => Ok(()),
    }
}

/// True where there is no such stream.
pub fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(err)
        if err.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn is_taken(kind: &CreateStreamErrorKind) -> bool {
    matches!(kind, CreateStreamErrorKind::JetStream(err) if err.error_code() == ErrorCode::STREAM_NAME_EXIST)
}

/// What NATS says where it cannot reserve a stream's bytes: by itself, as an account's limit, and in a cluster, where no
/// server is left that could.
fn has_no_room(kind: &CreateStreamErrorKind) -> bool {
    const NO_ROOM: [ErrorCode; 5] = [
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
        ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED,
        ErrorCode::CLUSTER_NO_PEERS,
    ];
    matches!(kind, CreateStreamErrorKind::JetStream(err) if NO_ROOM.contains(&err.error_code()))
}

/// Every stream, in the order in which they are backed up: what refers to another one goes first, so that what it refers
/// to is there. What lives for a minute only ([`is_fleeting`]) comes with them.
pub fn names() -> Vec<String> {
    let mut names: Vec<_> = configs(Wanted { replicas: 1, recordings: Bytes(0), is_chosen: false })
        .into_iter()
        .map(|config| config.name)
        .collect();
    names.sort_by_key(|name| match name.as_str() {
        // What proves recordings, before what says how far they are, before their chunks.
        subject::STREAM_EXTERNAL_AGENTS => 0,
        subject::STREAM_IMAGES | subject::STREAM_RECORDINGS | subject::STREAM_CHECKPOINTS => 2,
        name if name.starts_with("OBJ_") => 2,
        _ => 1,
    });
    names
}

/// True for what says who is alive now, or is a ticket: nothing of it is worth keeping.
pub fn is_fleeting(stream: &str) -> bool {
    let buckets = [subject::BUCKET_LEASES, subject::BUCKET_TICKETS];
    buckets.iter().any(|bucket| stream.strip_prefix("KV_") == Some(bucket))
}

fn configs(Wanted { replicas, recordings, .. }: Wanted) -> Vec<Config> {
    let buckets = [
        subject::BUCKET_SESSIONS,
        subject::BUCKET_DESIRED,
        subject::BUCKET_OBSERVED,
        subject::BUCKET_RUNNERS,
        subject::BUCKET_TOKENS,
        subject::BUCKET_POOLS,
        subject::BUCKET_IMAGES,
        subject::BUCKET_LEASES,
        subject::BUCKET_SECRETS,
        subject::BUCKET_SPEC_TASKS,
        subject::BUCKET_RECORDINGS,
        subject::BUCKET_CHECKPOINTS,
        subject::BUCKET_REAPER,
    ];
    let mut all: Vec<Config> = buckets.into_iter().map(bucket).collect();
    all.push(Config { max_age: TICKET_TTL, ..bucket(subject::BUCKET_TICKETS) });
    all.push(Config {
        max_age: EVENTS_MAX_AGE,
        ..stream(subject::STREAM_EXTERNAL_AGENTS, &subject::EXTERNAL_AGENTS_STORED)
    });
    // Many sessions' events go to the disk together.
    all.push(Config { allow_atomic_publish: true, ..stream(subject::STREAM_THREADS, &[subject::THREADS_ALL]) });
    all.push(Config { max_messages_per_subject: 1, ..stream(subject::STREAM_IMAGES, &[subject::IMAGE_CHUNKS_ALL]) });
    // Bounded by the servers, which ask how full it is: a reservation would need room on every laptop.
    all.push(Config {
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        ..stream(subject::STREAM_CHECKPOINTS, &[subject::CHECKPOINTS_ALL])
    });
    // A store that is full refuses a chunk, which its runner keeps; it drops none that it has. The bound is its own: what
    // fills JetStream's would stop every session with it.
    all.push(Config {
        max_messages_per_subject: 1,
        max_bytes: i64::try_from(recordings.0).unwrap_or(i64::MAX),
        discard: DiscardPolicy::New,
        ..stream(subject::STREAM_RECORDINGS, &[subject::RECORDINGS_ALL])
    });
    all.push(object_store(subject::OBJECTS));
    all.into_iter().map(|config| Config { num_replicas: replicas, ..config }).collect()
}

fn stream(name: &str, subjects: &[&str]) -> Config {
    Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
        storage: StorageType::File,
        // Reads go to the stream's leader: always the newest, and never a raw copy of a record on a reply subject
        // that a reader chose.
        allow_direct: false,
        ..Config::default()
    }
}

/// A key-value bucket as every NATS client knows it. History is 1: a TTL shorter than the markers' is only honoured
/// then. A TTL per message is allowed everywhere: markers of deleted keys end by it.
fn bucket(name: &str) -> Config {
    Config {
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(LIMIT_MARKER_TTL),
        ..stream(&format!("KV_{name}"), &[&format!("$KV.{name}.>")])
    }
}

/// An object store as every NATS client knows it.
fn object_store(name: &str) -> Config {
    Config {
        discard: DiscardPolicy::New,
        allow_rollup: true,
        ..stream(&format!("OBJ_{name}"), &[&format!("$O.{name}.C.>"), &format!("$O.{name}.M.>")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_has_the_copies_that_are_asked_for() {
        for replicas in [1, 3] {
            let configs = configs(Wanted { replicas, recordings: Bytes(1 << 30), is_chosen: false });
            assert!(configs.len() >= 15, "{}", configs.len());
            assert!(configs.iter().all(|config| config.num_replicas == replicas), "{configs:?}");
        }
    }
}
