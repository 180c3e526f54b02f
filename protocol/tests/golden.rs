//! Wire JSON as it is, in `golden/`: whoever changes one of these changes what older peers, stored records and scripts read.

use std::collections::BTreeMap;

use helix_protocol::api::pools::PoolView;
use helix_protocol::api::status::{FleetStatus, StoreMember, StoreStatus};
use helix_protocol::api::threads::{SpecTaskContext, SpecTaskView};
use helix_protocol::api::{
    Endpoints, Link, Problem, RunnerList, RunnerView, SessionPage, SessionView, SyncStatus, Ticket,
};
use helix_protocol::assignment::DesiredSession;
use helix_protocol::event::{Event, FeedItem};
use helix_protocol::external_agents::{AgentHeartbeat, AgentResponse, Register, Task, TaskAgent};
use helix_protocol::link::{Dial, Message, Nudge, Reply, Request, Stream};
use helix_protocol::reap::RunnerLeftovers;
use helix_protocol::resources::{Bytes, Cpus, Limits, Pressure, Reserve, Resources, Usage};
use helix_protocol::runner::{Degradation, Degraded, Heartbeat, Liveness, RunnerFacts, RunnerImages, RunnerStatus};
use helix_protocol::session::{
    Cause, Desired, Display, Geometry, Project, SessionPhase, SessionResult, SessionSpec, TimelineStep,
};
use helix_protocol::thread::{
    Role, ThreadEvent, ThreadFeedItem, ThreadRecord, TokenUsage, ToolCall, TurnCause, TurnState,
};
use helix_protocol::{
    Epoch, ErrorCode, Generation, KindName, PoolName, RecordingId, RunnerId, SessionId, SpecTaskId, ThreadId, TurnId,
};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn runner() -> RunnerId {
    RunnerId::parse("r-1").expect("a valid id")
}

fn session() -> SessionId {
    SessionId::parse("session_123").expect("a valid id")
}

fn spec() -> SessionSpec {
    SessionSpec {
        project: Some(Project { git: "https://example.org/p.git".to_owned(), branch: Some("main".to_owned()) }),
        input: Some("make check".to_owned()),
        geometry: "1280x720".parse().ok(),
        ..SessionSpec::default()
    }
}

fn kind() -> KindName {
    KindName::parse("command").expect("a valid kind")
}

fn result() -> SessionResult {
    SessionResult {
        exit_status: 0,
        output_tail: "ok\n".to_owned(),
        output_truncated: false,
        finished_at: Timestamp::UNIX_EPOCH,
    }
}

const SIZE: Geometry = Geometry { width: 1280, height: 720 };

/// A session of which everything is known.
fn view() -> SessionView {
    let resources = Resources { cpu: Some(Cpus(1500)), memory: Some(Bytes(4 << 30)), ..Resources::default() };
    let step = |step: &str, duration_ms, detail: Option<&str>| TimelineStep {
        step: step.to_owned(),
        at: Timestamp::UNIX_EPOCH,
        duration_ms,
        detail: detail.map(str::to_owned),
    };
    SessionView {
        id: session(),
        owner: "admin".to_owned(),
        phase: SessionPhase::Ready,
        cause: Some(Cause::new("ended_late", "for people")),
        result: Some(result()),
        desired: Desired::Running,
        unclaimed: false,
        runner: Some(runner()),
        epoch: Epoch(2),
        retries: 1,
        generation: Generation(3),
        kind: Some(kind()),
        pool: None,
        labels: BTreeMap::from([("team".to_owned(), "web".to_owned())]),
        spec: SessionSpec { kind: Some(kind()), resources, ..spec() },
        queue_position: Some(1),
        display: Some(Display { number: 7, geometry: SIZE }),
        pid: Some(4711),
        workspace: Some("/w".to_owned()),
        limits: Some(Limits {
            resources,
            enforced: vec!["memory".to_owned()],
            missing: vec!["cpu: not delegated".to_owned()],
        }),
        usage: Some(Usage {
            memory_bytes: Some(1 << 20),
            cpu_usec: Some(5_000_000),
            cpu_milli: Some(250),
            tasks: Some(9),
            oom_kills: Some(0),
            pressure: Some(Pressure { cpu: 1, memory: 2, io: 3 }),
        }),
        frozen: false,
        sync: SyncStatus::default(),
        spec_task: None,
        recording: Some(RecordingId::of(&session(), Epoch(2))),
        endpoints: Endpoints {
            view: Some("https://helix.example.org/sessions/session_123/view".to_owned()),
            vnc: Some("wss://helix.example.org/api/v1/sessions/session_123/streams/vnc".to_owned()),
            rdp: None,
            direct_vnc: None,
            direct_page: None,
        },
        timeline: vec![step("accepted", None, None), step("display", Some(80), Some("Xtigervnc"))],
        created_at: Timestamp::UNIX_EPOCH,
        idle_since: None,
        expires_at: None,
    }
}

fn pool_view() -> PoolView {
    let spec = serde_json::from_str(
        r#"{"kind": "terminal", "min_ready": 3, "max": 5, "selector": {"site": "cellar"}, "placement": "pack",
            "recording": {"keep": "7d"}, "direct": false}"#,
    );
    PoolView {
        name: PoolName::parse("ci").expect("a valid name"),
        spec: spec.expect("a spec"),
        version: 2,
        ready: 1,
        starting: 0,
        pending: 1,
        claimed: 2,
        queued: 0,
        cause: Some(Cause::new("display_died", "for people")),
        retry_at: Some(Timestamp::UNIX_EPOCH),
        changed_by: "admin".to_owned(),
        changed_at: Timestamp::UNIX_EPOCH,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

/// The least that is known of a session: every key is there.
fn bare_view() -> SessionView {
    SessionView {
        phase: SessionPhase::Pending,
        cause: None,
        result: None,
        runner: None,
        kind: None,
        labels: BTreeMap::new(),
        spec: SessionSpec::default(),
        queue_position: None,
        display: None,
        pid: None,
        workspace: None,
        limits: None,
        usage: None,
        endpoints: Endpoints::default(),
        timeline: Vec::new(),
        ..view()
    }
}

fn runner_view() -> RunnerView {
    let reserve = Reserve { cpu: Some(Cpus(500)), memory: Some(Bytes(1 << 30)) };
    let facts = RunnerFacts {
        hostname: "box".to_owned(),
        version: "0.1.0".to_owned(),
        slots: 8,
        max_tasks: 0,
        kinds: vec![kind()],
        unavailable_kinds: BTreeMap::from([(KindName::parse("zed").expect("valid"), "no editor".to_owned())]),
        default_kind: kind(),
        default_geometry: SIZE,
        backend: "systemd".to_owned(),
        isolation: "own user".to_owned(),
        limits: "cgroup".to_owned(),
        enforced: vec!["memory".to_owned()],
        missing: Vec::new(),
        max_resources: Resources { tasks: Some(2048), ..Resources::default() },
        reservable: reserve,
        kind_reserve: BTreeMap::from([(kind(), reserve)]),
        no_rdp: None,
        no_images: None,
        image_keys: Vec::new(),
        arch: String::new(),
        memory_bytes: 16 << 30,
        cpus: 8,
        labels: BTreeMap::from([("site".to_owned(), "cellar".to_owned())]),
    };
    RunnerView {
        id: runner(),
        status: RunnerStatus::Available,
        liveness: Liveness::Online,
        cordoned: false,
        draining: false,
        active_tasks: 1,
        slots: 8,
        facts: Some(facts),
        labels: BTreeMap::from([("site".to_owned(), "attic".to_owned())]),
        rotating: false,
        token_since: Some(Timestamp::UNIX_EPOCH),
        enrolled_at: Timestamp::UNIX_EPOCH,
        registered_at: Some(Timestamp::UNIX_EPOCH),
        last_seen_at: Some(Timestamp::UNIX_EPOCH),
        leftovers: RunnerLeftovers::default(),
        images: RunnerImages::default(),
        degraded: vec![degraded()],
        unsteady_until: Some(Timestamp::UNIX_EPOCH),
    }
}

fn degraded() -> Degraded {
    Degraded { what: Degradation::Disk, detail: "1MiB are free on the disk of /w: make room".to_owned() }
}

macro_rules! golden {
    ($name:literal, $value:expr) => {
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false }, {
            insta::assert_json_snapshot!($name, $value);
        });
    };
}

/// What is written reads back the same.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T) -> T {
    let text = serde_json::to_string(&value).expect("serializable");
    assert_eq!(serde_json::from_str::<T>(&text).expect("readable"), value);
    value
}

#[test]
fn the_link() {
    let heartbeat = Heartbeat {
        active_tasks: 1,
        slots: 8,
        draining: false,
        usage: BTreeMap::default(),
        images: RunnerImages::default(),
        viewed: [session()].into(),
        leftovers: RunnerLeftovers::default(),
        degraded: vec![degraded()],
        at: Some(Timestamp::UNIX_EPOCH),
    };
    let request =
        Message { runner: runner(), body: Request::Heartbeat { heartbeat: Box::new(heartbeat), viewers: Vec::new() } };
    golden!("link_heartbeat", round_trip(request));
    let request = Message { runner: runner(), body: Request::Sync {} };
    golden!("link_sync", round_trip(request));
    let desired = DesiredSession {
        session: session(),
        epoch: Epoch(2),
        generation: Generation(1),
        desired: Desired::Running,
        spec: spec(),
        control: helix_protocol::control::Control::default(),
        grants: 0,
        deleted: false,
        work: helix_protocol::checkpoint::WorkOrder::default(),
        access: None,
    };
    let reply = Message {
        runner: runner(),
        body: Reply::DesiredSet { sessions: vec![desired], rotate: None, images: Vec::new() },
    };
    golden!("link_desired_set", round_trip(reply));
    let dial = Dial {
        url: "http://127.0.0.1:8080".to_owned(),
        ticket: "t".to_owned(),
        session: session(),
        stream: Stream::Vnc,
        viewer: None,
        lines: None,
        unit: None,
        follow: false,
    };
    let reply = Message { runner: runner(), body: Reply::Dials { dials: vec![dial] } };
    golden!("link_dials", round_trip(reply));
    let ack = Message { runner: runner(), body: Reply::ReportAck { session: session(), epoch: Epoch(2), report: 7 } };
    golden!("link_report_ack", round_trip(ack));
    let nudge = Message { runner: runner(), body: Nudge::Dial { server: "s1".to_owned() } };
    golden!("link_nudge_dial", round_trip(nudge));
}

#[test]
fn the_documents_subjects() {
    let register = Register {
        agent_id: "r-1".to_owned(),
        agent_type: "zed_external".to_owned(),
        capabilities: vec!["command".to_owned()],
        max_tasks: 8,
        reply_subject: helix_protocol::subject::reply_subject(&runner()),
        metadata: serde_json::json!({}),
    };
    golden!("documents_register", round_trip(register));
    let heartbeat = AgentHeartbeat { agent_id: "r-1".to_owned(), status: "available".to_owned(), active_tasks: 0 };
    golden!("documents_heartbeat", round_trip(heartbeat));
    let response = AgentResponse {
        agent_id: "r-1".to_owned(),
        session_id: "session_123".to_owned(),
        status: "completed".to_owned(),
        message: Some("ok\n".to_owned()),
        result: Some(result()),
    };
    golden!("documents_response", round_trip(response));
    let agent = TaskAgent {
        session_id: "session_123".to_owned(),
        user_id: "user_456".to_owned(),
        input: "Help me implement a new feature".to_owned(),
        env: None,
        work_dir: None,
        project_path: "my-project".to_owned(),
        instance_id: Some("spec_task_789".to_owned()),
        thread_id: None,
        rdp_port: None,
        rdp_user: "zed".to_owned(),
        rdp_password: None,
        kind: None,
    };
    golden!("documents_zed_task", round_trip(Task::ZedTask { agent: Box::new(agent), auth_token: None }));
    let stop = Task::StopTask { session_id: "session_123".to_owned() };
    golden!("documents_stop_task", round_trip(stop));
}

#[test]
fn what_clients_read() {
    let event = Event::Session {
        session: session(),
        runner: Some(runner()),
        phase: SessionPhase::Starting,
        step: Some("display".to_owned()),
        cause: None,
        result: None,
        at: Timestamp::UNIX_EPOCH,
    };
    golden!("feed_item", round_trip(FeedItem { sequence: 9, event }));
    let code = ErrorCode::SessionExists;
    let problem = Problem {
        kind: format!("urn:helix:problem:{code}"),
        title: code.title().to_owned(),
        status: code.status(),
        code,
        detail: "session session_123 exists with another body".to_owned(),
    };
    golden!("problem", round_trip(problem));
    golden!("session_spec", round_trip(spec()));
}

#[test]
fn what_clients_read_of_sessions_and_runners() {
    golden!("session_view", round_trip(view()));
    golden!("session_page", round_trip(SessionPage { sessions: vec![bare_view()], next_cursor: Some("c".to_owned()) }));
    golden!("session_page_last", round_trip(SessionPage { sessions: Vec::new(), next_cursor: None }));
    golden!("runner_view", round_trip(runner_view()));
    let unregistered = RunnerView { facts: None, registered_at: None, last_seen_at: None, ..runner_view() };
    golden!("runner_list", round_trip(RunnerList { runners: vec![unregistered.clone()] }));
    let status = FleetStatus {
        version: "0.1.0".to_owned(),
        server: "s1".to_owned(),
        runners: vec![unregistered],
        sessions: BTreeMap::from([("Ready".to_owned(), 2)]),
        pools: vec![pool_view()],
        store: Some(StoreStatus {
            nats: "2.15.1".to_owned(),
            bytes: 4096,
            limit_bytes: Some(1 << 30),
            full: false,
            members: vec![StoreMember { name: "n1".to_owned(), leader: true, online: true, current: true, lag: 0 }],
        }),
        scale: None,
        reaper: None,
    };
    golden!("fleet_status", round_trip(status));
}

#[test]
fn what_clients_read_of_conversations() {
    let turn = TurnId::parse("int_1").expect("a valid id");
    let thread = ThreadId::parse("thr_1").expect("a valid id");
    let item = |event| {
        let record = ThreadRecord { at: Timestamp::UNIX_EPOCH, event };
        ThreadFeedItem { sequence: 9, thread: thread.clone(), record }
    };
    let said = ThreadEvent::Entry {
        entry: "3".to_owned(),
        before: None,
        turn: Some(turn.clone()),
        role: Role::Assistant,
        tool: Some(ToolCall { name: "grep".to_owned(), status: "Completed".to_owned() }),
        offset: 5,
        text: "more".to_owned(),
    };
    golden!("thread_feed_entry", round_trip(item(said)));
    let moved = ThreadEvent::TurnMoved {
        turn: turn.clone(),
        state: TurnState::Failed,
        cause: Some(TurnCause::new("agent_error", "the agent said so")),
        usage: Some(TokenUsage::default()),
        exit_status: Some(1),
    };
    golden!("thread_feed_turn", round_trip(item(moved)));
    let context = SpecTaskContext {
        zed_context_id: thread,
        zed_thread_id: None,
        helix_interaction_id: Some(turn),
        work_session_id: session(),
    };
    let task = SpecTaskView {
        spec_task_id: SpecTaskId::parse("spec_123").expect("a valid id"),
        zed_instance_id: "zed_inst_456".to_owned(),
        helix_session_id: session(),
        contexts: vec![context],
    };
    golden!("spec_task", round_trip(task));
}

#[test]
fn what_opens_a_desktop() {
    let expires_at = Timestamp::UNIX_EPOCH;
    let url = "wss://helix.example.org/api/v1/sessions/session_123/streams/vnc?ticket=t".to_owned();
    let role = helix_protocol::control::Role::Control;
    golden!("ticket", round_trip(Ticket { ticket: "t".to_owned(), url, role, recorded: true, expires_at }));
    let url = "https://helix.example.org/sessions/session_123/view#token=t".to_owned();
    golden!("link", round_trip(Link { url, expires_at }));
}
