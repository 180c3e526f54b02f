use helix_protocol::thread::Role;
use proptest::prelude::*;

use super::*;
use crate::threads::decide::words::Done;

fn entry(id: &str, text: Text) -> Frame {
    let said = EntrySaid {
        acp: Some("th".to_owned()),
        id: id.to_owned(),
        request: None,
        role: Role::Assistant,
        tool: None,
        text,
        flushed: false,
    };
    Frame { from: PeerId(1), said: Said::Entry(Box::new(said)), at: Instant::now(), passed: Vec::new() }
}

fn done() -> Frame {
    Frame { from: PeerId(1), said: Said::Done(Done::default()), at: Instant::now(), passed: Vec::new() }
}

fn drain(inbox: &mut Inbox) -> Vec<String> {
    std::iter::from_fn(|| inbox.pop())
        .map(|frame| match frame.said {
            Said::Entry(entry) => format!("{}:{}", entry.id, text_of(&entry)),
            Said::Malformed { count, .. } => format!("malformed {count}"),
            _ => "done".to_owned(),
        })
        .collect()
}

#[test]
fn a_newer_snapshot_takes_the_place_of_one_that_waits_and_passes_nothing_else() {
    let mut inbox = Inbox::default();
    for frame in [
        entry("1", Text::From(0, "a".into())),
        entry("2", Text::From(0, "x".into())),
        entry("1", Text::From(0, "ab".into())),
        done(),
        entry("1", Text::From(0, "abc".into())),
    ] {
        inbox.push(frame);
    }
    assert_eq!(drain(&mut inbox), ["1:ab", "2:x", "done", "1:abc"]);
    assert_eq!((inbox.bytes, inbox.is_empty()), (0, true));
    // What was taken out is not changed any more.
    inbox.push(entry("1", Text::From(0, "d".into())));
    inbox.push(entry("2", Text::From(0, "e".into())));
    assert!(inbox.pop().is_some());
    inbox.push(entry("1", Text::From(0, "f".into())));
    assert_eq!(drain(&mut inbox), ["2:e", "1:f"]);
}

#[test]
fn what_a_frame_says_of_an_end_outlives_its_joining() {
    let long = CADENCE + CADENCE;
    for (later, flushed) in [
        (vec![("a", long)], true),
        (vec![("ab", long)], false),
        (vec![("ab", CADENCE / 2)], true),
        (vec![("a", long), ("ab", long)], false),
        (vec![("ab", long), ("ab", long)], true),
    ] {
        let (mut inbox, mut at) = (Inbox::default(), Instant::now());
        inbox.push(Frame { at, ..entry("1", Text::From(0, "a".into())) });
        for (text, after) in &later {
            at += *after;
            inbox.push(Frame { at, ..entry("1", Text::From(0, (*text).into())) });
        }
        let Some(Frame { said: Said::Entry(entry), .. }) = inbox.pop() else { panic!("no entry") };
        assert_eq!(entry.flushed, flushed, "{later:?}");
        assert!(inbox.is_empty());
    }
}

#[test]
fn malformed_frames_in_a_row_are_counted() {
    let mut inbox = Inbox::default();
    for _ in 0..3 {
        let said = crate::threads::decide::words::malformed("no", "x");
        inbox.push(Frame { from: PeerId(1), said, at: Instant::now(), passed: Vec::new() });
    }
    assert_eq!(drain(&mut inbox), ["malformed 3"]);
}

#[test]
fn what_cannot_be_joined_fills_it() {
    let mut inbox = Inbox::default();
    for _ in 0..10_000 {
        inbox.push(entry("1", Text::From(0, "a".repeat(1000))));
    }
    assert!(inbox.has_room(), "{} bytes", inbox.bytes);
    for _ in 0..FRAMES {
        inbox.push(done());
    }
    assert!(!inbox.has_room());
}

proptest! {
    /// Joined or not, the text at the end is the same.
    #[test]
    fn joining_loses_nothing(texts in prop::collection::vec((prop::option::of(0_u64..6), "[a-z]{0,5}"), 1..12)) {
        let mut plain = String::new();
        let mut inbox = Inbox::default();
        for (offset, text) in texts {
            let offset = offset.map(|offset| offset.min(plain.len() as u64));
            if let Some(offset) = offset {
                plain.truncate(usize::try_from(offset).expect("small"));
            }
            plain.push_str(&text);
            inbox.push(entry("1", offset.map_or_else(|| Text::Append(text.clone()), |offset| Text::From(offset, text.clone()))));
        }
        let mut joined = String::new();
        while let Some(frame) = inbox.pop() {
            let Said::Entry(entry) = frame.said else { panic!("an entry") };
            match entry.text {
                Text::From(offset, text) => {
                    joined.truncate(usize::try_from(offset).expect("small"));
                    joined.push_str(&text);
                }
                Text::Append(text) => joined.push_str(&text),
            }
        }
        prop_assert_eq!(joined, plain);
    }
}
