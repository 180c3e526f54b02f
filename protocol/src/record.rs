//! Values of the key-value buckets that only servers read and write.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::api::images::TagRecord;
use crate::assignment::Assignment;
use crate::checkpoint::WorkRecord;
use crate::control::{Control, Viewer};
use crate::grant::Grants;
use crate::ids::{Epoch, Generation, PoolName, RecordingId, RunnerId, SessionId, SpecTaskId, ThreadId};
use crate::image::SignedManifest;
use crate::pool::Warm;
use crate::recording::{Deletion, Keep};
use crate::runner::{Liveness, RunnerFacts};
use crate::session::{Cause, Desired, SessionSpec};

/// `helix_sessions/<session>`: the truth about what was asked and decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Same as the key.
    pub id: SessionId,
    /// Who may see and end it: the name of a token.
    pub owner: String,
    /// What was asked.
    pub spec: SessionSpec,
    /// Pool it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// The one runner that it may run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_runner: Option<RunnerId>,
    /// Free words for filters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// SHA-256 of the canonical request: the same id with another body is a conflict.
    pub request_hash: String,
    /// Run it or end it.
    pub desired: Desired,
    /// Counter of spec changes.
    pub generation: Generation,
    /// Epoch of the last assignment. Before the first it is the seed: milliseconds of the creation, so that an id
    /// that is made again never meets an epoch of its former life. `assignment` tells whether it was ever assigned.
    pub epoch: Epoch,
    /// How often it was assigned.
    #[serde(default)]
    pub assignments: u32,
    /// It is an agent of `pool`, ready or on the way, and nobody's yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<Warm>,
    /// When its owner took it from its pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_at: Option<Timestamp>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Assignment>,
    /// Who may type in its desktop.
    #[serde(default, skip_serializing_if = "Control::is_unused")]
    pub control: Control,
    /// When its holder loses it who does not renew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_expires_at: Option<Timestamp>,
    /// Passwords of native viewers of its desktop.
    #[serde(default, skip_serializing_if = "Grants::is_unused")]
    pub grants: Grants,
    /// Why it still waits, from the scheduler; or why it ended before it ever ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// Set by delete: every key of it goes once nothing of it runs.
    #[serde(default)]
    pub deleted: bool,
    /// Its secrets, sealed under the server key: base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_secrets: Option<String>,
    /// Spec task that its desktop belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_task: Option<SpecTaskId>,
    /// Session whose desktop this is another name of; this one never has a runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desktop_of: Option<SessionId>,
    /// Thread of the desktop that its input continues, where this is another name of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<ThreadId>,
    /// The session has a desktop that goes on under other names, and was itself stopped or deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub let_go: Option<LetGo>,
    /// Its checkpoints and moves, as far as something was decided.
    #[serde(default, skip_serializing_if = "WorkRecord::is_empty")]
    pub work: WorkRecord,
}

/// How a session was let go whose desktop goes on under other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LetGo {
    /// Stopped.
    Stopped,
    /// Deleted: its record goes with the desktop's last name.
    Deleted,
}

/// `helix_secrets/<hash of owner>.<name>`: a value that its owner's sessions may ask for by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRecord {
    /// Name of the token that stored it.
    pub owner: String,
    /// Its name: that of an environment variable.
    pub name: String,
    /// The value, sealed under the server key: base64.
    pub sealed: String,
    /// When it was stored.
    pub stored_at: Timestamp,
}

/// `helix_recordings/<recording>`: how far a recording is. Its chunks and its manifest are in stream `HELIX_RECORDINGS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingRecord {
    /// Same as the key.
    pub id: RecordingId,
    /// Of which session.
    pub session: SessionId,
    /// Whose session.
    pub owner: String,
    /// On which runner.
    pub runner: RunnerId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// When time was 0, by the runner's clock.
    pub started_at: Timestamp,
    /// Width of its first picture; 0 before there is one.
    pub width: u16,
    /// Height of its first picture.
    pub height: u16,
    /// Chunks that are here.
    pub chunks: u32,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Gaps in them.
    pub gaps: u32,
    /// Time of the last record.
    pub duration_us: u64,
    /// SHA-256 of the last chunk, 64 hex digits; what the first one has to name before there is one.
    pub last_hash: String,
    /// When that came.
    pub last_at: Timestamp,
    /// How long it is kept after that.
    pub keep: Keep,
    /// All of it is here.
    #[serde(default)]
    pub complete: bool,
    /// It is gone; the record stays for a while, so that people are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Deletion>,
    /// Nothing but this record is left of it.
    #[serde(default)]
    pub purged: bool,
}

/// `helix_images`: an image, or the tags of a name. Its chunks are in stream `HELIX_IMAGES`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ImageRecord {
    /// `image.<hex>`: a manifest whose chunks are all here, or were about to be when it was brought.
    Image(Box<StoredManifest>),
    /// `name.<name>`.
    Name {
        /// What each of its tags names.
        tags: BTreeMap<String, TagRecord>,
    },
    /// `gc`: somebody removes what nobody needs; nobody brings a manifest meanwhile.
    Collection {
        /// Since when.
        since: Timestamp,
    },
}

/// A manifest that was brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredManifest {
    /// The bytes that were signed, and the signature.
    pub signed: SignedManifest,
    /// For which machines it is, as the manifest says.
    pub arch: String,
    /// Chunks of its file system.
    pub chunks: u32,
    /// Every chunk was seen after this was written: it can be pulled.
    pub complete: bool,
    /// Who brought it.
    pub pushed_by: String,
    /// When.
    pub pushed_at: Timestamp,
}

/// `helix_spec_tasks/<spec task>`: a piece of work and the one desktop that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecTaskRecord {
    /// Same as the key.
    pub id: SpecTaskId,
    /// Who made it.
    pub owner: String,
    /// The session whose desktop it is.
    pub session: SessionId,
    /// When.
    pub created_at: Timestamp,
}

/// `helix_runners/<runner>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerRecord {
    /// Same as the key.
    pub id: RunnerId,
    /// Hash of the runner's own token: an enrolment with another one is refused.
    pub token_hash: String,
    /// Absent until it registered over NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<RunnerFacts>,
    /// Takes nothing new when set.
    #[serde(default)]
    pub cordoned: bool,
    /// Labels that an operator set: they win over those of the runner's own settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// A new token of its own is wanted of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Since when its token is the one that it is; since the enrolment where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_since: Option<Timestamp>,
    /// The leader's verdict.
    pub liveness: Liveness,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// When it registered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_at: Option<Timestamp>,
    /// How often it was lost of late.
    #[serde(default, skip_serializing_if = "Losses::is_none")]
    pub losses: Losses,
}

/// How often a runner was lost within [`Losses::FORGOTTEN_AFTER`] of the time before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// How often.
    pub count: u32,
    /// When it was lost the last time; once it is back, since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
}

impl Losses {
    /// A runner that is heard for so long begins anew.
    pub const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(1);
    /// It counts as unsteady for so long after it is back from its second loss, twice as long after each further one.
    const FIRST: SignedDuration = SignedDuration::from_mins(2);

    /// True for none at all.
    pub fn is_none(&self) -> bool {
        self.count == 0
    }

    /// One more.
    #[must_use]
    pub fn and_one(self, at: Timestamp) -> Self {
        let goes_on = self.last.is_some_and(|last| at.duration_since(last) < Self::FORGOTTEN_AFTER);
        Self { count: if goes_on { self.count.saturating_add(1) } else { 1 }, last: Some(at) }
    }

    /// It is heard again.
    #[must_use]
    pub fn back(self, at: Timestamp) -> Self {
        Self { last: self.last.map(|_| at), ..self }
    }

    /// Until when others are better; none where it was lost once or never.
    pub fn unsteady_until(&self) -> Option<Timestamp> {
        let doubled = self.count.checked_sub(2)?.min(10);
        let lasts = Self::FIRST.checked_mul(1 << doubled)?.min(Self::FORGOTTEN_AFTER);
        self.last?.checked_add(lasts).ok()
    }
}

impl RunnerRecord {
    /// What placement goes by: the runner's own labels, and over them the operator's.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.facts.as_ref().map(|facts| facts.labels.clone()).unwrap_or_default();
        labels.extend(self.labels.clone());
        labels
    }

    /// True for the hash of its token, and of the one that a rotation is about to make it.
    pub fn has_token(&self, hash: &str) -> bool {
        self.token_hash == hash || self.next_token() == Some(hash)
    }

    /// Hash of the token that a rotation is about to make its own.
    pub fn next_token(&self) -> Option<&str> {
        self.rotation.as_ref()?.next.as_deref()
    }
}

/// A runner gets a new token of its own: wanted, then announced by the runner (both are good), then proved (the old one
/// ends, and the rotation is over).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Since when it is wanted.
    pub wanted_at: Timestamp,
    /// Hash of the token that the runner has announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `helix_tokens/<hash>`: a bearer token, by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Who it is, shown as owner and in logs.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Of an enrolment token for one use: the hash of the runner's own token that was enrolled with it. Good for the same
    /// enrolment alone from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

/// What a bearer may do. Each scope that has a subject names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything.
    Admin,
    /// Every session and runner; no tokens.
    Operator,
    /// Own sessions.
    User,
    /// Sees every session; changes nothing.
    Viewer,
    /// One runner's own link and dials.
    Runner(RunnerId),
    /// One session, as the agent in it: derived, never stored.
    Session(SessionId),
    /// The desktop of one session in a browser: what a printed link carries.
    Desktop(SessionId),
    /// The same, only to look at.
    View(SessionId),
    /// Exchanges itself for a runner's own token.
    Enrol(Enrolment),
}

/// What an enrolment token is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The one id that it enrols; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerId>,
    /// More than once.
    pub reusable: bool,
}

/// `helix_tickets/<hash>`: a one-use ticket for a byte stream. TTL 60 s; consumed by revision-checked delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    /// Which session.
    pub session: SessionId,
    /// Which stream.
    pub stream: crate::link::Stream,
    /// Whom it lets in.
    pub viewer: Viewer,
    /// `Origin` of the page that asked for it: it is good for that page alone. None: a program asked, and it is good for
    /// programs, which send none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Hash of the token that asked for it: revoking that token closes what the ticket opened.
    pub token_hash: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_lost_again_within_the_hour_is_unsteady_for_longer_each_time() {
        let at = |minutes| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
        let mut losses = Losses::default();
        // lost at that minute → unsteady until that one
        for (lost, until) in
            [(0, None), (10, Some(12)), (20, Some(24)), (30, Some(38)), (95, None), (96, Some(98)), (1000, None)]
        {
            losses = losses.and_one(at(lost));
            assert_eq!(losses.unsteady_until(), until.map(at), "lost at {lost}");
        }
        // It counts from when it is back.
        losses = losses.and_one(at(1010)).back(at(1030));
        assert_eq!(losses.unsteady_until(), Some(at(1032)));
        assert_eq!(losses.and_one(at(1095)).count, 1, "it was heard for an hour");
        assert_eq!(Losses::default().back(at(0)), Losses::default());
        for lost in 1000..1100 {
            losses = losses.and_one(at(lost));
        }
        assert_eq!(losses.unsteady_until(), Some(at(1099 + 60)), "no longer than an hour");
    }
}
