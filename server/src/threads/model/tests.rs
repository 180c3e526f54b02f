use proptest::prelude::*;

use super::*;

fn thread() -> ThreadId {
    ThreadId::parse("thr_1").expect("valid id")
}

fn turn() -> TurnId {
    TurnId::parse("int_1").expect("valid id")
}

fn conversation(keep: Keep, events: Vec<ThreadEvent>) -> Conversation {
    let mut conversation = Conversation::new(keep);
    for (place, event) in events.into_iter().enumerate() {
        conversation.apply(place as u64 + 1, &thread(), &ThreadRecord { at: Timestamp::UNIX_EPOCH, event });
    }
    conversation
}

fn queued() -> ThreadEvent {
    ThreadEvent::TurnQueued {
        turn: turn(),
        origin: Origin::Api,
        by: None,
        prompt: "do it".to_owned(),
        interrupt: false,
        attachments: Vec::new(),
        resend_of: None,
    }
}

fn moved(state: TurnState) -> ThreadEvent {
    let usage = state.is_final().then(|| TokenUsage { total_tokens: 3, ..TokenUsage::default() });
    ThreadEvent::TurnMoved { turn: turn(), state, cause: None, usage, exit_status: None }
}

fn said(entry: &str, offset: u64, text: &str) -> ThreadEvent {
    let (entry, text) = (entry.to_owned(), text.to_owned());
    ThreadEvent::Entry { entry, before: None, turn: Some(turn()), role: Role::Assistant, tool: None, offset, text }
}

#[test]
fn a_turn_goes_its_way_and_its_tokens_are_counted() {
    let events = vec![queued(), queued(), moved(TurnState::Dispatched), moved(TurnState::Completed)];
    let conversation = conversation(Keep::Running, events);
    let thread = &conversation.threads()[0];
    assert_eq!(thread.turns.len(), 1);
    assert_eq!((thread.turns[0].state, thread.turns[0].dispatches), (TurnState::Completed, 1));
    assert_eq!(thread.usage.total_tokens, 3);
    assert_eq!((thread.sequence, conversation.applied), (4, 4));
}

#[test]
fn entries_keep_their_first_place_and_the_text_of_a_finished_turn_is_let_go() {
    let begun = vec![queued(), said("3", 0, "a"), said("4", 0, "tool"), said("3", 1, "bc")];
    let running = conversation(Keep::Running, begun.clone());
    let ids: Vec<_> = running.threads()[0].entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["3", "4"]);
    assert_eq!(running.threads()[0].entry("3").and_then(|entry| entry.text.as_deref()), Some("abc"));
    let done = begun.into_iter().chain([moved(TurnState::Completed)]).collect();
    let done = conversation(Keep::Running, done);
    let entry = done.threads()[0].entry("3").expect("kept");
    assert_eq!((entry.text.as_deref(), entry.length), (None, 3));
    assert!(entry.is("abc") && !entry.is("abd"));
}

#[test]
fn an_entry_that_was_heard_late_stands_where_it_belongs() {
    let late = |entry: &str, before: &str| match said(entry, 0, entry) {
        ThreadEvent::Entry { entry, turn, role, tool, offset, text, .. } => {
            ThreadEvent::Entry { entry, before: Some(before.to_owned()), turn, role, tool, offset, text }
        }
        other => other,
    };
    let events =
        vec![queued(), said("4", 0, "b"), said("5", 0, "c"), late("3", "4"), said("4", 1, "b"), said("6", 0, "d")];
    let conversation = conversation(Keep::All, events);
    let texts: Vec<_> =
        conversation.threads()[0].entries.iter().map(|entry| entry.text.as_deref().unwrap_or_default()).collect();
    assert_eq!(texts, ["3", "bb", "c", "d"]);
    assert_eq!(conversation.threads()[0].entry("5").map(|entry| entry.id.as_str()), Some("5"));
}

proptest! {
    #[test]
    fn any_row_of_snapshots_is_rebuilt_from_its_changes(snapshots in prop::collection::vec("[aäb€]{0,6}", 1..12)) {
        let mut told = conversation(Keep::All, vec![queued()]);
        for (place, snapshot) in snapshots.iter().enumerate() {
            let (offset, text) = told.threads()[0].entry("1").map_or((0, snapshot.as_str()), |entry| entry.change_to(snapshot));
            let record = ThreadRecord { at: Timestamp::UNIX_EPOCH, event: said("1", offset, text) };
            told.apply(place as u64 + 2, &thread(), &record);
            let entry = told.threads()[0].entry("1").expect("said");
            prop_assert_eq!(entry.text.as_deref(), Some(snapshot.as_str()));
            prop_assert_eq!(entry.length, snapshot.len() as u64);
        }
    }
}
