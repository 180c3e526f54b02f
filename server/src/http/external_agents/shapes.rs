//! Pure: the documents' shapes from and to the canonical ones.

use std::collections::BTreeMap;

use helix_protocol::api::grants::NewGrant;
use helix_protocol::api::{CreateSession, RunnerView, SessionView};
use helix_protocol::assignment::Lease;
use helix_protocol::external_agents::{Connection, Logs, RDP_USER, RdpConnection, Stats, ZedAgent, ZedAgentResponse};
use helix_protocol::link::LogLine;
use helix_protocol::runner::RunnerStatus;
use helix_protocol::session::{SessionPhase, TimelineStep};
use helix_protocol::{ErrorCode, SessionId, SpecTaskId};
use jiff::Timestamp;

use crate::error::{Error, Result};

/// The workspace, as the documents' paths name it.
const WORKSPACE: &str = "/workspace";

/// Label that keeps the documents' `thread_id`.
pub const THREAD_LABEL: &str = "thread_id";

/// The canonical request for a documents' one.
pub fn request(agent: ZedAgent) -> Result<CreateSession> {
    if agent.input.trim().is_empty() {
        return Err(Error::new(ErrorCode::InvalidInput, "input: is empty; say what the agent shall do"));
    }
    let id = match agent.session_id {
        none if none.is_empty() => None,
        text => {
            let id = SessionId::parse(text)
                .map_err(|error| Error::new(ErrorCode::InvalidRequest, format!("session_id: {error}")))?;
            Some(id)
        }
    };
    // Any other text stays a label only.
    let spec_task = agent.instance_id.as_deref().and_then(|instance| SpecTaskId::parse(instance).ok());
    let named = [("user_id", Some(agent.user_id)), ("instance_id", agent.instance_id), (THREAD_LABEL, agent.thread_id)];
    let labels = named
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.filter(|value| !value.is_empty())?)))
        .collect();
    Ok(CreateSession {
        id,
        input: Some(agent.input),
        project_path: project_path(&agent.project_path),
        labels,
        env: environment(agent.env)?,
        spec_task,
        ..CreateSession::default()
    })
}

/// The documents' paths start at the root of what a session sees, where `/workspace` is the workspace; ours start
/// there. An empty one is none.
pub fn project_path(path: &str) -> Option<String> {
    let inside = path.strip_prefix(WORKSPACE).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    Some(inside.unwrap_or(path).trim_start_matches('/')).filter(|path| !path.is_empty()).map(str::to_owned)
}

/// `K=V` entries as a map. The fault names the entry, never its value: that may be a secret.
pub fn environment(entries: Vec<String>) -> Result<BTreeMap<String, String>> {
    let split = |(index, entry): (usize, String)| match entry.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::new(ErrorCode::InvalidRequest, format!("env[{index}]: is not `NAME=value`"))),
    };
    entries.into_iter().enumerate().map(split).collect()
}

/// A session in the documents' union shape.
pub fn session(view: &SessionView, auth_token: Option<String>, public_url: &str) -> ZedAgentResponse {
    let failed = matches!(view.phase, SessionPhase::Failed | SessionPhase::Lost);
    let cause = view.cause.as_ref().filter(|_| failed);
    ZedAgentResponse {
        session_id: view.id.to_string(),
        runner_id: view.runner.as_ref().map(ToString::to_string).unwrap_or_default(),
        rdp_url: view.endpoints.rdp.clone(),
        rdp_password: None,
        websocket_url: sync_url(view, public_url),
        auth_token,
        error: cause.map(|cause| cause.message.clone()).unwrap_or_default(),
        status: view.phase.documents_word().to_owned(),
        pid: view.pid.unwrap_or_default(),
        retries: view.retries.into(),
        id: view.id.to_string(),
        active_tasks: u32::from(runs(view.phase)),
        max_tasks: 1,
    }
}

/// A runner in the documents' union shape.
pub fn runner(view: &RunnerView) -> ZedAgentResponse {
    let status = match view.status {
        RunnerStatus::Available => "available",
        RunnerStatus::Busy => "busy",
        RunnerStatus::Offline => "offline",
    };
    ZedAgentResponse {
        session_id: String::new(),
        runner_id: view.id.to_string(),
        rdp_url: None,
        rdp_password: None,
        websocket_url: None,
        auth_token: None,
        error: String::new(),
        status: status.to_owned(),
        pid: 0,
        retries: 0,
        id: view.id.to_string(),
        active_tasks: view.active_tasks,
        max_tasks: view.slots,
    }
}

fn runs(phase: SessionPhase) -> bool {
    matches!(phase, SessionPhase::Assigned | SessionPhase::Starting | SessionPhase::Ready | SessionPhase::Stopping)
}

/// Process, times and place.
pub fn stats(view: &SessionView, now: Timestamp) -> Stats {
    // From the runner's first step: what came before was waiting.
    let start = view.timeline.iter().find(|step| step.step == "received").map(|step| step.at);
    let last = view.timeline.iter().map(end_of).max();
    let until = if view.phase.is_terminal() { last } else { Some(now) };
    let uptime = start.zip(until).map_or(0, |(start, until)| until.duration_since(start).as_secs().max(0));
    Stats {
        session_id: view.id.to_string(),
        pid: view.pid.unwrap_or_default(),
        start_time: start.map(|at| at.to_string()),
        last_access: last.map(|at| at.to_string()),
        uptime: uptime.unsigned_abs(),
        workspace_dir: view.workspace.clone(),
        display_num: view.display.as_ref().map(|display| display.number),
        rdp_port: view.endpoints.rdp.as_deref().and_then(|url| url.rsplit_once(':')?.1.parse().ok()),
        status: view.phase.documents_word().to_owned(),
    }
}

/// The last `count` lines. The runner counts them for each unit.
pub fn logs(session: SessionId, lines: &[LogLine], count: usize, now: Timestamp) -> Logs {
    let last = &lines[lines.len().saturating_sub(count)..];
    let logs: Vec<_> = last.iter().map(|line| format!("{}: {}", line.unit, line.text)).collect();
    Logs { session_id: session.into(), lines: logs.len() as u32, logs, timestamp: now.to_string() }
}

fn end_of(step: &TimelineStep) -> Timestamp {
    let took = std::time::Duration::from_millis(step.duration_ms.unwrap_or_default());
    step.at.checked_add(took).unwrap_or(step.at)
}

/// `/rdp` of a session that can be reached.
pub fn rdp(view: &SessionView, public_url: &str, grant: NewGrant) -> RdpConnection {
    let url = view.endpoints.rdp.clone();
    let address = url.as_deref().and_then(|url| url.strip_prefix("rdp://")?.rsplit_once(':'));
    RdpConnection {
        rdp_port: address.and_then(|(_, port)| port.parse().ok()),
        host: address.map(|(host, _)| host.to_owned()),
        rdp_password: Some(grant.password),
        rdp_password_expires_at: Some(grant.expires_at.to_string()),
        status: view.phase.documents_word().to_owned(),
        reason: None,
        proxy_url: Some(format!("{}/api/v1/external-agents/{}/rdp/proxy", socket_base(public_url), view.id)),
        rdp_url: url,
        ..no_rdp(view, public_url, String::new())
    }
}

/// The same for one that cannot, and why.
pub fn no_rdp(view: &SessionView, public_url: &str, why: String) -> RdpConnection {
    RdpConnection {
        session_id: view.id.to_string(),
        display: view.display.as_ref().map(|display| format!(":{}", display.number)),
        websocket_url: sync_url(view, public_url),
        websocket_connected: view.sync.connected,
        ..no_desktop(why)
    }
}

/// The same for what has neither display nor sync socket: a runner.
pub fn no_desktop(why: String) -> RdpConnection {
    RdpConnection {
        session_id: String::new(),
        rdp_url: None,
        rdp_port: None,
        rdp_password: None,
        rdp_password_expires_at: None,
        display: None,
        status: "unavailable".to_owned(),
        reason: Some(why),
        username: RDP_USER.to_owned(),
        host: None,
        proxy_url: None,
        websocket_url: None,
        websocket_connected: false,
    }
}

/// Where the session's agent connects, while it may.
fn sync_url(view: &SessionView, public_url: &str) -> Option<String> {
    let base = socket_base(public_url);
    (!view.phase.is_terminal()).then(|| format!("{base}/api/v1/external-agents/sync?session_id={}", view.id))
}

fn socket_base(public_url: &str) -> String {
    let secure = public_url.strip_prefix("https://").map(|rest| format!("wss://{rest}"));
    secure.unwrap_or_else(|| format!("ws://{}", public_url.trim_start_matches("http://")))
}

/// A session's sync socket as the documents list it.
pub fn connection(session: &str, lease: &Lease) -> Connection {
    let sync = lease.sync.clone().unwrap_or_default();
    Connection {
        session_id: session.to_owned(),
        connected_at: sync.connected_at.map(|at| at.to_string()),
        last_ping: lease.renewed_at.to_string(),
        status: if sync.ready { "ready" } else { "connected" }.to_owned(),
    }
}
