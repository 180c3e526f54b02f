use std::collections::BTreeMap;

use helix_protocol::session::Geometry;

use super::*;

fn kind(name: &str) -> KindName {
    KindName::parse(name).expect("valid kind")
}

fn runner(id: &str, used: u32, slots: u32) -> Candidate {
    let facts = RunnerFacts {
        hostname: id.to_owned(),
        version: "0".to_owned(),
        slots,
        max_tasks: 0,
        kinds: vec![kind("command"), kind("terminal")],
        unavailable_kinds: BTreeMap::from([(kind("zed"), "no Zed binary".to_owned())]),
        default_kind: kind("command"),
        default_geometry: Geometry { width: 1920, height: 1080 },
        backend: "process".to_owned(),
        isolation: String::new(),
        limits: String::new(),
        memory_bytes: 0,
        cpus: 1,
        labels: BTreeMap::from([("pool".to_owned(), "ci".to_owned())]),
    };
    let id = RunnerId::parse(id).expect("valid id");
    let facts = Some(Arc::new(facts));
    Candidate { id, liveness: Liveness::Online, cordoned: false, draining: false, slots, used, facts }
}

const ANY: Ask<'static> = Ask { kind: None, pool: None };

fn chosen(runners: &[Candidate], ask: Ask<'_>) -> String {
    match place(runners, ask) {
        Ok(index) => runners[index].id.to_string(),
        Err(Refusal(reason)) => reason,
    }
}

#[test]
fn the_emptiest_runner_takes_it_and_ids_break_ties() {
    assert_eq!(chosen(&[runner("b", 0, 2), runner("a", 0, 2)], ANY), "a");
    assert_eq!(chosen(&[runner("a", 1, 2), runner("b", 0, 2)], ANY), "b");
    assert_eq!(chosen(&[runner("a", 1, 2), runner("b", 4, 10)], ANY), "b");
    assert_eq!(chosen(&[runner("a", 0, 1), runner("b", 0, 10)], ANY), "b");
}

#[test]
fn a_refusal_says_why_and_names_each_runner() {
    assert_eq!(chosen(&[], ANY), "no runner is enrolled");
    let full = [runner("a", 2, 2), runner("b", 8, 8)];
    assert_eq!(chosen(&full, ANY), "all slots taken (a has 2 of 2 slots taken; b has 8 of 8 slots taken)");
    let mut silent = runner("a", 0, 2);
    silent.liveness = Liveness::Suspect;
    let mut cordoned = runner("b", 0, 2);
    cordoned.cordoned = true;
    let mut draining = runner("c", 0, 2);
    draining.draining = true;
    let mut new = runner("d", 0, 0);
    new.facts = None;
    assert_eq!(
        chosen(&[silent, cordoned, draining, new], ANY),
        "no runner takes sessions now (a is not heard; b is cordoned; c is draining; d has not registered)"
    );
}

#[test]
fn a_kind_or_pool_that_nobody_has_is_said_so() {
    let fleet = [runner("a", 0, 2)];
    let zed = kind("zed");
    let ask = Ask { kind: Some(&zed), pool: None };
    assert_eq!(chosen(&fleet, ask), "no runner offers kind zed (a cannot run the kind: no Zed binary)");
    let other = kind("browser");
    let ask = Ask { kind: Some(&other), pool: None };
    assert_eq!(chosen(&fleet, ask), "no runner offers kind browser (a does not know the kind)");
    let (ci, gpu) = (PoolName::parse("ci").expect("valid"), PoolName::parse("gpu").expect("valid"));
    assert_eq!(chosen(&fleet, Ask { kind: None, pool: Some(&ci) }), "a");
    assert_eq!(
        chosen(&fleet, Ask { kind: None, pool: Some(&gpu) }),
        "no runner of pool gpu can take it (a is not in the pool)"
    );
}

#[test]
fn a_large_fleet_is_not_named_whole() {
    let fleet: Vec<_> = (0..20).map(|number| runner(&format!("r{number:02}"), 1, 1)).collect();
    let reason = chosen(&fleet, ANY);
    assert!(reason.ends_with("r05 has 1 of 1 slots taken; 14 more)"), "{reason}");
}

proptest::proptest! {
    #[test]
    fn whoever_is_chosen_has_a_free_slot(loads in proptest::collection::vec((0_u32..5, 0_u32..5), 0..12)) {
        let fleet: Vec<_> =
            loads.iter().enumerate().map(|(index, (used, slots))| runner(&format!("r{index}"), *used, *slots)).collect();
        match place(&fleet, ANY) {
            Ok(index) => proptest::prop_assert!(fleet[index].used < fleet[index].slots),
            Err(_) => proptest::prop_assert!(fleet.iter().all(|candidate| candidate.used >= candidate.slots)),
        }
    }
}
