//! Every bucket and stream, made where it is missing. What exists is left as its operator configured it, once it has
//! what the server depends on.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use helix_protocol::subject;

/// Life of a ticket.
pub const TICKET_TTL: Duration = Duration::from_mins(1);
/// Life of the marker that an expired key leaves behind.
const LIMIT_MARKER_TTL: Duration = Duration::from_secs(5);
const EVENTS_MAX_AGE: Duration = Duration::from_hours(30 * 24);

/// Makes what is missing, with so many copies. Two servers may do so at once: the same creation twice is one.
pub async fn ensure(jetstream: &Context, replicas: usize) -> anyhow::Result<()> {
    for config in configs(replicas) {
        let name = config.name.clone();
        ensure_stream(jetstream, config).await.with_context(|| format!("stream {name}"))?;
    }
    Ok(())
}

async fn ensure_stream(jetstream: &Context, config: Config) -> anyhow::Result<()> {
    let needs_ttl = config.allow_message_ttl;
    let stream = match jetstream.get_stream(&config.name).await {
        Ok(stream) => stream,
        Err(err) if is_missing(&err.kind()) => jetstream.create_stream(config).await?,
        Err(err) => return Err(err.into()),
    };
    // Older servers drop options that they do not know without a word.
    anyhow::ensure!(
        !needs_ttl || stream.cached_info().config.allow_message_ttl,
        "it does not allow a TTL per message; fix: use nats-server 2.11 or newer, or set allow_msg_ttl on the stream"
    );
    Ok(())
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(err)
        if err.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND)
}

fn configs(replicas: usize) -> Vec<Config> {
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
            let configs = configs(replicas);
            assert!(configs.len() >= 15, "{}", configs.len());
            assert!(configs.iter().all(|config| config.num_replicas == replicas), "{configs:?}");
        }
    }
}
