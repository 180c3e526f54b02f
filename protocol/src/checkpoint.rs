//! Checkpoints of workspaces: what a runner brings to the server, what the server orders and remembers.
//!
//! A checkpoint is a [`Manifest`], and packs that it names. A pack is some megabytes of *pieces* (files, or MiBs of large
//! ones) behind each other, compressed with zstd; it is named by the SHA-256 of what is stored. The list of files is
//! pieces, too: its *pages* are cut where the hash of a path says so, so that a change of one file changes one page. What a later checkpoint
//! has in common with an earlier one is in the same packs, and is not brought again.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, RunnerId, SessionId, ThreadId};
use crate::image::Digest;

/// Format of [`Manifest`] that is written here.
pub const FORMAT: u32 = 1;
/// Most bytes of one piece.
pub const MAX_PIECE_BYTES: usize = 1 << 20;
/// A pack is closed once it has so many bytes of pieces.
pub const PACK_BYTES: usize = 4 << 20;
/// Most bytes of a pack or a manifest as it is stored.
pub const MAX_STORED_BYTES: usize = 8 << 20;
/// Most bytes of a manifest, decompressed.
pub const MAX_MANIFEST_BYTES: usize = 64 << 20;
/// Largest file that a checkpoint has; larger ones are left out and named.
pub const MAX_FILE_BYTES: u64 = 2 << 30;
/// Most bytes of all files of a checkpoint.
pub const MAX_TOTAL_BYTES: u64 = 16 << 30;
/// Most entries of a checkpoint.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Files that are named as left out; the rest is counted.
pub const MAX_NAMED: usize = 100;
/// Checkpoints of a session that are kept.
pub const KEEP_LAST: usize = 10;
/// How long those before the newest are kept, in seconds.
pub const KEEP_SECONDS: i64 = 30 * 24 * 3600;

/// Where bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// SHA-256 of the bytes.
    pub hash: Digest,
    /// Pack that has them.
    pub pack: Digest,
    /// Where they begin in the decompressed pack.
    pub offset: u32,
    /// How many there are, at most [`MAX_PIECE_BYTES`] (pages may be longer).
    pub bytes: u32,
}

/// A checkpoint, as JSON compressed with zstd. Its name is the SHA-256 of that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Pages of the list of files, in order.
    pub pages: Vec<Piece>,
    /// Every pack that pages and files refer to.
    pub packs: Vec<Digest>,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// What is not in it although it is in the workspace, beside what git ignores: at most [`MAX_NAMED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// How many there were.
    #[serde(default)]
    pub left_out_count: u64,
}

/// Something that a checkpoint does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeftOut {
    /// Path in the workspace.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Why a checkpoint was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Reason {
    /// Somebody asked for it.
    Asked,
    /// It was time, and something had changed.
    Timer,
    /// The session was stopped.
    Stop,
    /// The session moves, or goes back to an earlier checkpoint.
    Move,
    /// The session was forked from another one's.
    Fork,
    /// The session went back to an earlier one, which is this.
    Restore,
}

/// What a session's start begins from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// Number of the checkpoint in its session.
    pub number: u32,
    /// Its manifest.
    pub manifest: Digest,
}

/// What a runner is told of a session's work, in its desired set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkOrder {
    /// Counter of checkpoints that were asked for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub asked: u64,
    /// With a start: fill the workspace with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// With an end: it goes on elsewhere, so its work is brought whatever its policy is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moves: bool,
    /// With an end: it lives elsewhere already; its workspace is put aside and not removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
}

impl WorkOrder {
    /// True where there is nothing to say.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a runner says of a session's checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkSeen {
    /// The last [`WorkOrder::asked`] that was done, or that failed.
    #[serde(default)]
    pub asked: u64,
    /// The last checkpoint of this life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// Why the last try made none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Nothing was changed after the last checkpoint: it was made at the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub complete: bool,
    /// Where the workspace was put aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_at: Option<String>,
}

/// What the servers decided about a session's work; a part of its record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkRecord {
    /// Counter of checkpoints that were asked for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub asked: u64,
    /// What the next start begins from, or the running one began from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// It ends where it is, to go on elsewhere or from an earlier checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
    /// Runner that it left, on which it does not start again by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<RunnerId>,
    /// The one runner that it moves to; not a wish for later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<RunnerId>,
    /// The last time that it was preempted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preempted: Option<Preempted>,
    /// Why the last move did not begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl WorkRecord {
    /// True where nothing was decided.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A move under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// To which runner; any other one where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<RunnerId>,
    /// From which checkpoint; the one that is made at the end where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// Since when.
    pub since: Timestamp,
    /// [`WorkRecord::asked`] of the checkpoint that is made first, while the session runs on.
    pub saves: u64,
    /// That is there: the session ends.
    #[serde(default)]
    pub ends: bool,
    /// The session that has its room then: it was preempted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives_way_to: Option<SessionId>,
}

/// A session ended, or ends, for one of higher priority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preempted {
    /// For which: it preempts nobody else as long as this is known.
    pub by: SessionId,
    /// Of the assignment that ended.
    pub epoch: Epoch,
    /// It does not go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

/// `helix_checkpoints/<session>`: the checkpoints of a session. Packs and manifests are in stream `HELIX_CHECKPOINTS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointsRecord {
    /// Same as the key.
    pub session: SessionId,
    /// Whose packs these are: the session that this one was forked from, first of all, else itself.
    pub family: SessionId,
    /// Number of the last one.
    pub last: u32,
    /// Oldest first.
    pub list: Vec<Checkpoint>,
    /// When a runner brought something last.
    pub at: Timestamp,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Checkpoint {
    /// Counts up within its session, from 1.
    pub number: u32,
    /// When it was stored.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// Why it was made.
    pub reason: Reason,
    /// By which runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerId>,
    /// Under which assignment.
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub epoch: Epoch,
    /// Its manifest.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub manifest: Digest,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that were brought for it; the rest was there already.
    pub sent_bytes: u64,
    /// How long that took, in milliseconds.
    pub took_ms: u64,
    /// Some of what is not in it, beside what git ignores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// How many there were.
    #[serde(default)]
    pub left_out_count: u64,
    /// Threads of the session then.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub threads: Vec<ThreadId>,
    /// Sequence of the last event of its conversations then; 0: nothing was said.
    #[serde(default)]
    pub sequence: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
