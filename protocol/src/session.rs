//! A session: what was asked ([`SessionSpec`]) and what was seen ([`ObservedSession`]).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::checkpoint::WorkSeen;
use crate::ids::{Epoch, Generation, KindName, RunnerId, SessionId};
use crate::image::{Digest, ImageRef};
use crate::recording::RecordingOptions;
use crate::resources::{Limits, Network, OnLost, Reserve, Resources};
use crate::time_limit::TimeLimit;

/// Most characters of a session's `input`.
pub const MAX_INPUT_CHARS: usize = 50_000;
/// Most characters of a `project_path`.
pub const MAX_PROJECT_PATH_CHARS: usize = 255;
/// Most bytes kept of a command's output in [`SessionResult::output_tail`].
pub const OUTPUT_TAIL_BYTES: usize = 16 * 1024;

/// One word of a session's status.
///
/// `Pending → Assigned → Starting → Ready → Stopping → Stopped`, with `Failed` from any phase before `Stopped`.
/// `Lost` is never reported by a runner: the control plane says it while the runner cannot be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SessionPhase {
    /// Accepted and durable, no runner yet.
    Pending,
    /// A runner is named; it has not reported yet.
    Assigned,
    /// The runner is starting its units.
    Starting,
    /// Desktop and agent are up.
    Ready,
    /// Being ended.
    Stopping,
    /// Ended on request, by time-out or by drain.
    Stopped,
    /// Ended by a fault; the cause says which.
    Failed,
    /// Its runner has not been heard for the lost-timeout.
    Lost,
}

impl SessionPhase {
    /// Every phase, in the order of a session's life.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Assigned,
        Self::Starting,
        Self::Ready,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Lost,
    ];

    /// True once nothing of the session runs any more and nothing will.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    /// The word of documents 000 and 001 for this phase.
    pub fn documents_word(self) -> &'static str {
        match self {
            Self::Pending => "queued",
            Self::Assigned | Self::Starting => "assigned",
            Self::Ready | Self::Stopping => "running",
            Self::Stopped => "completed",
            Self::Failed | Self::Lost => "failed",
        }
    }
}

impl std::fmt::Display for SessionPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// Size of a desktop, written `1920x1080`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Geometry {
    /// Width in pixels, 320 to 7680.
    pub width: u16,
    /// Height in pixels, 200 to 4320.
    pub height: u16,
}

crate::ids::string_schema!(Geometry);

/// Why a text is not a [`Geometry`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("geometry {0:?} is not valid: write WIDTHxHEIGHT, from 320x200 to 7680x4320, for example 1920x1080")]
pub struct GeometryError(pub String);

impl Geometry {
    /// A geometry within the limits.
    pub fn new(width: u16, height: u16) -> Result<Self, GeometryError> {
        if (320..=7680).contains(&width) && (200..=4320).contains(&height) {
            return Ok(Self { width, height });
        }
        Err(GeometryError(format!("{width}x{height}")))
    }
}

impl std::str::FromStr for Geometry {
    type Err = GeometryError;
    fn from_str(text: &str) -> Result<Self, GeometryError> {
        let bad = || GeometryError(text.chars().take(40).collect());
        let (width, height) = text.split_once('x').ok_or_else(bad)?;
        let (width, height) = (width.parse().map_err(|_| bad())?, height.parse().map_err(|_| bad())?);
        Self::new(width, height).map_err(|_| bad())
    }
}

impl TryFrom<String> for Geometry {
    type Error = GeometryError;
    fn try_from(text: String) -> Result<Self, GeometryError> {
        text.parse()
    }
}

impl From<Geometry> for String {
    fn from(geometry: Geometry) -> Self {
        geometry.to_string()
    }
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// What to clone into the workspace before the agent starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Project {
    /// A git URL, or the path of a repository on the runner.
    pub git: String,
    /// Branch or tag to check out; the repository's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
}

/// What was asked of a session. The same shape in the store, in the desired set and on the runner's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionSpec {
    /// What runs in it; the runner's default kind where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<KindName>,
    /// What to clone; an empty workspace where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Project>,
    /// Directory inside the workspace where the agent starts (documents: `project_path`), made where missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_path: Option<String>,
    /// First task for the agent; for kind `command` a shell command. At most [`MAX_INPUT_CHARS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Desktop size; the runner's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<Geometry>,
    /// What draws its desktop; the kind's word where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_server: Option<DisplayServer>,
    /// Image that its agent runs in; the runner's own system where absent. A digest once it is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// Extra environment of the agent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Most that it may use; the kind's and the runner's defaults where absent.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// What is kept free for it; the kind's and the runner's defaults where absent.
    #[serde(default, skip_serializing_if = "Reserve::is_empty")]
    pub reserve: Reserve,
    /// Its network; the machine's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What becomes of it while its runner cannot be heard; it runs on where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_lost: Option<OnLost>,
    /// It may be ended for a session of higher priority, after a checkpoint; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptible: Option<bool>,
    /// How its desktop is recorded; it is not where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingOptions>,
    /// `false`: no direct ports, although its runner offers them. From its pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<bool>,
    /// Nobody used it for so long: it is stopped. Never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<TimeLimit>,
    /// It has run for so long: it is stopped. Never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<TimeLimit>,
}

impl SessionSpec {
    /// The image that its agent runs in. An accepted spec names none by a tag.
    pub fn image_digest(&self) -> Option<Digest> {
        match self.image {
            Some(ImageRef::Digest(digest)) => Some(digest),
            Some(ImageRef::Tag { .. }) | None => None,
        }
    }
}

/// What draws a session's desktop and shows it to viewers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DisplayServer {
    /// X and VNC in one process: the least work, and a viewer can set its size.
    #[default]
    Xtigervnc,
    /// Xvfb, watched by `X0tigervnc`: for programs that do not get on with the other one.
    Xvfb,
}

/// What a session shall be. Smaller than [`SessionPhase`] on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Desired {
    /// Shall run.
    Running,
    /// Shall end.
    Stopped,
}

/// Why a session ended, is not ready, or waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cause {
    /// Stable word for programs: `timeout`, `stopped_by_user`, `workspace_failed`, `display_died`, …
    pub code: String,
    /// For people: what happened and what to do.
    pub message: String,
    /// The start step that failed, as in the timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The unit concerned: `display`, `wm`, `dbus`, `workspace`, `app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Last lines that the unit wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
}

impl Cause {
    /// A cause without unit or log.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), step: None, unit: None, log_tail: Vec::new() }
    }
}

/// How the session's own task ended (kind `command`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionResult {
    /// Exit status as a shell tells it: 0–255, 128 + signal when killed.
    pub exit_status: i32,
    /// The last [`OUTPUT_TAIL_BYTES`] of standard output and error together, as shown on the desktop.
    pub output_tail: String,
    /// True when `output_tail` is not all of it.
    pub output_truncated: bool,
    /// When it ended.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub finished_at: Timestamp,
}

/// One timed step of a session's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TimelineStep {
    /// `accepted`, `assigned`, `claimed`, `received`, `image`, `workspace`, `display`, `dbus`, `window_manager`, `forward`, `agent`, `ready`,
    /// `stopping`, `stopped`, `failed`.
    pub step: String,
    /// When it began.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
    /// How long it took in milliseconds; absent while it goes on and for moments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// For people: what it waited for, or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The desktop as the runner started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Display {
    /// X display number.
    pub number: u32,
    /// Size in pixels at start.
    pub geometry: Geometry,
}

/// Open ports of one session on an address of its runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DirectPorts {
    /// Where the runner listens, as viewers name it.
    pub host: String,
    /// VNC, 5900 to 5920; an RDP client is served there, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnc: Option<u16>,
    /// RDP, 3389 to 3409.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdp: Option<u16>,
    /// HTTP: `/vnc.html`, a viewer for browsers. The VNC port's number and 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u16>,
}

/// What a runner saw of one session: the body of a report, and the value in `helix_observed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObservedSession {
    /// Which session.
    pub session: SessionId,
    /// Who saw it.
    pub runner: RunnerId,
    /// Epoch of the assignment it runs under.
    pub epoch: Epoch,
    /// Generation of the spec that it runs.
    pub generation: Generation,
    /// Report number: grows by one per report of this (session, epoch), across restarts of agentd.
    pub report: u64,
    /// Phase seen. Never `Pending`, `Assigned` or `Lost`.
    pub phase: SessionPhase,
    /// Why, where there is a why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Outcome of the session's task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<SessionResult>,
    /// Every timed step on the runner so far.
    #[serde(default)]
    pub timeline: Vec<TimelineStep>,
    /// The kind that was run.
    pub kind: KindName,
    /// The desktop, once it is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
    /// Process id of the agent on the runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Path of the workspace on the runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The limits that it runs under, and what of them is enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Epoch of the control lease that its gate enforces.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub control: u64,
    /// Counter of the grants that its gate knows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub grants: u64,
    /// Ports of the runner at which native viewers reach it directly, where the runner has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectPorts>,
    /// True while its runner, cut off from the servers, holds it still (`on_lost = restart`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
    /// Last report: nothing of it is left on the runner, workspace and logs included (after `deleted`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
    /// Its checkpoints, as far as there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<WorkSeen>,
    /// Present when the session runs although the desired set does not name it: what an adoption needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclaimed: Option<Unclaimed>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ObservedSession {
    /// The start step that is waited for: of those under way, the one that began last.
    pub fn running_step(&self) -> Option<&str> {
        let starting = self.phase == SessionPhase::Starting;
        let mut running = self.timeline.iter().filter(|step| starting && step.duration_ms.is_none());
        // Moments have no duration either, but no step begins before they are over.
        running.rfind(|step| step.step != "received").map(|step| step.step.as_str())
    }
}

/// What a runner knows of a session that nobody claims any more (an emptied store).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unclaimed {
    /// The spec that it runs.
    pub spec: SessionSpec,
    /// When this runner received it first.
    pub received_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_reads_and_refuses() {
        assert_eq!("1920x1080".parse::<Geometry>(), Ok(Geometry { width: 1920, height: 1080 }));
        for bad in ["0x0", "1920", "x", "1920x", "99999x1", "1920X1080", "-1x5", "319x200"] {
            assert!(bad.parse::<Geometry>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn documents_words_follow_the_design() {
        let words: Vec<_> = SessionPhase::ALL.iter().map(|phase| phase.documents_word()).collect();
        assert_eq!(words, ["queued", "assigned", "assigned", "running", "running", "completed", "failed", "failed"]);
    }
}
