use helix_protocol::control::Control;
use helix_protocol::grant::Grants;
use helix_protocol::session::{Display, Geometry, Unclaimed};
use helix_protocol::{Epoch, Generation, KindName, RunnerId};
use jiff::Timestamp;

use super::*;

fn id() -> SessionId {
    SessionId::parse("s").expect("valid id")
}

fn runner() -> RunnerId {
    RunnerId::parse("r").expect("valid id")
}

fn record(assigned: Option<u64>, desired: Desired) -> SessionRecord {
    let assignment =
        assigned.map(|epoch| Assignment { runner: runner(), epoch: Epoch(epoch), assigned_at: Timestamp::UNIX_EPOCH });
    SessionRecord {
        id: id(),
        owner: "o".to_owned(),
        spec: SessionSpec::default(),
        pool: None,
        on_runner: None,
        labels: std::collections::BTreeMap::new(),
        request_hash: String::new(),
        desired,
        generation: Generation(1),
        epoch: Epoch(assigned.unwrap_or(0)),
        assignments: u32::from(assigned.is_some()),
        warm: None,
        claimed_at: None,
        assignment,
        control: Control::default(),
        control_expires_at: None,
        grants: Grants::default(),
        cause: Some(Cause::new("queued", "all slots taken")),
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

fn seen(epoch: u64, phase: SessionPhase) -> ObservedSession {
    ObservedSession {
        session: id(),
        runner: runner(),
        epoch: Epoch(epoch),
        generation: Generation(1),
        report: 1,
        phase,
        cause: None,
        result: None,
        timeline: Vec::new(),
        kind: KindName::parse("command").expect("valid kind"),
        display: Some(Display { number: 1, geometry: Geometry { width: 800, height: 600 } }),
        pid: Some(7),
        workspace: Some("/w".to_owned()),
        limits: None,
        control: 0,
        grants: 0,
        direct: None,
        frozen: false,
        forgotten: false,
        work: None,
        unclaimed: None,
    }
}

#[test]
fn the_phase_follows_from_what_was_asked_and_what_was_seen() {
    use Desired::{Running, Stopped as Stop};
    use SessionPhase::{Assigned, Failed, Lost, Pending, Ready, Starting, Stopped, Stopping};
    let (online, suspect, lost) = (Some(Liveness::Online), Some(Liveness::Suspect), Some(Liveness::Lost));
    // assigned epoch, desired, seen, liveness → phase
    let table = [
        (None, Running, None, None, Pending),
        (None, Stop, None, None, Stopped),
        (Some(1), Running, None, online, Assigned),
        (Some(1), Running, Some((1, Starting)), online, Starting),
        (Some(1), Running, Some((1, Ready)), suspect, Ready),
        (Some(1), Running, Some((1, Ready)), lost, Lost),
        (Some(1), Running, Some((1, Ready)), None, Lost),
        (Some(1), Running, Some((1, Stopped)), lost, Stopped),
        (Some(1), Running, Some((1, Failed)), online, Failed),
        (Some(1), Stop, Some((1, Ready)), online, Stopping),
        (Some(1), Stop, Some((1, Failed)), online, Failed),
        (Some(1), Stop, None, online, Stopping),
        (Some(1), Stop, Some((1, Ready)), lost, Lost),
        (Some(2), Running, Some((1, Stopped)), online, Assigned),
        (Some(2), Running, Some((3, Ready)), online, Ready),
    ];
    for (assigned, desired, report, liveness, expected) in table {
        let record = record(assigned, desired);
        let observed = report.map(|(epoch, phase)| seen(epoch, phase));
        let known =
            Known { id: &id(), record: Some(&record), observed: observed.as_ref(), liveness, usage: None, name: None };
        assert_eq!(known.phase(), expected, "{assigned:?} {desired:?} {report:?} {liveness:?}");
    }
}

#[test]
fn a_session_without_a_record_is_shown_from_its_report_alone() {
    let spec = SessionSpec { input: Some("true".to_owned()), ..SessionSpec::default() };
    let unclaimed = Some(Unclaimed { spec: spec.clone(), received_at: Timestamp::UNIX_EPOCH });
    let observed = ObservedSession { unclaimed, ..seen(3, SessionPhase::Ready) };
    let known = Known {
        id: &id(),
        record: None,
        observed: Some(&observed),
        liveness: Some(Liveness::Online),
        usage: None,
        name: None,
    };
    let view = known.view(None, "http://h");
    assert!(view.unclaimed && view.owner.is_empty());
    assert_eq!((view.phase, view.epoch, view.runner, view.spec), (SessionPhase::Ready, Epoch(3), Some(runner()), spec));
}

#[test]
fn addresses_are_shown_only_while_something_answers_there() {
    let record = record(Some(1), Desired::Running);
    let view = |phase, public_url| {
        let observed = seen(1, phase);
        let known = Known {
            id: &id(),
            record: Some(&record),
            observed: Some(&observed),
            liveness: Some(Liveness::Online),
            usage: None,
            name: None,
        };
        known.view(None, public_url)
    };
    let ready = view(SessionPhase::Ready, "https://h/x");
    assert_eq!(ready.endpoints.view.as_deref(), Some("https://h/x/sessions/s/view"));
    assert_eq!(ready.endpoints.vnc.as_deref(), Some("wss://h/x/api/v1/sessions/s/streams/vnc"));
    assert_eq!(view(SessionPhase::Starting, "http://h").endpoints, Endpoints::default());
    let ended = view(SessionPhase::Stopped, "http://h");
    assert_eq!((ended.display, ended.pid, ended.workspace.as_deref()), (None, None, Some("/w")));
}

#[test]
fn a_runners_ports_are_named_and_nothing_else_of_what_it_says() {
    let record = record(Some(1), Desired::Running);
    let endpoints = |host: &str| {
        let ports = DirectPorts { host: host.to_owned(), vnc: Some(5901), rdp: None, page: Some(6901) };
        let observed = ObservedSession { direct: Some(ports), ..seen(1, SessionPhase::Ready) };
        let known = Known {
            id: &id(),
            record: Some(&record),
            observed: Some(&observed),
            liveness: Some(Liveness::Online),
            usage: None,
            name: None,
        };
        known.view(None, "https://h").endpoints
    };
    let open = endpoints("fd00::7");
    assert_eq!(open.direct_vnc.as_deref(), Some("vnc://[fd00::7]:5901"));
    assert_eq!(open.direct_page.as_deref(), Some("http://[fd00::7]:6901/vnc.html"));
    assert_eq!(open.rdp, None);
    for bad in ["", "evil.example/x", "a b", "javascript:alert(1)//", "user@host"] {
        assert_eq!(endpoints(bad).direct_vnc, None, "{bad}");
    }
}

#[test]
fn usage_is_shown_while_the_session_lives_and_its_runner_is_heard() {
    use helix_protocol::resources::{Bytes, Limits, Resources, Usage};
    let usage = Some(Usage { memory_bytes: Some(7), ..Usage::default() });
    let resources = Resources { memory: Some(Bytes(1 << 30)), ..Resources::default() };
    let limits = Limits { resources, enforced: vec!["memory".to_owned()], missing: Vec::new() };
    let record = record(Some(1), Desired::Running);
    let view = |phase, liveness| {
        let observed = ObservedSession { limits: Some(limits.clone()), frozen: true, ..seen(1, phase) };
        Known { id: &id(), record: Some(&record), observed: Some(&observed), liveness, usage, name: None }
            .view(None, "http://h")
    };
    for phase in [SessionPhase::Starting, SessionPhase::Ready] {
        let live = view(phase, Some(Liveness::Online));
        assert_eq!((live.usage, live.limits, live.frozen), (usage, Some(limits.clone()), true));
    }
    for liveness in [Some(Liveness::Suspect), Some(Liveness::Lost), None] {
        let unheard = view(SessionPhase::Ready, liveness);
        assert_eq!((unheard.usage, unheard.frozen), (None, true), "{liveness:?}");
    }
    let ended = view(SessionPhase::Stopped, Some(Liveness::Online));
    assert_eq!((ended.usage, ended.frozen), (None, false));
}

#[test]
fn the_queue_reason_is_told_only_while_it_waits() {
    let cause = |assigned| {
        let record = record(assigned, Desired::Running);
        Known {
            id: &id(),
            record: Some(&record),
            observed: None,
            liveness: Some(Liveness::Online),
            usage: None,
            name: None,
        }
        .cause()
    };
    assert_eq!(cause(None).map(|cause| cause.code), Some("queued".to_owned()));
    assert_eq!(cause(Some(1)), None);
}

#[test]
fn an_ended_session_is_never_started_again() {
    let record = record(Some(1), Desired::Running);
    assert_eq!(desired_of(&record, false).map(|desired| desired.desired), Some(Desired::Running));
    assert_eq!(desired_of(&record, true).map(|desired| desired.desired), Some(Desired::Stopped));
}

#[test]
fn an_order_to_end_carries_neither_input_nor_environment() {
    let order = |desired, ended| {
        let mut record = record(Some(1), desired);
        record.spec.input = Some("x".repeat(50_000));
        record.spec.env.insert("KEY".to_owned(), "secret".to_owned());
        record.spec.project_path = Some("kept".to_owned());
        desired_of(&record, ended).expect("it is assigned").spec
    };
    let running = order(Desired::Running, false);
    assert!(running.input.is_some() && running.env.len() == 1);
    for ending in [order(Desired::Running, true), order(Desired::Stopped, false), order(Desired::Stopped, true)] {
        let kept = SessionSpec { project_path: Some("kept".to_owned()), ..SessionSpec::default() };
        assert_eq!(ending, kept);
    }
    let unclaimed = Some(Unclaimed { spec: running, received_at: Timestamp::UNIX_EPOCH });
    let deleted = desired_of_deleted(&ObservedSession { unclaimed, ..seen(1, SessionPhase::Stopped) }, false).spec;
    assert!(deleted.input.is_none() && deleted.env.is_empty());
}

#[test]
fn values_of_the_environment_are_for_who_may_change_the_session() {
    use helix_protocol::record::Scope;
    let mut record = record(None, Desired::Running);
    record.spec.env.insert("KEY".to_owned(), "secret".to_owned());
    let shown = |name: &str, scope| {
        let by = Principal { name: name.to_owned(), scope, token_hash: String::new() };
        let known = Known { id: &id(), record: Some(&record), observed: None, liveness: None, usage: None, name: None };
        shown_to(&by, known.view(None, "https://h")).spec.env["KEY"].clone()
    };
    assert_eq!(shown("a", Scope::Admin), "secret");
    assert_eq!(shown("o", Scope::User), "secret");
    for scope in [Scope::Viewer, Scope::Session(id()), Scope::Desktop(id())] {
        assert_eq!(shown("o", scope), "");
    }
}
