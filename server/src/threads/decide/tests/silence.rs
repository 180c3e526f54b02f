use super::*;

#[test]
fn a_new_thread_that_never_comes_is_told_and_frees_the_loop() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.prompt("thr_a", "int_1").prompt("thr_b", "int_2");
    world.act();
    assert_eq!(world.deadline(), Some(90));
    assert_eq!(world.sends(), ["cancel_current_turn int_1", "chat_message int_2"]);
    assert_eq!((world.state("int_1"), world.cause("int_1")), (TurnState::Unknown, Some("no_thread_created")));
    // It comes after all, and counts.
    world.created(peer, "th_a", "int_1");
    assert_eq!(world.state("int_1"), TurnState::Running);
    world.completed(peer, "th_a", "int_1");
    assert_eq!(world.state("int_1"), TurnState::Completed);
}

#[test]
fn a_silent_turn_is_told_and_one_with_a_tool_or_a_question_waits_longer() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    let mut former: Option<String> = None;
    for (id, tool, asks, patience) in [
        ("int_1", None, false, 180),
        ("int_2", Some("In Progress"), false, 1800),
        ("int_3", Some("Waiting for confirmation"), false, 1800),
        ("int_4", Some("Completed"), false, 180),
        ("int_5", None, true, 1800),
    ] {
        world.prompt("thr_a", id);
        // Only what waits is worth the end of one that may go on.
        if let Some(former) = former {
            assert_eq!(world.sends(), [format!("cancel_current_turn {former}")]);
            assert_eq!(world.deadline(), Some(2), "its last word is waited for");
        }
        assert_eq!(world.sends(), [format!("chat_message {id}")]);
        former = Some(id.to_owned());
        world.later(5);
        let (name, kind) = tool.map_or(("", "text"), |_| ("Run", "tool_call"));
        let entry = json!({
            "acp_thread_id": "th_a", "message_id": format!("entry {id}"), "role": "assistant", "content": "x", "request_id": id,
            "entry_type": kind, "tool_name": name, "tool_status": tool.unwrap_or_default(),
        });
        world.say(peer, "message_added", entry);
        if asks {
            let asked = json!({ "acp_thread_id": "th_a", "request_id": id, "elicitation_id": "q", "mode": "form" });
            world.say(peer, "elicitation_requested", asked);
        }
        let begun = world.now;
        while world.state(id) == TurnState::Running {
            world.deadline().expect("a deadline");
            world.act();
        }
        assert_eq!((world.now - begun).as_secs(), patience, "{id}");
        assert_eq!((world.state(id), world.cause(id)), (TurnState::Unknown, Some("silent")), "{id}");
    }
    let question = world.conversation.thread(&thread("thr_a")).and_then(|of| of.question("q")).expect("there");
    assert_eq!(question.closed.as_deref(), Some("expired"), "nobody waits for it any more");
}

#[test]
fn who_waits_for_an_answer_is_not_silent() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    let asked = json!({ "acp_thread_id": "th_a", "request_id": "int_1", "elicitation_id": "q", "mode": "form" });
    world.say(peer, "elicitation_requested", asked);
    for _ in 0..1000 {
        world.later(15);
        world.say(peer, "elicitation_resync", json!({ "acp_thread_id": "th_a", "elicitation_ids": ["q"] }));
        assert_eq!(world.sends(), [""; 0]);
    }
    assert_eq!(world.state("int_1"), TurnState::Dispatched);
    let question = world.conversation.thread(&thread("thr_a")).and_then(|of| of.question("q")).expect("there");
    assert_eq!(question.closed, None);
}

/// A waits for nothing any more, B runs, and the end of A was lost: B must not be called silent for A's sake, nor
/// cancelled, for Zed cancels by thread.
#[test]
fn what_was_interrupted_does_not_end_what_interrupted_it() {
    let mut world = World::new();
    let first = world.old_peer();
    world.used_thread(first, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.wrote(first, "th_a", "1", "int_1", "one");
    world.interrupt("thr_a", "int_2");
    assert_eq!(world.sends(), ["chat_message int_2!"]);
    world.desk.lost(first, true, [], world.now);
    let second = world.old_peer();
    world.act();
    // Until one of both shows itself the earlier one is waited for.
    world.later(100);
    world.wrote(second, "th_a", "3", "int_2", "two");
    assert_eq!((world.state("int_1"), world.state("int_2")), (TurnState::Interrupted, TurnState::Running));
    world.later(100);
    world.wrote(second, "th_a", "3", "int_2", "two and more");
    assert_eq!(world.sends(), [""; 0]);
    assert_eq!(world.deadline(), Some(180));
}

#[test]
fn each_sign_of_life_counts_and_a_repeat_is_none() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.later(100);
    world.wrote(peer, "th_a", "1", "int_1", "one");
    assert_eq!(world.deadline(), Some(180));
    world.now -= Duration::from_mins(1);
    world.wrote(peer, "th_a", "1", "int_1", "one");
    assert_eq!(world.deadline(), Some(60));
}

#[test]
fn what_an_old_build_may_or_may_not_have_is_not_proved() {
    let mut world = World::new();
    let first = world.old_peer();
    world.used_thread(first, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.later(170);
    world.desk.lost(first, true, [], world.now);
    world.later(1000);
    let second = world.old_peer();
    world.act();
    world.later(80);
    world.desk.lost(second, true, [], world.now);
    world.later(1000);
    // A bad line must not keep it waiting for ever.
    let second = world.old_peer();
    world.act();
    assert_eq!(world.deadline(), Some(100), "it counts from the first connection on that came after it");
    world.act();
    assert_eq!((world.state("int_1"), world.cause("int_1")), (TurnState::Unknown, Some("not_proved")));
    world.wrote(second, "th_a", "1", "int_1", "here");
    assert_eq!(world.state("int_1"), TurnState::Running);
    world.deadline();
    world.act();
    assert_eq!((world.state("int_1"), world.cause("int_1")), (TurnState::Unknown, Some("silent")));
}

#[test]
fn nobody_is_called_silent_while_nobody_is_connected() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.prompt("thr_a", "int_1");
    world.act();
    world.desk.lost(peer, true, [], world.now);
    world.later(100_000);
    assert_eq!((world.deadline(), world.sends()), (None, Vec::new()));
    assert_eq!(world.state("int_1"), TurnState::Dispatched);
}

/// The first turn of a thread does not hold the editor's loop: it may think on while other threads work.
#[test]
fn who_is_in_nobodys_way_is_left_alone() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.prompt("thr_a", "int_1");
    world.act();
    world.created(peer, "th_a", "int_1");
    world.later(200);
    world.act();
    assert_eq!((world.state("int_1"), world.cause("int_1")), (TurnState::Unknown, Some("silent")));
    world.prompt("thr_b", "int_2");
    assert_eq!(world.sends(), ["chat_message int_2"]);
}

/// An older build that came back does not say what it has: what hangs there is freed for what comes.
#[test]
fn what_hung_before_a_break_is_freed_after_it() {
    let mut world = World::new();
    let first = world.old_peer();
    world.used_thread(first, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.later(200);
    world.act();
    assert_eq!(world.state("int_1"), TurnState::Unknown);
    world.desk.lost(first, true, [], world.now);
    let second = world.old_peer();
    assert_eq!(world.sends(), ["open_thread th_a"]);
    world.prompt("thr_b", "int_2");
    assert_eq!(world.sends(), ["cancel_current_turn int_1", "chat_message int_2"]);
    world.say(second, "turn_cancelled", json!({ "request_id": "int_1", "status": "noop" }));
}

/// It is listed as long as another one works, which says nothing of itself.
#[test]
fn a_turn_that_is_not_vouched_for_stays_silent() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    let list = |vouched: bool| {
        let turn = json!({ "request_id": "int_1", "state": "running", "acp_thread_id": "th_a", "vouched": vouched });
        json!({ "agent_name": "a", "thread_id": null, "active_turns": [turn] })
    };
    world.say(peer, "agent_ready", list(true));
    world.later(100);
    world.say(peer, "agent_ready", list(false));
    assert_eq!(world.state("int_1"), TurnState::Running);
    world.later(100);
    world.act();
    assert_eq!(world.state("int_1"), TurnState::Unknown);
    world.say(peer, "agent_ready", list(false));
    assert_eq!(world.state("int_1"), TurnState::Unknown);
}
