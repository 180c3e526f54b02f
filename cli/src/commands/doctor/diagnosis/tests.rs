use super::*;
use crate::provision::check::tests::good;
use crate::provision::facts::Unit;
use crate::provision::symptoms::Symptoms;

/// A runner that is well.
fn well() -> Facts {
    let unit = Unit {
        loaded: true,
        enabled: true,
        active: "active".to_owned(),
        status: "registered; 0 sessions".to_owned(),
        ..Unit::default()
    };
    let symptoms = Symptoms {
        ntp: Some(true),
        clock_step: Some(0),
        user_namespaces: Some(15_000),
        files_max: Some(1_000_000),
        descriptors: Some(65_536),
        lavapipe: Some("/usr/share/vulkan/icd.d/lvp_icd.json".to_owned()),
        mesa: Some("25.0.7".to_owned()),
        ..Symptoms::default()
    };
    Facts { unit, symptoms, ..good() }
}

fn of(facts: &Facts, server: &ServerSide) -> Vec<Check> {
    let all = diagnose("box", facts, Standard { now: 1000, ..Standard::default() }, server);
    all.into_iter().filter(|check| check.state != crate::checks::State::Ok).collect()
}

#[test]
fn a_runner_that_is_well_has_lines_and_no_fault() {
    let all = diagnose("box", &well(), Standard { now: 1000, ..Standard::default() }, &ServerSide::default());
    assert!(all.iter().all(|check| check.state == crate::checks::State::Ok), "{all:?}");
    assert!(all.len() > 12, "{all:?}");
}

#[test]
fn each_fault_of_a_runner_is_found_with_its_fix() {
    type Spoil = fn(&mut Facts);
    let faults: [(&str, Spoil, &str); 21] = [
        ("packages", |facts| facts.missing_packages.push("xrdp".to_owned()), "half installed: xrdp"),
        ("apt", |facts| facts.symptoms.apt_lock = Some("apt-get (process 7)".to_owned()), "held by apt-get"),
        ("clock", |facts| facts.symptoms.clock_step = Some(-3600), "set back by 3600 s"),
        ("clock", |facts| facts.symptoms.ntp = Some(false), "nobody keeps its clock"),
        ("agentd", |facts| facts.pending = Some("17-ab".to_owned()), "neither confirmed nor undone"),
        ("agentd", |facts| facts.unit = Unit::default(), "it is no runner"),
        (
            "agentd",
            |facts| {
                facts.unit.active = "activating".to_owned();
                facts.unit.result = "exit-code".to_owned();
                facts.unit.restarts = 9;
                facts.symptoms.sick.push("agentd.service activating no such file".to_owned());
            },
            "activating (exit-code), started again 9 times: no such file",
        ),
        ("agentd", |facts| facts.unit.enabled = false, "not started when"),
        ("agentd", |facts| facts.unit.status = "0 sessions; no server: connection refused".to_owned(), "no link"),
        (
            "token",
            |facts| facts.unit.status = "0 sessions; no server: authorization violation".to_owned(),
            "revoked or expired",
        ),
        ("token", |facts| facts.enrolled = Some("r1".to_owned()), "the server knows no runner r1"),
        ("services", |facts| facts.symptoms.sick.push("helix-server.service failed is version 2.9".to_owned()), "2.9"),
        ("nats", |facts| facts.symptoms.nats_version = Some("2.10.29".to_owned()), "2.11 or newer"),
        ("nats", |facts| facts.symptoms.nats_full = Some("helix-nats".to_owned()), "its disk was full"),
        (
            "zed-binary",
            |facts| {
                facts.symptoms.zed = Some("/opt/zed".to_owned());
                facts.symptoms.zed_missing = true;
            },
            "/opt/zed is named",
        ),
        ("vulkan", |facts| facts.symptoms.lavapipe = None, "no Vulkan driver"),
        ("vulkan", |facts| facts.symptoms.mesa = Some("22.3.6".to_owned()), "stay black with less than 25"),
        ("user-namespaces", |facts| facts.symptoms.user_namespaces = Some(0), "max_user_namespaces=0"),
        (
            "user-namespaces",
            |facts| facts.symptoms.userns_restricted = Some("kernel.apparmor_restrict_unprivileged_userns=0"),
            "kept from users",
        ),
        ("descriptors", |facts| facts.symptoms.descriptors = Some(256), "may open 256 files"),
        ("leftovers", |facts| facts.symptoms.leftovers.push("unit helix-s1.slice".to_owned()), "helix-s1.slice"),
    ];
    for (name, spoil, words) in faults {
        let mut facts = well();
        spoil(&mut facts);
        let found = of(&facts, &ServerSide::default());
        assert!(
            found.len() == 1 && found[0].name == name && found[0].found.contains(words),
            "{name} {words}: {found:?}"
        );
        assert!(found[0].next.as_ref().is_some_and(|next| !next.is_empty()), "{found:?}");
    }
    // With the editor there, a driver that does not draw for it is a fault.
    let symptoms = Symptoms { mesa: Some("22.3.6".to_owned()), zed: Some("/opt/zed".to_owned()), ..well().symptoms };
    assert!(of(&Facts { symptoms, ..well() }, &ServerSide::default())[0].is_fault());
}

#[test]
fn a_store_that_is_full_and_a_server_that_does_not_answer_are_told() {
    let store = |bytes, full| ServerSide {
        store: Some(StoreStatus {
            nats: "2.15.1".to_owned(),
            bytes,
            limit_bytes: Some(100),
            full,
            members: Vec::new(),
        }),
        ..ServerSide::default()
    };
    assert!(of(&well(), &store(10, true))[0].found.contains("refuses to store"));
    assert!(of(&well(), &store(95, false))[0].found.contains("95 % full"));
    assert_eq!(of(&well(), &store(10, false)), []);
    let silent = ServerSide { silent: Some("no token".to_owned()), ..ServerSide::default() };
    assert!(of(&well(), &silent)[0].found.contains("not asked about it: no token"));
}
