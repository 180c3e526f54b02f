use TurnState::{Completed, Failed, Queued};

use super::*;

#[test]
fn an_error_is_believed_once_its_turn_is_quiet() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    let error = json!({ "request_id": "int_1", "error": "agent exited" });
    world.wrote(peer, "th_a", "1", "int_1", "one");
    world.say(peer, "chat_response_error", error.clone());
    // It goes on: the error was none.
    world.wrote(peer, "th_a", "1", "int_1", "one two");
    world.later(2);
    world.act();
    assert_eq!(world.state("int_1"), TurnState::Running);
    world.wrote(peer, "th_a", "1", "int_1", "one two three");
    world.say(peer, "chat_response_error", error.clone());
    assert_eq!(world.deadline(), Some(1));
    world.act();
    assert_eq!((world.state("int_1"), world.cause("int_1")), (TurnState::Failed, Some("agent_error")));
    // Of a quiet one at once; and what goes on after all was not given up.
    world.prompt("thr_a", "int_2");
    world.act();
    world.say(peer, "chat_response_error", json!({ "request_id": "int_2", "error": "no model" }));
    assert_eq!(world.state("int_2"), TurnState::Failed);
    world.wrote(peer, "th_a", "2", "int_2", "well");
    assert_eq!(world.state("int_2"), TurnState::Running);
}

#[test]
fn what_a_load_error_means() {
    for (error, state, code) in [
        ("Failed to load thread: Resource not found: th_a", Queued, Some("thread_gone")),
        ("Failed to load thread: no thread found with ID 7", Queued, Some("thread_gone")),
        ("no rollout found for thread id 7", Queued, Some("thread_gone")),
        ("Failed to send follow-up: Agent does not support session loading", Queued, Some("thread_gone")),
        ("Failed to send follow-up: Claude Agent process exited", Failed, Some("agent_crashed")),
        ("Session not found", Failed, Some("agent_crashed")),
        ("Failed to send follow-up: what", Failed, Some("agent_error")),
    ] {
        let mut world = World::new();
        let peer = world.old_peer();
        world.used_thread(peer, "thr_a", "th_a");
        world.prompt("thr_a", "int_1");
        world.act();
        world.say(peer, "thread_load_error", json!({ "acp_thread_id": "th_a", "request_id": "int_1", "error": error }));
        assert_eq!((world.state("int_1"), world.cause("int_1")), (state, code), "{error}");
        if state == Queued {
            let sent = world.act();
            assert_eq!((&sent[0]["data"]["acp_thread_id"], sent.len()), (&Value::Null, 1), "{error}");
            world.created(peer, "th_new", "int_1");
            world.completed(peer, "th_new", "int_1");
            assert_eq!(world.state("int_1"), Completed);
        }
    }
}

#[test]
fn a_completion_finds_its_turn_and_a_repeat_none() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    // Of the turn before, again.
    assert_eq!(world.completed(peer, "th_a", "int_thr_a_0"), []);
    let usage = json!({ "total_tokens": 3, "input_tokens": 2, "output_tokens": 1, "thought_tokens": 0 });
    let done = json!({ "acp_thread_id": "th_a", "request_id": "", "usage": usage, "exit_status": 3 });
    world.say(peer, "message_completed", done.clone());
    let (of, done_turn) = world.conversation.turn(&turn("int_1")).expect("there");
    assert_eq!((done_turn.state, done_turn.exit_status), (TurnState::Completed, Some(3)));
    assert_eq!(of.usage.total_tokens, 3);
    assert_eq!(world.say(peer, "message_completed", done), []);
    assert_eq!(world.completed(peer, "th_unknown", "int_unknown"), []);
}

#[test]
fn an_end_whose_beginning_was_lost_names_the_thread() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.prompt("thr_a", "int_1");
    world.act();
    world.completed(peer, "th_a", "int_1");
    let of = world.conversation.thread(&thread("thr_a")).expect("there");
    assert_eq!((of.acp.as_deref(), world.state("int_1")), (Some("th_a"), TurnState::Completed));
}

#[test]
fn a_cancel_is_repeated_at_each_sign_of_life_until_it_is_done() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.prompt("thr_a", "int_1");
    world.act();
    world.cancel_wanted("thr_a", "int_1");
    assert_eq!(world.sends(), ["cancel_current_turn int_1"]);
    assert_eq!(world.sends(), [""; 0]);
    let noop = json!({ "request_id": "int_1", "status": "noop" });
    world.say(peer, "turn_cancelled", noop.clone());
    assert_eq!(world.sends(), [""; 0]);
    world.created(peer, "th_a", "int_1");
    assert_eq!(world.sends(), ["cancel_current_turn int_1"]);
    world.say(peer, "turn_cancelled", noop);
    world.wrote(peer, "th_a", "1", "int_1", "x");
    assert_eq!(world.sends(), ["cancel_current_turn int_1"]);
    // It was done before the wish arrived.
    world.completed(peer, "th_a", "int_1");
    assert_eq!(world.state("int_1"), TurnState::Completed);
}

#[test]
fn only_what_runs_is_cancelled() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.interrupt("thr_a", "int_2");
    world.act();
    world.cancel_wanted("thr_a", "int_2");
    assert_eq!(world.sends(), [""; 0], "it would end the other one, and run then");
    world.completed(peer, "th_a", "int_1");
    assert_eq!(world.sends(), ["cancel_current_turn int_2"]);
}

#[test]
fn a_question_that_is_named_no_more_expires_after_a_while() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    let asked = json!({ "acp_thread_id": "th_a", "request_id": "int_1", "elicitation_id": "q", "mode": "permission" });
    world.say(peer, "elicitation_requested", asked);
    let resync = |ids: &[&str]| json!({ "acp_thread_id": "th_a", "elicitation_ids": ids, "timestamp": 1 });
    world.later(50);
    assert_eq!(world.say(peer, "elicitation_resync", resync(&["q"])), []);
    world.later(50);
    assert_eq!(world.say(peer, "elicitation_resync", resync(&[])), []);
    world.later(10);
    assert_eq!(world.say(peer, "elicitation_resync", resync(&[])).len(), 1);
    // What the agent resolved by itself is closed by its word.
    let asked = json!({ "acp_thread_id": "th_a", "request_id": "int_1", "elicitation_id": "r", "mode": "form" });
    world.say(peer, "elicitation_requested", asked);
    world.say(
        peer,
        "elicitation_resolved",
        json!({ "acp_thread_id": "th_a", "elicitation_id": "r", "status": "declined" }),
    );
    let of = world.conversation.thread(&thread("thr_a")).expect("there");
    let closed: Vec<_> = of.questions.iter().map(|question| question.closed.clone().unwrap_or_default()).collect();
    assert_eq!(closed, ["expired", "declined"]);
}
