//! Prompts, answers, and everything that can come between.

use helix_protocol::thread::{Origin, TurnState};
use serde_json::{Value, json};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sessions_input_is_its_first_turn_and_a_prompt_follows_it() {
    let (fleet, app, address, token) = one("", Some("make")).await;
    let mut agent = Agent::connect(address, &token).await;
    agent.hears_nothing().await;
    agent.say("agent_ready", json!({ "agent_name": "zed-agent", "thread_id": null })).await;
    let first = agent.hear("chat_message").await;
    let request = first["request_id"].as_str().expect("a request").to_owned();
    let expected = json!({
        "message": "make", "request_id": request, "acp_thread_id": null, "agent_name": "zed-agent", "interrupt": false,
    });
    assert_eq!(first, expected);
    let status = app.sessions.get(&admin(), &id("s")).await.expect("found").sync;
    assert!(status.connected && status.refused.is_none(), "{status:?}");

    // Ready again and again changes nothing.
    agent.say("agent_ready", json!({ "agent_name": "zed-agent", "thread_id": "th_1" })).await;
    agent.say("thread_created", json!({ "acp_thread_id": "th_1", "request_id": request })).await;
    for text in ["Hel", "Hello", "Hello, world"] {
        agent.write("th_1", "1", &request, text).await;
    }
    // Everything again at the end, as Zed does.
    agent.write("th_1", "1", &request, "Hello, world").await;
    agent.complete("th_1", &request).await;
    turn_is(&app, &request, TurnState::Completed).await;
    let all = conversation(&app, "s").await;
    let (thread, turn) = all.turn(&turn_id(&request)).expect("there");
    assert_eq!((thread.acp.as_deref(), turn.origin, turn.dispatches), (Some("th_1"), Origin::Input, 1));
    assert_eq!(thread.entry("1").and_then(|entry| entry.text.as_deref()), Some("Hello, world"));
    assert_eq!((turn.usage.expect("told").total_tokens, thread.usage.total_tokens), (12, 12));

    let thread = thread.id.as_str().to_owned();
    prompt(&app, &thread, "int_2", "more", false).await;
    let follow_up = agent.hear("chat_message").await;
    assert_eq!((&follow_up["acp_thread_id"], &follow_up["request_id"]), (&json!("th_1"), &json!("int_2")));
    // The end comes although its own frame was lost: what is late and stale changes nothing.
    agent.write("th_1", "3", "int_2", "done").await;
    agent.complete("th_1", &request).await;
    agent.complete("th_1", "int_2").await;
    agent.complete("th_1", "int_2").await;
    turn_is(&app, "int_2", TurnState::Completed).await;
    agent.hears_nothing().await;
    let status = app.sessions.get(&admin(), &id("s")).await.expect("found").sync;
    assert!(status.connected && status.ready && status.agent.as_deref() == Some("zed-agent"), "{status:?}");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_wait_for_the_agents_loop_and_an_interrupt_does_not() {
    let (fleet, app, address, token) = one("", None).await;
    prompt(&app, "thr_a", "int_a1", "a1", false).await;
    prompt(&app, "thr_b", "int_b1", "b1", false).await;
    prompt(&app, "thr_a", "int_a2", "a2", false).await;
    let mut agent = Agent::old(address, &token).await;
    // A prompt for a new thread keeps the loop until the thread is there, then no longer.
    assert_eq!(agent.make_thread("th_a").await, "int_a1");
    assert_eq!(agent.make_thread("th_b").await, "int_b1");
    agent.hears_nothing().await;
    agent.complete("th_a", "int_a1").await;
    let follow_up = agent.hear("chat_message").await;
    assert_eq!((&follow_up["request_id"], &follow_up["interrupt"]), (&json!("int_a2"), &json!(false)));
    // While a follow-up runs, nothing else does; but what interrupts it does.
    agent.complete("th_b", "int_b1").await;
    prompt(&app, "thr_b", "int_b2", "b2", false).await;
    prompt(&app, "thr_a", "int_a3", "a3", false).await;
    agent.write("th_a", "3", "int_a2", "work").await;
    agent.hears_nothing().await;
    prompt(&app, "thr_a", "int_a4", "a4", true).await;
    let interrupt = agent.hear("chat_message").await;
    assert_eq!((&interrupt["request_id"], &interrupt["interrupt"]), (&json!("int_a4"), &json!(true)));
    agent.complete("th_a", "int_a2").await;
    turn_is(&app, "int_a2", TurnState::Interrupted).await;
    agent.hears_nothing().await;
    agent.complete("th_a", "int_a4").await;
    turn_is(&app, "int_a4", TurnState::Completed).await;
    // Then by age.
    for (request, acp) in [("int_b2", "th_b"), ("int_a3", "th_a")] {
        assert_eq!(agent.hear("chat_message").await["request_id"], request);
        agent.complete(acp, request).await;
    }
    turn_is(&app, "int_a3", TurnState::Completed).await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_came_too_early_is_repeated() {
    let (fleet, app, address, token) = one("", None).await;
    prompt(&app, "thr_a", "int_1", "long", false).await;
    let mut agent = Agent::old(address, &token).await;
    agent.hear("chat_message").await;
    let cancel = ThreadEvent::CancelRequested { turn: turn_id("int_1"), by: "admin".to_owned() };
    append(&app, "s", &ThreadId::parse("thr_a").expect("valid id"), cancel).await;
    assert_eq!(agent.hear("cancel_current_turn").await, json!({ "request_id": "int_1" }));
    agent.say("turn_cancelled", json!({ "request_id": "int_1", "status": "noop" })).await;
    agent.hears_nothing().await;
    // It runs after all: once per sign of life until it is cancelled.
    agent.say("thread_created", json!({ "acp_thread_id": "th_a", "request_id": "int_1" })).await;
    agent.hear("cancel_current_turn").await;
    agent.say("turn_cancelled", json!({ "request_id": "int_1", "status": "noop" })).await;
    agent.write("th_a", "1", "int_1", "I begin").await;
    agent.hear("cancel_current_turn").await;
    agent.say("turn_cancelled", json!({ "request_id": "int_1", "status": "cancelled" })).await;
    agent.complete("th_a", "int_1").await;
    turn_is(&app, "int_1", TurnState::Cancelled).await;
    prompt(&app, "thr_a", "int_2", "next", false).await;
    assert_eq!(agent.hear("chat_message").await["request_id"], "int_2");
    // What it took until then is told, and changes nothing else.
    assert_eq!(thread_of(&conversation(&app, "s").await, "thr_a").usage.total_tokens, 12);
    turn_is(&app, "int_1", TurnState::Cancelled).await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_of_the_reconnect_table() {
    let (fleet, app, address, token) = one("silence = \"1500ms\"", None).await;
    prompt(&app, "thr_a", "int_1", "one", false).await;
    let mut agent = Agent::old(address, &token).await;
    agent.make_thread("th_a").await;
    agent.complete("th_a", "int_1").await;
    turn_is(&app, "int_1", TurnState::Completed).await;
    prompt(&app, "thr_a", "int_2", "two", false).await;
    agent.hear("chat_message").await;
    drop(agent);

    // It has it: its events are waited for, also those that come before it is ready.
    let list = |turns: Value| json!({ "agent_name": "zed-agent", "thread_id": null, "active_turns": turns });
    let mut agent = Agent::connect(address, &token).await;
    let open = agent.hear("open_thread").await;
    assert_eq!((&open["acp_thread_id"], &open["agent_name"]), (&json!("th_a"), &json!("zed-agent")));
    assert!(open["request_id"].as_str().is_some_and(|request| !request.is_empty()), "{open}");
    agent.write("th_a", "3", "int_2", "from the backlog").await;
    agent.say("agent_ready", list(json!([{ "request_id": "int_2", "state": "running" }]))).await;
    agent.hears_nothing().await;
    assert_eq!(text(&app, "thr_a", "3").await.as_deref(), Some("from the backlog"));
    drop(agent);

    // It provably has not: again, and only once however often it says that it is ready.
    let mut agent = Agent::connect(address, &token).await;
    agent.hear("open_thread").await;
    agent.say("agent_ready", list(json!([]))).await;
    assert_eq!(agent.hear("chat_message").await["request_id"], "int_2");
    agent.say("agent_ready", list(json!([]))).await;
    agent.hears_nothing().await;
    drop(agent);

    // It never runs a request twice: again.
    let mut agent = Agent::connect(address, &token).await;
    agent.hear("open_thread").await;
    agent.say("agent_ready", json!({ "agent_name": "bridge", "thread_id": null, "deduplicates": true })).await;
    assert_eq!(agent.hear("chat_message").await["request_id"], "int_2");
    drop(agent);

    // Nobody can say: never again, and in the end it says so.
    let mut agent = Agent::old(address, &token).await;
    agent.hear("open_thread").await;
    agent.hears_nothing().await;
    assert_eq!(turn_is(&app, "int_2", TurnState::Unknown).await.as_deref(), Some("not_proved"));
    // What comes late still counts.
    agent.write("th_a", "3", "int_2", "here I am").await;
    turn_is(&app, "int_2", TurnState::Running).await;
    agent.complete("th_a", "int_2").await;
    turn_is(&app, "int_2", TurnState::Completed).await;
    let all = conversation(&app, "s").await;
    assert_eq!(all.turn(&turn_id("int_2")).expect("there").1.dispatches, 3);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_says_nothing_is_told_so() {
    let settings = "ready_fallback = \"300ms\"\nthread_created = \"600ms\"\nsilence = \"900ms\"\ntool_silence = \"1h\"";
    let (fleet, app, address, token) = one(settings, Some("make")).await;
    let mut agent = Agent::connect(address, &token).await;
    // It never says that it is ready, and gets its prompt all the same.
    let request = agent.hear("chat_message").await["request_id"].as_str().expect("a request").to_owned();
    assert_eq!(turn_is(&app, &request, TurnState::Unknown).await.as_deref(), Some("no_thread_created"));
    // Nothing waits for its place, so it may still go on; what comes next frees the loop first.
    agent.hears_nothing().await;
    prompt(&app, "thr_b", "int_b", "b", false).await;
    assert_eq!(agent.hear("cancel_current_turn").await["request_id"], request);
    assert_eq!(agent.make_thread("th_b").await, "int_b");
    assert_eq!(turn_is(&app, "int_b", TurnState::Unknown).await.as_deref(), Some("silent"));
    // A tool may be silent for long.
    prompt(&app, "thr_b", "int_c", "c", false).await;
    assert_eq!(agent.hear("cancel_current_turn").await["request_id"], "int_b");
    agent.hear("chat_message").await;
    let tool = json!({
        "acp_thread_id": "th_b", "message_id": "3", "role": "assistant", "content": "make", "request_id": "int_c",
        "entry_type": "tool_call", "tool_name": "Run", "tool_status": "In Progress", "timestamp": 1,
    });
    agent.say("message_added", tool).await;
    turn_is(&app, "int_c", TurnState::Running).await;
    agent.hears_nothing_for(std::time::Duration::from_millis(1200)).await;
    turn_is(&app, "int_c", TurnState::Running).await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_is_loaded_may_have_another_id_and_one_that_is_gone_is_made_anew() {
    let (fleet, app, address, token) = one("", None).await;
    prompt(&app, "thr_a", "int_1", "one", false).await;
    let mut agent = Agent::old(address, &token).await;
    agent.make_thread("th_old").await;
    agent.complete("th_old", "int_1").await;
    turn_is(&app, "int_1", TurnState::Completed).await;
    drop(agent);

    let mut agent = Agent::connect(address, &token).await;
    assert_eq!(agent.hear("open_thread").await["acp_thread_id"], "th_old");
    agent.say("agent_ready", json!({ "agent_name": "zed-agent", "thread_id": "th_new" })).await;
    prompt(&app, "thr_a", "int_2", "two", false).await;
    let follow_up = agent.hear("chat_message").await;
    assert_eq!(follow_up["acp_thread_id"], "th_new");
    agent.write("th_new", "3", "int_2", "yes").await;
    agent.complete("th_new", "int_2").await;
    turn_is(&app, "int_2", TurnState::Completed).await;
    let all = conversation(&app, "s").await;
    assert_eq!((all.threads().len(), thread_of(&all, "thr_a").acp_ids.len()), (1, 2));

    prompt(&app, "thr_a", "int_3", "three", false).await;
    agent.hear("chat_message").await;
    let gone = json!({
        "acp_thread_id": "th_new", "request_id": "int_3", "error": "Failed to load thread: Resource not found: th_new",
    });
    agent.say("thread_load_error", gone).await;
    assert_eq!(agent.make_thread("th_third").await, "int_3");
    agent.complete("th_third", "int_3").await;
    turn_is(&app, "int_3", TurnState::Completed).await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_types_in_the_editor_appears_by_itself() {
    let (fleet, app, address, token) = one("", None).await;
    let mut agent = Agent::old(address, &token).await;
    agent.say("user_created_thread", json!({ "acp_thread_id": "th_draft", "title": null })).await;
    agent.say("user_created_thread", json!({ "acp_thread_id": "th_u", "title": "Mine" })).await;
    let typed = |entry: &str, text: &str| {
        json!({
            "acp_thread_id": "th_u", "message_id": entry, "role": "user", "content": text, "request_id": "",
            "entry_type": "text", "tool_name": "", "tool_status": "", "timestamp": 1,
        })
    };
    agent.say("message_added", typed("0", "hello")).await;
    agent.write("th_u", "1", "", "hi").await;
    agent.complete("th_u", "").await;
    let thread = eventually("the thread appears", async || {
        let all = conversation(&app, "s").await;
        let thread = all.threads().first()?;
        thread.turns.first().filter(|turn| turn.state == TurnState::Completed)?;
        Some(thread.clone())
    })
    .await;
    assert_eq!((thread.title.as_deref(), thread.origin), (Some("Mine"), Origin::Editor));
    assert_eq!((thread.turns[0].prompt.as_str(), thread.turns[0].origin), ("hello", Origin::Editor));
    assert_eq!(thread.entries.len(), 2);
    // A prompt of ours goes there; what the agent repeats is no new turn.
    prompt(&app, thread.id.as_str(), "int_9", "go on", false).await;
    assert_eq!(agent.hear("chat_message").await["acp_thread_id"], "th_u");
    agent.say("message_added", typed("2", "go on")).await;
    agent.write("th_u", "3", "int_9", "going").await;
    agent.complete("th_u", "int_9").await;
    turn_is(&app, "int_9", TurnState::Completed).await;
    // And again typed: under the stale request of the turn before.
    agent.say("message_added", typed("4", "stop here")).await;
    agent.write("th_u", "5", "int_9", "stopped").await;
    agent.complete("th_u", "int_9").await;
    let all = eventually("the typed turn is over", async || {
        let all = conversation(&app, "s").await;
        let last = all.threads().first()?.turns.last()?;
        (last.prompt == "stop here" && last.state == TurnState::Completed).then_some(all)
    })
    .await;
    assert_eq!((all.threads().len(), all.threads()[0].turns.len()), (1, 3), "the draft is nobody's thread");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_old_dialect_is_spoken_to_who_speaks_it() {
    let (fleet, app, address, token) = one("ready_fallback = \"200ms\"", None).await;
    let mut agent = Agent::connect(address, &token).await;
    let said = |event: &str, data: Value| {
        let frame =
            json!({ "session_id": "s", "event_type": event, "data": data, "timestamp": "2026-01-02T03:04:05Z" });
        frame.to_string()
    };
    agent.raw(said("context_created", json!({ "context_id": "ctx_0", "title": "x", "thread_id": "t" }))).await;
    prompt(&app, "thr_a", "int_1", "Please fix login", false).await;
    let first = agent.hear("chat_message").await;
    let expected = json!({ "request_id": "int_1", "context_id": null, "message": "Please fix login", "role": "user" });
    assert_eq!(first, expected);
    agent.raw(said("context_created", json!({ "context_id": "ctx_1", "title": "Login fix", "thread_id": "t" }))).await;
    for chunk in ["Look", "ing."] {
        agent.raw(said("chat_response_chunk", json!({ "request_id": "int_1", "chunk": chunk }))).await;
    }
    agent.raw(said("chat_response_done", json!({ "request_id": "int_1" }))).await;
    turn_is(&app, "int_1", TurnState::Completed).await;
    assert_eq!(text(&app, "thr_a", "int_1").await.as_deref(), Some("Looking."));
    prompt(&app, "thr_a", "int_2", "more", false).await;
    assert_eq!(agent.hear("chat_message").await["context_id"], "ctx_1");
    agent.raw(said("context_title_changed", json!({ "context_id": "ctx_1", "new_title": "Login redirect" }))).await;
    agent
        .raw(said(
            "message_added",
            json!({ "context_id": "ctx_1", "message_id": 7, "content": "Hi", "role": "assistant" }),
        ))
        .await;
    agent.raw(said("chat_response", json!({ "request_id": "int_2", "content": "Done." }))).await;
    turn_is(&app, "int_2", TurnState::Completed).await;
    let all = conversation(&app, "s").await;
    let thread = thread_of(&all, "thr_a");
    assert_eq!((thread.title.as_deref(), thread.acp.as_deref()), (Some("Login redirect"), Some("ctx_1")));
    assert_eq!(thread.entry("7").and_then(|entry| entry.text.as_deref()), Some("Hi"));
    fleet.stop(&[app]).await;
}
