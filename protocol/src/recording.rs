//! Recordings of desktops: what is asked for, how it is stored, what the API answers.
//!
//! A recording is the display's own RFB bytes with timestamps, and on the same time line what people and programs typed,
//! who had the control, and where something is missing. It belongs to one life of one session, and its id follows from
//! both ([`RecordingId::of`]). It is a row of *chunks* ([`chunk`]): files of a few hundred KiB, each of which names the
//! SHA-256 of the one before. Times are microseconds since the recording began.
//!
//! ```text
//! GET    /api/v1/recordings?session=ID                → RecordingList     newest first
//! GET    /api/v1/recordings/{id}?from_chunk=N         → RecordingDetail   410 `recording_deleted` once it is gone
//! GET    /api/v1/recordings/{id}/chunks/{number}      → bytes             ETag is the SHA-256; never changes
//! GET    /api/v1/recordings/{id}/events?after=CURSOR  → EventPage         input, control, marks, conversation
//! GET    /api/v1/recordings/{id}/heads                → HeadList          what the audit trail says of its chunks
//! DELETE /api/v1/recordings/{id}
//! PUT    /api/v1/recordings/{id}/chunks/{number}?session=ID&epoch=N       the session's runner, in order
//! ```
//!
//! **Replay.** To show the desktop at time `t`: take the last [`Segment`] that begins at or before `t`, make a new RFB
//! client of it, and give it the payloads of the [`RecordKind::Display`] records from there on, each at its time. The
//! bytes of a segment are all that a server says on one connection, from `RFB 003.008` on, for a client that asked
//! for security type None and, in the pixel format of noVNC ([`PIXEL_FORMAT`]), for [`ENCODINGS`]: what the client says in reply goes nowhere.
//! The pointer is drawn into the picture.

pub mod chunk;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::{Holder, Role};
pub use crate::ids::RecordingId;
use crate::ids::{Epoch, RunnerId, SessionId, ThreadId, TurnId};

/// What recorders ask displays for with SetPixelFormat: 32 bits, depth 24, little endian, true colour, red in the lowest
/// byte, then green and blue. As noVNC does, so that it reads a recording as if it had asked itself.
pub const PIXEL_FORMAT: [u8; 16] = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0];
/// Encodings that recorders name: CopyRect, Tight, Raw; compression 6; last rectangle, both kinds of size. No quality: pixels
/// are as they were. No cursor: displays then draw the pointer into the picture.
pub const ENCODINGS: [i32; 7] = [1, 7, 0, -250, -224, -223, -308];
/// Named, too, while a desktop shows films: parts may be JPEGs of this quality then (7 of 9).
pub const LOSSY: i32 = -25;

/// Most seconds that a recording is kept: as long as the audit trail keeps what proves it.
pub const MAX_KEEP_SECONDS: u64 = 30 * 24 * 3600;

/// How a session is recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RecordingOptions {
    /// How long it is kept after its last chunk; the server's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
}

/// Whether a session is recorded, as it is asked for: `true`, `false` or an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "write true, false, or an object with `keep`, for example {\"keep\": \"7d\"}")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RecordingChoice {
    /// Yes or no, whatever the server's default is.
    Plain(bool),
    /// Yes, like this.
    Options(RecordingOptions),
}

impl RecordingChoice {
    /// How it is recorded; none: it is not.
    pub fn options(self) -> Option<RecordingOptions> {
        match self {
            Self::Plain(wanted) => wanted.then(RecordingOptions::default),
            Self::Options(options) => Some(options),
        }
    }
}

/// How long something is kept, written `90s`, `45m`, `12h` or `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Keep {
    /// 1 to [`MAX_KEEP_SECONDS`].
    seconds: u64,
}

crate::ids::string_schema!(Keep);

/// Why a text is not a [`Keep`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not how long a recording is kept: write a number with s, m, h or d, at most 30d, for example 7d")]
pub struct KeepError(String);

/// Units of a [`Keep`], the largest first.
const UNITS: [(&str, u64); 4] = [("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];

impl Keep {
    /// The longest there is, and the default.
    pub const LONGEST: Self = Self { seconds: MAX_KEEP_SECONDS };

    /// In seconds.
    pub fn seconds(self) -> u64 {
        self.seconds
    }
}

impl std::str::FromStr for Keep {
    type Err = KeepError;
    fn from_str(text: &str) -> Result<Self, KeepError> {
        let bad = || KeepError(text.chars().take(40).collect());
        let read = |(unit, seconds): &(&str, u64)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*seconds);
        let seconds = UNITS.iter().find_map(read).ok_or_else(bad)?;
        if (1..=MAX_KEEP_SECONDS).contains(&seconds) { Ok(Self { seconds }) } else { Err(bad()) }
    }
}

impl TryFrom<String> for Keep {
    type Error = KeepError;
    fn try_from(text: String) -> Result<Self, KeepError> {
        text.parse()
    }
}

impl From<Keep> for String {
    fn from(keep: Keep) -> Self {
        keep.to_string()
    }
}

impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, seconds) = UNITS.iter().find(|(_, unit)| self.seconds.is_multiple_of(*unit)).unwrap_or(&UNITS[3]);
        write!(f, "{}{unit}", self.seconds / seconds)
    }
}

/// Payload of [`RecordKind::Start`](chunk::RecordKind::Start), JSON: first record of the first chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Which recording.
    pub recording: RecordingId,
    /// Of which session.
    pub session: SessionId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// On which runner.
    pub runner: RunnerId,
    /// When time was 0, by the runner's clock.
    pub started_at: Timestamp,
}

/// Payload of [`RecordKind::Segment`](chunk::RecordKind::Segment), JSON: a new connection to the display. Its bytes need nothing that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentStart {
    /// Width of the picture as it begins, in pixels.
    pub width: u16,
    /// Height of the picture as it begins.
    pub height: u16,
}

/// Payload of [`RecordKind::Event`](chunk::RecordKind::Event), JSON: something beside the picture. New types may come: a reader passes over those it
/// does not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RecordedEvent {
    /// Somebody opened the desktop.
    ViewerJoined {
        /// Name of the token.
        by: String,
        /// What it may do.
        role: Role,
    },
    /// Somebody closed it.
    ViewerLeft {
        /// Name of the token.
        by: String,
    },
    /// A key was pressed or released by a viewer, and reached the desktop.
    Key {
        /// Name of the token.
        by: String,
        /// X's symbol of the key.
        keysym: u32,
        /// Pressed, or released.
        down: bool,
    },
    /// The pointer was moved or a button changed by a viewer. Mere moves are told at most twenty times a second.
    Pointer {
        /// Name of the token.
        by: String,
        /// From the left.
        x: u16,
        /// From the top.
        y: u16,
        /// One bit per button that is down, the left one first.
        buttons: u8,
    },
    /// A viewer's clipboard was offered to the desktop; what was in it is not kept.
    Clipboard {
        /// Name of the token.
        by: String,
        /// Bytes of the message.
        bytes: u32,
    },
    /// A viewer asked for another size of the desktop.
    Resize {
        /// Name of the token.
        by: String,
        /// In pixels.
        width: u16,
        /// In pixels.
        height: u16,
    },
    /// A call of the desktop API that changes the desktop.
    Call {
        /// Name of the token.
        by: String,
        /// As in the API: `input`, `window`, `set_clipboard`, `set_display`.
        call: String,
        /// For `input`: its actions, one word each with what they were given; text is cut after 200 characters.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        actions: Vec<String>,
    },
    /// Who may type changed.
    Control {
        /// Counter of changes.
        epoch: u64,
        /// Who alone; absent: whoever may drive the desktop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<Holder>,
    },
    /// Nothing was recorded from `from_us` until now.
    Gap {
        /// Microseconds since the recording began.
        from_us: u64,
        /// For people.
        reason: String,
    },
    /// So many events of others could not be noted: they came faster than they could be written.
    Missed {
        /// How many.
        count: u64,
    },
    /// The session ended, and its recorder was asked to end: what the desktop showed before was shown until now.
    Ended {},
    /// A conversation of the session moved. Not in the chunks: the server has it from the conversation's own log.
    Thread {
        /// Which conversation.
        thread: ThreadId,
        /// Which turn of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        turn: Option<TurnId>,
        /// `prompt` (somebody asked), `dispatched`, `completed`, `failed`, `cancelled`, `entry` …
        what: String,
        /// The first words of a prompt or an answer.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        text: String,
    },
}

/// How far a recording is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RecordingState {
    /// More may come.
    Recording,
    /// Its session has ended and all of it is here.
    Complete,
}

/// A recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RecordingView {
    /// Which.
    pub id: RecordingId,
    /// Of which session.
    pub session: SessionId,
    /// Whose session.
    pub owner: String,
    /// On which runner.
    pub runner: RunnerId,
    /// Under which assignment.
    pub epoch: Epoch,
    /// How far it is.
    pub state: RecordingState,
    /// When time was 0, by the runner's clock.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub started_at: Timestamp,
    /// Time of its last record in microseconds.
    pub duration_us: u64,
    /// Width of its first picture in pixels; 0 before there is one.
    pub width: u16,
    /// Height of its first picture.
    pub height: u16,
    /// Chunks that are here: they count from 0.
    pub chunks: u32,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Gaps in it.
    pub gaps: u32,
    /// How long it is kept after its last chunk.
    pub keep: Keep,
    /// When it will be deleted, unless it goes on.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// `GET /api/v1/recordings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RecordingList {
    /// Newest first, at most 1000.
    pub recordings: Vec<RecordingView>,
}

/// `GET /api/v1/recordings/{id}`: the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RecordingDetail {
    /// The recording.
    #[serde(flatten)]
    pub recording: RecordingView,
    /// Its chunks from `from_chunk` on, in order.
    pub chunk_list: Vec<ChunkEntry>,
}

/// One chunk of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChunkEntry {
    /// Its number.
    pub number: u32,
    /// SHA-256 of its bytes, 64 hex digits.
    pub hash: String,
    /// How many bytes.
    pub bytes: u32,
    /// Time of its first record.
    pub from_us: u64,
    /// Time of its last record.
    pub to_us: u64,
    /// Records of kind event.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub events: u32,
    /// Of these, gaps.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gaps: u32,
    /// Where segments begin in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<Segment>,
    /// It has the end of the recording.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_last: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Where replay can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Segment {
    /// Its time.
    pub at_us: u64,
    /// Byte of the chunk where its record of kind segment begins.
    pub offset: u32,
    /// Width of the picture as it begins.
    pub width: u16,
    /// Height of the picture as it begins.
    pub height: u16,
}

/// An event with its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TimedEvent {
    /// Microseconds since the recording began.
    pub at_us: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: RecordedEvent,
}

/// `GET /api/v1/recordings/{id}/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventPage {
    /// In the order of time.
    pub events: Vec<TimedEvent>,
    /// Give as `after` for the next page; absent where there is no more now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What the audit trail says of one chunk: written when the server took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Head {
    /// Sequence in stream `EXTERNAL_AGENTS`.
    pub sequence: u64,
    /// Which chunk.
    pub number: u32,
    /// SHA-256 of its bytes, 64 hex digits.
    pub hash: String,
    /// It has the end of the recording.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_last: bool,
    /// When the server took it.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
}

/// Why a recording is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deletion {
    /// Name of the token; `helix` where its time was up.
    pub by: String,
    /// Its time was up.
    pub retention: bool,
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
}

/// `GET /api/v1/recordings/{id}/heads`. Also of a recording that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeadList {
    /// As the trail has them, oldest first.
    pub heads: Vec<Head>,
    /// The trail says that it was deleted.
    pub deleted: Option<Deletion>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_it_is_kept_is_read_and_refused() {
        for (text, seconds) in [("90s", 90), ("45m", 2700), ("12h", 43_200), ("30d", MAX_KEEP_SECONDS)] {
            let keep: Keep = text.parse().expect(text);
            assert_eq!((keep.seconds(), keep.to_string().as_str()), (seconds, text));
        }
        for bad in ["", "d", "0d", "31d", "1y", "-1d", "99999999999999999999d"] {
            assert!(bad.parse::<Keep>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_recording_is_asked_for_in_three_ways() {
        let choice = |json: &str| serde_json::from_str::<RecordingChoice>(json).expect(json).options();
        assert_eq!(choice("false"), None);
        assert_eq!(choice("true"), Some(RecordingOptions::default()));
        assert_eq!(choice(r#"{"keep": "7d"}"#), Some(RecordingOptions { keep: "7d".parse().ok() }));
        assert!(serde_json::from_str::<RecordingChoice>(r#"{"keep": "forever"}"#).is_err());
    }
}
