use proptest::prelude::*;

use super::*;

fn member(number: usize, standing: Standing) -> Member {
    let cause = (standing == Standing::Failed).then(|| Cause::new("display_died", "it died"));
    let id = SessionId::parse(format!("m{number:03}")).expect("valid id");
    Member { id, standing, is_current: true, cause, gave_way_to: None }
}

fn members(standings: &[Standing]) -> Vec<Member> {
    standings.iter().enumerate().map(|(number, standing)| member(number, standing.clone())).collect()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn decide(min_ready: u32, max: Option<u32>, taken: u32, members: &[Member]) -> (Vec<&str>, usize) {
    let plan = plan(Snapshot { min_ready, max, members, taken, trouble: None, gave_way_to: None, now: at(100) });
    let name = |id: &SessionId| members.iter().find(|member| member.id == *id).expect("one of them").id.as_str();
    (plan.keep.iter().map(name).collect(), plan.make)
}

/// What it is about; `min_ready`, `max`, taken, members; who is kept, and how many are made.
type Case<'a> = (&'a str, u32, Option<u32>, u32, &'a [Member], &'a [&'a str], usize);

#[test]
fn as_many_as_shall_be_ready_are_there() {
    use Standing::{Absent, Pending, Ready, Starting, Steady, Stranded, Taken};
    let all = members(&[Absent, Pending, Starting, Ready, Steady]);
    let (one_taken, one_stranded) = (members(&[Taken, Ready]), members(&[Stranded, Ready]));
    let cases: [Case<'_>; 9] = [
        ("an empty pool is filled", 3, None, 0, &[], &[], 3),
        ("a full one stays", 5, None, 0, &all, &["m004", "m003", "m002", "m001", "m000"], 0),
        ("the least ready go first", 2, None, 0, &all, &["m004", "m003"], 0),
        ("nothing shall be ready", 0, None, 7, &all, &[], 0),
        ("who has one leaves less room", 5, Some(4), 2, &all, &["m004", "m003"], 0),
        ("who waits at the limit gets the room", 2, Some(2), 2, &all, &[], 0),
        ("more than may be are there already", 2, Some(2), 9, &all, &[], 0),
        ("what somebody took is made again", 2, None, 1, &one_taken, &["m001"], 1),
        ("so is what nobody can reach", 2, Some(2), 0, &one_stranded, &["m001"], 1),
    ];
    for (what, min_ready, max, taken, members, keep, make) in cases {
        assert_eq!(decide(min_ready, max, taken, members), (keep.to_vec(), make), "{what}");
    }
}

#[test]
fn an_agent_whose_time_is_up_goes_once_another_is_ready_in_its_place() {
    use Standing::{Absent, Crowded, Outlived, Ready, Starting};
    let both = members(&[Outlived, Outlived]);
    let (begun, half) =
        (members(&[Outlived, Outlived, Absent, Starting]), members(&[Outlived, Outlived, Ready, Starting]));
    let (done, crowded) =
        (members(&[Outlived, Outlived, Ready, Ready]), members(&[Outlived, Outlived, Crowded, Crowded]));
    let cases: [Case<'_>; 8] = [
        ("others are made first", 2, None, 0, &both, &["m000", "m001"], 2),
        ("until they are ready", 2, None, 0, &begun, &["m003", "m002", "m000", "m001"], 0),
        ("one for one", 2, None, 0, &half, &["m002", "m003", "m000"], 0),
        ("then they go", 2, None, 0, &done, &["m002", "m003"], 0),
        ("nobody waits for the room that they have", 2, None, 0, &crowded, &["m002", "m003"], 0),
        ("max leaves room for one more", 2, Some(3), 0, &both, &["m000"], 2),
        ("max leaves no room", 2, Some(3), 1, &both, &[], 2),
        ("nothing shall be ready any more", 0, None, 0, &both, &[], 0),
    ];
    for (what, min_ready, max, taken, members, keep, make) in cases {
        assert_eq!(decide(min_ready, max, taken, members), (keep.to_vec(), make), "{what}");
    }
}

#[test]
fn agents_of_a_former_generation_are_replaced() {
    let mut old = members(&[Standing::Ready, Standing::Ready]);
    old[0].is_current = false;
    assert_eq!(decide(2, None, 0, &old), (vec!["m001"], 1));
    // Why an old one ended says nothing of what is made now.
    old[0].standing = Standing::Failed;
    let plan = plan(Snapshot {
        min_ready: 2,
        max: None,
        members: &old,
        taken: 0,
        trouble: None,
        gave_way_to: None,
        now: at(0),
    });
    assert_eq!((plan.make, plan.trouble), (1, None));
}

#[test]
fn what_fails_is_tried_again_after_longer_and_longer_pauses_one_at_a_time() {
    let failed = members(&[Standing::Failed, Standing::Failed, Standing::Failed]);
    let mut now = at(1000);
    let mut trouble: Option<Trouble> = None;
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let after = plan(Snapshot {
            min_ready: 3,
            max: None,
            members: &failed,
            taken: 0,
            trouble: trouble.as_ref(),
            gave_way_to: None,
            now,
        });
        assert_eq!((after.keep.len(), after.make), (0, 0), "nothing is made at once");
        let noted = after.trouble.expect("noted");
        assert_eq!(noted.cause.code, "display_died");
        pauses.push(noted.retry_at.duration_since(now).as_secs());
        let early =
            Snapshot { min_ready: 3, max: None, members: &[], taken: 0, trouble: Some(&noted), gave_way_to: None, now };
        assert_eq!(plan(early).make, 0);
        now = noted.retry_at;
        assert_eq!(plan(Snapshot { now, ..early }).make, 1);
        let trying = members(&[Standing::Starting]);
        assert_eq!(plan(Snapshot { now, members: &trying, ..early }).make, 0, "the first is waited for");
        trouble = Some(noted);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    // Ready is not enough; ready for a while is.
    let noted = trouble.as_ref();
    for (standing, made, over) in [(Standing::Ready, 1, false), (Standing::Steady, 2, true)] {
        let members = members(&[standing]);
        let after = plan(Snapshot {
            min_ready: 3,
            max: None,
            members: &members,
            taken: 0,
            trouble: noted,
            gave_way_to: None,
            now,
        });
        assert_eq!((after.make, after.trouble.is_none()), (made, over));
    }
}

fn standing() -> impl Strategy<Value = Standing> {
    use Standing::{Absent, Failed, Pending, Ready, Starting, Steady, Stranded, Taken};
    prop_oneof![
        Just(Absent),
        Just(Pending),
        Just(Starting),
        Just(Ready),
        Just(Steady),
        Just(Taken),
        Just(Stranded),
        Just(Failed)
    ]
}

proptest! {
    #[test]
    fn never_more_than_may_be_and_never_more_than_shall(
        standings in prop::collection::vec((standing(), any::<bool>()), 0..30),
        min_ready in 0u32..20,
        max in prop::option::of(0u32..20),
        taken in 0u32..20,
    ) {
        let mut members = members(&standings.iter().map(|(standing, _)| standing.clone()).collect::<Vec<_>>());
        for (member, (_, is_current)) in members.iter_mut().zip(&standings) {
            member.is_current = *is_current;
        }
        let after = plan(Snapshot { min_ready, max, members: &members, taken, trouble: None, gave_way_to: None, now: at(0) });
        let all = u32::try_from(after.keep.len() + after.make).expect("few");
        prop_assert!(all <= min_ready);
        if let Some(max) = max {
            prop_assert!(all == 0 || all + taken <= max);
        }
        for id in &after.keep {
            let kept = members.iter().find(|member| member.id == *id).expect("one of them");
            prop_assert!(kept.is_current && kept.standing.stays());
        }
    }

    /// Whatever there is: once what is made gets ready, nothing is left to do.
    #[test]
    fn it_comes_to_rest(
        standings in prop::collection::vec(standing(), 0..30),
        min_ready in 0u32..20,
        max in prop::option::of(0u32..20),
        taken in 0u32..20,
    ) {
        let mut members = members(&standings);
        let mut trouble: Option<Trouble> = None;
        let (mut now, mut number) = (at(0), 100);
        for _ in 0..40 {
            let after =
                plan(Snapshot { min_ready, max, members: &members, taken, trouble: trouble.as_ref(), gave_way_to: None, now });
            let rests = after.make == 0 && after.keep.len() == members.len() && after.trouble.is_none();
            let room = max.map_or(u32::MAX, |max| max.saturating_sub(taken));
            if rests {
                prop_assert_eq!(u32::try_from(members.len()).expect("few"), min_ready.min(room));
                return Ok(());
            }
            if let Some(trouble) = &after.trouble {
                now = now.max(trouble.retry_at);
            }
            members.retain(|member| after.keep.contains(&member.id));
            for member in &mut members {
                member.standing = Standing::Steady;
            }
            for _ in 0..after.make {
                members.push(member(number, Standing::Absent));
                number += 1;
            }
            trouble = after.trouble;
            if min_ready.min(room) == 0 && trouble.is_some() && members.is_empty() {
                // Nothing is made that could show that it is over.
                return Ok(());
            }
        }
        prop_assert!(false, "it does not come to rest");
    }
}
