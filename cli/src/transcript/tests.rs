use helix_protocol::thread::ThreadEvent;
use proptest::prelude::*;

use super::*;

fn turn() -> TurnId {
    TurnId::parse("int_1").expect("valid id")
}

fn entry(id: &str, offset: u64, text: &str) -> ThreadEvent {
    ThreadEvent::Entry {
        entry: id.to_owned(),
        before: None,
        turn: Some(turn()),
        role: Role::Assistant,
        tool: None,
        offset,
        text: text.to_owned(),
    }
}

fn tool(id: &str, name: &str, status: &str) -> ThreadEvent {
    ThreadEvent::Entry {
        entry: id.to_owned(),
        before: None,
        turn: Some(turn()),
        role: Role::Assistant,
        tool: Some(ToolCall { name: name.to_owned(), status: status.to_owned() }),
        offset: 0,
        text: "anything".to_owned(),
    }
}

fn moved(state: TurnState) -> ThreadEvent {
    ThreadEvent::TurnMoved { turn: turn(), state, cause: None, usage: None, exit_status: None }
}

/// `+more`, `!anew`, `?hole`, or nothing.
fn shown(transcript: &mut Transcript, events: &[ThreadEvent]) -> Vec<String> {
    let words = |piece| match piece {
        Some(Piece::Text { how: How::More, text, .. }) => format!("+{text}"),
        Some(Piece::Text { how: How::Anew, text, .. }) => format!("!{text}"),
        Some(Piece::Tool { tool, .. }) => format!("{}:{}", tool.name, tool.status),
        Some(Piece::Hole { entry, .. }) => format!("?{entry}"),
        Some(Piece::Moved(moved)) => moved.state.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    };
    events.iter().map(|event| words(transcript.apply(event))).collect()
}

#[test]
fn appended_text_is_told_as_it_comes_and_offsets_are_bytes() {
    let mut transcript = Transcript::default();
    let events = [entry("1", 0, "Grüße"), entry("1", 7, ", Welt"), entry("1", 13, ""), entry("1", 13, "!")];
    assert_eq!(shown(&mut transcript, &events), ["+Grüße", "+, Welt", "", "+!"]);
    assert_eq!(transcript.answer(&turn()), "Grüße, Welt!");
}

#[test]
fn rewritten_text_is_told_from_the_line_where_it_parts() {
    let mut transcript = Transcript::default();
    let events = [
        entry("1", 0, "first line\nsecond lime"),
        entry("1", 20, "ne\nthird"),
        entry("1", 0, "other\nall of it"),
        entry("1", 15, "\nmore"),
    ];
    assert_eq!(
        shown(&mut transcript, &events),
        ["+first line\nsecond lime", "!second line\nthird", "!other\nall of it", "+\nmore"]
    );
    assert_eq!(transcript.answer(&turn()), "other\nall of it\nmore");
}

#[test]
fn text_that_became_shorter_is_told_when_it_parts_or_at_the_end() {
    let mut transcript = Transcript::default();
    // It comes back the same: nothing to tell but what is new.
    let events =
        [entry("1", 0, "one two three"), entry("1", 4, ""), entry("1", 4, "two"), entry("1", 7, " three four")];
    assert_eq!(shown(&mut transcript, &events), ["+one two three", "", "", "+ four"]);
    assert_eq!(transcript.settle(&turn()), []);
    // It comes back differently.
    let events = [entry("1", 4, ""), entry("1", 4, "2")];
    assert_eq!(shown(&mut transcript, &events), ["", "!one 2"]);
    // It stays short; only blanks that are gone are nothing to tell.
    assert_eq!(
        shown(&mut transcript, &[entry("1", 3, ""), entry("2", 0, "end \n"), entry("2", 3, "")]),
        ["", "+end \n", ""]
    );
    let settled = transcript.settle(&turn());
    assert!(matches!(&settled[..], [Piece::Text { how: How::Anew, text, .. }] if text == "one"), "{settled:?}");
    assert_eq!(transcript.settle(&turn()), [], "told once");
    assert_eq!(transcript.answer(&turn()), "one\n\nend");
}

#[test]
fn a_reading_after_a_gap_shows_what_is_new_and_the_feed_repeats_nothing() {
    let mut transcript = Transcript::default();
    shown(&mut transcript, &[entry("1", 0, "half an an")]);
    // Between two events something was missed.
    assert_eq!(shown(&mut transcript, &[entry("1", 15, "is here")]), ["?1"]);
    let whole = EntryView {
        id: "1".to_owned(),
        turn: Some(turn()),
        role: Role::Assistant,
        tool: None,
        text: "half an answer is here now".to_owned(),
        length: 26,
        truncated: false,
    };
    assert!(matches!(&transcript.entries_are(&[whole])[..], [Piece::Text { text, .. }] if text == "swer is here now"));
    // Events that the reading had seen already come all the same.
    let events = [entry("1", 10, "swer is"), entry("1", 17, " here now"), entry("1", 26, ", all of it")];
    assert_eq!(shown(&mut transcript, &events), ["", "", "+, all of it"]);
}

#[test]
fn an_entry_that_is_told_late_has_its_place_in_the_answer() {
    let mut transcript = Transcript::default();
    let mut late = entry("1", 0, "first");
    if let ThreadEvent::Entry { before, .. } = &mut late {
        *before = Some("2".to_owned());
    }
    assert_eq!(shown(&mut transcript, &[entry("2", 0, "second"), late]), ["+second", "+first"]);
    assert_eq!(transcript.answer(&turn()), "first\n\nsecond");
    // A reading knows of one that no event told.
    let view = |id: &str, text: &str| EntryView {
        id: id.to_owned(),
        turn: Some(turn()),
        role: Role::Assistant,
        tool: None,
        text: text.to_owned(),
        length: text.len() as u64,
        truncated: false,
    };
    transcript.entries_are(&[view("1", "first"), view("1a", "between"), view("2", "second"), view("3", "third")]);
    assert_eq!(transcript.answer(&turn()), "first\n\nbetween\n\nsecond\n\nthird");
}

#[test]
fn tools_are_told_by_state_and_are_no_part_of_the_answer() {
    let mut transcript = Transcript::default();
    let events = [
        entry("1", 0, "I look.\n"),
        tool("2", "Read a.rs", "Pending"),
        tool("2", "Read a.rs", "Pending"),
        tool("2", "Read a.rs", "Completed"),
        entry("3", 0, "It is fine."),
    ];
    assert_eq!(
        shown(&mut transcript, &events),
        ["+I look.\n", "Read a.rs:Pending", "", "Read a.rs:Completed", "+It is fine."]
    );
    assert_eq!(transcript.answer(&turn()), "I look.\n\nIt is fine.");
}

#[test]
fn what_names_no_turn_belongs_to_the_one_that_runs() {
    let mut transcript = Transcript::default();
    let text = |id: &str| ThreadEvent::Entry {
        entry: id.to_owned(),
        before: None,
        turn: None,
        role: Role::Assistant,
        tool: None,
        offset: 0,
        text: id.to_owned(),
    };
    transcript.apply(&text("before"));
    assert_eq!(
        shown(&mut transcript, &[moved(TurnState::Dispatched), moved(TurnState::Dispatched)]),
        ["dispatched", ""]
    );
    transcript.apply(&text("within"));
    transcript.apply(&moved(TurnState::Completed));
    transcript.apply(&text("after"));
    assert_eq!(transcript.answer(&turn()), "within");
    assert_eq!(transcript.state(&turn()), Some(TurnState::Completed));
}

#[test]
fn a_question_is_asked_once_and_settled_once() {
    let mut transcript = Transcript::default();
    let asked = ThreadEvent::QuestionAsked {
        question: "q".to_owned(),
        turn: None,
        mode: "form".to_owned(),
        message: "Which?".to_owned(),
        schema: Value::Null,
        entry: None,
    };
    assert!(matches!(transcript.apply(&asked), Some(Piece::Asked(_))));
    assert_eq!(transcript.apply(&asked), None);
    let closed = ThreadEvent::QuestionClosed { question: "q".to_owned(), status: "expired".to_owned() };
    assert!(matches!(transcript.apply(&closed), Some(Piece::Settled { status, .. }) if status == "expired"));
    assert_eq!(transcript.apply(&closed), None);
}

proptest! {
    /// Whatever an agent does to its text: it is known to the end, and who reads sees its end as it is.
    #[test]
    fn the_end_of_what_was_shown_is_the_text(writes in prop::collection::vec((0..40_usize, "[abü\n]{0,6}"), 1..20)) {
        let (mut transcript, mut text) = (Transcript::default(), String::new());
        // Since the last piece that began anew.
        let mut screen = String::new();
        for (offset, more) in writes {
            let offset = text.floor_char_boundary(offset.min(text.len()));
            text.truncate(offset);
            text.push_str(&more);
            match transcript.apply(&entry("1", offset as u64, &more)) {
                Some(Piece::Text { how: How::More, text, .. }) => screen.push_str(&text),
                Some(Piece::Text { how: How::Anew, text, .. }) => screen = text,
                other => prop_assert_eq!(other, None),
            }
        }
        prop_assert_eq!(transcript.answer(&turn()), text.clone());
        for piece in transcript.settle(&turn()) {
            if let Piece::Text { text, .. } = piece { screen = text; }
        }
        prop_assert!(text.trim_end().ends_with(screen.trim_end()), "{:?} / {:?}", text, screen);
    }
}
