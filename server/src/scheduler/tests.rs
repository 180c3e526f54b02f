use std::collections::BTreeMap;

use helix_protocol::pool::Placement;
use helix_protocol::session::Geometry;

use super::*;

mod sim;

fn kind(name: &str) -> KindName {
    KindName::parse(name).expect("valid kind")
}

pub(super) fn runner(id: &str, used: u32, slots: u32) -> Candidate {
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
        enforced: Vec::new(),
        missing: Vec::new(),
        max_resources: Resources::default(),
        reservable: Reserve::default(),
        kind_reserve: BTreeMap::new(),
        no_rdp: None,
        no_images: None,
        image_keys: Vec::new(),
        arch: "amd64".to_owned(),
        memory_bytes: 0,
        cpus: 1,
        labels: BTreeMap::from([("pool".to_owned(), "ci".to_owned())]),
    };
    let id = RunnerId::parse(id).expect("valid id");
    let facts = Some(Arc::new(facts));
    let held = Held { slots: used, ..Held::default() };
    Candidate {
        id,
        liveness: Liveness::Online,
        cordoned: false,
        draining: false,
        degraded: None,
        unsteady: false,
        slots,
        held,
        images: Vec::new(),
        facts,
    }
}

pub(super) const ANY: Ask<'static> = Ask {
    left: None,
    kind: None,
    pool: None,
    selector: None,
    placement: Placement::Spread,
    runner: None,
    image: None,
    resources: Resources { cpu: None, memory: None, memory_high: None, tasks: None, io_weight: None },
    reserve: Reserve { cpu: None, memory: None },
};

/// The same runner with other facts.
pub(super) fn with(mut candidate: Candidate, change: impl FnOnce(&mut RunnerFacts)) -> Candidate {
    change(Arc::make_mut(candidate.facts.as_mut().expect("registered")));
    candidate
}

/// 4 GiB and 2 processors to give away, of which `gib` and `cpus` are taken by one session.
fn reservable(id: &str, gib: u64, cpus: u64) -> Candidate {
    let mut candidate = with(runner(id, 1, 9), |facts| {
        facts.reservable = reserve(4, 2);
    });
    candidate.held = Held { slots: 1, cpu_milli: cpus * 1000, memory_bytes: gib << 30 };
    candidate
}

pub(super) fn reserve(gib: u64, cpus: u32) -> Reserve {
    Reserve { cpu: Some(Cpus(cpus * 1000)), memory: Some(Bytes(gib << 30)) }
}

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
    let mut full_disk = runner("e", 0, 2);
    full_disk.degraded = Some("disk, memory".to_owned());
    assert_eq!(
        chosen(&[silent, cordoned, draining, new, full_disk], ANY),
        "no runner takes sessions now (a is not heard; b is cordoned; c is draining; d has not registered; \
         e is degraded: disk, memory; helixctl runner show says more)"
    );
}

#[test]
fn one_that_was_lost_again_and_again_is_taken_last() {
    let mut unsteady = runner("a", 0, 8);
    unsteady.unsteady = true;
    assert_eq!(chosen(&[unsteady.clone(), runner("b", 7, 8)], ANY), "b");
    assert_eq!(chosen(&[unsteady, runner("b", 8, 8)], ANY), "a", "better there than not at all");
}

#[test]
fn a_kind_or_pool_that_nobody_has_is_said_so() {
    let fleet = [runner("a", 0, 2)];
    let zed = kind("zed");
    let ask = Ask { kind: Some(&zed), ..ANY };
    assert_eq!(chosen(&fleet, ask), "no runner offers kind zed (a cannot run the kind: no Zed binary)");
    let other = kind("browser");
    let ask = Ask { kind: Some(&other), ..ANY };
    assert_eq!(chosen(&fleet, ask), "no runner offers kind browser (a does not know the kind)");
    let (ci, gpu) = (PoolName::parse("ci").expect("valid"), PoolName::parse("gpu").expect("valid"));
    assert_eq!(chosen(&fleet, Ask { pool: Some(&ci), ..ANY }), "a");
    assert_eq!(
        chosen(&fleet, Ask { pool: Some(&gpu), ..ANY }),
        "no runner of pool gpu can take it (a is not in the pool)"
    );
}

#[test]
fn a_named_runner_alone_takes_it() {
    let fleet = [runner("a", 0, 2), runner("b", 1, 2), runner("c", 2, 2)];
    let named = |id: &str| RunnerId::parse(id).expect("valid");
    let (b, c, none) = (named("b"), named("c"), named("none"));
    assert_eq!(chosen(&fleet, Ask { runner: Some(&b), ..ANY }), "b");
    // What the others would have to say is beside the point.
    assert_eq!(chosen(&fleet, Ask { runner: Some(&c), ..ANY }), "all slots taken (c has 2 of 2 slots taken)");
    assert_eq!(chosen(&fleet, Ask { runner: Some(&none), ..ANY }), "there is no runner none");
}

#[test]
fn a_large_fleet_is_not_named_whole() {
    let fleet: Vec<_> = (0..20).map(|number| runner(&format!("r{number:02}"), 1, 1)).collect();
    let reason = chosen(&fleet, ANY);
    assert!(reason.ends_with("r05 has 1 of 1 slots taken; 14 more)"), "{reason}");
}

#[test]
fn what_is_reserved_must_be_free() {
    let ask = |gib, cpus| Ask { reserve: reserve(gib, cpus), ..ANY };
    assert_eq!(chosen(&[reservable("a", 3, 0)], ask(1, 1)), "a");
    assert_eq!(
        chosen(&[reservable("a", 3, 0)], ask(2, 1)),
        "not enough memory free to reserve (a has 1GiB of 4GiB memory free to reserve, 2GiB is needed)"
    );
    assert_eq!(
        chosen(&[reservable("a", 0, 1)], ask(1, 2)),
        "not enough processors free to reserve (a has 1 of 2 cpu free to reserve, 2 is needed)"
    );
    // Fuller by slots, but with room.
    let mut roomy = reservable("b", 2, 0);
    roomy.held.slots = 7;
    assert_eq!(chosen(&[reservable("a", 3, 0), roomy.clone()], ask(2, 1)), "b");
    // Who reserves nothing finds room anywhere, and who counts nothing gives it to anybody.
    assert_eq!(chosen(&[reservable("a", 4, 2)], ANY), "a");
    let uncounted = with(reservable("a", 400, 200), |facts| facts.reservable = Reserve::default());
    assert_eq!(chosen(&[uncounted], ask(100, 100)), "a");
    // More is held than there is: the runner was given less since.
    assert!(chosen(&[reservable("a", 9, 0)], ask(1, 1)).contains("a has 0B of 4GiB"));
    // Slots and memory are short in different places: neither alone is the reason.
    roomy.held.slots = 9;
    assert_eq!(
        chosen(&[reservable("a", 3, 0), roomy], ask(2, 1)),
        "no runner has enough free (a has 1GiB of 4GiB memory free to reserve, 2GiB is needed; b has 9 of 9 slots \
         taken)"
    );
}

#[test]
fn the_runners_word_for_the_kind_counts_where_the_session_says_nothing() {
    let two = |facts: &mut RunnerFacts| {
        facts.kind_reserve = BTreeMap::from([(kind("command"), reserve(2, 1))]);
    };
    let fleet = [with(reservable("a", 3, 0), two)];
    assert!(chosen(&fleet, ANY).starts_with("not enough memory free"), "the default kind's");
    let (command, terminal) = (kind("command"), kind("terminal"));
    assert!(chosen(&fleet, Ask { kind: Some(&command), ..ANY }).starts_with("not enough memory free"));
    assert_eq!(chosen(&fleet, Ask { kind: Some(&terminal), ..ANY }), "a");
    let own = Reserve { memory: Some(Bytes(1 << 30)), cpu: None };
    assert_eq!(chosen(&fleet, Ask { reserve: own, ..ANY }), "a");
    let facts = fleet[0].facts.as_deref().expect("registered");
    let half = Reserve { cpu: Some(Cpus(1000)), memory: Some(Bytes(1 << 30)) };
    assert_eq!(reserve_on(facts, None, own), half, "what it leaves open is the kind's");
}

#[test]
fn what_no_runner_ever_gives_is_not_waited_for() {
    // Also where it is silent or full: waiting for it would not help.
    let mut silent = reservable("a", 0, 0);
    silent.liveness = Liveness::Suspect;
    assert_eq!(
        chosen(&[silent], Ask { reserve: reserve(8, 1), ..ANY }),
        "no runner can give it that much (a has 4GiB of 4GiB memory free to reserve, 8GiB is needed: reserve less)"
    );
    assert_eq!(
        chosen(&[reservable("a", 0, 2)], Ask { reserve: reserve(1, 3), ..ANY }),
        "no runner can give it that much (a has 0 of 2 cpu free to reserve, 3 is needed: reserve less)"
    );
    let most = Resources { memory: Some(Bytes(4 << 30)), ..Resources::default() };
    let small = with(runner("a", 2, 2), |facts| facts.max_resources = most);
    let resources = Resources { memory: Some(Bytes(8 << 30)), ..Resources::default() };
    let ask = Ask { resources, ..ANY };
    assert_eq!(
        chosen(std::slice::from_ref(&small), ask),
        "no runner can give it that much (a gives a session at most memory 4GiB, 8GiB is asked: ask for less, or \
         raise its maximum)"
    );
    assert!(chosen(&[small.clone(), runner("b", 1, 1)], ask).starts_with("all slots taken ("));
    assert_eq!(chosen(&[small.clone(), runner("b", 0, 1)], ask), "b");
    assert_eq!(
        chosen(&[with(small, |_| {})], Ask { resources: most, ..ANY }),
        "all slots taken (a has 2 of 2 slots taken)"
    );
}

#[test]
fn only_what_can_become_free_is_passing() {
    let memory = |needed| Unfit::Memory { needed: Bytes(needed), free: Bytes(0), total: Bytes(4) };
    let cpu = |needed| Unfit::Cpu { needed: Cpus(needed), free: Cpus(0), total: Cpus(4) };
    assert!(memory(4).is_passing() && !memory(5).is_passing());
    assert!(cpu(4).is_passing() && !cpu(5).is_passing());
    let above = Unfit::AboveMaximum { name: "cpu", asked: "2".to_owned(), most: "1".to_owned() };
    assert!(!above.is_passing() && above.is_too_much());
    assert!(!memory(4).is_too_much() && cpu(5).is_too_much());
}

proptest::proptest! {
    #[test]
    fn whoever_is_chosen_has_a_free_slot(loads in proptest::collection::vec((0_u32..5, 0_u32..5), 0..12)) {
        let fleet: Vec<_> =
            loads.iter().enumerate().map(|(index, (used, slots))| runner(&format!("r{index}"), *used, *slots)).collect();
        match place(&fleet, ANY) {
            Ok(index) => proptest::prop_assert!(fleet[index].held.slots < fleet[index].slots),
            Err(_) => proptest::prop_assert!(fleet.iter().all(|candidate| candidate.held.slots >= candidate.slots)),
        }
    }
}

#[test]
fn an_image_needs_a_runner_that_runs_it_and_one_that_has_it_is_better() {
    let digest = Digest::of(b"an image");
    let image = |arch| Ask { image: Some(ImageAsk { digest, arch: Some(arch) }), ..ANY };
    let fleet = [runner("a", 0, 4), Candidate { images: vec![digest], ..runner("b", 3, 4) }];
    assert_eq!(chosen(&fleet, ANY), "a");
    assert_eq!(chosen(&fleet, image("amd64")), "b");
    assert_eq!(
        chosen(&fleet[..1], image("arm64")),
        "no runner can run it in its image (a is of architecture amd64, and the image is for arm64)"
    );
    let no_images = with(runner("c", 0, 4), |facts| facts.no_images = Some("it is a laptop".to_owned()));
    let old = with(runner("d", 0, 4), |facts| facts.arch.clear());
    assert_eq!(
        chosen(&[no_images, old], image("amd64")),
        "no runner can run it in its image (c runs no session in an image: it is a laptop; d runs no session in an image: \
         its agentd is too old for images; upgrade it)"
    );
    // What the machine lacks for a kind may be in the image.
    let zed = kind("zed");
    assert_eq!(chosen(&fleet, Ask { kind: Some(&zed), ..image("amd64") }), "b");
}

#[test]
fn a_pool_selects_its_runners_by_label_and_spreads_or_packs_its_agents() {
    let fleet = [runner("a", 1, 4), runner("b", 3, 4), runner("c", 2, 4)];
    let mut fleet: Vec<_> = fleet.into_iter().collect();
    for (index, labels) in [(0, vec![("pool", "ci")]), (1, vec![("site", "x")]), (2, vec![])] {
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let facts = fleet[index].facts.as_deref().cloned().expect("facts");
        fleet[index].facts = Some(Arc::new(RunnerFacts { labels, ..facts }));
    }
    let [web, ci] = ["web", "ci"].map(|name| PoolName::parse(name).expect("valid"));
    let (any, site) = (BTreeMap::new(), BTreeMap::from([("site".to_owned(), "x".to_owned())]));
    let nowhere = BTreeMap::from([("site".to_owned(), "y".to_owned())]);
    let ask = |pool, selector, placement| Ask { pool: Some(pool), selector: Some(selector), placement, ..ANY };
    // What is labelled for another pool is left alone.
    assert_eq!(chosen(&fleet, ask(&web, &any, Placement::Spread)), "c");
    assert_eq!(chosen(&fleet, ask(&web, &any, Placement::Pack)), "b");
    assert_eq!(chosen(&fleet, ask(&ci, &any, Placement::Spread)), "a");
    assert_eq!(chosen(&fleet, ask(&web, &site, Placement::Spread)), "b");
    assert_eq!(
        chosen(&fleet, ask(&web, &nowhere, Placement::Spread)),
        "no runner of pool web can take it (a is not in the pool; b has not the label site=y; c has not the label site=y)"
    );
}
