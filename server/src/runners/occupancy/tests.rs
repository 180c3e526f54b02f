use std::collections::BTreeMap;

use helix_protocol::assignment::Assignment;
use helix_protocol::control::Control;
use helix_protocol::grant::Grants;
use helix_protocol::record::Losses;
use helix_protocol::resources::{Bytes, Cpus};
use helix_protocol::runner::{Liveness, RunnerFacts};
use helix_protocol::session::{Desired, Geometry, SessionPhase, SessionSpec, Unclaimed};
use helix_protocol::{Epoch, Generation, SessionId, subject};
use jiff::Timestamp;

use super::*;
use crate::store::Versioned;

fn kind(name: &str) -> KindName {
    KindName::parse(name).expect("valid kind")
}

fn runner_id() -> RunnerId {
    RunnerId::parse("r").expect("valid id")
}

fn reserve(milli: u32, bytes: u64) -> Reserve {
    Reserve { cpu: Some(Cpus(milli)), memory: Some(Bytes(bytes)) }
}

fn runner() -> RunnerRecord {
    let facts = RunnerFacts {
        hostname: String::new(),
        version: "0".to_owned(),
        slots: 4,
        max_tasks: 0,
        kinds: vec![kind("terminal"), kind("command")],
        unavailable_kinds: BTreeMap::new(),
        default_kind: kind("terminal"),
        default_geometry: Geometry { width: 1920, height: 1080 },
        backend: "systemd".to_owned(),
        isolation: String::new(),
        limits: String::new(),
        enforced: Vec::new(),
        missing: Vec::new(),
        max_resources: helix_protocol::resources::Resources::default(),
        reservable: Reserve::default(),
        kind_reserve: BTreeMap::from([(kind("terminal"), reserve(100, 10)), (kind("command"), reserve(200, 20))]),
        no_rdp: None,
        no_images: None,
        image_keys: Vec::new(),
        arch: String::new(),
        memory_bytes: 0,
        cpus: 1,
        labels: BTreeMap::new(),
    };
    RunnerRecord {
        id: runner_id(),
        token_hash: String::new(),
        facts: Some(facts),
        cordoned: false,
        labels: BTreeMap::new(),
        rotation: None,
        token_since: None,
        liveness: Liveness::Online,
        enrolled_at: Timestamp::UNIX_EPOCH,
        registered_at: None,
        losses: Losses::default(),
    }
}

fn session(id: &str, kind: Option<KindName>, reserve: Reserve) -> SessionRecord {
    let assignment = Assignment { runner: runner_id(), epoch: Epoch(1), assigned_at: Timestamp::UNIX_EPOCH };
    SessionRecord {
        id: SessionId::parse(id).expect("valid id"),
        owner: "o".to_owned(),
        spec: SessionSpec { kind, reserve, ..SessionSpec::default() },
        pool: None,
        on_runner: None,
        labels: BTreeMap::new(),
        request_hash: String::new(),
        desired: Desired::Running,
        generation: Generation(1),
        epoch: Epoch(1),
        assignments: 1,
        warm: None,
        claimed_at: None,
        assignment: Some(assignment),
        control: Control::default(),
        control_expires_at: None,
        grants: Grants::default(),
        cause: None,
        created_at: Timestamp::UNIX_EPOCH,
        deleted: false,
        sealed_secrets: None,
        spec_task: None,
        desktop_of: None,
        continues: None,
        let_go: None,
        work: helix_protocol::checkpoint::WorkRecord::default(),
    }
}

fn seen(id: &str, phase: SessionPhase) -> ObservedSession {
    let spec = SessionSpec { reserve: reserve(7, 7), ..SessionSpec::default() };
    ObservedSession {
        session: SessionId::parse(id).expect("valid id"),
        runner: runner_id(),
        epoch: Epoch(1),
        generation: Generation(1),
        report: 1,
        phase,
        cause: None,
        result: None,
        timeline: Vec::new(),
        kind: kind("command"),
        display: None,
        pid: None,
        workspace: None,
        limits: None,
        control: 0,
        grants: 0,
        direct: None,
        frozen: false,
        forgotten: false,
        work: None,
        unclaimed: Some(Unclaimed { spec, received_at: Timestamp::UNIX_EPOCH }),
    }
}

#[test]
fn what_is_held_is_what_lives_there_with_its_own_reserve_or_that_of_its_kind() {
    let (mut sessions, mut observed, mut runners) = (Content::default(), Content::default(), Content::default());
    runners.apply("r", 1, Some(Versioned::new(runner(), 1)));
    let half = Reserve { cpu: Some(Cpus(1)), memory: None };
    for record in [
        session("default", None, Reserve::default()),
        session("command", Some(kind("command")), Reserve::default()),
        session("own", Some(kind("command")), reserve(1000, 1000)),
        session("half", None, half),
        session("ended", None, Reserve::default()),
        SessionRecord { assignment: None, ..session("waits", None, reserve(9999, 9999)) },
    ] {
        sessions.apply(record.id.clone().as_str(), 1, Some(Versioned::new(record, 1)));
    }
    for report in [
        seen("ended", SessionPhase::Stopped),
        seen("unclaimed", SessionPhase::Ready),
        seen("unclaimed-ended", SessionPhase::Failed),
    ] {
        let key = subject::runner_session_key(&runner_id(), &report.session);
        observed.apply(&key, 1, Some(Versioned::new(report, 1)));
    }
    let held = count(&sessions, &observed, &runners);
    let expected = Held { slots: 5, cpu_milli: 100 + 200 + 1000 + 1 + 7, memory_bytes: 10 + 20 + 1000 + 10 + 7 };
    assert_eq!(held, Occupancy::from([(runner_id(), expected)]));
}
