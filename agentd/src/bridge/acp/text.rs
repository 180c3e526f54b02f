//! What an agent tells, as text for people: blocks of content, diffs, what a command wrote. Pure.

use std::fmt::Write as _;

use agent_client_protocol::v1::schema::{
    ContentBlock, Diff, EmbeddedResourceResource, Plan, PlanEntryStatus, ToolCallContent,
};

/// Bytes of one piece of a tool's content that are shown.
pub const MAX_PIECE: usize = 256 * 1024;

/// A piece of a tool call's content. `terminal` knows what a terminal's command wrote.
pub fn piece(content: &ToolCallContent, terminal: &dyn Fn(&str) -> Option<String>) -> String {
    match content {
        ToolCallContent::Content(content) => bounded(block(&content.content)),
        ToolCallContent::Diff(told) => diff(told),
        ToolCallContent::Terminal(told) => {
            let output = terminal(&told.terminal_id.0).unwrap_or_default();
            if output.is_empty() { String::new() } else { format!("```\n{}\n```", bounded(output).trim_end()) }
        }
        // What a newer protocol has.
        _ => String::new(),
    }
}

/// A block of content as text.
pub fn block(content: &ContentBlock) -> String {
    match content {
        ContentBlock::Text(text) => text.text.clone(),
        ContentBlock::ResourceLink(link) => format!("[{}]({})", link.name, link.uri),
        ContentBlock::Resource(resource) => match &resource.resource {
            EmbeddedResourceResource::TextResourceContents(text) => text.text.clone(),
            EmbeddedResourceResource::BlobResourceContents(blob) => blob.uri.clone(),
            _ => "[resource]".to_owned(),
        },
        ContentBlock::Image(_) => "[image]".to_owned(),
        ContentBlock::Audio(_) => "[audio]".to_owned(),
        _ => "[content]".to_owned(),
    }
}

/// The steps of a plan.
pub fn plan(plan: &Plan) -> String {
    let mut text = "**Plan**\n\n".to_owned();
    for entry in &plan.entries {
        let mark = match entry.status {
            PlanEntryStatus::Completed => "[x]",
            PlanEntryStatus::InProgress => "[-]",
            _ => "[ ]",
        };
        // A String takes everything.
        let _ = writeln!(text, "- {mark} {}", entry.content);
    }
    text
}

/// Old lines, new lines.
fn diff(told: &Diff) -> String {
    let mut text = format!("Diff: {}\n```diff\n", told.path.display());
    let lines = |sign: char, lines: &[&str], text: &mut String| {
        for line in lines {
            let _ = writeln!(text, "{sign}{line}");
        }
    };
    // Lines that are the same at both ends say nothing.
    let (old, new): (Vec<_>, Vec<_>) =
        (told.old_text.as_deref().unwrap_or_default().lines().collect(), told.new_text.lines().collect());
    let front = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[front..], &new[front..]);
    let back = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    if front > 0 {
        let _ = writeln!(text, "@@ line {} @@", front + 1);
    }
    lines('-', &old[..old.len() - back], &mut text);
    lines('+', &new[..new.len() - back], &mut text);
    text = bounded(text);
    text.push_str("```");
    text
}

/// No more of it than is shown.
pub fn bounded(mut text: String) -> String {
    if text.len() > MAX_PIECE {
        text.truncate(text.floor_char_boundary(MAX_PIECE));
        text.push_str("\n… truncated\n");
    }
    text
}
