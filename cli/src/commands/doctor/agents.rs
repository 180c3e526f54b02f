//! The kinds that are an agent without an editor: which of them this machine would offer, and what brings the others.

use crate::checks::Check;
use crate::up::programs;

const NAME: &str = "agents";
const NPM: &str = "npm install -g";
const KINDS: [(&str, &str); 6] = [
    ("claude", include_str!("../../../../packaging/kinds/claude.toml")),
    ("codex", include_str!("../../../../packaging/kinds/codex.toml")),
    ("gemini", include_str!("../../../../packaging/kinds/gemini.toml")),
    ("goose", include_str!("../../../../packaging/kinds/goose.toml")),
    ("opencode", include_str!("../../../../packaging/kinds/opencode.toml")),
    ("qwen", include_str!("../../../../packaging/kinds/qwen.toml")),
];

/// Looks for each kind's program. That one is not there is nothing wrong: nobody needs all of them.
pub fn check() -> Check {
    judge(&|program| programs::in_path(program).is_some())
}

/// Programs of all kinds.
pub fn programs_of_kinds() -> Vec<String> {
    KINDS.iter().flat_map(|(_, text)| needed(text)).map(|(program, _)| program).collect()
}

/// The same by what `has` says of a program.
pub fn judge(has: &dyn Fn(&str) -> bool) -> Check {
    let (mut offered, mut lacking, mut packages, mut next) = (Vec::new(), Vec::new(), NPM.to_owned(), Vec::new());
    for (kind, text) in KINDS {
        let Some((program, how)) = needed(text).into_iter().find(|(program, _)| !has(program)) else {
            offered.push(kind);
            continue;
        };
        lacking.push(format!("{kind} (no {program} in PATH)"));
        // One command brings all that come from npm.
        match how.strip_prefix(NPM) {
            Some(package) => packages += package,
            None => next.push(format!("{kind}: {how}")),
        }
    }
    let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
    if lacking.is_empty() {
        return Check::ok(NAME, offered);
    }
    if packages != NPM {
        next.insert(0, packages);
    }
    Check::ok(NAME, format!("{offered}; not offered: {}", lacking.join(", "))).next(next.join("; "))
}

/// Programs that a kind's file names, each with what brings it.
fn needed(kind: &str) -> Vec<(String, String)> {
    let kind: toml::Table = kind.parse().unwrap_or_default();
    let agent = kind.get("requires").and_then(|requires| requires.get("agent")).and_then(toml::Value::as_table);
    let how = |value: &toml::Value| value.as_str().unwrap_or_default().to_owned();
    agent.into_iter().flatten().map(|(program, value)| (program.clone(), how(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_says_what_brings_it() {
        assert!(KINDS.iter().all(|(_, text)| needed(text).len() == 1));
        assert_eq!(judge(&|_| true).found, "claude, codex, gemini, goose, opencode, qwen");
        let some = judge(&|program| !["codex-acp", "goose", "qwen"].contains(&program));
        insta::assert_snapshot!(some.found, @"claude, gemini, opencode; not offered: codex (no codex-acp in PATH), goose (no goose in PATH), qwen (no qwen in PATH)");
        insta::assert_snapshot!(some.next.unwrap_or_default(), @"npm install -g @agentclientprotocol/codex-acp @qwen-code/qwen-code; goose: see https://block.github.io/goose for its installer");
        assert!(judge(&|_| false).found.starts_with("none; not offered: claude (no claude-agent-acp in PATH)"));
    }
}
