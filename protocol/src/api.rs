//! Bodies of the canonical HTTP API, `/api/v1/*`. Unknown fields in requests are refused.

pub mod audit;
pub mod checkpoints;
pub mod control;
pub mod grants;
pub mod images;
pub mod placement;
pub mod pools;
pub mod reap;
pub mod runners;
pub mod status;
pub mod threads;
pub mod tokens;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::Role;
use crate::error::ErrorCode;
use crate::ids::SpecTaskId;
use crate::ids::{Epoch, Generation, KindName, PoolName, RecordingId, RunnerId, Seat, SessionId};
use crate::image::ImageRef;
use crate::link::Stream;
use crate::reap::RunnerLeftovers;
use crate::recording::RecordingChoice;
use crate::resources::{Limits, Network, OnLost, Reserve, Resources, Usage};
use crate::runner::{Degraded, Liveness, RunnerFacts, RunnerImages, RunnerStatus};
use crate::session::{
    Cause, Desired, Display, DisplayServer, Geometry, Project, SessionPhase, SessionResult, SessionSpec, TimelineStep,
};
use crate::time_limit::TimeLimit;

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// `POST /api/v1/sessions`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CreateSession {
    /// Made up where absent. The same id with the same body answers the existing session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<SessionId>,
    /// `command`, `terminal`, …; the runner's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<KindName>,
    /// What to clone: a git URL or path, or an object with a branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectSource>,
    /// Directory inside the workspace where the agent starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_path: Option<String>,
    /// First task; for `command` a shell command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Desktop size, `1920x1080`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<Geometry>,
    /// What draws its desktop: `xtigervnc` or `xvfb`; the kind's word where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_server: Option<DisplayServer>,
    /// Image that its agent runs in: `NAME`, `NAME:TAG` or `sha256:…`; the runner's own system where absent. It is the image
    /// that the tag names now, whatever becomes of the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// Pool to take it from: one of its agents that are ready, where the session needs no other; `default` where absent, if
    /// there is such a pool and its agents are what is asked for. What is not said here is the pool's to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// The one runner that it may run on; any that fits where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerId>,
    /// Words for filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Extra environment of the agent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Most that it may use; the kind's and the runner's defaults where absent.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// What is kept free for it; the kind's and the runner's defaults where absent.
    #[serde(default, skip_serializing_if = "Reserve::is_empty")]
    pub reserve: Reserve,
    /// `host` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// `wait` or `restart`: what becomes of it while its runner cannot be heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_lost: Option<OnLost>,
    /// Whether it may be ended for a session of higher priority, after a checkpoint: one with `on_lost = restart` goes on
    /// from there once there is room. Not where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptible: Option<bool>,
    /// Whether its desktop is recorded: `true`, `false`, or `{"keep": "7d"}`; the server's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingChoice>,
    /// Environment of its agent that nobody else may see (model keys), encrypted at rest and gone at stop. `null`
    /// takes the value that `helixctl secret set` stored for its owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Option<String>>,
    /// Spec task that its desktop belongs to. Where that has one already, no desktop starts: the session becomes
    /// another name of it, and `input` a new thread there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_task: Option<SpecTaskId>,
    /// Stopped once nobody used it for so long, `30m`; its pool's word where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<TimeLimit>,
    /// Stopped once it has run for so long, `8h`; its pool's word where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<TimeLimit>,
}

/// Neither `env` nor `secrets`: their values are nobody's to see.
impl std::fmt::Debug for CreateSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateSession")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("spec_task", &self.spec_task)
            .field("labels", &self.labels)
            .field("secrets", &self.secrets.keys())
            .finish_non_exhaustive()
    }
}

/// `PATCH /api/v1/sessions/{id}`: changes a session that may be running.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct AmendSession {
    /// New limits; what is absent stays as it is.
    #[serde(default)]
    pub resources: Resources,
}

/// A project, short or long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "write a git URL or a path, or an object with `git` and `branch`")]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub enum ProjectSource {
    /// A git URL or a path on the runner; its default branch.
    Short(String),
    /// With a branch.
    Long(Project),
}

impl From<ProjectSource> for Project {
    fn from(source: ProjectSource) -> Self {
        match source {
            ProjectSource::Short(git) => Self { git, branch: None },
            ProjectSource::Long(project) => project,
        }
    }
}

/// A session, asked and seen together: the answer of every canonical session route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SessionView {
    /// Which.
    pub id: SessionId,
    /// Who made it.
    pub owner: String,
    /// How it is.
    pub phase: SessionPhase,
    /// Why it is so, where there is a why.
    pub cause: Option<Cause>,
    /// Outcome of its task.
    pub result: Option<SessionResult>,
    /// What it shall be.
    pub desired: Desired,
    /// True when it runs but no record claims it: adopt or stop it.
    pub unclaimed: bool,
    /// Where it runs.
    pub runner: Option<RunnerId>,
    /// Fence of its assignments: grows with each, and never starts again for an id.
    pub epoch: Epoch,
    /// Assignments after the first.
    #[serde(default)]
    pub retries: u32,
    /// Counter of its spec's changes.
    pub generation: Generation,
    /// Kind that runs (or was asked for).
    pub kind: Option<KindName>,
    /// Pool it was asked for.
    pub pool: Option<PoolName>,
    /// Words for filters.
    pub labels: BTreeMap<String, String>,
    /// What was asked.
    pub spec: SessionSpec,
    /// Place in the queue, from 1, while `Pending`.
    pub queue_position: Option<u32>,
    /// The desktop, once up.
    pub display: Option<Display>,
    /// Process id of the agent on its runner.
    pub pid: Option<u32>,
    /// Path of the workspace on its runner.
    pub workspace: Option<String>,
    /// The limits that it runs under and what of them is enforced; `null` until its runner has said so.
    pub limits: Option<Limits>,
    /// What it uses now; `null` while nothing of it runs, or nobody says.
    pub usage: Option<Usage>,
    /// True while its runner, cut off from the servers, holds it still (`on_lost = restart`).
    #[serde(default)]
    pub frozen: bool,
    /// The line between its agent and the server: prompts go over it.
    #[serde(default)]
    pub sync: SyncStatus,
    /// Spec task that its desktop belongs to.
    #[serde(default)]
    pub spec_task: Option<SpecTaskId>,
    /// Its desktop is recorded, under this id; `null`: it is not.
    #[serde(default)]
    pub recording: Option<RecordingId>,
    /// Where its desktop can be reached.
    pub endpoints: Endpoints,
    /// Every timed step, from acceptance.
    pub timeline: Vec<TimelineStep>,
    /// When it was accepted.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When it was used last, some seconds more or less; `null` without an `idle_timeout`, and until it is Ready.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub idle_since: Option<Timestamp>,
    /// When a time limit of its own stops it, unless it is used meanwhile; `null`: none does.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}

/// The sync socket of a session's agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SyncStatus {
    /// A socket is open.
    pub connected: bool,
    /// The agent said that it takes prompts, or was given up waiting for.
    pub ready: bool,
    /// Since when it is open.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub connected_at: Option<Timestamp>,
    /// Agent that it named.
    pub agent: Option<String>,
    /// Why connections are refused right now: agents try for ever and say nothing.
    pub refused: Option<String>,
}

/// Where a session's desktop can be reached. `null` = not now, or not yet built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Endpoints {
    /// Page with the live desktop.
    pub view: Option<String>,
    /// WebSocket of RFB bytes; needs a ticket.
    pub vnc: Option<String>,
    /// `rdp://host:port`, where its runner has such a port open. Everywhere else: `helixctl session rdp`.
    pub rdp: Option<String>,
    /// `vnc://host:port`, where its runner has such a port open.
    #[serde(default)]
    pub direct_vnc: Option<String>,
    /// Page with a VNC viewer on its runner, where that has such a port open.
    #[serde(default)]
    pub direct_page: Option<String>,
}

/// `GET /api/v1/sessions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SessionPage {
    /// Sessions by creation time, newest first.
    pub sessions: Vec<SessionView>,
    /// Give as `cursor` for the next page; absent on the last.
    pub next_cursor: Option<String>,
}

/// `GET /api/v1/sessions/{id}/timeline`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Timeline {
    /// Which session.
    pub id: SessionId,
    /// Every timed step, from acceptance.
    pub timeline: Vec<TimelineStep>,
}

/// `GET /api/v1/sessions/{id}/logs?lines=100`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SessionLogs {
    /// Which session.
    pub id: SessionId,
    /// The units' last lines.
    pub lines: Vec<crate::link::LogLine>,
}

/// A runner, as `GET /api/v1/runners` and `/{id}` answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct RunnerView {
    /// Which.
    pub id: RunnerId,
    /// Documents' word.
    pub status: RunnerStatus,
    /// How well it is heard.
    pub liveness: Liveness,
    /// Takes nothing new when set.
    pub cordoned: bool,
    /// True while it takes nothing new by its own decision.
    pub draining: bool,
    /// What is wrong with its machine: it takes nothing new meanwhile, and what runs there goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<Degraded>,
    /// It was lost more than once within an hour: until then nothing is placed there that another runner can take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub unsteady_until: Option<Timestamp>,
    /// Sessions that occupy a slot.
    pub active_tasks: u32,
    /// Slots.
    pub slots: u32,
    /// What it offers; absent until it registered.
    pub facts: Option<RunnerFacts>,
    /// What placement goes by: labels of its own settings, and over them those that an operator set.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its images, and those that it fetches.
    #[serde(default, skip_serializing_if = "RunnerImages::is_empty")]
    pub images: RunnerImages,
    /// What belonged to no session, and what is kept of sessions that live elsewhere.
    #[serde(default, skip_serializing_if = "RunnerLeftovers::is_empty")]
    pub leftovers: RunnerLeftovers,
    /// It was asked for a new token of its own and does not have it yet.
    #[serde(default)]
    pub rotating: bool,
    /// Since when it has the token that it has.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub token_since: Option<Timestamp>,
    /// When it was enrolled.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub enrolled_at: Timestamp,
    /// When it last said what it offers, which it does with every connection.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub registered_at: Option<Timestamp>,
    /// When it was heard last.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_seen_at: Option<Timestamp>,
}

/// `GET /api/v1/runners`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct RunnerList {
    /// By id.
    pub runners: Vec<RunnerView>,
}

/// `POST /api/v1/sessions/{id}/tickets`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CreateTicket {
    /// Which bytes.
    pub stream: Stream,
    /// From where: who holds the control types from that seat alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seat: Option<Seat>,
    /// Only look.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub view_only: bool,
    /// The viewer must prove by VNC authentication that it knows this: 8 printable ASCII characters. For native viewers
    /// that come over a port which others can reach, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

impl std::fmt::Debug for CreateTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stream, seat, view_only, password: _ } = self;
        let mut shown = f.debug_struct("CreateTicket");
        shown.field("stream", stream).field("seat", seat).field("view_only", view_only).finish_non_exhaustive()
    }
}

/// A one-use ticket for a byte stream.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Ticket {
    /// The secret; also inside `url`.
    pub ticket: String,
    /// WebSocket address that speaks the stream's bytes (binary RFB, security type None, for `vnc`).
    pub url: String,
    /// What whoever comes with it may do.
    pub role: Role,
    /// What happens on the desktop is recorded, what is typed included.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recorded: bool,
    /// When it ends, used or not: at most 60 s ahead.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// `POST /api/v1/sessions/{id}/links`: a link for a browser to one session's desktop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CreateLink {
    /// Life in seconds, at most 7 days; 12 hours where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Who has it can look at the desktop and do nothing there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub view_only: bool,
}

/// A link to a session's desktop. The token rides in the fragment: browsers do not send it to servers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Link {
    /// `…/sessions/<id>/view#token=…`.
    pub url: String,
    /// When the token in it ends.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Who am I: `GET /api/v1/whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct WhoAmI {
    /// Name of the token.
    pub name: String,
    /// Its scope, as a word: `admin`, `operator`, `user`, `viewer`, `runner`, `session`, `desktop`, `view`, `enrol`.
    pub scope: String,
}

/// RFC 9457 problem document: every error of the API, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Problem {
    /// `urn:helix:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every occurrence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable code for programs.
    pub code: ErrorCode,
    /// This occurrence: what, where, why, and what to do next.
    pub detail: String,
}
