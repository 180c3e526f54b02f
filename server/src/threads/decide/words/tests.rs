use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(frame: &Value) -> Said {
    let mut said = read(&frame.to_string()).said;
    assert_eq!(said.len(), 1, "{frame}");
    said.remove(0)
}

#[test]
fn every_event_of_the_contract_is_understood() {
    for frame in [
        json!({"event_type":"agent_ready","data":{"agent_name":"claude","thread_id":"th_7f2","active_turns":[{"request_id":"int_1","acp_thread_id":"th_7f2","state":"running"}]}}),
        json!({"event_type":"thread_created","data":{"acp_thread_id":"th_7f2","request_id":"int_1"}}),
        json!({"event_type":"user_created_thread","data":{"acp_thread_id":"th_8aa","title":null}}),
        json!({"event_type":"thread_title_changed","data":{"acp_thread_id":"th_7f2","title":"Fix login redirect"}}),
        json!({"event_type":"message_added","data":{"acp_thread_id":"th_7f2","message_id":"4","role":"assistant","content":"x","request_id":"int_1","entry_type":"tool_call","tool_name":"Read file","tool_status":"In Progress","timestamp":1_795_000_005}}),
        json!({"event_type":"message_completed","data":{"acp_thread_id":"th_7f2","message_id":"0","request_id":"int_1","agent_name":"zed","usage":{"total_tokens":1200,"input_tokens":1000,"output_tokens":200,"thought_tokens":0,"cached_read_tokens":0,"cached_write_tokens":0}}}),
        json!({"event_type":"chat_response_error","data":{"request_id":"int_1","error":"agent exited"}}),
        json!({"event_type":"thread_load_error","data":{"acp_thread_id":"th_7f2","request_id":"int_2","error":"Failed to load thread: Resource not found: th_7f2"}}),
        json!({"event_type":"turn_cancelled","data":{"request_id":"int_1","status":"cancelled"}}),
        json!({"event_type":"elicitation_requested","data":{"acp_thread_id":"th_7f2","request_id":"int_1","entry_index":"6","elicitation_id":"el_1","tool_call_id":"tc_9","mode":"form","message":"Which database?","requested_schema":{"type":"object"},"status":"pending","timestamp":1_795_000_020}}),
        json!({"event_type":"elicitation_resolved","data":{"acp_thread_id":"th_7f2","request_id":"int_1","entry_index":"6","elicitation_id":"el_1","status":"accepted","content":{"db":"pg"},"timestamp":1}}),
        json!({"event_type":"elicitation_resync","data":{"acp_thread_id":"th_7f2","elicitation_ids":["el_1"],"timestamp":1}}),
        json!({"event_type":"elicitation_response_ack","data":{"elicitation_id":"el_1","status":"accepted","error":""}}),
        json!({"session_id":"ses_1","event_type":"context_created","data":{"context_id":"ctx_1","title":"Login fix","thread_id":"thr_1"},"timestamp":"t"}),
        json!({"session_id":"ses_1","event_type":"message_updated","data":{"context_id":"ctx_1","message_id":7,"content":"Hello there","role":"assistant"},"timestamp":"t"}),
        json!({"session_id":"ses_1","event_type":"context_title_changed","data":{"context_id":"ctx_1","new_title":"x"},"timestamp":"t"}),
        json!({"session_id":"ses_1","event_type":"chat_response_chunk","data":{"request_id":"req_1","chunk":"Look"},"timestamp":"t"}),
    ] {
        assert!(!matches!(one(&frame), Said::Other { .. } | Said::Malformed { .. }), "{frame}");
    }
    let answer = read(&json!({"event_type":"chat_response","data":{"request_id":"r","content":"Done."}}).to_string());
    assert!(answer.seed && matches!(answer.said[..], [Said::Entry(_), Said::Done(_)]), "{answer:?}");
    assert!(read(r#"{"event_type":"ping","data":{"timestamp":1}}"#).said.is_empty());
}

#[test]
fn the_dialect_shows_in_names_and_envelope() {
    let seed = |frame: Value| read(&frame.to_string()).seed;
    assert!(seed(json!({"session_id":"s","event_type":"message_added","data":{}})));
    for name in ["context_created", "context_deleted", "chat_response", "chat_response_chunk", "chat_response_done"] {
        assert!(seed(json!({"event_type":name,"data":{}})), "{name}");
    }
    for name in ["chat_response_error", "message_added", "agent_ready"] {
        assert!(!seed(json!({"event_type":name,"data":{}})), "{name}");
    }
}

#[test]
fn an_event_that_is_not_what_its_name_says_is_kept_as_it_is() {
    for (name, data) in [
        ("thread_created", json!({})),
        ("agent_ready", json!(null)),
        ("message_added", json!({"acp_thread_id":"a","message_id":{},"content":"x"})),
        ("message_added", json!({"acp_thread_id":"a","message_id":"1"})),
        ("turn_cancelled", json!([])),
        ("elicitation_requested", json!({"acp_thread_id":"a"})),
        ("never_heard_of", json!({"a":1})),
    ] {
        let said = one(&json!({"event_type":name,"data":data}));
        assert_eq!(said, Said::Other { name: name.to_owned(), data }, "{name}");
    }
}

#[test]
fn one_odd_field_does_not_cost_the_others() {
    let frame = json!({"event_type":"agent_ready","data":{"agent_name":7,"thread_id":"","active_turns":[{"request_id":"a"},{"x":1},3],"concurrent":"yes"}});
    let Said::Ready(ready) = one(&frame) else { panic!("ready") };
    assert_eq!((ready.agent_name.as_str(), ready.thread_id, ready.concurrent), ("", None, false));
    assert_eq!(ready.active_turns.map(|turns| turns.len()), Some(1));
    let frame = json!({"event_type":"message_completed","data":{"acp_thread_id":"a","usage":{"total_tokens":"many"}}});
    assert_eq!(one(&frame), Said::Done(Done { acp: Some("a".to_owned()), ..Done::default() }));
}

proptest! {
    #[test]
    fn whatever_comes_is_something(frame in "\\PC{0,200}") {
        let _ = read(&frame);
    }

    #[test]
    fn so_is_any_json_under_any_known_name(
        name in prop::sample::select(&["agent_ready", "thread_created", "message_added", "message_completed", "chat_response", "elicitation_requested", "elicitation_resync", "turn_cancelled"][..]),
        key in prop::sample::select(&["acp_thread_id", "request_id", "message_id", "content", "usage", "active_turns", "elicitation_ids"][..]),
        value in prop::sample::select(&["null", "1", "\"x\"", "[]", "{}", "[1]", "-1", "true"][..]),
    ) {
        let _ = read(&format!("{{\"event_type\":\"{name}\",\"data\":{{\"{key}\":{value}}}}}"));
    }
}
