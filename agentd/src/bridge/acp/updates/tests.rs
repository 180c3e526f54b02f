#![allow(clippy::unwrap_used)] // a test may panic

use super::*;
use serde_json::json;

fn nothing(_: &str) -> Option<String> {
    None
}

fn told<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> T {
    serde_json::from_value(json).unwrap()
}

#[test]
fn chunks_of_a_kind_go_on_and_others_begin() {
    let mut log = Log::new("r".into());
    let say = |log: &mut Log, kind: &str, text: &str| {
        let update = json!({"sessionUpdate": kind, "content": {"type": "text", "text": text}});
        let changes = log.update(told(update), &nothing);
        changes.into_iter().map(|change| (change.key, change.text)).collect::<Vec<_>>()
    };
    assert_eq!(say(&mut log, "agent_thought_chunk", "hm"), [(1, "**Thinking**\n\nhm".to_owned())]);
    assert_eq!(say(&mut log, "agent_thought_chunk", "?"), [(1, "?".to_owned())]);
    assert_eq!(say(&mut log, "agent_message_chunk", "yes"), [(2, "yes".to_owned())]);
    assert_eq!(say(&mut log, "user_message_chunk", "no"), []);
    let call = json!({"sessionUpdate": "tool_call", "toolCallId": "c", "title": "Read", "status": "pending"});
    assert_eq!(log.update(told(call), &nothing)[0].text, "**Tool Call: Read**\nStatus: Pending\n");
    assert_eq!(say(&mut log, "agent_message_chunk", "more"), [(4, "more".to_owned())]);
}

#[test]
fn a_tool_call_is_told_in_the_contracts_words() {
    let mut log = Log::new("r".into());
    let call = json!({"toolCallId": "c", "title": "Write f", "kind": "edit",
        "content": [{"type": "diff", "path": "/w/f", "oldText": "a\nb\nc\n", "newText": "a\nx\nc\n"}]});
    let change = log.waits(told(call), &nothing).unwrap();
    assert_eq!(change.tool, Some(Tool { name: "Write f".into(), status: WAITING.into() }));
    insta::assert_snapshot!(change.text, @r"
    **Tool Call: Write f**
    Status: Waiting for confirmation

    Diff: /w/f
    ```diff
    @@ line 2 @@
    -b
    +x
    ```
    ");
    assert!(log.answered("c", true, &nothing).unwrap().text.contains("Status: Pending\n"));
    let done = json!({"sessionUpdate": "tool_call_update", "toolCallId": "c", "status": "completed", "title": null});
    assert_eq!(log.update(told(done), &nothing)[0].tool.as_ref().unwrap().status, "Completed");
    assert!(log.end(&nothing).is_empty());
    let open = json!({"sessionUpdate": "tool_call", "toolCallId": "d", "title": "Run", "status": "in_progress"});
    log.update(told(open), &nothing);
    assert_eq!(log.end(&nothing)[0].tool.as_ref().unwrap().status, "Canceled");
}

#[test]
fn a_plan_is_one_entry() {
    let mut log = Log::new("r".into());
    let plan = |status: &str| {
        let entry = json!({"content": "look", "priority": "high", "status": status});
        told(json!({"sessionUpdate": "plan", "entries": [entry]}))
    };
    let first = log.update(plan("in_progress"), &nothing).remove(0);
    let second = log.update(plan("completed"), &nothing).remove(0);
    assert_eq!((first.key, first.text.as_str()), (second.key, "**Plan**\n\n- [-] look\n"));
    assert_eq!((second.keep, second.text.as_str()), (0, "**Plan**\n\n- [x] look\n"));
}

#[test]
fn what_a_released_terminals_command_wrote_is_shown_until_the_turn_is_over() {
    let mut log = Log::new("r".into());
    let call = |status: &str| {
        let content = json!([{"type": "terminal", "terminalId": "t"}]);
        told(json!({"sessionUpdate": "tool_call_update", "toolCallId": "c", "title": "Run", "status": status,
            "content": content}))
    };
    let lives = |_: &str| Some("half".to_owned());
    assert!(log.update(call("in_progress"), &lives)[0].text.ends_with("```\nhalf\n```\n"));
    log.released("t".into(), "all of it".into());
    assert!(log.update(call("completed"), &nothing)[0].text.ends_with("```\nall of it\n```\n"));
    log.end(&nothing);
    assert!(log.released.is_empty());
    // An entry does not lose what it showed.
    assert!(log.update(call("failed"), &nothing).is_empty());
    log.released("u".into(), "late".into());
    assert!(log.released.is_empty());
    let mut log = Log::new("r".into());
    for id in 0..1000 {
        log.released(id.to_string(), "x".repeat(1024 * 1024));
    }
    assert!(log.released.values().map(String::len).sum::<usize>() <= MAX_RELEASED);
}
