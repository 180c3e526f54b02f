//! Pure: which prompts, answers and titles are refused, and why.

use helix_protocol::ErrorCode;
use helix_protocol::session::{Desired, SessionPhase};
use helix_protocol::thread::{AnswerAction, MAX_PROMPT_CHARS};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::sessions::Found;

/// Most paths that go with one prompt.
const MAX_ATTACHMENTS: usize = 50;
/// Most characters of one such path.
const MAX_ATTACHMENT_CHARS: usize = 1024;
/// Most characters of a thread's title.
const MAX_TITLE_CHARS: usize = 200;
/// Most characters of an agent's name.
const MAX_AGENT_CHARS: usize = 64;
/// Most characters of an idempotency key.
const MAX_KEY_CHARS: usize = 200;
/// Most bytes of an answer's content.
const MAX_CONTENT_BYTES: usize = 64 * 1024;

/// A session takes prompts until it ends: also while it waits, starts, or cannot be heard.
pub fn takes_prompts(at: &Found) -> Result<()> {
    let (id, phase) = (&at.view.id, at.view.phase);
    let ends = phase.is_terminal() || phase == SessionPhase::Stopping || at.view.desired == Desired::Stopped;
    if !ends {
        return Ok(());
    }
    let detail = format!(
        "session {id} is {phase} and takes no prompts; create another with POST /api/v1/sessions, or `helixctl session \
         create`"
    );
    Err(Error::new(ErrorCode::SessionEnded, detail))
}

/// Something to do, not too much of it, and files inside the workspace.
pub fn prompt(prompt: &str, attachments: &[String]) -> Result<()> {
    if prompt.trim().is_empty() {
        return input("prompt is empty; say what the agent shall do");
    }
    let chars = prompt.chars().count();
    if chars > MAX_PROMPT_CHARS {
        return input(format!(
            "prompt has {chars} characters, at most {MAX_PROMPT_CHARS} are taken; put the rest into a file of the \
             workspace"
        ));
    }
    if attachments.len() > MAX_ATTACHMENTS {
        return invalid(format!("there are {} attachments, at most {MAX_ATTACHMENTS} are taken", attachments.len()));
    }
    match attachments.iter().position(|path| !is_inside(path)) {
        Some(index) => invalid(format!(
            "attachments[{index}] must be a path inside the workspace of at most {MAX_ATTACHMENT_CHARS} characters, \
             without a leading / and without .."
        )),
        None => Ok(()),
    }
}

fn is_inside(path: &str) -> bool {
    (1..=MAX_ATTACHMENT_CHARS).contains(&path.chars().count())
        && !path.starts_with('/')
        && !path.split('/').any(|part| part == "..")
        && !path.chars().any(char::is_control)
}

/// The name of an agent, as the editor's settings have it.
pub fn agent(agent: Option<&str>) -> Result<()> {
    let Some(agent) = agent else { return Ok(()) };
    let good = (1..=MAX_AGENT_CHARS).contains(&agent.len())
        && agent.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if good {
        return Ok(());
    }
    invalid(format!("agent is not a name: use 1 to {MAX_AGENT_CHARS} characters of A-Z a-z 0-9 . _ -"))
}

/// One line for people.
pub fn title(title: Option<&str>) -> Result<()> {
    let Some(title) = title else { return Ok(()) };
    let good = (1..=MAX_TITLE_CHARS).contains(&title.chars().count())
        && !title.trim().is_empty()
        && !title.chars().any(char::is_control);
    if good { Ok(()) } else { invalid(format!("title must be one line of 1 to {MAX_TITLE_CHARS} characters")) }
}

/// A key that a client made up.
pub fn key(key: Option<&str>) -> Result<()> {
    let Some(key) = key else { return Ok(()) };
    let good = (1..=MAX_KEY_CHARS).contains(&key.chars().count()) && !key.chars().any(char::is_control);
    if good { Ok(()) } else { invalid(format!("idempotency_key must be one line of 1 to {MAX_KEY_CHARS} characters")) }
}

/// Content goes with `accept` alone.
pub fn content(action: AnswerAction, content: &Value) -> Result<()> {
    if action != AnswerAction::Accept && !content.is_null() {
        return invalid("content goes with action accept only");
    }
    let bytes = content.to_string().len();
    if bytes > MAX_CONTENT_BYTES {
        return invalid(format!("content has {bytes} bytes, at most {MAX_CONTENT_BYTES} are taken"));
    }
    Ok(())
}

/// What the question's schema requires is there. The agent checks the rest: its schema, its rules.
pub fn required(action: AnswerAction, content: &Value, schema: &Value) -> Result<()> {
    if action != AnswerAction::Accept {
        return Ok(());
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let missing: Vec<_> = required.filter(|name| content.get(name).is_none_or(Value::is_null)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    invalid(format!("content lacks {}, which the question asks for", missing.join(", ")))
}

fn input(detail: impl Into<String>) -> Result<()> {
    Err(Error::new(ErrorCode::InvalidInput, detail))
}

fn invalid(detail: impl Into<String>) -> Result<()> {
    Err(Error::new(ErrorCode::InvalidRequest, detail))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn code(result: Result<()>) -> Option<ErrorCode> {
        result.err().map(|error| error.code)
    }

    #[test]
    fn a_prompt_has_bounds() {
        assert_eq!(code(prompt(&"ä".repeat(MAX_PROMPT_CHARS), &[])), None);
        assert_eq!(code(prompt(&"ä".repeat(MAX_PROMPT_CHARS + 1), &[])), Some(ErrorCode::InvalidInput));
        assert_eq!(code(prompt(" \n", &[])), Some(ErrorCode::InvalidInput));
    }

    #[test]
    fn attachments_stay_in_the_workspace() {
        let paths = |path: &str| prompt("x", &["good/one.txt".to_owned(), path.to_owned()]);
        for good in ["a", "a/b..c", ".hidden", "a b"] {
            assert_eq!(code(paths(good)), None, "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a/..", "a\nb", &"x".repeat(1025)] {
            let error = paths(bad).expect_err(bad);
            assert!(error.code == ErrorCode::InvalidRequest && error.detail.contains("attachments[1]"), "{bad}");
        }
        assert_eq!(code(prompt("x", &vec!["a".to_owned(); 50])), None);
        assert_eq!(code(prompt("x", &vec!["a".to_owned(); 51])), Some(ErrorCode::InvalidRequest));
    }

    #[test]
    fn names_and_titles_are_one_line() {
        for bad in ["", " ", "a\nb", &"x".repeat(201)] {
            assert!(title(Some(bad)).is_err(), "{bad:?}");
        }
        for bad in ["", "a b", "ä", &"x".repeat(65)] {
            assert!(agent(Some(bad)).is_err(), "{bad:?}");
        }
        for bad in ["", "a\nb", &"x".repeat(201)] {
            assert!(key(Some(bad)).is_err(), "{bad:?}");
        }
        assert!(title(Some("Lösung")).is_ok() && agent(Some("claude-acp")).is_ok() && key(Some("a b")).is_ok());
    }

    #[test]
    fn an_accepted_form_has_what_it_requires() {
        let schema = json!({"required": ["db", "size"], "properties": {"db": {}, "size": {}, "note": {}}});
        let accept = |content| required(AnswerAction::Accept, &content, &schema);
        assert!(accept(json!({"db": "pg", "size": 0})).is_ok());
        let error = accept(json!({"db": null, "note": "x"})).expect_err("missing");
        assert_eq!(error.detail, "content lacks db, size, which the question asks for");
        assert!(accept(Value::Null).is_err() && accept(json!("text")).is_err());
        assert!(required(AnswerAction::Decline, &Value::Null, &schema).is_ok());
        assert!(required(AnswerAction::Accept, &Value::Null, &Value::Null).is_ok());
        assert!(content(AnswerAction::Cancel, &json!({})).is_err());
        assert!(content(AnswerAction::Accept, &json!("x".repeat(70_000))).is_err());
    }
}
