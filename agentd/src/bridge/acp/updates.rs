//! From what an agent tells about a turn (`session/update`) to entries: pure.

use std::collections::BTreeMap;

use agent_client_protocol::v1::schema::{
    ContentChunk, Plan, SessionUpdate, ToolCallContent, ToolCallStatus, ToolCallUpdate, ToolKind,
};

use super::text;
use crate::bridge::agent::Change;
use crate::bridge::record::Tool;

/// Bytes that are kept of what commands wrote whose terminals are released.
const MAX_RELEASED: usize = 16 * 1024 * 1024;
/// Longest title that is shown.
pub const MAX_TITLE_CHARS: usize = 500;
/// The tool waits for leave.
pub const WAITING: &str = "Waiting for confirmation";
/// It did not get it.
pub const REJECTED: &str = "Rejected";
const CANCELED: &str = "Canceled";
const THINKING: &str = "**Thinking**\n\n";

/// What a terminal's command wrote, as far as it is known.
pub type Terminal<'a> = &'a dyn Fn(&str) -> Option<String>;

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
    /// What commands wrote whose terminals are released: tool calls may still show it, until the turn is over.
    released: BTreeMap<String, String>,
    over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Message,
    Thought,
}

/// A use of a tool, as the agent told it, updates included.
#[derive(Debug, Default)]
struct Call {
    key: u32,
    title: String,
    kind: Option<ToolKind>,
    status: ToolCallStatus,
    content: Vec<ToolCallContent>,
    /// Our word for its status, until the agent says another.
    ours: Option<&'static str>,
}

impl Log {
    /// Nothing yet.
    pub fn new(request: String) -> Self {
        let (tools, released) = (BTreeMap::new(), BTreeMap::new());
        Self { request, next: 0, text: None, plan: None, tools, released, over: false }
    }

    /// Takes an update; answers what changed.
    pub fn update(&mut self, update: SessionUpdate, terminal: Terminal) -> Vec<Change> {
        match update {
            SessionUpdate::AgentMessageChunk(chunk) => self.chunk(Kind::Message, &chunk),
            SessionUpdate::AgentThoughtChunk(chunk) => self.chunk(Kind::Thought, &chunk),
            SessionUpdate::ToolCall(call) => self.tool(call.into(), None, terminal).into_iter().collect(),
            SessionUpdate::ToolCallUpdate(update) => self.tool(update, None, terminal).into_iter().collect(),
            SessionUpdate::Plan(plan) => vec![self.plan(&plan)],
            _ => Vec::new(),
        }
    }

    /// The tool call of a question: it waits.
    pub fn waits(&mut self, call: ToolCallUpdate, terminal: Terminal) -> Option<Change> {
        self.tool(call, Some(WAITING), terminal)
    }

    /// The question about a tool call was answered.
    pub fn answered(&mut self, id: &str, allowed: bool, terminal: Terminal) -> Option<Change> {
        self.tools.get_mut(id)?.ours = (!allowed).then_some(REJECTED);
        self.show(id, terminal)
    }

    /// A terminal is released, and this is what its command wrote.
    pub fn released(&mut self, terminal: String, output: String) {
        let output = text::bounded(output);
        let kept: usize = self.released.values().map(String::len).sum();
        if !self.over && kept + output.len() <= MAX_RELEASED {
            self.released.insert(terminal, output);
        }
    }

    /// The turn is over: what has not ended never will.
    pub fn end(&mut self, terminal: Terminal) -> Vec<Change> {
        let open = |call: &Call| matches!(call.status(), "Pending" | "In Progress" | WAITING);
        let open: Vec<String> = self.tools.iter().filter(|(_, call)| open(call)).map(|(id, _)| id.clone()).collect();
        let end = |id: String| {
            self.tools.get_mut(&id)?.ours = Some(CANCELED);
            self.show(&id, terminal)
        };
        let changes = open.into_iter().filter_map(end).collect();
        self.over = true;
        self.released.clear();
        changes
    }

    /// The entry of a tool call.
    pub fn key_of(&self, id: &str) -> Option<u32> {
        Some(self.tools.get(id)?.key)
    }

    fn key(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn chunk(&mut self, kind: Kind, chunk: &ContentChunk) -> Vec<Change> {
        let text = text::block(&chunk.content);
        let message = chunk.message_id.as_ref().map(|id| id.0.to_string());
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

    fn tool(&mut self, update: ToolCallUpdate, ours: Option<&'static str>, terminal: Terminal) -> Option<Change> {
        let id = update.tool_call_id.0.to_string();
        if !self.tools.contains_key(&id) {
            let key = self.key();
            // What is said after it is said after it.
            self.text = None;
            self.tools.insert(id.clone(), Call { key, ..Call::default() });
        }
        let call = self.tools.get_mut(&id)?;
        let told = update.fields;
        call.title = told.title.filter(|title| !title.is_empty()).unwrap_or_else(|| std::mem::take(&mut call.title));
        call.kind = told.kind.filter(|kind| *kind != ToolKind::Other).or(call.kind);
        if let Some(content) = told.content.filter(|content| !content.is_empty()) {
            call.content = content;
        }
        if let Some(status) = told.status {
            call.status = status;
        }
        match ours {
            Some(_) => call.ours = ours,
            // A new word of the agent's counts more than ours.
            None if call.ours != Some(REJECTED)
                && told.status.is_some_and(|status| status != ToolCallStatus::Pending) =>
            {
                call.ours = None;
            }
            None => {}
        }
        let in_terminal = call.content.iter().any(|content| matches!(content, ToolCallContent::Terminal(_)));
        // What its command wrote is not kept any more: the entry stays as it is.
        if self.over && in_terminal { None } else { self.show(&id, terminal) }
    }

    fn show(&self, id: &str, terminal: Terminal) -> Option<Change> {
        let call = self.tools.get(id)?;
        let (name, status) = (call.name(), call.status());
        let terminal = |id: &str| self.released.get(id).cloned().or_else(|| terminal(id));
        let mut text = format!("**Tool Call: {name}**\nStatus: {status}\n");
        for content in &call.content {
            let piece = text::piece(content, &terminal);
            if !piece.is_empty() {
                text.push('\n');
                text.push_str(&piece);
                if !piece.ends_with('\n') {
                    text.push('\n');
                }
            }
        }
        let tool = Some(Tool { name, status: status.to_owned() });
        Some(Change { request: self.request.clone(), key: call.key, tool, keep: 0, text })
    }

    fn plan(&mut self, plan: &Plan) -> Change {
        let key = match self.plan {
            Some(key) => key,
            None => self.key(),
        };
        self.plan = Some(key);
        self.text = None;
        Change { request: self.request.clone(), key, tool: None, keep: 0, text: text::plan(plan) }
    }
}

impl Call {
    /// For people.
    fn name(&self) -> String {
        let kind = || Some(serde_json::to_value(self.kind?).ok()?.as_str()?.to_owned());
        match self.title.lines().next() {
            Some(title) => title.chars().take(MAX_TITLE_CHARS).collect(),
            None => kind().unwrap_or_else(|| "tool".to_owned()),
        }
    }

    /// In the contract's words.
    fn status(&self) -> &'static str {
        match (self.ours, self.status) {
            (Some(ours), _) => ours,
            (None, ToolCallStatus::InProgress) => "In Progress",
            (None, ToolCallStatus::Completed) => "Completed",
            (None, ToolCallStatus::Failed) => "Failed",
            (None, _) => "Pending",
        }
    }
}

#[cfg(test)]
mod tests;
