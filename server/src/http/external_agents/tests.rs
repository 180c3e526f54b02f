use helix_protocol::api::grants::NewGrant;
use helix_protocol::api::{CreateSession, Endpoints, RunnerView, SessionView, SyncStatus};
use helix_protocol::control::Role;
use helix_protocol::external_agents::ZedAgent;
use helix_protocol::link::LogLine;
use helix_protocol::runner::{Liveness, RunnerStatus};
use helix_protocol::session::{Cause, Desired, Display, Geometry, SessionPhase, SessionSpec, TimelineStep};
use helix_protocol::{Epoch, ErrorCode, Generation, GrantId, RunnerId, SessionId};
use jiff::Timestamp;

use super::shapes;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn step(step: &str, at: Timestamp, duration_ms: Option<u64>) -> TimelineStep {
    TimelineStep { step: step.to_owned(), at, duration_ms, detail: None }
}

fn view(phase: SessionPhase) -> SessionView {
    SessionView {
        id: SessionId::parse("session_123").expect("valid id"),
        owner: "admin".to_owned(),
        phase,
        cause: Some(Cause::new("display_died", "the display died")),
        result: None,
        desired: Desired::Running,
        unclaimed: false,
        runner: RunnerId::parse("r-1").ok(),
        epoch: Epoch(2),
        retries: 1,
        generation: Generation(1),
        kind: None,
        pool: None,
        labels: [].into(),
        spec: SessionSpec::default(),
        queue_position: None,
        display: Some(Display { number: 7, geometry: Geometry { width: 1920, height: 1080 } }),
        pid: Some(4711),
        workspace: Some("/w".to_owned()),
        limits: None,
        usage: None,
        frozen: false,
        sync: SyncStatus::default(),
        spec_task: None,
        recording: None,
        endpoints: Endpoints::default(),
        timeline: vec![
            step("accepted", at("2026-11-21T10:00:00Z"), None),
            step("received", at("2026-11-21T10:00:10Z"), None),
            step("agent", at("2026-11-21T10:00:11Z"), Some(1500)),
        ],
        created_at: at("2026-11-21T10:00:00Z"),
        idle_since: None,
        expires_at: None,
    }
}

#[test]
fn the_documents_own_request_becomes_a_session() {
    let agent: ZedAgent = serde_json::from_str(
        r#"{"session_id": "session_123", "user_id": "user_456", "input": "Help me implement a new feature",
            "project_path": "/workspace/my-project", "instance_id": "spec_task_789", "env": ["A=1", "B=x=y"]}"#,
    )
    .expect("the documents' JSON");
    let request = shapes::request(agent).expect("a request");
    insta::assert_json_snapshot!(request, @r#"
    {
      "id": "session_123",
      "project_path": "my-project",
      "input": "Help me implement a new feature",
      "labels": {
        "instance_id": "spec_task_789",
        "user_id": "user_456"
      },
      "env": {
        "A": "1",
        "B": "x=y"
      },
      "spec_task": "spec_task_789"
    }
    "#);
}

#[test]
fn the_documents_paths_start_at_the_workspace() {
    for (theirs, ours) in [
        ("/workspace/my-project", Some("my-project")),
        ("/workspace//deep/down", Some("deep/down")),
        ("/workspace", None),
        ("/workspace/", None),
        ("", None),
        ("/", None),
        ("/workspaces/a", Some("workspaces/a")),
        ("workspace/a", Some("workspace/a")),
        ("/my-project", Some("my-project")),
        ("my-project", Some("my-project")),
    ] {
        assert_eq!(shapes::project_path(theirs).as_deref(), ours, "{theirs:?}");
    }
}

#[test]
fn what_the_documents_refuse_is_refused() {
    let fault = |agent: ZedAgent| shapes::request(agent).map(|request: CreateSession| request.id).expect_err("a fault");
    assert_eq!(fault(ZedAgent::default()).code, ErrorCode::InvalidInput);
    assert_eq!(fault(ZedAgent { input: " \n".to_owned(), ..ZedAgent::default() }).code, ErrorCode::InvalidInput);
    let input = || "x".to_owned();
    let error = fault(ZedAgent { input: input(), session_id: "a.b".to_owned(), ..ZedAgent::default() });
    assert_eq!(error.code, ErrorCode::InvalidRequest);
    let error = fault(ZedAgent { input: input(), env: vec!["A=1".into(), "geheim".into()], ..ZedAgent::default() });
    assert!(error.detail.contains("env[1]") && !error.detail.contains("geheim"), "{}", error.detail);
}

#[test]
fn a_session_and_a_runner_have_every_key() {
    insta::assert_json_snapshot!(shapes::session(&view(SessionPhase::Ready), Some("ext_token_x".to_owned()), "https://h"), @r#"
    {
      "session_id": "session_123",
      "runner_id": "r-1",
      "rdp_url": null,
      "rdp_password": null,
      "websocket_url": "wss://h/api/v1/external-agents/sync?session_id=session_123",
      "auth_token": "ext_token_x",
      "error": "",
      "status": "running",
      "pid": 4711,
      "retries": 1,
      "id": "session_123",
      "active_tasks": 1,
      "max_tasks": 1
    }
    "#);
    assert_eq!(shapes::session(&view(SessionPhase::Failed), None, "https://h").error, "the display died");
    assert_eq!(shapes::session(&view(SessionPhase::Failed), None, "https://h").websocket_url, None);
    let runner = RunnerView {
        id: RunnerId::parse("r-1").expect("valid id"),
        status: RunnerStatus::Available,
        liveness: Liveness::Online,
        cordoned: false,
        draining: false,
        degraded: Vec::new(),
        unsteady_until: None,
        active_tasks: 1,
        slots: 8,
        facts: None,
        labels: std::collections::BTreeMap::new(),
        rotating: false,
        token_since: None,
        enrolled_at: at("2026-11-21T10:00:00Z"),
        registered_at: None,
        last_seen_at: None,
        leftovers: helix_protocol::reap::RunnerLeftovers::default(),
        images: helix_protocol::runner::RunnerImages::default(),
    };
    insta::assert_json_snapshot!(shapes::runner(&runner), @r#"
    {
      "session_id": "",
      "runner_id": "r-1",
      "rdp_url": null,
      "rdp_password": null,
      "websocket_url": null,
      "auth_token": null,
      "error": "",
      "status": "available",
      "pid": 0,
      "retries": 0,
      "id": "r-1",
      "active_tasks": 1,
      "max_tasks": 8
    }
    "#);
}

#[test]
fn stats_count_from_the_runners_first_step() {
    insta::assert_json_snapshot!(shapes::stats(&view(SessionPhase::Ready), at("2026-11-21T10:01:10Z")), @r#"
    {
      "session_id": "session_123",
      "pid": 4711,
      "start_time": "2026-11-21T10:00:10Z",
      "last_access": "2026-11-21T10:00:12.5Z",
      "uptime": 60,
      "workspace_dir": "/w",
      "display_num": 7,
      "rdp_port": null,
      "status": "running"
    }
    "#);
    let mut stopped = view(SessionPhase::Stopped);
    stopped.timeline.push(step("stopped", at("2026-11-21T10:00:40Z"), None));
    assert_eq!(shapes::stats(&stopped, at("2026-11-21T11:00:00Z")).uptime, 30, "it ended after half a minute");
    let mut queued = view(SessionPhase::Pending);
    queued.timeline.truncate(1);
    let stats = shapes::stats(&queued, at("2026-11-21T10:01:00Z"));
    assert_eq!((stats.uptime, stats.start_time), (0, None));
}

#[test]
fn no_more_log_lines_are_answered_than_were_asked_for() {
    let line = |unit: &str, text: &str| LogLine { unit: unit.to_owned(), text: text.to_owned() };
    let lines = [line("display", "a"), line("display", "b"), line("app", "c"), line("app", "d")];
    let answer = |count| {
        let id = SessionId::parse("s").expect("valid id");
        let logs = shapes::logs(id, &lines, count, at("2026-11-21T10:00:00Z"));
        (logs.lines, logs.logs.join(", "))
    };
    assert_eq!(answer(3), (3, "display: b, app: c, app: d".to_owned()));
    assert_eq!(answer(100), (4, "display: a, display: b, app: c, app: d".to_owned()));
}

#[test]
fn rdp_names_an_address_only_where_there_is_one() {
    let unready = shapes::no_rdp(&view(SessionPhase::Ready), "http://h:8080/fleet", "why".to_owned());
    insta::assert_json_snapshot!(unready, @r#"
    {
      "session_id": "session_123",
      "rdp_url": null,
      "rdp_port": null,
      "rdp_password": null,
      "rdp_password_expires_at": null,
      "display": ":7",
      "status": "unavailable",
      "reason": "why",
      "username": "zed",
      "host": null,
      "proxy_url": null,
      "websocket_url": "ws://h:8080/fleet/api/v1/external-agents/sync?session_id=session_123",
      "websocket_connected": false
    }
    "#);
    let grant = || NewGrant {
        id: GrantId::parse("g").expect("valid id"),
        username: "zed".to_owned(),
        password: "hunter22".to_owned(),
        role: Role::Control,
        expires_at: at("2026-11-21T22:00:00Z"),
        enforced: true,
    };
    let relayed = shapes::rdp(&view(SessionPhase::Ready), "https://h/fleet", grant());
    assert_eq!((&relayed.rdp_url, relayed.rdp_port, &relayed.host, &relayed.reason), (&None, None, &None, &None));
    let mut open = view(SessionPhase::Ready);
    open.endpoints.rdp = Some("rdp://[fd00::7]:3390".to_owned());
    insta::assert_json_snapshot!(shapes::rdp(&open, "https://h/fleet", grant()), @r#"
    {
      "session_id": "session_123",
      "rdp_url": "rdp://[fd00::7]:3390",
      "rdp_port": 3390,
      "rdp_password": "hunter22",
      "rdp_password_expires_at": "2026-11-21T22:00:00Z",
      "display": ":7",
      "status": "running",
      "reason": null,
      "username": "zed",
      "host": "[fd00::7]",
      "proxy_url": "wss://h/fleet/api/v1/external-agents/session_123/rdp/proxy",
      "websocket_url": "wss://h/fleet/api/v1/external-agents/sync?session_id=session_123",
      "websocket_connected": false
    }
    "#);
}
