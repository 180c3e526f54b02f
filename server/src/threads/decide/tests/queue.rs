use super::*;

#[test]
fn nothing_goes_before_the_agent_is_ready_or_was_waited_for() {
    let mut world = World::new();
    world.prompt("thr_a", "int_1");
    let peer = world.connect();
    assert_eq!(world.sends(), [""; 0]);
    assert_eq!(world.deadline(), Some(60));
    assert_eq!(world.sends(), ["chat_message int_1"]);
    // The gate is the socket's own.
    world.created(peer, "th_a", "int_1");
    world.completed(peer, "th_a", "int_1");
    world.prompt("thr_a", "int_2");
    world.connect();
    assert_eq!(world.sends(), ["open_thread th_a"]);
    world.later(59);
    assert_eq!(world.sends(), [""; 0]);
    world.later(1);
    assert_eq!(world.sends(), ["chat_message int_2"]);
}

#[test]
fn a_load_that_failed_is_an_answer_too() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_2");
    let peer = world.connect();
    let opened = world.act();
    let request = opened[0]["data"]["request_id"].clone();
    world.say(peer, "thread_load_error", json!({ "acp_thread_id": "th_a", "request_id": request, "error": "Failed" }));
    assert_eq!(world.sends(), ["chat_message int_2"]);
    assert_eq!(world.state("int_2"), TurnState::Dispatched);
}

#[test]
fn one_follow_up_at_a_time_by_age_and_new_threads_only_until_they_are_there() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.used_thread(peer, "thr_b", "th_b");
    world.prompt("thr_b", "int_b").prompt("thr_a", "int_a").prompt("thr_c", "int_c").prompt("thr_d", "int_d");
    assert_eq!(world.sends(), ["chat_message int_b"]);
    world.wrote(peer, "th_b", "1", "int_b", "hm");
    assert_eq!(world.sends(), [""; 0]);
    world.completed(peer, "th_b", "int_b");
    assert_eq!(world.sends(), ["chat_message int_a"]);
    world.completed(peer, "th_a", "int_a");
    assert_eq!(world.sends(), ["chat_message int_c"]);
    world.created(peer, "th_c", "int_c");
    // It runs on, and the loop is free.
    assert_eq!(world.sends(), ["chat_message int_d"]);
    world.prompt("thr_a", "int_a2");
    assert_eq!(world.sends(), [""; 0]);
    world.created(peer, "th_d", "int_d");
    assert_eq!(world.sends(), ["chat_message int_a2"]);
}

#[test]
fn a_peer_that_works_on_several_threads_gets_several_prompts() {
    let mut world = World::new();
    let peer = world.connect();
    world.say(peer, "agent_ready", json!({ "agent_name": "bridge", "thread_id": null, "concurrent": true }));
    world.prompt("thr_a", "int_a").prompt("thr_b", "int_b").prompt("thr_a", "int_a2");
    assert_eq!(world.sends(), ["chat_message int_a", "chat_message int_b"]);
}

#[test]
fn an_interrupt_goes_at_once_and_overtakes_what_waits_in_its_thread() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.prompt("thr_a", "int_1").prompt("thr_a", "int_2").interrupt("thr_a", "int_3");
    assert_eq!(world.sends(), ["chat_message int_3"], "nothing runs that it could end, it is only first");
    world.interrupt("thr_a", "int_4");
    assert_eq!(world.sends(), [""; 0], "the agent has no name for the thread yet");
    world.created(peer, "th_a", "int_3");
    assert_eq!(world.sends(), ["chat_message int_4!"]);
    world.completed(peer, "th_a", "int_3");
    assert_eq!(world.state("int_3"), TurnState::Interrupted);
    assert_eq!(world.sends(), [""; 0]);
    world.completed(peer, "th_a", "int_4");
    assert_eq!(world.sends(), ["chat_message int_1"]);
    world.completed(peer, "th_a", "int_1");
    assert_eq!(world.sends(), ["chat_message int_2"]);
}

#[test]
fn the_end_of_an_interrupting_turn_is_the_end_of_what_it_interrupted() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.interrupt("thr_a", "int_2");
    assert_eq!(world.sends(), ["chat_message int_2!"]);
    world.wrote(peer, "th_a", "2", "int_2", "now this");
    world.completed(peer, "th_a", "int_2");
    assert_eq!((world.state("int_1"), world.state("int_2")), (TurnState::Interrupted, TurnState::Completed));
}

#[test]
fn what_is_typed_in_the_editor_holds_its_own_thread_only() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.used_thread(peer, "thr_b", "th_b");
    world.typed(peer, "th_a", "7", "by hand");
    world.prompt("thr_a", "int_a").prompt("thr_b", "int_b");
    assert_eq!(world.sends(), ["chat_message int_b"]);
    world.completed(peer, "th_b", "int_b");
    world.wrote(peer, "th_a", "8", "", "yes");
    assert_eq!(world.sends(), [""; 0]);
    world.completed(peer, "th_a", "");
    assert_eq!(world.sends(), ["chat_message int_a"]);
}

#[test]
fn a_prompt_has_its_attachments_and_never_a_role() {
    let mut world = World::new();
    world.old_peer();
    world.prompt("thr_a", "int_0");
    let event = ThreadEvent::TurnQueued {
        turn: turn("int_1"),
        origin: Origin::Api,
        by: None,
        prompt: "look".to_owned(),
        interrupt: false,
        attachments: vec!["a.png".to_owned(), "b/c.txt".to_owned()],
        resend_of: None,
    };
    world.apply(Append { thread: thread("thr_b"), event });
    world.act();
    world.created(PeerId(1), "th_a", "int_0");
    let mut settings = insta::Settings::clone_current();
    settings.set_sort_maps(true);
    let _sorted = settings.bind_to_scope();
    insta::assert_json_snapshot!(world.act(), @r#"
    [
      {
        "data": {
          "acp_thread_id": null,
          "agent_name": "zed-agent",
          "interrupt": false,
          "message": "look\n\nFiles in the workspace that go with this:\n- a.png\n- b/c.txt",
          "request_id": "int_1"
        },
        "type": "chat_message"
      }
    ]
    "#);
}

#[test]
fn a_cancelled_turns_last_word_is_waited_for() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1").prompt("thr_a", "int_2");
    world.act();
    world.cancel_wanted("thr_a", "int_1");
    assert_eq!(world.sends(), ["cancel_current_turn int_1"]);
    world.say(peer, "turn_cancelled", json!({ "request_id": "int_1", "status": "cancelled" }));
    assert_eq!(world.sends(), [""; 0]);
    // It does not name its turn, and must not be taken for the next one's.
    world.completed(peer, "th_a", "");
    assert_eq!((world.state("int_1"), world.sends()), (TurnState::Cancelled, vec!["chat_message int_2".to_owned()]));
    // Where it never comes, the thread goes on all the same.
    world.prompt("thr_a", "int_3");
    world.cancel_wanted("thr_a", "int_2");
    world.act();
    world.say(peer, "turn_cancelled", json!({ "request_id": "int_2", "status": "cancelled" }));
    assert_eq!(world.deadline(), Some(2));
    assert_eq!(world.sends(), ["chat_message int_3"]);
}

#[test]
fn a_queued_turn_that_was_called_off_never_goes() {
    let mut world = World::new();
    world.prompt("thr_a", "int_1");
    world.cancel_wanted("thr_a", "int_1");
    world.old_peer();
    assert_eq!((world.sends(), world.state("int_1")), (Vec::new(), TurnState::Cancelled));
}
