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
    for (id, tool, asks, patience) in [
        ("int_1", None, false, 180),
        ("int_2", Some("In Progress"), false, 1800),
        ("int_3", Some("Waiting for confirmation"), false, 1800),
        ("int_4", Some("Completed"), false, 180),
        ("int_5", None, true, 1800),
    ] {
        world.prompt("thr_a", id);
        assert_eq!(world.sends(), [format!("chat_message {id}")]);
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
    world.desk.lost(first, true, []);
    world.later(1000);
    let second = world.old_peer();
    world.act();
    assert_eq!(world.deadline(), Some(180), "it counts from the new connection on");
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
    world.desk.lost(peer, true, []);
    world.later(100_000);
    assert_eq!((world.deadline(), world.sends()), (None, Vec::new()));
    assert_eq!(world.state("int_1"), TurnState::Dispatched);
}
