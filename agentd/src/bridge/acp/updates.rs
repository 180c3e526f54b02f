//! From what an agent tells about a turn (`session/update`) to entries: pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::bridge::agent::Change;
use crate::bridge::record::Tool;

/// Bytes of one piece of a tool's content that are shown.
const MAX_PIECE: usize = 256 * 1024;
/// The tool waits for leave.
pub const WAITING: &str = "Waiting for confirmation";
/// It did not get it.
pub const REJECTED: &str = "Rejected";
const CANCELED: &str = "Canceled";
const THINKING: &str = "**Thinking**\n\n";

/// One turn's entries so far.
#[derive(Debug)]
pub struct Log {
    /// The turn.
    pub request: String,
    next: u32,
    /// The text that goes on: its kind, the agent's id of the message, and its entry.
    text: Option<(Kind, Option<String>, u32)>,
    plan: Option<u32>,
    tools: BTreeMap<String, Call>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Thought,
}

/// A use of a tool.
#[derive(Debug)]
struct Call {
    key: u32,
    /// As the agent told it, updates included.
    told: Value,
    /// Ours, until the agent says another.
    status: Option<&'static str>,
}

impl Log {
    /// Nothing yet.
    pub fn new(request: String) -> Self {
        Self { request, next: 0, text: None, plan: None, tools: BTreeMap::new() }
    }

    /// Takes an update; answers what changed. `terminal` knows what a terminal's command wrote.
    pub fn update(&mut self, update: &Value, terminal: &dyn Fn(&str) -> Option<String>) -> Vec<Change> {
        match update.get("sessionUpdate").and_then(Value::as_str).unwrap_or_default() {
            "agent_message_chunk" => self.chunk(Kind::Message, update),
            "agent_thought_chunk" => self.chunk(Kind::Thought, update),
            "tool_call" | "tool_call_update" => self.tool(update, None, terminal).into_iter().collect(),
            "plan" => vec![self.plan(update)],
            _ => Vec::new(),
        }
    }

    /// The tool call of a question: it waits.
    pub fn waits(&mut self, call: &Value, terminal: &dyn Fn(&str) -> Option<String>) -> Option<Change> {
        self.tool(call, Some(WAITING), terminal)
    }

    /// The question about a tool call was answered.
    pub fn answered(&mut self, id: &str, allowed: bool, terminal: &dyn Fn(&str) -> Option<String>) -> Option<Change> {
        let call = self.tools.get_mut(id)?;
        call.status = (!allowed).then_some(REJECTED);
        let (key, told) = (call.key, call.told.clone());
        Some(self.show(key, &told, call_status(&self.tools[id]), terminal))
    }

    /// The turn is over: what has not ended never will.
    pub fn end(&mut self, terminal: &dyn Fn(&str) -> Option<String>) -> Vec<Change> {
        let open: Vec<String> = self
            .tools
            .iter()
            .filter(|(_, call)| matches!(call_status(call), "Pending" | "In Progress" | WAITING))
            .map(|(id, _)| id.clone())
            .collect();
        let end = |id: String| {
            let call = self.tools.get_mut(&id)?;
            call.status = Some(CANCELED);
            let (key, told) = (call.key, call.told.clone());
            Some(self.show(key, &told, CANCELED, terminal))
        };
        open.into_iter().filter_map(end).collect()
    }

    /// The entry of a tool call.
    pub fn key_of(&self, id: &str) -> Option<u32> {
        Some(self.tools.get(id)?.key)
    }

    fn key(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn chunk(&mut self, kind: Kind, update: &Value) -> Vec<Change> {
        let text = block(update.get("content").unwrap_or(&Value::Null));
        let message = update.get("messageId").and_then(Value::as_str).map(ToOwned::to_owned);
        let goes_on = self.text.as_ref().filter(|(of, id, _)| *of == kind && (*id == message || message.is_none()));
        let (key, begins) = match goes_on {
            Some((_, _, key)) => (*key, false),
            None if text.is_empty() => return Vec::new(),
            None => (self.key(), true),
        };
        self.text = Some((kind, message, key));
        let text = if begins && kind == Kind::Thought { format!("{THINKING}{text}") } else { text };
        vec![Change { request: self.request.clone(), key, tool: None, keep: usize::MAX, text }]
    }

    fn tool(
        &mut self,
        update: &Value,
        status: Option<&'static str>,
        terminal: &dyn Fn(&str) -> Option<String>,
    ) -> Option<Change> {
        let id = update.get("toolCallId").and_then(Value::as_str)?.to_owned();
        if !self.tools.contains_key(&id) {
            let key = self.key();
            // What is said after it is said after it.
            self.text = None;
            self.tools.insert(id.clone(), Call { key, told: Value::Object(serde_json::Map::new()), status: None });
        }
        let call = self.tools.get_mut(&id)?;
        for (name, value) in update.as_object().into_iter().flatten() {
            if !value.is_null() {
                call.told[name] = value.clone();
            }
        }
        match status {
            Some(_) => call.status = status,
            // A new word of the agent's counts more than ours.
            None if call.status != Some(REJECTED)
                && update.get("status").is_some_and(|status| !status.is_null() && status != "pending") =>
            {
                call.status = None;
            }
            None => {}
        }
        let (key, told) = (call.key, call.told.clone());
        let status = call_status(&self.tools[&id]);
        Some(self.show(key, &told, status, terminal))
    }

    fn show(&self, key: u32, told: &Value, status: &str, terminal: &dyn Fn(&str) -> Option<String>) -> Change {
        let title = told.get("title").and_then(Value::as_str).filter(|title| !title.is_empty());
        let name = title.or_else(|| told.get("kind").and_then(Value::as_str)).unwrap_or("tool");
        let name: String = name.lines().next().unwrap_or_default().to_owned();
        let mut text = format!("**Tool Call: {name}**\nStatus: {status}\n");
        for content in told.get("content").and_then(Value::as_array).into_iter().flatten() {
            let piece = piece(content, terminal);
            if !piece.is_empty() {
                text.push('\n');
                text.push_str(&piece);
                if !piece.ends_with('\n') {
                    text.push('\n');
                }
            }
        }
        let tool = Some(Tool { name, status: status.to_owned() });
        Change { request: self.request.clone(), key, tool, keep: 0, text }
    }

    fn plan(&mut self, update: &Value) -> Change {
        let key = match self.plan {
            Some(key) => key,
            None => self.key(),
        };
        self.plan = Some(key);
        self.text = None;
        let mut text = "**Plan**\n\n".to_owned();
        for entry in update.get("entries").and_then(Value::as_array).into_iter().flatten() {
            let word = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            let mark = match word("status") {
                "completed" => "[x]",
                "in_progress" => "[-]",
                _ => "[ ]",
            };
            // A String takes everything.
            let _ = writeln!(text, "- {mark} {}", word("content"));
        }
        Change { request: self.request.clone(), key, tool: None, keep: 0, text }
    }
}

/// In the contract's words.
fn call_status(call: &Call) -> &'static str {
    if let Some(status) = call.status {
        return status;
    }
    match call.told.get("status").and_then(Value::as_str).unwrap_or("pending") {
        "in_progress" => "In Progress",
        "completed" => "Completed",
        "failed" => "Failed",
        "cancelled" | "canceled" => CANCELED,
        _ => "Pending",
    }
}

/// A piece of a tool call's content.
fn piece(content: &Value, terminal: &dyn Fn(&str) -> Option<String>) -> String {
    let word = |name: &str| content.get(name).and_then(Value::as_str);
    match word("type").unwrap_or_default() {
        "content" => bounded(block(content.get("content").unwrap_or(&Value::Null))),
        "diff" => diff(word("path").unwrap_or_default(), word("oldText"), word("newText").unwrap_or_default()),
        "terminal" => {
            let output = word("terminalId").and_then(terminal).unwrap_or_default();
            if output.is_empty() { String::new() } else { format!("```\n{}\n```", bounded(output).trim_end()) }
        }
        _ => String::new(),
    }
}

/// Old lines, new lines.
fn diff(path: &str, old: Option<&str>, new: &str) -> String {
    let mut text = format!("Diff: {path}\n```diff\n");
    let lines = |sign: char, lines: &str, text: &mut String| {
        for line in lines.lines() {
            let _ = writeln!(text, "{sign}{line}");
        }
    };
    // Lines that are the same at both ends say nothing.
    let (old, new): (Vec<_>, Vec<_>) = (old.unwrap_or_default().lines().collect(), new.lines().collect());
    let front = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[front..], &new[front..]);
    let back = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    if front > 0 {
        let _ = writeln!(text, "@@ line {} @@", front + 1);
    }
    lines('-', &old[..old.len() - back].join("\n"), &mut text);
    lines('+', &new[..new.len() - back].join("\n"), &mut text);
    text = bounded(text);
    text.push_str("```");
    text
}

/// A block of content as text.
fn block(content: &Value) -> String {
    let word = |name: &str| content.get(name).and_then(Value::as_str).unwrap_or_default();
    match word("type") {
        "text" => word("text").to_owned(),
        "resource_link" => format!("[{}]({})", word("name"), word("uri")),
        "resource" => {
            let resource = content.get("resource");
            let text = resource.and_then(|resource| resource.get("text")?.as_str());
            let uri = resource.and_then(|resource| resource.get("uri")?.as_str());
            text.or(uri).unwrap_or_default().to_owned()
        }
        "" => String::new(),
        other => format!("[{other}]"),
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > MAX_PIECE {
        text.truncate(text.floor_char_boundary(MAX_PIECE));
        text.push_str("\n… truncated\n");
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;
    use serde_json::json;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn chunks_of_a_kind_go_on_and_others_begin() {
        let mut log = Log::new("r".into());
        let say = |log: &mut Log, kind: &str, text: &str| {
            let update = json!({"sessionUpdate": kind, "content": {"type": "text", "text": text}});
            let changes = log.update(&update, &nothing);
            changes.into_iter().map(|change| (change.key, change.text)).collect::<Vec<_>>()
        };
        assert_eq!(say(&mut log, "agent_thought_chunk", "hm"), [(1, "**Thinking**\n\nhm".to_owned())]);
        assert_eq!(say(&mut log, "agent_thought_chunk", "?"), [(1, "?".to_owned())]);
        assert_eq!(say(&mut log, "agent_message_chunk", "yes"), [(2, "yes".to_owned())]);
        assert_eq!(say(&mut log, "user_message_chunk", "no"), []);
        let call = json!({"sessionUpdate": "tool_call", "toolCallId": "c", "title": "Read", "status": "pending"});
        assert_eq!(log.update(&call, &nothing)[0].text, "**Tool Call: Read**\nStatus: Pending\n");
        assert_eq!(say(&mut log, "agent_message_chunk", "more"), [(4, "more".to_owned())]);
    }

    #[test]
    fn a_tool_call_is_told_in_the_contracts_words() {
        let mut log = Log::new("r".into());
        let call = json!({"toolCallId": "c", "title": "Write f", "kind": "edit",
            "content": [{"type": "diff", "path": "/w/f", "oldText": "a\nb\nc\n", "newText": "a\nx\nc\n"}]});
        let change = log.waits(&call, &nothing).unwrap();
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
        let done =
            json!({"sessionUpdate": "tool_call_update", "toolCallId": "c", "status": "completed", "title": null});
        assert_eq!(log.update(&done, &nothing)[0].tool.as_ref().unwrap().status, "Completed");
        assert!(log.end(&nothing).is_empty());
        let open = json!({"sessionUpdate": "tool_call", "toolCallId": "d", "title": "Run", "status": "in_progress"});
        log.update(&open, &nothing);
        assert_eq!(log.end(&nothing)[0].tool.as_ref().unwrap().status, "Canceled");
    }

    #[test]
    fn a_plan_is_one_entry() {
        let mut log = Log::new("r".into());
        let plan = |status: &str| json!({"sessionUpdate": "plan", "entries": [{"content": "look", "status": status}]});
        let first = log.update(&plan("in_progress"), &nothing).remove(0);
        let second = log.update(&plan("completed"), &nothing).remove(0);
        assert_eq!((first.key, first.text.as_str()), (second.key, "**Plan**\n\n- [-] look\n"));
        assert_eq!((second.keep, second.text.as_str()), (0, "**Plan**\n\n- [x] look\n"));
    }
}
