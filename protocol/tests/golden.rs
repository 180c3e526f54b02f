//! Wire JSON as it is, in `golden/`: whoever changes one of these changes what older peers, stored records and scripts read.

use std::collections::BTreeMap;

use helix_protocol::api::Problem;
use helix_protocol::assignment::DesiredSession;
use helix_protocol::event::{Event, FeedItem};
use helix_protocol::external_agents::{AgentHeartbeat, AgentResponse, Register, Task};
use helix_protocol::link::{Dial, Message, Nudge, Reply, Request, Stream};
use helix_protocol::runner::Heartbeat;
use helix_protocol::session::{Desired, Project, SessionPhase, SessionResult, SessionSpec};
use helix_protocol::{Epoch, ErrorCode, Generation, RunnerId, SessionId};
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
    let heartbeat = Heartbeat { active_tasks: 1, slots: 8, draining: false, usage: BTreeMap::default() };
    let request = Message { runner: runner(), body: Request::Heartbeat { heartbeat } };
    golden!("link_heartbeat", round_trip(request));
    let request = Message { runner: runner(), body: Request::Sync {} };
    golden!("link_sync", round_trip(request));
    let desired = DesiredSession {
        session: session(),
        epoch: Epoch(2),
        generation: Generation(1),
        desired: Desired::Running,
        spec: spec(),
        deleted: false,
    };
    let reply = Message { runner: runner(), body: Reply::DesiredSet { sessions: vec![desired] } };
    golden!("link_desired_set", round_trip(reply));
    let dial = Dial {
        url: "http://127.0.0.1:8080".to_owned(),
        ticket: "t".to_owned(),
        session: session(),
        stream: Stream::Vnc,
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
        result: Some(SessionResult {
            exit_status: 0,
            output_tail: "ok\n".to_owned(),
            output_truncated: false,
            finished_at: Timestamp::UNIX_EPOCH,
        }),
    };
    golden!("documents_response", round_trip(response));
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
