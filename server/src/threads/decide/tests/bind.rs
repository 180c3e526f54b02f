use super::*;

fn acp(world: &World, of: &str) -> Option<String> {
    world.conversation.thread(&thread(of)).expect("there").acp.clone()
}

#[test]
fn a_new_id_after_a_load_is_the_same_thread() {
    for first_sign in ["agent_ready", "message_added"] {
        let mut world = World::new();
        let peer = world.old_peer();
        world.used_thread(peer, "thr_a", "th_old");
        world.desk.lost(peer, true, [], world.now);
        let peer = world.connect();
        assert_eq!(world.sends(), ["open_thread th_old"]);
        if first_sign == "agent_ready" {
            world.say(peer, "agent_ready", json!({ "agent_name": "a", "thread_id": "th_new" }));
        } else {
            world.wrote(peer, "th_new", "1", "", "again");
        }
        assert_eq!(acp(&world, "thr_a").as_deref(), Some("th_new"), "{first_sign}");
        // Only one load was outstanding: another unknown one is another.
        world.say(peer, "agent_ready", json!({ "agent_name": "a", "thread_id": "th_other" }));
        assert_eq!(acp(&world, "thr_a").as_deref(), Some("th_new"), "{first_sign}");
        assert_eq!(world.conversation.thread_of_acp("th_old").map(|of| of.id.clone()), Some(thread("thr_a")));
    }
}

#[test]
fn a_lazy_load_may_change_the_id_too() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.used_thread(peer, "thr_b", "th_b");
    world.desk.lost(peer, true, [], world.now);
    let peer = world.connect();
    assert_eq!(world.sends(), ["open_thread th_b"]);
    world.say(peer, "agent_ready", json!({ "agent_name": "a", "thread_id": "th_b" }));
    world.prompt("thr_a", "int_1");
    assert_eq!(world.sends(), ["chat_message int_1"]);
    world.wrote(peer, "th_a2", "1", "int_1", "loaded");
    assert_eq!((acp(&world, "thr_a").as_deref(), acp(&world, "thr_b").as_deref()), (Some("th_a2"), Some("th_b")));
    world.completed(peer, "th_a2", "int_1");
    assert_eq!(world.state("int_1"), TurnState::Completed);
}

#[test]
fn with_two_loads_or_a_new_thread_on_its_way_nothing_is_guessed() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.desk.lost(peer, true, [], world.now);
    world.prompt("thr_b", "int_b");
    let peer = world.listing_peer(&[]);
    assert_eq!(world.sends(), ["open_thread th_a", "chat_message int_b"]);
    // Of the new one: it comes before `thread_created`.
    world.say(peer, "agent_ready", json!({ "agent_name": "a", "thread_id": "th_b" }));
    assert_eq!(acp(&world, "thr_a").as_deref(), Some("th_a"));
    world.created(peer, "th_b", "int_b");
    assert_eq!(acp(&world, "thr_b").as_deref(), Some("th_b"));
}

#[test]
fn a_second_answer_for_a_thread_rebinds_and_never_forks() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.prompt("thr_a", "int_1");
    world.act();
    world.created(peer, "th_1", "int_1");
    world.created(peer, "th_2", "int_1");
    let of = world.conversation.thread(&thread("thr_a")).expect("there");
    assert_eq!((of.acp.as_deref(), &of.acp_ids[..]), (Some("th_2"), &["th_1".to_owned(), "th_2".to_owned()][..]));
    assert_eq!(world.conversation.threads().len(), 1);
}

#[test]
fn a_draft_is_nobodys_thread_until_something_is_said_in_it() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.prompt("thr_a", "int_1");
    world.act();
    // The panel shows a draft while ours is made.
    assert_eq!(world.say(peer, "user_created_thread", json!({ "acp_thread_id": "th_d", "title": null })), []);
    assert_eq!(world.say(peer, "user_created_thread", json!({ "acp_thread_id": "th_1", "title": null })), []);
    world.created(peer, "th_1", "int_1");
    assert_eq!(world.conversation.threads().len(), 1);
    assert_eq!(world.say(peer, "user_created_thread", json!({ "acp_thread_id": "th_1", "title": null })), []);
    world.say(peer, "thread_title_changed", json!({ "acp_thread_id": "th_d", "title": "A plan" }));
    world.typed(peer, "th_d", "0", "plan it");
    let of = &world.conversation.threads()[1];
    assert_eq!((of.title.as_deref(), of.origin, of.acp.as_deref()), (Some("A plan"), Origin::Editor, Some("th_d")));
    assert_eq!((of.turns.len(), of.turns[0].state, of.entries.len()), (1, TurnState::Running, 1));
    world.say(peer, "thread_title_changed", json!({ "acp_thread_id": "th_d", "title": "A better plan" }));
    assert_eq!(world.conversation.threads()[1].title.as_deref(), Some("A better plan"));
}

#[test]
fn what_a_person_types_makes_a_thread_even_where_its_beginning_was_lost() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.typed(peer, "th_d", "0", "plan it");
    world.wrote(peer, "th_d", "1", "", "planned");
    let of = &world.conversation.threads()[1];
    assert_eq!((of.origin, of.acp.as_deref(), of.turns.len(), of.entries.len()), (Origin::Editor, Some("th_d"), 1, 2));
    world.completed(peer, "th_d", "");
    assert_eq!(world.conversation.threads()[1].turns[0].state, TurnState::Completed);
    // Not where it may be another id of a thread that is being loaded.
    world.desk.lost(peer, true, [], world.now);
    let peer = world.old_peer();
    world.act();
    world.typed(peer, "th_new", "0", "what was asked before");
    assert_eq!(world.conversation.threads().len(), 2);
}

#[test]
fn a_list_of_turns_binds_too() {
    let mut world = World::new();
    let former = world.old_peer();
    world.prompt("thr_a", "int_1");
    world.act();
    world.desk.lost(former, true, [], world.now);
    let peer = world.connect();
    let turns = json!([{ "request_id": "int_1", "state": "running", "acp_thread_id": "th_a" }]);
    world.say(peer, "agent_ready", json!({ "agent_name": "a", "thread_id": null, "active_turns": turns }));
    assert_eq!((acp(&world, "thr_a").as_deref(), world.state("int_1")), (Some("th_a"), TurnState::Running));
}

#[test]
fn what_belongs_to_nothing_is_kept_under_its_own_name() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    let name = |appends: &[Append]| match appends {
        [Append { thread, event: ThreadEvent::Custom { name, .. } }] => format!("{thread} {name}"),
        other => format!("{other:?}"),
    };
    assert_eq!(name(&world.wrote(peer, "th_x", "1", "int_x", "hm")), "_ message_added");
    assert_eq!(name(&world.say(peer, "colours", json!({ "acp_thread_id": "th_a" }))), "thr_a colours");
    assert_eq!(name(&world.say(peer, "ui_state_response", json!({ "query_id": "q" }))), "_ ui_state_response");
    assert_eq!(
        name(&world.say(peer, "chat_response_error", json!({ "request_id": "x", "error": "y" }))),
        "_ chat_response_error"
    );
}

#[test]
fn a_thread_that_the_agent_loads_again_by_itself_is_known_by_what_runs_in_it() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    world.prompt("thr_a", "int_1");
    world.act();
    world.wrote(peer, "th_a", "1", "int_1", "begun");
    world.wrote(peer, "th_a9", "2", "int_1", "elsewhere");
    assert_eq!(acp(&world, "thr_a").as_deref(), Some("th_a9"));
    world.completed(peer, "th_a9", "int_1");
    assert_eq!(world.state("int_1"), TurnState::Completed);
}

#[test]
fn a_persons_thread_that_repeats_a_former_request_is_still_theirs() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.prompt("thr_a", "int_1");
    world.act();
    world.deadline();
    world.act();
    assert_eq!((world.state("int_1"), acp(&world, "thr_a")), (TurnState::Unknown, None));
    world.say(peer, "user_created_thread", json!({ "acp_thread_id": "th_u", "title": null }));
    let typed =
        json!({ "acp_thread_id": "th_u", "message_id": "0", "role": "user", "content": "hi", "request_id": "int_1" });
    world.say(peer, "message_added", typed);
    assert_eq!((acp(&world, "thr_a"), world.conversation.threads().len()), (None, 2));
    // Without such a thread it is what it says: late.
    world.wrote(peer, "th_late", "1", "int_1", "here");
    assert_eq!((acp(&world, "thr_a").as_deref(), world.state("int_1")), (Some("th_late"), TurnState::Running));
}

#[test]
fn what_is_over_is_forgotten() {
    let mut world = World::new();
    let peer = world.old_peer();
    world.used_thread(peer, "thr_a", "th_a");
    for count in 0..1000 {
        let id = format!("int_{count}");
        world.prompt("thr_a", &id);
        assert_eq!(world.sends(), [format!("chat_message {id}")]);
        world.wrote(peer, "th_a", &count.to_string(), &id, "x");
        world.completed(peer, "th_a", &id);
        world.say(peer, "user_created_thread", json!({ "acp_thread_id": format!("draft {count}"), "title": null }));
    }
    let desk = &world.desk;
    let noted =
        [desk.heard.len(), desk.streamed.len(), desk.handed_to.len(), desk.drafts.len(), desk.peers[0].handed.len()];
    assert!(noted.iter().all(|count| *count <= MANY), "{noted:?}");
}
