//! Agents without an editor under systemd: what the sandbox of their unit must leave to `agentd acp-bridge`, a terminal
//! for commands and `openat2` for the files of an agent.

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use serde_json::{Value, json};

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case};

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![Case::always("agents_without_an_editor_work_as_units", agents_without_an_editor_work_as_units)]
}

/// An ACP agent of few words: its client writes a file for it and refuses to read another, and it says how.
const AGENT: &str = r#"#!/bin/sh
say() { printf '{"jsonrpc":"2.0",%s}\n' "$1"; }
ask() { say "\"id\":$1,\"method\":\"$2\",\"params\":{\"sessionId\":\"one\",$3}"; }
problem() { printf %s "$1" | sed -n 's/.*"message":"\([^"]*\)".*/\1/p'; }
while read -r line; do
  id=$(printf %s "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case $line in
    *'"method":"initialize"'*) say "\"id\":$id,\"result\":{\"protocolVersion\":1}" ;;
    *'"method":"session/new"'*) say "\"id\":$id,\"result\":{\"sessionId\":\"one\"}" ;;
    *'"method":"session/prompt"'*)
      turn=$id
      ask 900 fs/write_text_file '"path":"sub/made.txt","content":"by the bridge"' ;;
    *'"id":900'*)
      made=$(problem "$line"; cat sub/made.txt)
      ask 901 fs/read_text_file '"path":"/etc/passwd"' ;;
    *'"id":901'*)
      refused=$(problem "$line")
      text="{\"type\":\"text\",\"text\":\"$made; $refused\"}"
      say "\"method\":\"session/update\",\"params\":{\"sessionId\":\"one\",\"update\":{\"sessionUpdate\":\"agent_message_chunk\",\"content\":$text}}"
      say "\"id\":$turn,\"result\":{\"stopReason\":\"end_turn\"}" ;;
  esac
done
"#;

const KIND: &str = r#"description = "An agent of few words"
command = ["{{ agentd }}", "acp-bridge", "window", "xterm", "-e", "{{ agentd }}", "acp-bridge", "--", "/opt/agent"]
input = "optional"
readiness = "window"
restart = "on-failure"
on_exit = "end"
"#;

async fn agents_without_an_editor_work_as_units() -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
    host.write("/opt/agent", AGENT, 0o755).await?;
    host.write("/etc/helix/kinds.d/words.toml", KIND, 0o644).await?;
    fleet.join(&host, &RunnerSettings::default()).await?;

    fleet.ready(&json!({ "id": "shell", "kind": "command" }), secs(60)).await?;
    let said = answer(&fleet, "shell", "tty && id -un && grep Seccomp: /proc/self/status").await?;
    ensure!(said.contains("/dev/pts/") && said.contains("helix-u") && said.contains("Seccomp:\t2"), "{said}");

    fleet.ready(&json!({ "id": "agent", "kind": "words" }), secs(60)).await?;
    let said = answer(&fleet, "agent", "go").await?;
    ensure!(said == "by the bridge; /etc/passwd is outside the workspace", "{said}");
    host.stop().await?;
    fleet.stop().await
}

/// What the session's agent says to this prompt, over the API.
async fn answer(fleet: &Fleet, session: &str, prompt: &str) -> Result<String> {
    let (api, threads) = (fleet.api()?, format!("/api/v1/sessions/{session}/threads"));
    let made = api.post(&threads, &json!({ "prompt": prompt })).await?.expect(201)?;
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let (thread, turn) = (text(&made["id"]).context("no thread")?, text(&made["turn"]["id"]).context("no turn")?);
    eventually("the turn is completed", secs(60), || async {
        let view = api.get(&format!("{threads}/{thread}/turns/{turn}?wait=5")).await?.expect(200)?;
        ensure!(view["state"] == "completed", "{view}");
        Ok(())
    })
    .await?;
    let detail = api.get(&format!("{threads}/{thread}")).await?.expect(200)?;
    let entries = detail["entries"].as_array().context("no entries")?.iter();
    Ok(entries.filter(|entry| entry["role"] == "assistant").filter_map(|entry| text(&entry["text"])).collect())
}
