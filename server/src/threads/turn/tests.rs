use proptest::prelude::*;

use super::*;

/// Whoever changes a move changes this table. Columns in the order of [`TurnState::ALL`]; `.` changes nothing.
#[test]
fn every_move() {
    let mut table = format!("{:<13}", "evidence");
    table.extend(TurnState::ALL.map(|state| format!("{:<12}", state.to_string())));
    table = table.trim_end().to_owned() + "\n";
    for evidence in Evidence::ALL {
        let next = |state| after(state, None, evidence).map_or_else(|| ".".to_owned(), |next| next.to_string());
        let row: String = TurnState::ALL.map(|state| format!("{:<12}", next(state))).concat();
        table += format!("{:<13}{row}", format!("{evidence:?}")).trim_end();
        table += "\n";
    }
    insta::assert_snapshot!(table, @"
    evidence     queued      dispatched  running     completed   failed      interrupted cancelled   unknown
    HandedOver   dispatched  dispatched  dispatched  .           .           .           .           .
    Progress     .           running     .           .           running     .           .           running
    Done         .           completed   completed   .           completed   .           .           completed
    GivenUp      .           failed      failed      .           .           .           .           failed
    ThreadGone   .           queued      failed      .           .           .           .           .
    Interrupted  .           interrupted interrupted .           .           .           .           interrupted
    Cancelled    .           cancelled   cancelled   .           .           .           .           cancelled
    CalledOff    cancelled   cancelled   cancelled   .           .           .           .           .
    Silence      .           unknown     unknown     .           .           .           .           .
    SessionEnded cancelled   failed      failed      .           .           .           .           .
    ");
}

#[test]
fn what_failed_with_its_session_stays_so() {
    let stopped = TurnCause::new(STOPPED, "the session was stopped");
    for evidence in Evidence::ALL {
        assert_eq!(after(TurnState::Failed, Some(&stopped), evidence), None, "{evidence:?}");
    }
    let crashed = TurnCause::new("agent_crashed", "gone");
    assert_eq!(after(TurnState::Failed, Some(&crashed), Evidence::Progress), Some(TurnState::Running));
}

proptest! {
    #[test]
    fn no_path_skips_dispatched_and_final_states_stay(path in prop::collection::vec(prop::sample::select(&Evidence::ALL[..]), 0..40)) {
        let (mut state, mut cause, mut handed_over) = (TurnState::Queued, None, false);
        for evidence in path {
            let Some(next) = after(state, cause.as_ref(), evidence) else { continue };
            if state.is_final() {
                let reopened = matches!(state, TurnState::Unknown | TurnState::Failed);
                prop_assert!(reopened, "{state} became {next} by {evidence:?}");
            }
            handed_over |= next == TurnState::Dispatched;
            // Without having been handed over, a turn can only be called off.
            prop_assert!(handed_over || next == TurnState::Cancelled, "{next} by {evidence:?}");
            cause = (evidence == Evidence::SessionEnded).then(|| TurnCause::new(STOPPED, "over"));
            state = next;
        }
    }

    #[test]
    fn whatever_is_active_has_a_way_to_end(start in prop::sample::select(&[TurnState::Dispatched, TurnState::Running][..])) {
        for evidence in [Evidence::Done, Evidence::GivenUp, Evidence::Interrupted, Evidence::Cancelled, Evidence::Silence, Evidence::SessionEnded] {
            prop_assert!(after(start, None, evidence).is_some_and(TurnState::is_final));
        }
    }
}
