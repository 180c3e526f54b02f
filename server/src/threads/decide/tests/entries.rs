use helix_protocol::thread::MAX_ENTRY_PIECE_BYTES;
use proptest::prelude::*;

use super::*;

fn text(world: &World, entry: &str) -> Option<String> {
    world.conversation.thread(&thread("thr_a")).and_then(|of| of.entry(entry)).and_then(|entry| entry.text.clone())
}

/// What was written of entries: offset and text.
fn pieces(appends: &[Append]) -> Vec<(u64, &str)> {
    let piece = |append: &'_ Append| match &append.event {
        ThreadEvent::Entry { offset, .. } => Some(*offset),
        _ => None,
    };
    appends
        .iter()
        .filter_map(|append| {
            let offset = piece(append)?;
            let ThreadEvent::Entry { text, .. } = &append.event else { return None };
            Some((offset, text.as_str()))
        })
        .collect()
}

/// A world in which turn `int_1` runs in thread `thr_a`.
fn running() -> (World, PeerId) {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    (world, peer)
}

#[test]
fn snapshots_are_stored_as_what_changed_and_repeats_not_at_all() {
    let (mut world, peer) = running();
    assert_eq!(pieces(&world.wrote(peer, "th_a", "1", "int_1", "Hello")), [(0, "Hello")]);
    assert_eq!(pieces(&world.wrote(peer, "th_a", "1", "int_1", "Hello, world")), [(5, ", world")]);
    assert_eq!(world.wrote(peer, "th_a", "1", "int_1", "Hello, world"), []);
    assert_eq!(pieces(&world.wrote(peer, "th_a", "1", "int_1", "Help")), [(3, "p")]);
    world.completed(peer, "th_a", "int_1");
    // Shown again after the end: the text is not kept any more, and known all the same.
    assert_eq!(world.wrote(peer, "th_a", "1", "", "Help"), []);
    assert_eq!(pieces(&world.wrote(peer, "th_a", "1", "int_1", "Helping")), [(0, "Helping")]);
}

#[test]
fn a_number_tells_where_an_entry_belongs_and_not_its_arrival() {
    let (mut world, peer) = running();
    world.wrote(peer, "th_a", "2", "int_1", "second");
    world.wrote(peer, "th_a", "10", "int_1", "fourth");
    // The first telling of these was lost with a socket.
    world.wrote(peer, "th_a", "1", "int_1", "first");
    world.wrote(peer, "th_a", "3", "int_1", "third");
    let texts = |world: &World| -> Vec<_> {
        let of = world.conversation.thread(&thread("thr_a")).expect("a thread");
        of.entries.iter().filter_map(|entry| entry.text.clone()).collect()
    };
    assert_eq!(texts(&world), ["first", "second", "third", "fourth"]);
}

#[test]
fn our_own_bridge_says_what_changed() {
    let (mut world, peer) = running();
    let mut wrote = |offset: u64, content: &str| {
        let data = json!({
            "acp_thread_id": "th_a", "message_id": "1", "role": "assistant", "content": content, "request_id": "int_1",
            "content_offset": offset,
        });
        let appends = world.say(peer, "message_added", data);
        (
            pieces(&appends).iter().map(|(offset, text)| format!("{offset}:{text}")).collect::<Vec<_>>(),
            text(&world, "1"),
        )
    };
    assert_eq!(wrote(0, "abc"), (vec!["0:abc".to_owned()], Some("abc".to_owned())));
    assert_eq!(wrote(3, "def"), (vec!["3:def".to_owned()], Some("abcdef".to_owned())));
    assert_eq!(wrote(3, "def"), (vec![], Some("abcdef".to_owned())));
    assert_eq!(wrote(2, "cX"), (vec!["3:X".to_owned()], Some("abcX".to_owned())));
    // A piece before it was lost: nothing is made up.
    assert_eq!(wrote(9, "?"), (vec![], Some("abcX".to_owned())));
    assert_eq!(wrote(0, "whole"), (vec!["0:whole".to_owned()], Some("whole".to_owned())));
}

#[test]
fn a_long_text_is_stored_in_pieces() {
    let (mut world, peer) = running();
    let long = "ä".repeat(MAX_ENTRY_PIECE_BYTES);
    let appends = world.wrote(peer, "th_a", "1", "int_1", &long);
    let pieces = pieces(&appends);
    assert!(
        pieces.len() == 2 && pieces.iter().all(|(_, text)| text.len() <= MAX_ENTRY_PIECE_BYTES),
        "{}",
        pieces.len()
    );
    assert_eq!(text(&world, "1"), Some(long));
}

#[test]
fn a_tool_that_only_changes_its_status_is_stored() {
    let (mut world, peer) = running();
    let mut tool = |status: &str| {
        let data = json!({
            "acp_thread_id": "th_a", "message_id": "1", "role": "assistant", "content": "make", "request_id": "int_1",
            "entry_type": "tool_call", "tool_name": "Run", "tool_status": status,
        });
        world
            .say(peer, "message_added", data)
            .iter()
            .filter(|append| matches!(append.event, ThreadEvent::Entry { .. }))
            .count()
    };
    assert_eq!((tool("In Progress"), tool("In Progress"), tool("Completed")), (1, 0, 1));
}

#[test]
fn an_update_of_an_older_turn_stays_its_own() {
    let (mut world, peer) = running();
    world.wrote(peer, "th_a", "1", "int_1", "begun");
    world.completed(peer, "th_a", "int_1");
    world.prompt("thr_a", "int_2");
    world.act();
    world.wrote(peer, "th_a", "3", "int_2", "next");
    world.wrote(peer, "th_a", "1", "int_1", "begun, and finished behind");
    world.wrote(peer, "th_a", "1", "", "begun, and finished behind!");
    let of = world.conversation.thread(&thread("thr_a")).expect("there");
    let turns: Vec<_> = of.entries.iter().map(|entry| entry.turn.clone().expect("a turn").to_string()).collect();
    assert_eq!(turns, ["int_1", "int_2"]);
    assert_eq!(world.state("int_1"), TurnState::Completed);
}

#[test]
fn a_prompt_that_is_shown_again_was_not_typed() {
    let (mut world, peer) = running();
    // Told back while it runs.
    assert_eq!(world.typed(peer, "th_a", "0", "do int_1"), []);
    world.wrote(peer, "th_a", "1", "int_1", "yes");
    world.completed(peer, "th_a", "int_1");
    // Shown again after a load, with its old number.
    world.desk.lost(peer, true, [], world.now);
    let peer = world.old_peer();
    assert_eq!(world.typed(peer, "th_a", "0", "do int_1"), []);
    // Typed: the newest number.
    let appends = world.typed(peer, "th_a", "2", "by hand");
    let states: Vec<_> = appends
        .iter()
        .filter_map(|append| match &append.event {
            ThreadEvent::TurnMoved { state, .. } => Some(*state),
            _ => None,
        })
        .collect();
    assert_eq!(states, [TurnState::Dispatched, TurnState::Running]);
    assert_eq!(world.typed(peer, "th_a", "2", "by hand"), [], "and shown again");
    // Its end and its entries come under the stale request of the turn before.
    world.wrote(peer, "th_a", "3", "int_1", "by hand, yes");
    let of = world.conversation.thread(&thread("thr_a")).expect("there");
    assert_eq!(of.entry("3").and_then(|entry| entry.turn.clone()), Some(of.turns[2].id.clone()));
    world.completed(peer, "th_a", "int_1");
    assert_eq!(world.conversation.thread(&thread("thr_a")).expect("there").turns[2].state, TurnState::Completed);
}

proptest! {
    /// Whatever order snapshots, ends and repeats come in, an entry is what was said of it last.
    #[test]
    fn the_last_word_counts(said in prop::collection::vec((0_usize..3, "[aäb]{0,8}", prop::bool::weighted(0.2)), 1..30)) {
        let (mut world, peer) = running();
        let mut last = std::collections::BTreeMap::new();
        for (entry, said, again) in said {
            let entry = entry.to_string();
            world.wrote(peer, "th_a", &entry, "int_1", &said);
            if again {
                world.wrote(peer, "th_a", &entry, "int_1", &said);
            }
            last.insert(entry, said);
        }
        for (entry, said) in last {
            prop_assert_eq!(text(&world, &entry), Some(said));
        }
    }

    /// Frames in any order never break the rules of a turn's way, and what is asked of the agent comes to an end.
    #[test]
    fn no_row_of_frames_leads_astray(steps in prop::collection::vec(0_u8..14, 1..60)) {
        let mut world = World::new();
        let mut peer = world.old_peer();
        let mut handed: Vec<String> = Vec::new();
        for (count, step) in steps.into_iter().enumerate() {
            let request = format!("int_{}", count % 5);
            let acp = format!("th_{}", count % 3);
            match step {
                0 | 1 => { world.prompt(&format!("thr_{}", count % 3), &format!("int_{count}")); }
                2 => { world.interrupt(&format!("thr_{}", count % 3), &format!("int_{count}")); }
                3 => { world.created(peer, &acp, &request); }
                4 | 5 => { world.wrote(peer, &acp, &(count % 7).to_string(), &request, &"x".repeat(count)); }
                6 => { world.completed(peer, &acp, &request); }
                7 => { world.say(peer, "chat_response_error", json!({ "request_id": request, "error": "e" })); }
                8 => { world.say(peer, "turn_cancelled", json!({ "request_id": request, "status": "cancelled" })); }
                9 => { world.typed(peer, &acp, &count.to_string(), "hand"); }
                10 => { world.later(61); }
                11 => { world.say(peer, "thread_load_error", json!({ "acp_thread_id": acp, "request_id": request, "error": "Resource not found" })); }
                12 => { world.desk.lost(peer, true, [], world.now); peer = world.listing_peer(&[&request]); }
                _ => { world.desk.lost(peer, true, [], world.now); peer = world.old_peer(); }
            }
            for frame in world.act() {
                if frame["type"] == "chat_message" {
                    handed.push(frame["data"]["request_id"].as_str().expect("a request").to_owned());
                }
            }
            for (of, turn) in world.conversation.turns() {
                prop_assert!(turn.origin == Origin::Editor || turn.dispatches == 0 || handed.contains(&turn.id.to_string()), "{} {:?}", of.id, turn);
                prop_assert!(turn.dispatches > 0 || matches!(turn.state, TurnState::Queued | TurnState::Cancelled), "{:?}", turn);
            }
        }
    }
}

#[test]
fn what_a_person_types_again_is_no_echo() {
    for reconnects in [false, true] {
        let mut world = World::new();
        let mut peer = world.old_peer();
        world.used_thread(peer, "thr_a", "th_a");
        world.prompt("thr_a", "int_1");
        world.act();
        world.wrote(peer, "th_a", "3", "int_1", "done");
        world.completed(peer, "th_a", "int_1");
        if reconnects {
            world.desk.lost(peer, true, [], world.now);
            peer = world.old_peer();
            world.act();
            // Its history comes again, the prompts of ours in it.
            assert_eq!(world.typed(peer, "th_a", "2", "do int_1"), []);
            world.wrote(peer, "th_a", "3", "", "done");
        }
        world.typed(peer, "th_a", "4", "do int_1");
        let of = world.conversation.thread(&thread("thr_a")).expect("there");
        let typed = of.turns.last().expect("a turn");
        assert_eq!((typed.origin, typed.state), (Origin::Editor, TurnState::Running), "reconnects: {reconnects}");
        let typed = typed.id.clone();
        // The editor names the last prompt of ours.
        world.wrote(peer, "th_a", "5", "int_1", "done again");
        let of = world.conversation.thread(&thread("thr_a")).expect("there");
        assert_eq!(of.entry("5").and_then(|entry| entry.turn.clone()), Some(typed), "reconnects: {reconnects}");
    }
}

#[test]
fn a_prompt_without_an_answer_that_is_shown_again_is_an_echo() {
    let mut world = World::new();
    let first = world.old_peer();
    world.used_thread(first, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.say(first, "chat_response_error", json!({ "request_id": "int_1", "error": "offline" }));
    world.desk.lost(first, true, [], world.now);
    let second = world.old_peer();
    world.act();
    assert_eq!(world.typed(second, "th_a", "2", "do int_1"), []);
}

/// An interrupt that was queued later went out earlier, and was answered.
#[test]
fn what_went_out_after_an_interrupt_is_shown_again_too() {
    let mut world = World::new();
    let first = world.old_peer();
    world.used_thread(first, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.prompt("thr_a", "int_2");
    world.interrupt("thr_a", "int_3");
    world.act();
    world.wrote(first, "th_a", "3", "int_3", "done");
    world.completed(first, "th_a", "int_3");
    world.act();
    assert_eq!(world.state("int_2"), TurnState::Dispatched);
    world.completed(first, "th_a", "int_2");
    world.desk.lost(first, true, [], world.now);
    let second = world.old_peer();
    world.act();
    assert_eq!(world.typed(second, "th_a", "4", "do int_2"), []);
}

/// A kill buried the end of an answer; the history tells it, without saying whose it is, while another prompt runs.
#[test]
fn what_the_history_adds_belongs_to_the_turn_that_is_told_of() {
    let mut world = World::new();
    let first = world.old_peer();
    world.used_thread(first, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.wrote(first, "th_a", "3", "int_1", "one");
    world.desk.lost(first, true, [], world.now);
    let second = world.old_peer();
    world.act();
    world.completed(second, "th_a", "int_1");
    world.prompt("thr_a", "int_2");
    assert_eq!(world.sends(), ["chat_message int_2"]);
    assert_eq!(world.typed(second, "th_a", "2", "do int_1"), []);
    world.wrote(second, "th_a", "3", "", "one");
    world.wrote(second, "th_a", "4", "", "and the rest of one");
    assert_eq!(world.typed(second, "th_a", "5", "do int_2"), []);
    world.wrote(second, "th_a", "6", "", "two");
    let turn_of = |world: &World, entry: &str| {
        let of = world.conversation.thread(&thread("thr_a")).expect("there");
        of.entry(entry).and_then(|entry| entry.turn.clone())
    };
    assert_eq!((turn_of(&world, "4"), turn_of(&world, "6")), (Some(turn("int_1")), Some(turn("int_2"))));
}
