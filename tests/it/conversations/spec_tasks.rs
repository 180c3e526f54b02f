//! One spec task, one desktop, many threads: a second session of the task becomes another name of the desktop.

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_protocol::thread::{Origin, TurnState};
use helix_tests::eventually::{eventually, secs};
use helix_tests::zed_peer::{Dialect, Peer, Run};
use serde_json::{Value, json};

use super::stage::{Asked, DIALECTS, Talk, chat, small};

/// The first turn of a thread, told by the threads of a session: a session's `input` is one.
async fn input_of(talk: &Talk, prompt: &str) -> Result<Asked> {
    eventually(&format!("{prompt:?} is a turn"), secs(20), || async {
        for thread in talk.threads().await? {
            let detail = talk.detail(thread.id.as_str()).await?;
            if let Some(turn) = detail.recent_turns.iter().find(|turn| turn.prompt == prompt) {
                ensure!(turn.origin == Origin::Input, "{turn:?}");
                return Ok(Asked { thread: thread.id.to_string(), turn: turn.id.to_string() });
            }
        }
        anyhow::bail!("{:?}", talk.threads().await?)
    })
    .await
}

async fn answers(talk: &Talk, peer: &Peer, asked: &Asked, text: &str) -> Result<Run> {
    let run = peer.run().await?;
    ensure!(run.request_id == asked.turn, "{} instead of {}", run.request_id, asked.turn);
    run.says(text);
    run.completes();
    talk.is(asked, TurnState::Completed).await?;
    Ok(run)
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_task_routing() -> Result<()> {
    let cluster = small().await?;
    for (number, dialect) in DIALECTS.into_iter().enumerate() {
        play(cluster.api()?, dialect, number).await.with_context(|| format!("{dialect:?}"))?;
    }
    cluster.shutdown().await
}

async fn play(api: helix_tests::Api, dialect: Dialect, number: usize) -> Result<()> {
    let (task, first, second) = (format!("task{number}"), format!("one{number}"), format!("two{number}"));
    let body = |id: &str, input: &str| json!({"id": id, "kind": "terminal", "spec_task": task, "input": input});
    let one = Talk::begin_with(api.clone(), &body(&first, "plan it")).await?;
    let planned = input_of(&one, "plan it").await?;
    let peer = one.peer(one.options().dialect(dialect)).await?;
    peer.expect(&chat(dialect, &planned, None, "plan it")).await?;
    let plan = answers(&one, &peer, &planned, "the plan").await?;

    // A second session of the task: no desktop of its own, a thread of the one that is there.
    let two = Talk::begin_with(api.clone(), &body(&second, "do it")).await?;
    let done = input_of(&two, "do it").await?;
    peer.expect(&chat(dialect, &done, None, "do it")).await?;
    let work = answers(&two, &peer, &done, "the work").await?;
    ensure!(work.thread != plan.thread && done.thread != planned.thread, "the same thread");

    // Both names answer with the same desktop and the same threads.
    let views = (api.session(&first).await?, api.session(&second).await?);
    ensure!(views.0.sync == views.1.sync && views.0.sync.connected, "{views:?}");
    for talk in [&one, &two] {
        ensure!(talk.text(&planned).await? == "the plan" && talk.text(&done).await? == "the work", "{}", talk.id);
    }
    // A prompt through either name reaches the thread that it names.
    let more = two.prompt(&planned.thread, "change the plan").await?;
    peer.expect(&chat(dialect, &more, Some(&plan.thread), "change the plan")).await?;
    answers(&one, &peer, &more, "changed").await?;

    // In document 000's words.
    let mapping = api.get(&format!("/api/v1/spec-tasks/{task}")).await?.expect(200)?;
    let context = |asked: &Asked, last: &Asked, run: &Run, work: &str| {
        json!({"zed_context_id": asked.thread, "zed_thread_id": run.thread, "helix_interaction_id": last.turn,
               "work_session_id": work})
    };
    let contexts = json!([context(&planned, &more, &plan, &first), context(&done, &done, &work, &second)]);
    ensure!(mapping["contexts"] == contexts, "{mapping}\n{contexts}");
    ensure!(mapping["spec_task_id"] == task.as_str() && mapping["helix_session_id"] == first.as_str(), "{mapping}");
    let mut keys: Vec<_> = mapping.as_object().context("no object")?.keys().map(String::as_str).collect();
    keys.sort_unstable();
    ensure!(keys == ["contexts", "helix_session_id", "spec_task_id", "zed_instance_id"], "{keys:?}");
    let list: Value = api.get("/api/v1/spec-tasks").await?.expect(200)?;
    let listed = list["spec_tasks"].as_array().context("no list")?;
    ensure!(listed.contains(&mapping), "{list}");

    // One name is stopped, the other goes on; then the task is.
    api.stop(&second).await?;
    eventually("one name has stopped", secs(20), || async {
        let phase = api.session(&second).await?.phase;
        ensure!(phase == SessionPhase::Stopped, "{phase}");
        Ok(())
    })
    .await?;
    api.post(&format!("/api/v1/sessions/{second}/threads"), &json!({"prompt": "x"}))
        .await?
        .problem(409, "session_ended")?;
    let more = one.prompt(&planned.thread, "go on").await?;
    peer.expect(&chat(dialect, &more, Some(&plan.thread), "go on")).await?;
    answers(&one, &peer, &more, "on it goes").await?;
    one.replay().await?;
    peer.finish().await?;
    let ended = api.delete(&format!("/api/v1/spec-tasks/{task}")).await?;
    ensure!(ended.status.is_success(), "{} {}", ended.status, ended.text);
    api.wait_phase(&first, SessionPhase::Stopped, secs(20)).await?;
    Ok(())
}
