//! Several sockets, several servers, and servers that leave.

use helix_protocol::assignment::Lease;
use helix_protocol::subject;
use helix_protocol::thread::Role;
use helix_server::threads::decide::words::{EntrySaid, Said, Text};
use helix_server::threads::owner::wire::{Reply, Request};
use serde_json::json;

use super::*;
use crate::harness::within;
use crate::http::Answer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_go_to_the_newest_socket_and_events_come_from_all() {
    let fleet = Fleet::start().await;
    let (one, two) = (fleet.server().await, fleet.server().await);
    let (at_one, at_two) = (fleet.serve(&one).await, fleet.serve(&two).await);
    let token = session(&one, "s", None).await;
    let mut first = Agent::old(at_one, &token).await;
    prompt(&two, "thr_a", "int_1", "accepted by the other server", false).await;
    first.make_thread("th_a").await;
    first.write("th_a", "1", "int_1", "by the first").await;
    eventually("it is heard", async || text(&one, "thr_a", "1").await.filter(|text| text == "by the first")).await;

    // A second window: its socket is at another server.
    let mut second = Agent::old(at_two, &token).await;
    assert_eq!(second.hear("open_thread").await["acp_thread_id"], "th_a");
    // Both are heard, in the order in which each spoke.
    first.write("th_a", "2", "int_1", "by the first again").await;
    second.write("th_a", "3", "int_1", "by the second").await;
    eventually("both are heard", async || {
        let all = conversation(&two, "s").await;
        let thread = thread_of(&all, "thr_a");
        (thread.entry("2").is_some() && thread.entry("3").is_some()).then_some(())
    })
    .await;
    first.complete("th_a", "int_1").await;
    turn_is(&two, "int_1", TurnState::Completed).await;
    prompt(&one, "thr_a", "int_2", "two", false).await;
    assert_eq!(second.hear("chat_message").await["request_id"], "int_2");
    second.complete("th_a", "int_2").await;
    turn_is(&two, "int_2", TurnState::Completed).await;
    first.hears_nothing().await;
    let connections = |app: &App| app.store.leases.view().get(&subject::sync_lease_key(&id("s")));
    assert_eq!(connections(&one).expect("a lease").value.server, *two.server_id);

    // The newest leaves: the older one is the newest.
    drop(second);
    eventually("the lease comes back", async || connections(&one).filter(|lease| lease.value.server == *one.server_id))
        .await;
    prompt(&two, "thr_a", "int_3", "three", false).await;
    assert_eq!(first.hear("chat_message").await["request_id"], "int_3");
    // Commands find it wherever they are asked for, and so do people.
    let command = json!({ "type": "query_ui_state", "data": { "query_id": "q1" } }).to_string();
    let path = "/api/v1/external-agents/s/command";
    let done = Answer::send(at_two, "POST", path, &command).await.body().await;
    assert_eq!((done["session_id"].as_str(), done["message"].is_string()), (Some("s"), true), "{done}");
    assert_eq!(first.hear("query_ui_state").await, json!({ "query_id": "q1" }));
    // `data` is there even where it was left out: Zed drops a frame without it.
    Answer::send(at_two, "POST", path, r#"{"type":"cancel_current_turn"}"#).await.body().await;
    assert_eq!(first.hear("cancel_current_turn").await, json!({}));
    let connections = Answer::ask(at_two, "/api/v1/external-agents/connections").await.body().await;
    let listed = &connections[0];
    assert_eq!((listed["session_id"].as_str(), listed["status"].as_str()), (Some("s"), Some("ready")), "{connections}");
    assert!(listed["connected_at"].is_string() && listed["last_ping"].is_string(), "{connections}");
    let rdp = Answer::ask(at_two, "/api/v1/external-agents/s/rdp").await.body().await;
    assert_eq!(rdp["websocket_connected"], true, "{rdp}");
    drop(first);
    eventually("nobody is connected", async || {
        let list = Answer::ask(at_one, "/api/v1/external-agents/connections").await.body().await;
        (list == json!([])).then_some(())
    })
    .await;
    let refused = Answer::send(at_two, "POST", path, &command).await.body().await;
    assert_eq!((&refused["code"], &refused["status"]), (&json!("no_sync_connection"), &json!(409)), "{refused}");
    fleet.stop(&[one, two]).await;
}

/// Document 000's pieces add to what is there, so a repeat that was only meant to get its answer must not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_server_passes_on_twice_counts_once() {
    let (fleet, app, address, token) = one("", None).await;
    prompt(&app, "thr_a", "int_1", "one", false).await;
    let mut agent = Agent::old(address, &token).await;
    agent.make_thread("th_a").await;
    let pass_on = async |from: &str, number: u64| {
        let said = Said::Entry(Box::new(EntrySaid {
            acp: Some("th_a".to_owned()),
            id: "9".to_owned(),
            request: Some("int_1".to_owned()),
            role: Role::Assistant,
            tool: None,
            text: Text::Append("once ".to_owned()),
            flushed: false,
        }));
        let request = Request::Frame { said: Box::new(said), from: from.to_owned(), number };
        let payload = serde_json::to_vec(&request).expect("JSON");
        let asked = app.bus.client().request(subject::sync_owner(&id("s")), payload.into());
        let answer = within("answered", asked).await.expect("an owner");
        assert_eq!(serde_json::from_slice::<Reply>(&answer.payload).expect("a reply"), Reply::Done);
    };
    for (from, number) in [("a.1", 1), ("a.1", 1), ("a.1", 2), ("a.1", 1), ("b.1", 1), ("a.2", 1), ("a.1", 2)] {
        pass_on(from, number).await;
    }
    assert_eq!(text(&app, "thr_a", "9").await.as_deref(), Some("once once once once "));
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_leaves_says_so_and_another_goes_on() {
    let fleet = Fleet::start().await;
    let (one, two) = (fleet.server().await, fleet.server().await);
    let (at_one, at_two) = (fleet.serve(&one).await, fleet.serve(&two).await);
    let token = session(&one, "s", None).await;
    let mut agent = Agent::old(at_one, &token).await;
    prompt(&one, "thr_a", "int_1", "one", false).await;
    agent.make_thread("th_a").await;
    agent.complete("th_a", "int_1").await;
    turn_is(&one, "int_1", TurnState::Completed).await;
    one.shutdown.cancel();
    assert_eq!(agent.closed().await, Some(1012));
    within("stopped", one.stop()).await;
    assert!(two.store.leases.get(&subject::sync_lease_key(&id("s"))).await.expect("read").found().is_none());
    prompt(&two, "thr_a", "int_2", "two", false).await;
    let mut agent = Agent::connect(at_two, &token).await;
    agent.hear("open_thread").await;
    agent.say("agent_ready", json!({ "agent_name": "zed-agent", "thread_id": "th_a" })).await;
    assert_eq!(agent.hear("chat_message").await["request_id"], "int_2");
    fleet.stop(&[two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_overtaken_writes_nothing_and_sends_nothing() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let address = fleet.serve(&app).await;
    let token = session(&app, "s", None).await;
    let mut agent = Agent::old(address, &token).await;
    let key = subject::sync_lease_key(&id("s"));
    let lease = eventually("ready", async || {
        let lease = app.store.leases.get(&key).await.ok()?.found()?;
        lease.value.sync.as_ref().is_some_and(|sync| sync.ready).then_some(lease)
    })
    .await;
    // Another server has a newer socket, and says nothing to this one.
    let mut sync = lease.value.sync.clone().expect("told");
    sync.connected_at = Some(jiff::Timestamp::now());
    let stolen = Lease { server: "another".to_owned(), sync: Some(sync), ..(*lease.value).clone() };
    eventually("stolen", async || {
        let revision = app.store.leases.get(&key).await.ok()?.revision();
        app.store.leases.lease(&key, &stolen, revision, std::time::Duration::from_mins(10)).await.ok()
    })
    .await;
    // It hands over the prompt in the same moment: written before this one could.
    let thread = ThreadId::parse("thr_a").expect("valid id");
    let log = app.threads.hub.log();
    let started =
        ThreadEvent::ThreadStarted { origin: Origin::Api, by: None, agent: None, title: None, work_session: None };
    let first = log.append(&id("s"), &thread, &started, 0).await.expect("appended");
    let queued = ThreadEvent::TurnQueued {
        turn: turn_id("int_1"),
        origin: Origin::Api,
        by: None,
        prompt: "one".to_owned(),
        interrupt: false,
        attachments: Vec::new(),
        resend_of: None,
    };
    eventually("it has noticed", async || {
        let sent = app.threads.sockets.command(&id("s"), "query_ui_state", json!({})).await;
        sent.is_err().then_some(())
    })
    .await;
    log.append(&id("s"), &thread, &queued, first).await.expect("appended");
    // What it sent before it noticed; then nothing.
    let quiet = std::time::Duration::from_millis(500);
    while tokio::time::timeout(quiet, agent.hear("query_ui_state")).await.is_ok() {}
    let all = conversation(&app, "s").await;
    assert_eq!(all.turn(&turn_id("int_1")).expect("there").1.state, TurnState::Queued);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_away_in_the_middle_loses_nothing_and_tells_nothing_twice() {
    let mut fleet = Fleet::start().await;
    let app = fleet.server().await;
    let address = fleet.serve(&app).await;
    let token = session(&app, "s", None).await;
    let mut agent = Agent::old(address, &token).await;
    prompt(&app, "thr_a", "int_1", "one", false).await;
    agent.make_thread("th_a").await;
    agent.write("th_a", "1", "int_1", "before").await;
    eventually("stored", async || text(&app, "thr_a", "1").await).await;
    fleet.stop_nats().await;
    for count in 0..2000 {
        agent.write("th_a", "1", "int_1", &format!("before, and {count} more")).await;
    }
    agent.write("th_a", "2", "int_1", "after").await;
    agent.complete("th_a", "int_1").await;
    fleet.start_nats_again();
    eventually("usable again", async || app.bus.healthy().then_some(())).await;
    turn_is(&app, "int_1", TurnState::Completed).await;
    assert_eq!(text(&app, "thr_a", "1").await.as_deref(), Some("before, and 1999 more"));
    assert_eq!(text(&app, "thr_a", "2").await.as_deref(), Some("after"));
    // What waited was joined: nothing like 2000 events.
    let all = conversation(&app, "s").await;
    assert!(all.applied < 40, "{}", all.applied);
    prompt(&app, "thr_a", "int_2", "two", false).await;
    assert_eq!(agent.hear("chat_message").await["request_id"], "int_2");
    fleet.stop(&[app]).await;
}

/// An owner that does not know yet that it is none: what it writes is fenced by the log, and nothing is sent unwritten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_owners_hand_a_prompt_over_once() {
    let (fleet, app, address, token) = one("", None).await;
    let mut agent = Agent::old(address, &token).await;
    let (thread, log) = (ThreadId::parse("thr_a").expect("valid id"), app.threads.hub.log());
    let started =
        ThreadEvent::ThreadStarted { origin: Origin::Api, by: None, agent: None, title: None, work_session: None };
    let mut last = log.append(&id("s"), &thread, &started, 0).await.expect("appended");
    let moved = |turn: &str, state| {
        let turn = turn_id(turn);
        ThreadEvent::TurnMoved { turn, state, cause: None, usage: None, exit_status: None }
    };
    let mut others = 0;
    for number in 0..40 {
        let turn = format!("int_{number}");
        let queued = ThreadEvent::TurnQueued {
            turn: turn_id(&turn),
            origin: Origin::Api,
            by: None,
            prompt: "one".to_owned(),
            interrupt: false,
            attachments: Vec::new(),
            resend_of: None,
        };
        last = log.append(&id("s"), &thread, &queued, last).await.expect("appended");
        // The other owner saw it first, or a moment later.
        tokio::time::sleep(std::time::Duration::from_micros(number * 40)).await;
        let other = log.append(&id("s"), &thread, &moved(&turn, TurnState::Dispatched), last).await;
        if let Ok(sequence) = other {
            others += 1;
            agent.hears_nothing_for(std::time::Duration::from_millis(30)).await;
            last =
                log.append(&id("s"), &thread, &moved(&turn, TurnState::Completed), sequence).await.expect("appended");
        } else {
            assert_eq!(agent.hear("chat_message").await["request_id"], turn);
            let acp = format!("th_{number}");
            agent.say("thread_created", json!({ "acp_thread_id": acp, "request_id": turn })).await;
            agent.complete(&acp, &turn).await;
        }
        turn_is(&app, &turn, TurnState::Completed).await;
        let all = conversation(&app, "s").await;
        assert_eq!(all.turn(&turn_id(&turn)).expect("there").1.dispatches, 1, "{turn}");
        last = last.max(all.sequence_of(&thread));
    }
    assert!(others > 0, "the other owner never came first: nothing is proved");
    fleet.stop(&[app]).await;
}
