//! Every NATS subject, stream and bucket name. No other file spells one.

use crate::ids::{RecordingId, RunnerId, SessionId, ThreadId};
use crate::image::Digest;

/// NATS account of servers; has JetStream.
pub const ACCOUNT_HELIX: &str = "HELIX";
/// NATS account of the observer; imports what may be read. An account of its own, because whoever may ask JetStream
/// within its account can aim the answer at any key by the reply subject.
pub const ACCOUNT_OBSERVERS: &str = "OBSERVERS";
/// NATS account of runners; no JetStream, imports `up.*.>` and `down.>` only.
pub const ACCOUNT_RUNNERS: &str = "RUNNERS";
/// NATS's system account: without users; lends account HELIX the two services that end a runner's connection.
pub const ACCOUNT_SYSTEM: &str = "SYS";

/// KV: the truth about sessions, `<session>`.
pub const BUCKET_SESSIONS: &str = "helix_sessions";
/// KV: projection per runner, `<runner>.<session>`.
pub const BUCKET_DESIRED: &str = "helix_desired";
/// KV: what runners reported, `<runner>.<session>`.
pub const BUCKET_OBSERVED: &str = "helix_observed";
/// KV: runners, `<runner>`.
pub const BUCKET_RUNNERS: &str = "helix_runners";
/// KV: token hashes and scopes, `<hash>`.
pub const BUCKET_TOKENS: &str = "helix_tokens";
/// KV with TTL: one-use tickets, `<hash>`.
pub const BUCKET_TICKETS: &str = "helix_tickets";
/// KV with TTL per key, history 1: `runner.<id>`, `leader`, `sync.<session>`, `refused.<session>`.
pub const BUCKET_LEASES: &str = "helix_leases";
/// KV: pools and the names of their agents that are nobody's, `<pool>`.
pub const BUCKET_POOLS: &str = "helix_pools";
/// KV: sealed secrets, `<hash of owner>.<name>`.
pub const BUCKET_SECRETS: &str = "helix_secrets";
/// KV: spec tasks, `<spec task>`.
pub const BUCKET_SPEC_TASKS: &str = "helix_spec_tasks";
/// Checkpoints of workspaces, by session.
pub const BUCKET_CHECKPOINTS: &str = "helix_checkpoints";
/// Packs and manifests of checkpoints.
pub const STREAM_CHECKPOINTS: &str = "HELIX_CHECKPOINTS";
/// Its subjects.
pub const CHECKPOINTS_ALL: &str = "checkpoints.*.*";
/// KV: what the reaper found, `report`.
pub const BUCKET_REAPER: &str = "helix_reaper";
/// Its only key.
pub const REAPER_KEY: &str = "report";
/// KV: recordings, `<recording>`.
pub const BUCKET_RECORDINGS: &str = "helix_recordings";
/// KV: images, `image.<hex>`; their names, `name.<name>`; `gc` while unneeded ones are removed.
pub const BUCKET_IMAGES: &str = "helix_images";

/// Stream of the documents' subjects and every lifecycle event.
pub const STREAM_EXTERNAL_AGENTS: &str = "EXTERNAL_AGENTS";
/// Subjects of [`STREAM_EXTERNAL_AGENTS`]; heartbeats are left out: core messages, not stored.
pub const EXTERNAL_AGENTS_STORED: [&str; 3] = [REGISTER, RESPONSE, EVENTS_ALL];
/// Stream of prompts, entries and turn states, `threads.<session>.<thread>`.
pub const STREAM_THREADS: &str = "HELIX_THREADS";
/// Subjects of [`STREAM_THREADS`].
pub const THREADS_ALL: &str = "threads.*.*";
/// Stream of recordings: `recordings.<recording>.chunk.<number>`, `recordings.<recording>.page.<number>`.
pub const STREAM_RECORDINGS: &str = "HELIX_RECORDINGS";
/// Subjects of [`STREAM_RECORDINGS`].
pub const RECORDINGS_ALL: &str = "recordings.*.*.*";
/// Stream of image chunks, `images.chunk.<digest>`.
pub const STREAM_IMAGES: &str = "HELIX_IMAGES";
/// Subjects of [`STREAM_IMAGES`].
pub const IMAGE_CHUNKS_ALL: &str = "images.chunk.*";
/// Object store for large values.
pub const OBJECTS: &str = "HELIX_BLOBS";

/// Stream that exists while a backup is put into the store. It holds nothing.
pub const STREAM_RESTORE: &str = "HELIX_RESTORE";
/// Its subject, to which nobody publishes.
pub const RESTORE_MARK: &str = "restore.mark";
/// Where a running restore says that it runs. Core request, within account HELIX.
pub const RESTORE_RUNS: &str = "restore.runs";
/// JetStream: the stored bytes of a stream.
pub const SNAPSHOT: &str = "$JS.API.STREAM.SNAPSHOT";
/// JetStream: a stream from such bytes.
pub const RESTORE: &str = "$JS.API.STREAM.RESTORE";

/// Lifecycle events of sessions and runners: what the event feed follows.
pub const EVENTS_ALL: &str = "external_agents.event.>";

/// Documents: a runner registered.
pub const REGISTER: &str = "external_agents.register";
/// Documents: a runner is alive. Core message.
pub const HEARTBEAT: &str = "external_agents.heartbeat";
/// Documents: a session's progress or outcome.
pub const RESPONSE: &str = "external_agents.response";

/// Queue group in which servers answer [`UP_ALL`].
pub const SERVER_QUEUE: &str = "helix-server";
/// Documents' queue group.
pub const DOCUMENTS_QUEUE: &str = "ZED_AGENTS";
/// Everything that runners ask: what account RUNNERS imports.
pub const UP_ALL: &str = "up.*.>";
/// What any server answers, in [`SERVER_QUEUE`]; `up.<runner>.dials.<server>` is not in it.
pub const UP_VERBS: &str = "up.*.*";
/// Everything that servers nudge.
pub const DOWN_ALL: &str = "down.>";
/// NATS server → helix-server: may this connection in?
pub const AUTH_CALLOUT: &str = "$SYS.REQ.USER.AUTH";
/// A nats-server tells that a runner's connection has ended. A stream of the system account that account HELIX imports.
pub const SYS_DISCONNECT: &str = "$SYS.ACCOUNT.RUNNERS.DISCONNECT";
/// Every nats-server tells its connections. A service of the system account that account HELIX imports.
pub const SYS_CONNECTIONS: &str = "$SYS.REQ.SERVER.PING.CONNZ";
/// Every nats-server's service that ends a connection; imported likewise.
pub const SYS_KICK_ALL: &str = "$SYS.REQ.SERVER.*.KICK";

/// That of one nats-server.
pub fn sys_kick(server_id: &str) -> String {
    format!("$SYS.REQ.SERVER.{server_id}.KICK")
}

/// Entries of the audit trail.
pub const AUDIT_EVENT: &str = "external_agents.event.audit";

/// Lifecycle event of a session.
pub fn session_event(session: &SessionId) -> String {
    format!("external_agents.event.session.{session}")
}

/// Lifecycle event of a runner.
pub fn runner_event(runner: &RunnerId) -> String {
    format!("external_agents.event.runner.{runner}")
}

/// Chunks of a recording, and its end: what proves it.
pub fn recording_event(recording: &RecordingId) -> String {
    format!("external_agents.event.recording.{recording}")
}

/// A chunk of a recording.
pub fn recording_chunk(recording: &RecordingId, number: u32) -> String {
    format!("recordings.{recording}.chunk.{number}")
}

/// A page of a recording's manifest.
pub fn recording_page(recording: &RecordingId, page: u32) -> String {
    format!("recordings.{recording}.page.{page}")
}

/// A pack or a manifest of checkpoints.
pub fn checkpoint_blob(family: &SessionId, digest: &Digest) -> String {
    format!("checkpoints.{family}.{}", digest.hex())
}

/// All of them that a session and its forks have.
pub fn checkpoints_of(family: &SessionId) -> String {
    format!("checkpoints.{family}.*")
}

/// Splits `checkpoints.<family>.<hex>`.
pub fn parse_checkpoint_blob(subject: &str) -> Option<(SessionId, Digest)> {
    let (family, hex) = subject.strip_prefix("checkpoints.")?.split_once('.')?;
    Some((SessionId::parse(family).ok()?, format!("sha256:{hex}").parse().ok()?))
}

/// A chunk of an image.
pub fn image_chunk(digest: &Digest) -> String {
    format!("images.chunk.{}", digest.hex())
}

/// The chunk that a subject is of.
pub fn parse_image_chunk(subject: &str) -> Option<Digest> {
    format!("sha256:{}", subject.strip_prefix("images.chunk.")?).parse().ok()
}

/// Key of an image in [`BUCKET_IMAGES`].
pub fn image_key(digest: &Digest) -> String {
    format!("image.{}", digest.hex())
}

/// Key of a name of images.
pub fn image_name_key(name: &str) -> String {
    format!("name.{name}")
}

/// Key that exists while images are collected.
pub const IMAGE_COLLECTION_KEY: &str = "gc";

/// Everything that is stored of a recording.
pub fn recording_all(recording: &RecordingId) -> String {
    format!("recordings.{recording}.>")
}

/// The recording that a subject of [`STREAM_RECORDINGS`] is of.
pub fn parse_recording(subject: &str) -> Option<RecordingId> {
    let mut tokens = subject.strip_prefix("recordings.")?.splitn(3, '.');
    let recording = RecordingId::parse(tokens.next()?).ok()?;
    let (kind, number) = (tokens.next()?, tokens.next()?);
    (matches!(kind, "chunk" | "page") && number.parse::<u32>().is_ok()).then_some(recording)
}

/// Documents: where `zed_task` and `stop_task` for a runner are published for observers.
pub fn reply_subject(runner: &RunnerId) -> String {
    format!("external_agents.agent.{runner}")
}

/// What a runner asks: `up.<runner>.<verb>`.
pub fn up(runner: &RunnerId, verb: &str) -> String {
    format!("up.{runner}.{verb}")
}

/// Dials that one server holds: `up.<runner>.dials.<server>`. Answered by that server alone.
pub fn up_dials(runner: &RunnerId, server: &str) -> String {
    format!("up.{runner}.dials.{server}")
}

/// What one server subscribes to for its dials.
pub fn up_dials_of(server: &str) -> String {
    format!("up.*.dials.{server}")
}

/// A nudge: `down.<runner>.<verb>`.
pub fn down(runner: &RunnerId, verb: &str) -> String {
    format!("down.{runner}.{verb}")
}

/// What a runner may publish.
pub fn runner_may_publish(runner: &RunnerId) -> String {
    format!("up.{runner}.>")
}

/// What a runner may subscribe to.
pub fn runner_may_subscribe(runner: &RunnerId) -> [String; 2] {
    [format!("down.{runner}.>"), format!("{}.>", inbox_prefix(runner))]
}

/// Prefix of a runner's inboxes.
pub fn inbox_prefix(runner: &RunnerId) -> String {
    format!("_INBOX.{runner}")
}

/// Splits `up.<runner>.<verb>[.<server>]`.
pub fn parse_up(subject: &str) -> Option<(RunnerId, &str)> {
    let mut tokens = subject.splitn(3, '.');
    (tokens.next()? == "up").then_some(())?;
    let runner = RunnerId::parse(tokens.next()?).ok()?;
    Some((runner, tokens.next()?))
}

/// Key in [`BUCKET_DESIRED`] and [`BUCKET_OBSERVED`].
pub fn runner_session_key(runner: &RunnerId, session: &SessionId) -> String {
    format!("{runner}.{session}")
}

/// Key of a runner's lease.
pub fn runner_lease_key(runner: &RunnerId) -> String {
    format!("runner.{runner}")
}

/// Events of one thread.
pub fn thread(session: &SessionId, thread: &ThreadId) -> String {
    format!("threads.{session}.{thread}")
}

/// Events of all threads of a session.
pub fn threads_of(session: &SessionId) -> String {
    format!("threads.{session}.*")
}

/// Splits `threads.<session>.<thread>`.
pub fn parse_thread(subject: &str) -> Option<(SessionId, ThreadId)> {
    let mut tokens = subject.strip_prefix("threads.")?.splitn(2, '.');
    Some((SessionId::parse(tokens.next()?).ok()?, ThreadId::parse(tokens.next()?).ok()?))
}

/// Where the server that holds a session's newest sync socket is asked by the others: to pass on a frame that came
/// in on an older socket, or to send a command. Core request, within account HELIX.
pub fn sync_owner(session: &SessionId) -> String {
    format!("sync.{session}")
}

/// Where a call has moved the pointer of a session's desktop. Core message, within account HELIX.
pub fn pointer(session: &SessionId) -> String {
    format!("desktop.pointer.{session}")
}

/// Key of the lease of the server that holds a session's newest sync socket.
pub fn sync_lease_key(session: &SessionId) -> String {
    format!("sync.{session}")
}

/// Key that exists while connections to a session's sync socket are refused.
pub fn sync_refused_key(session: &SessionId) -> String {
    format!("refused.{session}")
}

/// Begins the keys of [`used_key`].
pub const USED_KEYS: &str = "used.";

/// Key that says when a session with an idle time-out was used last.
pub fn used_key(session: &SessionId) -> String {
    format!("{USED_KEYS}{session}")
}

/// Key of what was told to whoever adds and removes machines.
pub const SCALE_KEY: &str = "scale";

/// Key of the leader's lease.
pub const LEADER_LEASE_KEY: &str = "leader";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_subjects_split_into_runner_and_verb() {
        let runner = RunnerId::parse("r-1").expect("valid id");
        assert_eq!(parse_up(&up(&runner, "sync")), Some((runner.clone(), "sync")));
        assert_eq!(parse_up(&up_dials(&runner, "s1")), Some((runner, "dials.s1")));
        for bad in ["up", "up.r", "down.r.sync", "up..sync", "up.r*.sync"] {
            assert_eq!(parse_up(bad), None, "{bad}");
        }
    }
}
