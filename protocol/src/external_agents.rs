//! The documents' shapes: `/api/v1/external-agents` bodies and the `external_agents.*` subjects, field for field.
//! Source: documents 000 and 001. Unknown fields in requests are ignored, and `null` is as good as a key that is absent;
//! every key of an answer is present.

use serde::{Deserialize, Deserializer, Serialize};

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// `POST` and `PUT /api/v1/external-agents`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ZedAgent {
    /// Made up where empty.
    #[serde(deserialize_with = "null_as_default")]
    pub session_id: String,
    /// Kept as a label.
    #[serde(deserialize_with = "null_as_default")]
    pub user_id: String,
    /// Required, at most 50,000 characters.
    #[serde(deserialize_with = "null_as_default")]
    pub input: String,
    /// `K=V` entries.
    #[serde(deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// Ignored: the runner decides; `/stats` tells.
    #[serde(deserialize_with = "null_as_default")]
    pub work_dir: String,
    /// Directory inside the workspace, at most 255 characters.
    #[serde(deserialize_with = "null_as_default")]
    pub project_path: String,
    /// Spec task, where it is an id: where that has a desktop, none is started. Kept as a label, too.
    pub instance_id: Option<String>,
    /// Thread of the spec task's desktop to continue: our id of it, or the agent's. Kept as a label, too.
    pub thread_id: Option<String>,
    /// Ignored: ports are never fixed by a request.
    #[serde(deserialize_with = "null_as_default")]
    pub rdp_port: i64,
    /// Ignored: always `zed`.
    #[serde(deserialize_with = "null_as_default")]
    pub rdp_user: String,
    /// Ignored: grants are made by the server.
    pub rdp_password: Option<String>,
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// RDP user of every session.
pub const RDP_USER: &str = "zed";

/// A session or an idle runner, as the documents' list, get and POST answer: the union of both readings' keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ZedAgentResponse {
    /// The session; empty for a runner.
    pub session_id: String,
    /// The runner; empty while queued.
    pub runner_id: String,
    /// `rdp://…` only when something answers there.
    pub rdp_url: Option<String>,
    /// First RDP grant: told by POST to whoever made the session.
    pub rdp_password: Option<String>,
    /// Sync socket.
    pub websocket_url: Option<String>,
    /// `ext_token_` + the session's derived secret; for owner and admin.
    pub auth_token: Option<String>,
    /// Why it failed; empty otherwise.
    pub error: String,
    /// Sessions: `queued`, `assigned`, `running`, `completed`, `failed`. Runners: `available`, `busy`, `offline`.
    pub status: String,
    /// Process id of the agent; 0 where unknown.
    pub pid: u32,
    /// Assignments beyond the first.
    pub retries: u64,
    /// Session or runner id.
    pub id: String,
    /// Runners: sessions that occupy a slot. Sessions: 1 while one runs.
    pub active_tasks: u32,
    /// Runners: slots. Sessions: 1.
    pub max_tasks: u32,
}

/// `GET …/{id}/rdp`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct RdpConnection {
    /// Which.
    pub session_id: String,
    /// Only when reachable.
    pub rdp_url: Option<String>,
    /// Only when reachable.
    pub rdp_port: Option<u16>,
    /// A new grant, where the caller may make one; the newest of eight that he made so. It is good for VNC, too.
    pub rdp_password: Option<String>,
    /// RFC 3339: when that grant ends (an addition: the documents name no time).
    #[serde(default)]
    pub rdp_password_expires_at: Option<String>,
    /// `:N`.
    pub display: Option<String>,
    /// `running` where it can be connected to, else `unavailable`.
    pub status: String,
    /// Why it is unavailable.
    pub reason: Option<String>,
    /// Always `zed`.
    pub username: String,
    /// Only when reachable.
    pub host: Option<String>,
    /// WebSocket of raw RDP bytes.
    pub proxy_url: Option<String>,
    /// Sync socket.
    pub websocket_url: Option<String>,
    /// Whether the sync socket is connected.
    pub websocket_connected: bool,
}

/// `GET …/{id}/stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Stats {
    /// Which.
    pub session_id: String,
    /// Process id of the agent; 0 where unknown.
    pub pid: u32,
    /// RFC 3339; null before it started.
    pub start_time: Option<String>,
    /// RFC 3339; the last change seen.
    pub last_access: Option<String>,
    /// Seconds since start.
    pub uptime: u64,
    /// Path on the runner.
    pub workspace_dir: Option<String>,
    /// X display number.
    pub display_num: Option<u32>,
    /// Null unless the session's runner has such a port open.
    pub rdp_port: Option<u16>,
    /// Documents' word.
    pub status: String,
}

/// `GET …/{id}/logs?lines=100`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Logs {
    /// Which.
    pub session_id: String,
    /// How many lines follow.
    pub lines: u32,
    /// `unit: text`.
    pub logs: Vec<String>,
    /// RFC 3339.
    pub timestamp: String,
}

/// `DELETE …/{id}` and `POST …/{id}/command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Done {
    /// For people.
    pub message: String,
    /// Which.
    pub session_id: String,
}

/// `POST …/{id}/command`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Command {
    /// Command type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its data.
    #[serde(default)]
    pub data: serde_json::Value,
}

/// One element of `GET …/connections`: a sync socket that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Connection {
    /// Whose agent.
    pub session_id: String,
    /// RFC 3339.
    pub connected_at: Option<String>,
    /// RFC 3339; when its server last said that it is there.
    pub last_ping: String,
    /// `connected`; `ready` once the agent takes prompts.
    pub status: String,
}

/// `external_agents.register`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// Runner id.
    pub agent_id: String,
    /// Always `zed_external`.
    pub agent_type: String,
    /// Kinds.
    pub capabilities: Vec<String>,
    /// Slots.
    pub max_tasks: u32,
    /// Where `zed_task` and `stop_task` are shown to observers.
    pub reply_subject: String,
    /// Facts.
    pub metadata: serde_json::Value,
}

/// `external_agents.heartbeat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHeartbeat {
    /// Runner id.
    pub agent_id: String,
    /// `available`, `busy`, `offline`.
    pub status: String,
    /// Sessions that occupy a slot.
    pub active_tasks: u32,
}

/// `external_agents.response`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentResponse {
    /// Runner id.
    pub agent_id: String,
    /// Session.
    pub session_id: String,
    /// `progress`, `completed`, `failed`.
    pub status: String,
    /// Phase, cause or the output's tail.
    pub message: Option<String>,
    /// Outcome of the session's task (an addition: the documents have no place for it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<crate::session::SessionResult>,
}

/// Published on a runner's reply subject for observers. No secret goes there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Task {
    /// A session was assigned.
    ZedTask {
        /// What was asked.
        agent: Box<TaskAgent>,
        /// Always null.
        auth_token: Option<String>,
    },
    /// A session shall end.
    StopTask {
        /// Which.
        session_id: String,
    },
}

/// What was asked, with every key of [`ZedAgent`]. Whatever may be a secret is null, and so is what nothing knows yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskAgent {
    /// Session.
    pub session_id: String,
    /// As it was given; empty where it was not.
    pub user_id: String,
    /// First task; empty where there is none.
    pub input: String,
    /// Always null.
    pub env: Option<Vec<String>>,
    /// Null: the runner decides; `/stats` tells.
    pub work_dir: Option<String>,
    /// Directory inside the workspace; empty = the workspace.
    pub project_path: String,
    /// As it was given.
    pub instance_id: Option<String>,
    /// As it was given.
    pub thread_id: Option<String>,
    /// Always null: nobody knows it yet.
    pub rdp_port: Option<u16>,
    /// Always `zed`.
    pub rdp_user: String,
    /// Always null.
    pub rdp_password: Option<String>,
    /// Kind that was asked for (an addition: the documents have one kind).
    pub kind: Option<crate::ids::KindName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_as_good_as_absent() {
        let keys = [
            "session_id",
            "user_id",
            "input",
            "env",
            "work_dir",
            "project_path",
            "instance_id",
            "thread_id",
            "rdp_port",
            "rdp_user",
            "rdp_password",
        ];
        for key in keys {
            let body = format!("{{\"{key}\": null}}");
            assert_eq!(serde_json::from_str::<ZedAgent>(&body).expect(key), ZedAgent::default(), "{key}");
        }
        let known = serde_json::to_value(ZedAgent::default()).expect("encoded");
        assert_eq!(known.as_object().map(serde_json::Map::len), Some(keys.len()), "a key is not tried");
        serde_json::from_str::<ZedAgent>(r#"{"env": [null]}"#).expect_err("an entry that is none");
    }
}
