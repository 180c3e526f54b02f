use helix_protocol::thread::{Origin, Role, ThreadEvent, ThreadRecord};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::threads::model::Keep;

fn id() -> ThreadId {
    ThreadId::parse("thr_1").expect("valid id")
}

fn thread(events: impl IntoIterator<Item = ThreadEvent>) -> Thread {
    let mut conversation = Conversation::new(Keep::All);
    for (place, event) in events.into_iter().enumerate() {
        conversation.apply(place as u64 + 1, &id(), &ThreadRecord { at: Timestamp::UNIX_EPOCH, event });
    }
    conversation.thread(&id()).expect("a thread").clone()
}

fn said(entry: usize, text: String) -> ThreadEvent {
    ThreadEvent::Entry {
        entry: entry.to_string(),
        before: None,
        turn: None,
        role: Role::Assistant,
        tool: None,
        offset: 0,
        text,
    }
}

fn queued(turn: usize, prompt: String) -> ThreadEvent {
    ThreadEvent::TurnQueued {
        turn: TurnId::parse(format!("int_{turn}")).expect("valid id"),
        origin: Origin::Api,
        by: None,
        prompt,
        interrupt: false,
        attachments: Vec::new(),
        resend_of: None,
    }
}

#[test]
fn pages_are_bounded_and_miss_nothing() {
    let thread = thread((0..60).map(|entry| said(entry, "ä".repeat(50_000))));
    let (mut seen, mut start) = (Vec::new(), Some(0));
    while let Some(from) = start {
        let (place, entries, next) = entries_of(&thread, Page::From { start: from, limit: 500 });
        assert_eq!(place, from);
        let bytes: usize = entries.iter().map(|entry| entry.text.len()).sum();
        assert!((1..=PAGE_BYTES).contains(&bytes), "{bytes}");
        assert!(entries.iter().all(|entry| entry.truncated && entry.length == 100_000));
        seen.extend(entries.into_iter().map(|entry| entry.id));
        start = next;
    }
    assert_eq!(seen, (0..60).map(|entry| entry.to_string()).collect::<Vec<_>>());
    let beyond = entries_of(&thread, Page::From { start: usize::MAX, limit: 500 });
    assert!(beyond.0 == 60 && beyond.1.is_empty() && beyond.2.is_none());
}

#[test]
fn the_newest_entries_are_told_oldest_first_as_far_as_they_fit() {
    let last = |thread: &Thread, count| {
        let (place, entries, next) = entries_of(thread, Page::Last(count));
        assert!(next.is_none(), "{next:?}");
        (place, entries.into_iter().map(|entry| entry.id).collect::<Vec<_>>())
    };
    let short = thread((0..60).map(|entry| said(entry, "x".to_owned())));
    assert_eq!(last(&short, 3), (57, vec!["57".to_owned(), "58".to_owned(), "59".to_owned()]));
    assert_eq!(last(&short, 500).0, 0);
    // 64 KiB of each at most: sixteen are a page.
    let long = thread((0..60).map(|entry| said(entry, "x".repeat(100_000))));
    assert_eq!(last(&long, 500).0, 44);
    let none = thread([queued(0, "x".to_owned())]);
    assert_eq!(last(&none, 5), (0, Vec::new()));
}

#[test]
fn the_last_turns_are_shown_as_far_as_their_prompts_fit() {
    let short = thread((0..250).map(|turn| queued(turn, "x".to_owned())));
    let turns = recent_turns(&short);
    assert_eq!((turns.len(), turns[0].id.as_str(), turns[199].id.as_str()), (200, "int_50", "int_249"));
    let long = thread((0..10).map(|turn| queued(turn, "x".repeat(400_000))));
    assert_eq!(recent_turns(&long).len(), 2);
    let longest = thread([queued(0, "x".repeat(2 * PAGE_BYTES))]);
    assert_eq!(recent_turns(&longest).len(), 1);
}

proptest! {
    #[test]
    fn pieces_put_together_are_the_whole(text in "[aä€🦀]{0,40}", limit in 1_usize..9, inside in 0_u64..60) {
        let thread = thread([said(1, text.clone())]);
        let entry = thread.entry("1").expect("an entry");
        let mut whole = String::new();
        while (whole.len() as u64) < entry.length {
            let piece = piece_of(entry, whole.len() as u64, limit);
            prop_assert_eq!(piece.offset, whole.len() as u64);
            prop_assert!(!piece.text.is_empty());
            whole.push_str(&piece.text);
        }
        prop_assert_eq!(&whole, &text);
        let piece = piece_of(entry, inside, limit);
        prop_assert!(piece.offset >= inside.min(entry.length) && text[piece.offset as usize..].starts_with(&piece.text));
    }
}
