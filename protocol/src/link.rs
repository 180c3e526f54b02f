//! The runner's link over NATS: requests on `up.<runner>.<verb>`, nudges on `down.<runner>.<verb>`.
//!
//! Nudges carry no orders: content travels only in replies to the runner's own requests, so whoever could forge
//! a nudge could only make a runner ask again. Every message names its runner and its type; a receiver drops any
//! other (a reply subject pointed at a foreign subject delivers a message of the wrong type there).

use serde::{Deserialize, Serialize};

use crate::assignment::DesiredSession;
use crate::control::Viewer;
use crate::error::ErrorCode;
use crate::ids::{Epoch, RunnerId, SessionId};
use crate::image::Digest;
use crate::runner::{Heartbeat, RunnerFacts};
use crate::session::ObservedSession;
use crate::viewer::ViewerNote;

/// Number of what is spoken here. It counts up when a message gets another meaning, or one that the other side must know
/// comes along; a field that may be absent changes nothing.
///
/// Each side speaks its own number and the one before, so two that are one apart understand each other in either
/// direction: servers and runners can be upgraded one after the other.
pub const PROTOCOL: u32 = 1;

/// What a side speaks that does not say it: the first.
fn first_protocol() -> u32 {
    1
}

/// True where a side that speaks `other` is understood.
pub fn is_understood(other: u32) -> bool {
    other.abs_diff(PROTOCOL) <= 1
}

/// A message with its runner. `T` is [`Request`], [`Reply`] or [`Nudge`]; its `type` is flattened beside `runner`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message<T> {
    /// The runner whose link this is.
    pub runner: RunnerId,
    /// What is said.
    #[serde(flatten)]
    pub body: T,
}

/// Runner → server, on `up.<runner>.<verb>` with the verb of [`Request::verb`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// I am here and offer this. Repeated after every reconnect.
    Register {
        /// What it offers.
        facts: Box<RunnerFacts>,
        /// [`PROTOCOL`] of the runner.
        #[serde(default = "first_protocol")]
        protocol: u32,
    },
    /// I am alive.
    Heartbeat {
        /// How it is.
        heartbeat: Box<Heartbeat>,
        /// Who came to its desktops, or was sent away. Repeated until acknowledged.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        viewers: Vec<ViewerNote>,
    },
    /// What shall I run?
    Sync {},
    /// This is what I see of one session. Repeated until acknowledged.
    Report {
        /// What it sees.
        observed: Box<ObservedSession>,
    },
    /// Which streams shall I dial for this server? On `up.<runner>.dials.<server>`.
    Dials {},
}

impl Request {
    /// Last token of the subject.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Sync {} => "sync",
            Self::Report { .. } => "report",
            Self::Dials {} => "dials",
        }
    }
}

/// Server → runner, as the reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// Registered.
    Registered {
        /// Seconds between heartbeats.
        heartbeat_interval_ms: u64,
        /// Silence in milliseconds after which the server calls the runner lost.
        lost_timeout_ms: u64,
        /// [`PROTOCOL`] of the server.
        #[serde(default = "first_protocol")]
        protocol: u32,
    },
    /// Heard.
    HeartbeatAck {
        /// Notes of viewers up to this number are in the audit trail; none of them where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        viewers: Option<u64>,
    },
    /// All that the runner shall run or end. What is missing is not an order (invariant 5).
    DesiredSet {
        /// The whole set.
        sessions: Vec<DesiredSession>,
        /// A new token of the runner's own is wanted of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rotate: Option<RotateToken>,
        /// Images of pools whose agents may be placed on the runner: to be had ahead.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        images: Vec<Digest>,
    },
    /// The report is in JetStream, or a newer one already is.
    ReportAck {
        /// Which session.
        session: SessionId,
        /// Epoch of the acknowledged report.
        epoch: Epoch,
        /// Number of the acknowledged report.
        report: u64,
    },
    /// Streams that viewers wait for.
    Dials {
        /// Each is dialled at once.
        dials: Vec<Dial>,
    },
    /// Not done, and why. The runner repeats what it must.
    Refused {
        /// Stable code.
        code: ErrorCode,
        /// For people.
        detail: String,
    },
}

/// A rotation of the runner's token, as far as the server knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotateToken {
    /// Hash of the token that the runner has announced, and not proved to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Server → runner, on `down.<runner>.<verb>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Nudge {
    /// Your desired set changed: send `sync`.
    Sync {},
    /// A viewer waits: send `dials` to this server.
    Dial {
        /// Id of the server process that holds the viewer.
        server: String,
    },
}

impl Nudge {
    /// Last token of the subject.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Sync {} => "sync",
            Self::Dial { .. } => "dial",
        }
    }
}

/// One stream to dial back: `GET {url}/api/v1/dial` as a WebSocket with [`DIAL_TICKET_HEADER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dial {
    /// Base URL of the replica that holds the viewer. The runner refuses one that it was not configured with.
    pub url: String,
    /// One-use ticket.
    pub ticket: String,
    /// Which session.
    pub session: SessionId,
    /// Which bytes.
    pub stream: Stream,
    /// For [`Stream::Vnc`] and [`Stream::Rdp`]: who looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub viewer: Option<Viewer>,
    /// For [`Stream::Logs`]: last lines wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// For [`Stream::Logs`]: only this unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// For [`Stream::Logs`]: go on with every new line until the viewer leaves or the session ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}

/// Header of the dial-back request that carries its one-use ticket (never in the URL: URLs are logged).
pub const DIAL_TICKET_HEADER: &str = "x-helix-dial-ticket";

/// A byte stream of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Stream {
    /// RFB bytes of the display, binary frames.
    Vnc,
    /// RDP bytes of the display, binary frames; who comes must know a grant's password.
    Rdp,
    /// The units' last log lines: text frames, each a JSON array of [`LogLine`]; then close.
    Logs,
    /// Calls of the desktop API and their answers: frames of [`desktop`](crate::desktop).
    Desktop,
    /// Bytes between the server and the session's unit `tools`, binary frames: see [`crate::tools`].
    Tools,
}

/// Names of a session's units, in the order of their start.
pub const UNITS: [&str; 9] = ["workspace", "dbus", "display", "wm", "forward", "recorder", "app", "tools", "rdp"];

/// One line that a unit wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// One of [`UNITS`].
    pub unit: String,
    /// The line without its end.
    pub text: String,
}
