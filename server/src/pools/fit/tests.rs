use helix_protocol::control::Control;
use helix_protocol::grant::Grants;
use helix_protocol::pool::PoolSpec;
use helix_protocol::session::{Desired, Display, Geometry, SessionPhase, SessionSpec};
use helix_protocol::{Epoch, Generation, PoolName, RunnerId, SessionId};

use super::*;

fn kind(name: &str) -> KindName {
    KindName::parse(name).expect("valid")
}

fn asks(json: &str) -> CreateSession {
    serde_json::from_str(json).expect("a request")
}

/// Whether an agent of a pool of this spec, of kind `command` on a runner whose default that is, is what is asked for.
fn fit(pool: &str, asked: &str, named: bool, takes_prompts: bool) -> bool {
    let pool: PoolSpec = serde_json::from_str(pool).expect("a pool");
    let mut spec = SessionSpec::default();
    crate::sessions::inherit::spec(&mut spec, &mut true, &pool);
    let geometry = spec.geometry.unwrap_or(Geometry { width: 1280, height: 800 });
    let (id, runner) = (SessionId::parse("w").expect("valid"), RunnerId::parse("r1").expect("valid"));
    let record = SessionRecord {
        id: id.clone(),
        owner: "pool default".to_owned(),
        spec,
        pool: PoolName::parse("default").ok(),
        on_runner: None,
        labels: std::collections::BTreeMap::new(),
        request_hash: String::new(),
        desired: Desired::Running,
        generation: Generation(1),
        epoch: Epoch(1),
        assignments: 1,
        warm: Some(helix_protocol::pool::Warm { generation: 1, gave_way_to: None }),
        claimed_at: None,
        assignment: None,
        control: Control::default(),
        control_expires_at: None,
        grants: Grants::default(),
        cause: None,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        deleted: false,
        sealed_secrets: None,
        spec_task: None,
        desktop_of: None,
        continues: None,
        let_go: None,
        work: helix_protocol::checkpoint::WorkRecord::default(),
    };
    let seen = ObservedSession {
        session: id,
        runner,
        epoch: Epoch(1),
        generation: Generation(1),
        report: 1,
        phase: SessionPhase::Ready,
        cause: None,
        result: None,
        timeline: Vec::new(),
        kind: pool.kind.unwrap_or_else(|| kind("command")),
        display: Some(Display { number: 1, geometry }),
        pid: None,
        workspace: None,
        limits: None,
        control: 0,
        grants: 0,
        direct: None,
        frozen: false,
        forgotten: false,
        work: None,
        unclaimed: None,
    };
    let default_kind = kind("command");
    let agent = Agent { record: &record, seen: &seen, default_kind: Some(&default_kind), takes_prompts };
    fits(&asks(asked), named, false, agent)
}

#[test]
fn what_can_still_be_given_fits_and_what_cannot_does_not() {
    for (pool, asked, expected) in [
        ("{}", "{}", true),
        ("{}", r#"{"kind": "command", "geometry": "1280x800", "labels": {"a": "b"}, "runner": "r1"}"#, true),
        ("{}", r#"{"kind": "terminal"}"#, false),
        ("{}", r#"{"geometry": "800x600"}"#, false),
        ("{}", r#"{"runner": "r2"}"#, false),
        ("{}", r#"{"id": "mine"}"#, false),
        ("{}", r#"{"project": "https://example.org/x.git"}"#, false),
        ("{}", r#"{"project_path": "x"}"#, false),
        ("{}", r#"{"secrets": {"KEY": null}}"#, false),
        ("{}", r#"{"spec_task": "t"}"#, false),
        ("{}", r#"{"env": {"A": "1"}}"#, false),
        (r#"{"env": {"A": "1", "B": "2"}}"#, r#"{"env": {"A": "1"}}"#, true),
        (r#"{"env": {"A": "1"}}"#, r#"{"env": {"A": "2"}}"#, false),
        ("{}", r#"{"resources": {"memory": "1GiB"}}"#, false),
        (r#"{"resources": {"memory": "1GiB", "cpu": 1}}"#, r#"{"resources": {"memory": "1GiB"}}"#, true),
        ("{}", r#"{"reserve": {"cpu": 1}}"#, false),
        ("{}", r#"{"network": "none"}"#, false),
        ("{}", r#"{"network": "host"}"#, true),
        ("{}", r#"{"on_lost": "restart"}"#, false),
        ("{}", r#"{"display_server": "xvfb"}"#, false),
        ("{}", r#"{"display_server": "xtigervnc"}"#, true),
        ("{}", r#"{"recording": true}"#, false),
        ("{}", r#"{"recording": false}"#, true),
        (r#"{"recording": true}"#, r#"{"recording": true}"#, true),
        (r#"{"recording": true}"#, r#"{"recording": {"keep": "1d"}}"#, false),
    ] {
        assert_eq!(fit(pool, asked, true, true), expected, "{pool} {asked}");
    }
    assert!(fit("{}", r#"{"input": "make"}"#, true, true));
    assert!(!fit("{}", r#"{"input": "make"}"#, true, false), "it would never hear of it");
}

#[test]
fn who_names_no_pool_gets_what_a_session_always_was() {
    for (pool, named, unnamed) in [
        ("{}", true, true),
        (r#"{"kind": "terminal"}"#, true, false),
        (r#"{"network": "none"}"#, true, false),
        (r#"{"on_lost": "restart"}"#, true, false),
        (r#"{"recording": true}"#, true, false),
    ] {
        assert_eq!((fit(pool, "{}", true, true), fit(pool, "{}", false, true)), (named, unnamed), "{pool}");
    }
    assert!(fit(r#"{"kind": "terminal"}"#, r#"{"kind": "terminal"}"#, false, true));
}
