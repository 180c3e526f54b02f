//! Whose something is, by its name alone. Pure.
//!
//! What begins a life of its own (a session, a runner, a pool, a recording, an image, a secret …) is never the reaper's:
//! people and the rules of that thing end it. The reaper looks at what only exists because one of those does.

use helix_protocol::image::Digest;
use helix_protocol::reap::LeftoverKind;
use helix_protocol::{PoolName, RecordingId, RunnerId, SessionId, SpecTaskId, subject};

/// Without which something is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A session.
    Session(SessionId),
    /// A runner.
    Runner(RunnerId),
    /// A recording.
    Recording(RecordingId),
    /// A session and its forks, as long as one of them has checkpoints.
    Family(SessionId),
    /// A runner, or a session that is still assigned to it.
    Report(RunnerId, SessionId),
}

/// What a name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// It has a life of its own, or others keep it true.
    Own,
    /// Of this owner.
    Of(LeftoverKind, Owner),
    /// Whose it is, its record says.
    Record(LeftoverKind),
    /// None that Helix gives.
    Foreign(LeftoverKind),
}

const HASH_DIGITS: usize = 64;

/// Reads the name of a subject of one of our streams.
pub fn read(stream: &str, subject: &str) -> Name {
    if let Some(bucket) = stream.strip_prefix("KV_") {
        let key = subject.strip_prefix("$KV.").and_then(|rest| rest.strip_prefix(bucket)?.strip_prefix('.'));
        return key.and_then(|key| key_of(bucket, key)).unwrap_or(Name::Foreign(LeftoverKind::Key));
    }
    let of = match stream {
        subject::STREAM_THREADS => subject::parse_thread(subject)
            .map(|(session, _)| Name::Of(LeftoverKind::Conversation, Owner::Session(session))),
        subject::STREAM_RECORDINGS => {
            subject::parse_recording(subject).map(|id| Name::Of(LeftoverKind::Recording, Owner::Recording(id)))
        }
        subject::STREAM_CHECKPOINTS => subject::parse_checkpoint_blob(subject)
            .map(|(family, _)| Name::Of(LeftoverKind::Checkpoint, Owner::Family(family))),
        subject::STREAM_IMAGES => subject::parse_image_chunk(subject).map(|_| Name::Own),
        // They end by their age.
        subject::STREAM_EXTERNAL_AGENTS => Some(Name::Own),
        // Its pieces are counted with the object that they are of.
        _ if subject.contains(".C.") => Some(Name::Own),
        _ => Some(Name::Foreign(LeftoverKind::Object)),
    };
    of.unwrap_or(Name::Foreign(LeftoverKind::Key))
}

/// All that belongs together with a subject of one of our streams: removed at once, and counted as one.
pub fn place(subject: &str, owner: &Owner) -> String {
    match owner {
        Owner::Recording(recording) => subject::recording_all(recording),
        Owner::Family(family) => subject::checkpoints_of(family),
        Owner::Session(_) | Owner::Runner(_) | Owner::Report(..) => subject.to_owned(),
    }
}

fn key_of(bucket: &str, key: &str) -> Option<Name> {
    let runner_and_session = || {
        let (runner, session) = key.split_once('.')?;
        Some((RunnerId::parse(runner).ok()?, SessionId::parse(session).ok()?))
    };
    let own = |ok: bool| ok.then_some(Name::Own);
    match bucket {
        subject::BUCKET_SESSIONS | subject::BUCKET_CHECKPOINTS => own(SessionId::parse(key).is_ok()),
        subject::BUCKET_RUNNERS => own(RunnerId::parse(key).is_ok()),
        subject::BUCKET_POOLS => own(PoolName::parse(key).is_ok()),
        subject::BUCKET_RECORDINGS => own(RecordingId::parse(key).is_ok()),
        // The leader writes it anew with every pass.
        subject::BUCKET_DESIRED => own(runner_and_session().is_some()),
        subject::BUCKET_SECRETS => own(key.split_once('.').is_some_and(|(owner, name)| {
            !owner.is_empty() && owner.bytes().all(|byte| byte.is_ascii_hexdigit()) && !name.is_empty()
        })),
        subject::BUCKET_IMAGES => {
            let is_image = key.strip_prefix("image.").is_some_and(is_digest);
            let is_name = key.strip_prefix("name.").is_some_and(|name| !name.is_empty());
            own(is_image || is_name || key == subject::IMAGE_COLLECTION_KEY)
        }
        subject::BUCKET_REAPER => own(key == subject::REAPER_KEY),
        subject::BUCKET_OBSERVED => {
            runner_and_session().map(|(runner, session)| Name::Of(LeftoverKind::Report, Owner::Report(runner, session)))
        }
        subject::BUCKET_SPEC_TASKS => SpecTaskId::parse(key).ok().map(|_| Name::Record(LeftoverKind::SpecTask)),
        subject::BUCKET_TOKENS => is_hash(key).then_some(Name::Record(LeftoverKind::Token)),
        subject::BUCKET_TICKETS => is_hash(key).then_some(Name::Record(LeftoverKind::Ticket)),
        subject::BUCKET_LEASES => lease(key),
        _ => None,
    }
}

fn lease(key: &str) -> Option<Name> {
    if key == subject::LEADER_LEASE_KEY {
        return Some(Name::Own);
    }
    let (what, id) = key.split_once('.')?;
    let owner = match what {
        "runner" => Owner::Runner(RunnerId::parse(id).ok()?),
        "sync" | "refused" => Owner::Session(SessionId::parse(id).ok()?),
        _ => return None,
    };
    Some(Name::Of(LeftoverKind::Lease, owner))
}

fn is_hash(key: &str) -> bool {
    key.len() == HASH_DIGITS && key.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_digest(hex: &str) -> bool {
    format!("sha256:{hex}").parse::<Digest>().is_ok()
}

#[cfg(test)]
mod tests {
    use helix_protocol::ThreadId;

    use super::*;

    fn session() -> SessionId {
        SessionId::parse("ses_1").expect("valid id")
    }

    fn key(bucket: &str, key: &str) -> Name {
        read(&format!("KV_{bucket}"), &format!("$KV.{bucket}.{key}"))
    }

    #[test]
    fn names_say_whose_something_is() {
        let runner = RunnerId::parse("r1").expect("valid id");
        let thread = ThreadId::parse("t").expect("valid id");
        let recording = RecordingId::of(&session(), helix_protocol::Epoch(7));
        let digest = Digest::of(b"bytes");
        for (name, wanted) in [
            (
                key(subject::BUCKET_OBSERVED, "r1.ses_1"),
                Name::Of(LeftoverKind::Report, Owner::Report(runner.clone(), session())),
            ),
            (key(subject::BUCKET_LEASES, "runner.r1"), Name::Of(LeftoverKind::Lease, Owner::Runner(runner))),
            (key(subject::BUCKET_LEASES, "sync.ses_1"), Name::Of(LeftoverKind::Lease, Owner::Session(session()))),
            (key(subject::BUCKET_LEASES, "leader"), Name::Own),
            (key(subject::BUCKET_TOKENS, &"a".repeat(64)), Name::Record(LeftoverKind::Token)),
            (
                read(subject::STREAM_THREADS, &subject::thread(&session(), &thread)),
                Name::Of(LeftoverKind::Conversation, Owner::Session(session())),
            ),
            (
                read(subject::STREAM_RECORDINGS, &subject::recording_page(&recording, 0)),
                Name::Of(LeftoverKind::Recording, Owner::Recording(recording.clone())),
            ),
            (
                read(subject::STREAM_CHECKPOINTS, &subject::checkpoint_blob(&session(), &digest)),
                Name::Of(LeftoverKind::Checkpoint, Owner::Family(session())),
            ),
            (read(subject::STREAM_IMAGES, &subject::image_chunk(&digest)), Name::Own),
        ] {
            assert_eq!(name, wanted);
        }
        assert_eq!(place("x", &Owner::Recording(recording.clone())), format!("recordings.{recording}.>"));
    }

    #[test]
    fn what_helix_gives_no_name_to_is_foreign() {
        for (bucket, foreign) in [
            (subject::BUCKET_SESSIONS, "a.b"),
            (subject::BUCKET_OBSERVED, "r1"),
            (subject::BUCKET_LEASES, "backup"),
            (subject::BUCKET_LEASES, "cron.r1"),
            (subject::BUCKET_TOKENS, "my-notes"),
            (subject::BUCKET_IMAGES, "image.latest"),
            (subject::BUCKET_REAPER, "other"),
        ] {
            assert_eq!(key(bucket, foreign), Name::Foreign(LeftoverKind::Key), "{bucket}/{foreign}");
        }
        let stray = ["recordings.nobody.notes.1", "recordings.x.chunk.one"];
        for subject in stray {
            assert_eq!(read(subject::STREAM_RECORDINGS, subject), Name::Foreign(LeftoverKind::Key), "{subject}");
        }
        assert_eq!(read("OBJ_HELIX_BLOBS", "$O.HELIX_BLOBS.M.eA"), Name::Foreign(LeftoverKind::Object));
    }
}
