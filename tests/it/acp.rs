//! A real ACP agent from npm, unmodified, in a session without an editor: OpenCode with a scripted model.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_tests::agents::{Model, opencode, opencode_environment};
use helix_tests::cluster::READY;
use helix_tests::eventually::eventually;
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster, leftovers};
use serde_json::{Value, json};

/// It is 170 MB of program, which a loaded machine reads from a cold disk.
const PATIENCE: Duration = Duration::from_mins(4);
const SESSION: &str = "/api/v1/sessions/real";
const KEY: &str = "the-key-of-the-model";

struct Chat {
    api: Api,
    thread: String,
}

impl Chat {
    fn path(&self, rest: &str) -> String {
        format!("{SESSION}/threads/{}{rest}", self.thread)
    }

    async fn prompt(&self, prompt: &str) -> Result<String> {
        let answer = self.api.post(&self.path("/prompts"), &json!({"prompt": prompt})).await?.expect(202)?;
        Ok(answer["id"].as_str().context("a turn has an id")?.to_owned())
    }

    /// Waits until the turn is in this state.
    async fn until(&self, turn: &str, state: &str) -> Result<Value> {
        eventually(&format!("turn {turn} is {state}"), PATIENCE, || async {
            let view = self.api.get(&self.path(&format!("/turns/{turn}?wait=5"))).await?.expect(200)?;
            ensure!(view["state"] == state, "{view}");
            Ok(view)
        })
        .await
    }

    async fn detail(&self) -> Result<Value> {
        self.api.get(&self.path("")).await?.expect(200)
    }

    /// What the agent said in this turn.
    async fn said(&self, turn: &str) -> Result<String> {
        let detail = self.detail().await?;
        let entries = detail["entries"].as_array().context("entries")?.iter();
        let own = entries.filter(|entry| entry["turn"] == turn && entry["tool"].is_null());
        Ok(own.filter_map(|entry| entry["text"].as_str()).collect::<Vec<_>>().join("\n"))
    }

    async fn say(&self, words: &str) -> Result<()> {
        let turn = self.prompt(&format!("say {words}")).await?;
        self.until(&turn, "completed").await?;
        let said = self.said(&turn).await?;
        ensure!(said == words, "{said:?} instead of {words:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opencode_works_in_a_session_without_an_editor() -> Result<()> {
    let model = Model::start().await?;
    let mut cluster = Cluster::builder().runner(RunnerSpec::new("r1").programs(opencode()?)).start().await?;
    let api = cluster.api()?;
    let body = json!({
        "id": "real", "kind": "opencode", "env": opencode_environment(&model.url, "MODEL_KEY"),
        "secrets": {"MODEL_KEY": KEY},
    });
    api.create(&body).await?;
    // Before it is up: the prompt waits.
    let created = api.post(&format!("{SESSION}/threads"), &json!({"prompt": "say hello there"})).await?.expect(201)?;
    let thread = created["id"].as_str().context("a thread has an id")?.to_owned();
    let first = created["turn"]["id"].as_str().context("a turn has an id")?.to_owned();
    let chat = Chat { api: api.clone(), thread };
    let ready = api.wait_phase("real", helix_protocol::session::SessionPhase::Ready, READY).await?;
    cluster.remember(&ready);
    let done = chat.until(&first, "completed").await?;
    ensure!(chat.said(&first).await? == "hello there", "{}", chat.detail().await?);
    ensure!(done["usage"]["total_tokens"] == 18, "{done}");

    // A tool that asks for leave, given through the API.
    let turn = chat.prompt("write made.txt by the agent").await?;
    let question = eventually("the agent asks", PATIENCE, || async {
        let detail = chat.detail().await?;
        let question = detail["questions"].get(0).cloned();
        question.with_context(|| detail.to_string())
    })
    .await?;
    ensure!(question["mode"] == "permission" && question["turn"] == turn, "{question}");
    let made = cluster.runners[0].workspace_dir.join("real/made.txt");
    ensure!(!made.exists(), "it did not wait for an answer");
    let options = question["schema"]["properties"]["option"]["enum"].as_array().context("options")?;
    let once = options.iter().find(|option| *option == "once").with_context(|| question.to_string())?;
    let id = question["id"].as_str().context("a question has an id")?;
    let answer = json!({"action": "accept", "content": {"option": once}});
    let answered = chat.api.post(&chat.path(&format!("/questions/{id}")), &answer).await?;
    ensure!(answered.status.is_success(), "{} {}", answered.status, answered.text);
    chat.until(&turn, "completed").await?;
    ensure!(std::fs::read_to_string(&made)? == "by the agent", "{}", made.display());
    let detail = chat.detail().await?;
    let tools = detail["entries"].as_array().context("entries")?.iter().filter(|entry| entry["turn"] == *turn);
    let tool = tools.map(|entry| &entry["tool"]).find(|tool| !tool.is_null()).context("no tool is told")?;
    ensure!(tool["status"] == "Completed", "{tool}");

    // agentd dies while the agent works, and comes back: the turn goes on, until it is cancelled.
    let turn = chat.prompt("slowly").await?;
    eventually("it speaks", PATIENCE, || async {
        let said = chat.said(&turn).await?;
        ensure!(said.contains("and"), "{said:?}");
        Ok(())
    })
    .await?;
    cluster.runners[0].kill().await?;
    cluster.runners[0].start().await?;
    let before = chat.said(&turn).await?.len();
    eventually("it goes on speaking", PATIENCE, || async {
        let said = chat.said(&turn).await?;
        ensure!(said.len() > before, "{said:?}");
        Ok(())
    })
    .await?;
    let cancelled = api.post(&chat.path("/cancel"), &json!({"turn": turn})).await?;
    ensure!(cancelled.status.is_success(), "{} {}", cancelled.status, cancelled.text);
    chat.until(&turn, "cancelled").await?;
    chat.say("after the restart").await?;

    // The bridge dies, and with it the agent: another takes the conversation up where it was.
    let acp = chat.detail().await?["acp_thread_id"].clone();
    let bridge = bridge_of(&cluster)?;
    helix_tests::process::signal_pid(bridge, rustix::process::Signal::KILL)?;
    chat.say("after the kill").await?;
    ensure!(chat.detail().await?["acp_thread_id"] == acp, "the agent lost its thread");

    let requests = model.requests();
    for words in
        ["say hello there", "say after the restart", "say after the kill", "write made.txt by the agent", "slowly"]
    {
        let asked =
            requests.iter().filter(|request| request["asked"].as_str().is_some_and(|asked| asked.contains(words)));
        ensure!(asked.count() == 1, "the model was not asked {words:?} once: {requests:?}");
    }
    let key = format!("Bearer {KEY}");
    ensure!(
        requests.iter().all(|request| request["key"] == key.as_str()),
        "the secret is not what the model got: {requests:?}"
    );
    cluster.shutdown().await
}

/// The bridge's process: the one inside the terminal.
fn bridge_of(cluster: &Cluster) -> Result<u32> {
    let processes = leftovers::processes(&cluster.runners[0].workspace_dir)?;
    let bridge = processes.iter().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        (words.get(2..4)? == ["acp-bridge", "--name"]).then(|| words[0].parse().ok())?
    });
    bridge.with_context(|| format!("no bridge in:\n{}", processes.join("\n")))
}
