use TurnState::{Dispatched, Running};

use helix_protocol::Epoch;

use super::*;
use crate::threads::model::{DISCONNECTED, READY};

/// What a new connection does to a turn that was handed over before: what the agent says of itself, frames that are
/// sent beside `open_thread`, and how the turn is then.
#[test]
fn the_table() {
    let list = |turns: Value| json!({ "agent_name": "a", "thread_id": null, "active_turns": turns });
    let named = json!([{ "request_id": "int_1", "state": "running" }]);
    let queued = json!([{ "request_id": "int_1", "state": "queued" }]);
    let dedupes = |turns: Option<&Value>| {
        let mut ready = json!({ "agent_name": "a", "thread_id": null, "deduplicates": true });
        if let Some(turns) = turns {
            ready["active_turns"] = turns.clone();
        }
        ready
    };
    let again = "chat_message int_1";
    for (ready, sent, state) in [
        (list(named.clone()), vec![], Running),
        (list(queued), vec![], Dispatched),
        (list(json!([])), vec![again], Dispatched),
        (list(json!([{ "request_id": "int_9", "state": "running" }])), vec![again], Dispatched),
        (dedupes(None), vec![again], Dispatched),
        (dedupes(Some(&json!([]))), vec![again], Dispatched),
        (dedupes(Some(&named)), vec![], Running),
        (json!({ "agent_name": "a", "thread_id": null }), vec![], Dispatched),
    ] {
        let mut world = World::new();
        let former = world.old_peer();
        world.used_thread(former, "thr_a", "th_a");
        world.prompt("thr_a", "int_1");
        world.act();
        world.desk.lost(former, true, [], world.now);
        let peer = world.connect();
        assert_eq!(world.sends(), ["open_thread th_a"], "{ready}");
        world.say(peer, "agent_ready", ready.clone());
        assert_eq!(world.sends(), sent, "{ready}");
        // It says so several times per connection.
        world.say(peer, "agent_ready", ready.clone());
        assert_eq!(world.sends(), [""; 0], "{ready}");
        assert_eq!(world.state("int_1"), state, "{ready}");
    }
}

/// A reporting agent that does not name a turn when it is back: how the turn is then, by how its former socket and that
/// one's owner ended, and by what was said last.
#[test]
fn a_turn_whose_end_may_have_been_lost_is_not_sent_again() {
    use Ending::{Heard, ServerDied, Silent, Successor};
    for (ending, wrote, repeated, state) in [
        (Heard, true, false, Dispatched),
        (Heard, true, true, TurnState::Unknown),
        (Heard, false, false, Dispatched),
        (Silent, true, false, TurnState::Unknown),
        (Silent, false, false, TurnState::Unknown),
        (Successor, true, false, Dispatched),
        (Successor, true, true, TurnState::Unknown),
        (ServerDied, true, false, TurnState::Unknown),
        (ServerDied, false, false, TurnState::Unknown),
    ] {
        let mut world = World::new();
        let former = world.listing_peer(&[]);
        world.used_thread(former, "thr_a", "th_a");
        world.apply(sync_event(READY, None, Vec::new(), None));
        world.prompt("thr_a", "int_1");
        world.act();
        if wrote {
            world.wrote(former, "th_a", "3", "int_1", "half");
        }
        if repeated {
            world.wrote(former, "th_a", "3", "int_1", "half");
        }
        world.desk.lost(former, ending != Silent, [], world.now);
        if ending == Successor {
            let doubts = world.desk.doubts(&world.conversation);
            world.apply(sync_event(DISCONNECTED, None, doubts, None));
        }
        if matches!(ending, Successor | ServerDied) {
            world.desk = Desk::new(SessionId::parse("s").expect("valid id"), TIMING);
            world.desk.succeed(&world.conversation, world.now);
        }
        world.listing_peer(&[]);
        let sends = world.sends();
        assert_eq!(world.state("int_1"), state, "{ending:?}, wrote {wrote}, repeated {repeated}");
        let expected: &[_] =
            if state == Dispatched { &["open_thread th_a", "chat_message int_1"] } else { &["open_thread th_a"] };
        assert_eq!(sends, expected, "{ending:?}, wrote {wrote}, repeated {repeated}");
    }
}

/// What is heard for the first time on a later socket was lost with the former one, and told again for the end or not: of
/// an entry that is new, and of a tool whose use was heard and whose result is new.
#[test]
fn what_is_new_on_a_later_socket_may_be_told_for_the_end() {
    for (known, goes_on, state) in [
        (false, false, TurnState::Unknown),
        (false, true, Dispatched),
        (true, false, TurnState::Unknown),
        (true, true, Dispatched),
    ] {
        let mut world = World::new();
        let former = world.listing_peer(&[]);
        world.used_thread(former, "thr_a", "th_a");
        world.prompt("thr_a", "int_1");
        world.act();
        if known {
            world.used_tool(former, "th_a", "3", "int_1", "In Progress");
        }
        world.desk.lost(former, true, [], world.now);
        let second = world.listing_peer(&["int_1"]);
        world.later(1);
        world.used_tool(second, "th_a", "3", "int_1", "Completed");
        if goes_on {
            world.later(1);
            world.used_tool(second, "th_a", "3", "int_1", "Failed");
        }
        world.desk.lost(second, true, [], world.now);
        world.sends();
        world.listing_peer(&[]);
        world.sends();
        assert_eq!(world.state("int_1"), state, "known: {known}, goes on: {goes_on}");
    }
}

/// An error that still waits to be believed when the line breaks.
#[test]
fn what_the_agent_gave_up_is_not_sent_again() {
    for back in [true, false] {
        let mut world = World::new();
        let former = world.listing_peer(&[]);
        world.used_thread(former, "thr_a", "th_a");
        world.prompt("thr_a", "int_1");
        world.act();
        world.wrote(former, "th_a", "3", "int_1", "half");
        world.say(former, "chat_response_error", json!({ "request_id": "int_1", "error": "offline" }));
        assert_eq!(world.sends(), [""; 0]);
        assert_eq!(world.state("int_1"), Running, "it streamed a moment ago");
        if back {
            // A second window keeps the error waiting.
            world.listing_peer(&[]);
            world.desk.lost(former, true, [], world.now);
            assert_eq!(world.sends(), ["open_thread th_a"]);
            world.later(2);
        } else {
            world.desk.lost(former, true, [], world.now);
        }
        world.act();
        assert_eq!((world.state("int_1"), world.cause("int_1")), (TurnState::Failed, Some("agent_error")));
        world.listing_peer(&[]);
        assert_eq!(world.sends(), ["open_thread th_a"]);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Everything was read, the owner lives.
    Heard,
    /// The line fell silent, the owner lives.
    Silent,
    /// Everything was read, another owner follows.
    Successor,
    /// The server died.
    ServerDied,
}

#[test]
fn a_turn_that_the_agent_names_is_in_doubt_no_more() {
    let mut world = World::new();
    let former = world.listing_peer(&[]);
    world.used_thread(former, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.desk.lost(former, false, [], world.now);
    let back = world.listing_peer(&["int_1"]);
    assert_eq!(world.sends(), ["open_thread th_a"]);
    world.desk.lost(back, true, [], world.now);
    world.listing_peer(&[]);
    assert_eq!(world.sends(), ["open_thread th_a", "chat_message int_1"]);
}

#[test]
fn a_list_that_comes_late_is_heard_and_one_older_than_the_prompt_is_not() {
    let mut world = World::new();
    let former = world.old_peer();
    world.used_thread(former, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.desk.lost(former, true, [], world.now);
    let peer = world.old_peer();
    assert_eq!(world.sends(), ["open_thread th_a"]);
    let list = json!({ "agent_name": "a", "thread_id": "th_a", "active_turns": [] });
    world.say(peer, "agent_ready", list.clone());
    assert_eq!(world.sends(), ["chat_message int_1"]);
    world.say(peer, "agent_ready", list);
    assert_eq!(world.sends(), [""; 0]);
    world.completed(peer, "th_a", "int_1");
    world.prompt("thr_a", "int_2");
    assert_eq!(world.sends(), ["chat_message int_2"]);
    world.say(peer, "agent_ready", json!({ "agent_name": "a", "thread_id": "th_a", "active_turns": [] }));
    assert_eq!(world.sends(), [""; 0]);
}

#[test]
fn a_turn_whose_socket_is_still_open_is_left_to_it() {
    let mut world = World::new();
    let first = world.old_peer();
    world.used_thread(first, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    // A second window, which does not name what the first one was just given.
    world.listing_peer(&[]);
    assert_eq!(world.sends(), ["open_thread th_a"]);
    world.desk.lost(first, true, [], world.now);
    assert_eq!(world.sends(), ["chat_message int_1"], "now it provably has not");
}

#[test]
fn what_provably_never_left_goes_again_whoever_is_there() {
    let mut world = World::new();
    let first = world.old_peer();
    world.used_thread(first, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.desk.lost(first, true, [turn("int_1")], world.now);
    let second = world.old_peer();
    assert_eq!(world.sends(), ["open_thread th_a", "chat_message int_1"]);
    // An old word about a former socket does not make it go twice.
    world.desk.lost(first, true, [turn("int_1")], world.now);
    world.desk.lost(second, true, [], world.now);
    world.old_peer();
    assert_eq!(world.sends(), ["open_thread th_a"]);
}

#[test]
fn what_nobody_has_and_nobody_wants_is_not_sent_again() {
    let mut world = World::new();
    let first = world.old_peer();
    world.used_thread(first, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.interrupt("thr_a", "int_2");
    world.act();
    world.cancel_wanted("thr_a", "int_2");
    world.desk.lost(first, true, [], world.now);
    world.listing_peer(&[]);
    assert_eq!(world.sends(), ["open_thread th_a"]);
    assert_eq!((world.state("int_1"), world.state("int_2")), (TurnState::Interrupted, TurnState::Cancelled));
}

#[test]
fn several_turns_go_again_in_their_order() {
    let mut world = World::new();
    let first = world.connect();
    world.say(first, "agent_ready", json!({ "agent_name": "bridge", "thread_id": null, "concurrent": true }));
    world.prompt("thr_a", "int_a").prompt("thr_b", "int_b").prompt("thr_a", "int_a2");
    world.act();
    world.desk.lost(first, true, [], world.now);
    let second = world.connect();
    let ready = json!({ "agent_name": "bridge", "thread_id": null, "concurrent": true, "active_turns": [] });
    world.say(second, "agent_ready", ready);
    assert_eq!(world.sends(), ["chat_message int_a", "chat_message int_b"]);
}

#[test]
fn an_answer_is_passed_on_once_per_connection_until_the_agent_has_it() {
    let mut world = World::new();
    let first = world.old_peer();
    world.used_thread(first, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    let asked = json!({
        "acp_thread_id": "th_a", "request_id": "int_1", "entry_index": "6", "elicitation_id": "el_1", "mode": "form",
        "message": "Which?", "requested_schema": { "type": "object" }, "status": "pending",
    });
    world.say(first, "elicitation_requested", asked.clone());
    assert_eq!(world.say(first, "elicitation_requested", asked), []);
    let event = ThreadEvent::QuestionAnswered {
        question: "el_1".to_owned(),
        action: helix_protocol::thread::AnswerAction::Accept,
        content: json!({ "db": "pg" }),
        by: "ann".to_owned(),
    };
    world.apply(Append { thread: thread("thr_a"), event });
    let sent = world.act();
    let expected = json!({ "type": "respond_elicitation", "data": {
        "acp_thread_id": "th_a", "elicitation_id": "el_1", "action": "accept", "content": { "db": "pg" } } });
    assert_eq!(sent, [expected]);
    world.desk.lost(first, true, [], world.now);
    let second = world.listing_peer(&["int_1"]);
    assert_eq!(world.sends(), ["open_thread th_a", "respond_elicitation el_1"]);
    world.say(
        second,
        "elicitation_response_ack",
        json!({ "elicitation_id": "el_1", "status": "accepted", "error": "" }),
    );
    let question = world.conversation.thread(&thread("thr_a")).and_then(|of| of.question("el_1")).expect("there");
    assert_eq!(question.closed.as_deref(), Some("accepted"));
    world.desk.lost(second, true, [], world.now);
    world.listing_peer(&["int_1"]);
    assert_eq!(world.sends(), ["open_thread th_a"]);
}

/// What comes after a list proves more than that list, which is as old as the connection.
#[test]
fn a_list_says_nothing_of_what_is_heard_after_it() {
    let mut world = World::new();
    let former = world.listing_peer(&[]);
    world.used_thread(former, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.wrote(former, "th_a", "3", "int_1", "half");
    world.desk.lost(former, false, [], world.now);
    let back = world.listing_peer(&[]);
    assert_eq!(world.sends(), ["open_thread th_a"]);
    assert_eq!((world.state("int_1"), world.cause("int_1")), (TurnState::Unknown, Some("end_lost")));
    world.later(1);
    world.wrote(back, "th_a", "3", "int_1", "half and more");
    assert_eq!(world.sends(), [""; 0]);
    assert_eq!(world.state("int_1"), Running);
    // Nor does that of an older window of what a newer one was handed.
    world.completed(back, "th_a", "int_1");
    world.later(1);
    let second = world.listing_peer(&[]);
    world.act();
    world.later(1);
    world.prompt("thr_a", "int_2");
    assert_eq!(world.sends(), ["chat_message int_2"]);
    world.desk.lost(second, true, [], world.now);
    assert_eq!(world.sends(), [""; 0]);
    assert_eq!(world.state("int_2"), Dispatched);
}

/// The rest of an answer, told at its end sooner than in its middle; then the end is lost.
#[test]
fn the_rest_of_an_answer_is_a_sign_of_its_end() {
    for (pause, state) in [(100, Dispatched), (20, TurnState::Unknown)] {
        let mut world = World::new();
        let former = world.listing_peer(&[]);
        world.used_thread(former, "thr_a", "th_a");
        world.prompt("thr_a", "int_1");
        world.act();
        world.wrote(former, "th_a", "3", "int_1", "half");
        world.now += Duration::from_millis(pause);
        world.wrote(former, "th_a", "3", "int_1", "half and the rest");
        world.desk.lost(former, true, [], world.now);
        world.now += Duration::from_secs(1);
        world.listing_peer(&[]);
        world.act();
        assert_eq!(world.state("int_1"), state, "after {pause} ms");
    }
}

/// Of several entries that are told again, the last has a rest that was held back.
#[test]
fn an_end_with_several_entries_is_seen_too() {
    for (goes_on, state) in [(false, TurnState::Unknown), (true, Dispatched)] {
        let mut world = World::new();
        let former = world.listing_peer(&[]);
        world.used_thread(former, "thr_a", "th_a");
        world.prompt("thr_a", "int_1");
        world.act();
        for (entry, text) in [("3", "one"), ("4", "two")] {
            world.wrote(former, "th_a", entry, "int_1", text);
            world.now += Duration::from_secs(1);
        }
        world.wrote(former, "th_a", "3", "int_1", "one");
        world.wrote(former, "th_a", "4", "int_1", "two and the rest");
        if goes_on {
            world.wrote(former, "th_a", "5", "int_1", "three");
        }
        world.desk.lost(former, true, [], world.now);
        world.now += Duration::from_secs(1);
        world.listing_peer(&[]);
        world.act();
        assert_eq!(world.state("int_1"), state, "goes on: {goes_on}");
    }
}

/// An owner that was one before, and was not for a while.
#[test]
fn what_another_owner_had_is_in_doubt() {
    let mut world = World::new();
    let own = world.listing_peer(&[]);
    world.used_thread(own, "thr_a", "th_a");
    world.apply(sync_event(READY, None, Vec::new(), None));
    // Another server hands it over, and dies.
    world.prompt("thr_a", "int_1");
    let event =
        ThreadEvent::TurnMoved { turn: turn("int_1"), state: Dispatched, cause: None, usage: None, exit_status: None };
    world.apply(Append { thread: thread("thr_a"), event });
    world.later(1000);
    world.desk.succeed(&world.conversation, world.now);
    assert_eq!(world.sends(), [""; 0]);
    assert_eq!((world.state("int_1"), world.cause("int_1")), (TurnState::Unknown, Some("end_lost")));
}

/// A session that begins elsewhere has the memory of a checkpoint: what its former agent was handed may have run.
#[test]
fn what_was_handed_over_before_a_session_began_elsewhere_is_not_handed_over_there() {
    for (known, now, left) in [(Some(1), 2, true), (Some(2), 2, false), (None, 2, false)] {
        let mut world = World::new();
        let former = world.listing_peer(&[]);
        world.used_thread(former, "thr_a", "th_a");
        world.apply(sync_event(READY, None, Vec::new(), known.map(Epoch)));
        world.prompt("thr_a", "int_1").prompt("thr_a", "int_2");
        world.act();
        world.desk.lost(former, true, [], world.now);
        for append in world.desk.left_behind(&world.conversation, Epoch(now)) {
            world.apply(append);
        }
        let peer = world.connect();
        let ready = json!({ "agent_name": "a", "thread_id": null, "active_turns": [], "deduplicates": true });
        world.say(peer, "agent_ready", ready);
        let sends = world.sends();
        if left {
            assert_eq!((world.state("int_1"), world.cause("int_1")), (TurnState::Unknown, Some("begun_elsewhere")));
            assert_eq!(sends, ["open_thread th_a", "chat_message int_2"], "what nobody had goes on");
        } else {
            assert_eq!(world.state("int_1"), Dispatched, "{known:?}");
            assert_eq!(sends, ["open_thread th_a", "chat_message int_1"], "{known:?}");
        }
    }
}

/// A frame that provably never left was carried out by nobody.
#[test]
fn what_was_never_sent_is_handed_over_elsewhere() {
    let mut world = World::new();
    let former = world.listing_peer(&[]);
    world.used_thread(former, "thr_a", "th_a");
    world.apply(sync_event(READY, None, Vec::new(), Some(Epoch(1))));
    world.prompt("thr_a", "int_1");
    world.act();
    world.desk.lost(former, true, [turn("int_1")], world.now);
    assert_eq!(world.desk.left_behind(&world.conversation, Epoch(2)), []);
}
