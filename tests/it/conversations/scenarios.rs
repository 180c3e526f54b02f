//! Scenarios for which only today's dialect has words: simulated input, UI query, open thread, interrupts, cancels.

use anyhow::{Context, Result, ensure};
use helix_protocol::thread::{Origin, TurnState};
use helix_tests::Cluster;
use helix_tests::eventually::{eventually, secs};
use helix_tests::zed_peer::{Dialect, Fate, Peer, Run};
use serde_json::{Value, json};

use super::stage::{Asked, Talk, cancel, chat, interrupting, small};

const TODAY: Dialect = Dialect::Today;

/// A session with a peer.
async fn stage() -> Result<(Cluster, Talk, Peer)> {
    let cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    Ok((cluster, talk, peer))
}

/// The end of every scenario: nothing is left, both ends agree, nothing unexpected came.
async fn ends(cluster: Cluster, talk: &Talk, peer: Peer) -> Result<()> {
    talk.nothing_is_left(TODAY).await?;
    talk.replay().await?;
    peer.finish().await?;
    cluster.shutdown().await
}

/// A new thread whose first turn has just begun to speak.
async fn speaking(talk: &Talk, peer: &Peer, prompt: &str) -> Result<(Asked, Run)> {
    let asked = talk.new_thread(prompt).await?;
    peer.expect(&chat(TODAY, &asked, None, prompt)).await?;
    let run = peer.run().await?;
    run.says(&format!("{prompt}: half"));
    talk.is(&asked, TurnState::Running).await?;
    Ok((asked, run))
}

/// The same with a second turn: the loop of the editor is taken by it.
async fn speaking_again(talk: &Talk, peer: &Peer) -> Result<(Asked, Run)> {
    let (first, run) = speaking(talk, peer, "zero").await?;
    run.completes();
    talk.is(&first, TurnState::Completed).await?;
    let asked = talk.prompt(&first.thread, "one").await?;
    peer.expect(&chat(TODAY, &asked, Some(&run.thread), "one")).await?;
    let more = peer.run().await?;
    more.says("one: half");
    talk.is(&asked, TurnState::Running).await?;
    Ok((asked, more))
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_usage_and_late_news_of_a_turn() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (asked, run) = speaking(&talk, &peer, "one").await?;
    let tool = run.uses("Read file", "In Progress", "**Tool Call: Read file**\nStatus: In Progress\n");
    let end = run.says("the end");
    tool.is_at("Completed", "**Tool Call: Read file**\nStatus: Completed\n");
    end.becomes("the End"); // rewritten, not only added to
    end.becomes("the");
    let usage = json!({"total_tokens": 1200, "input_tokens": 1000, "output_tokens": 200, "thought_tokens": 0,
                       "cached_read_tokens": 7, "cached_write_tokens": 0});
    run.completes_with(&usage);
    let turn = talk.is(&asked, TurnState::Completed).await?;
    ensure!(turn.usage.is_some_and(|usage| (usage.total_tokens, usage.cached_read_tokens) == (1200, 7)), "{turn:?}");
    let detail = talk.detail(&asked.thread).await?;
    let texts: Vec<_> = detail.entries.iter().map(|entry| entry.text.as_str()).collect();
    ensure!(texts == ["one: half", "**Tool Call: Read file**\nStatus: Completed\n", "the"], "{texts:?}");
    let called = detail.entries[1].tool.as_ref().context("no tool")?;
    ensure!((called.name.as_str(), called.status.as_str()) == ("Read file", "Completed"), "{called:?}");
    ensure!(detail.thread.usage.total_tokens == 1200, "{detail:?}");

    // A background update belongs to its old turn.
    let again = talk.prompt(&asked.thread, "two").await?;
    peer.expect(&chat(TODAY, &again, Some(&run.thread), "two")).await?;
    let more = peer.run().await?;
    end.becomes_later("the end, revised");
    end.told().await?;
    more.says("two");
    more.completes_with(&usage);
    talk.is(&again, TurnState::Completed).await?;
    ensure!(talk.text(&asked).await?.ends_with("the end, revised"), "{}", talk.text(&asked).await?);
    ensure!(talk.text(&again).await? == "two", "{}", talk.text(&again).await?);
    ensure!(talk.detail(&asked.thread).await?.thread.usage.total_tokens == 2400, "usage is not summed up");
    ends(cluster, &talk, peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_gives_up_fails_its_turn_and_the_queue_goes_on() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (one, run) = speaking(&talk, &peer, "one").await?;
    let two = talk.prompt(&one.thread, "two").await?;
    run.fails("agent exited mid-turn or hit max tokens");
    let failed = talk.is(&one, TurnState::Failed).await?;
    let cause = failed.cause.context("no cause")?;
    ensure!(cause.code == "agent_error" && cause.message.contains("exited mid-turn"), "{cause:?}");
    peer.expect(&chat(TODAY, &two, Some(&run.thread), "two")).await?;
    let more = peer.run().await?;
    more.says("fine");
    more.completes();
    talk.is(&two, TurnState::Completed).await?;
    ends(cluster, &talk, peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_input() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (asked, run) = speaking(&talk, &peer, "one").await?;
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    let data = json!({"message": "and add a test", "request_id": "t_2", "acp_thread_id": run.thread,
                      "agent_name": "zed-agent"});
    talk.command("simulate_user_input", &data).await?;
    peer.expect(&json!({"type": "simulate_user_input", "data": data})).await?;
    let more = peer.run().await?;
    ensure!(more.thread == run.thread, "in another thread");
    let entry = more.says("a test, then");
    entry.told().await?;
    more.completes();
    let detail = eventually("the simulated turn is told", secs(20), || async {
        let detail = talk.detail(&asked.thread).await?;
        ensure!(detail.recent_turns.len() == 2 && detail.recent_turns[1].state == TurnState::Completed, "{detail:?}");
        Ok(detail)
    })
    .await?;
    let turn = &detail.recent_turns[1];
    ensure!((turn.origin, turn.prompt.as_str()) == (Origin::Editor, "and add a test"), "{turn:?}");
    let said = Asked { thread: asked.thread.clone(), turn: turn.id.to_string() };
    ensure!(talk.text(&said).await? == "a test, then", "{}", talk.text(&said).await?);
    ensure!(talk.text(&asked).await? == "one: half", "{}", talk.text(&asked).await?);
    ends(cluster, &talk, peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ui_query() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (asked, run) = speaking(&talk, &peer, "one").await?;
    let connections = talk.api.get("/api/v1/external-agents/connections").await?.expect(200)?;
    ensure!(connections[0]["session_id"] == "s" && connections[0]["connected_at"].is_string(), "{connections}");
    talk.command("query_ui_state", &json!({"query_id": "q1"})).await?;
    peer.expect(&json!({"type": "query_ui_state", "data": {"query_id": "q1"}})).await?;
    // It goes round the editor's loop, and its answer is shown under its own name.
    peer.quiet().await?;
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    let replay = talk.replay().await?;
    let told: Vec<_> = replay.of("custom").into_iter().filter(|item| item["name"] == "ui_state_response").collect();
    ensure!(told.len() == 1, "{told:?}");
    let data = &told[0]["data"];
    ensure!((&data["query_id"], &data["active_view"]) == (&json!("q1"), &json!("agent_thread")), "{data}");
    ensure!(data["thread_id"] == run.thread && data["mcp_servers"]["desktop"] == "running", "{data}");
    ends(cluster, &talk, peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn open_thread() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (first, one) = speaking(&talk, &peer, "one").await?;
    one.completes();
    talk.is(&first, TurnState::Completed).await?;
    let (second, two) = speaking(&talk, &peer, "two").await?;
    two.completes();
    talk.is(&second, TurnState::Completed).await?;
    let data = json!({"acp_thread_id": one.thread, "request_id": "open_mine", "agent_name": "zed-agent"});
    talk.command("open_thread", &data).await?;
    peer.expect(&json!({"type": "open_thread", "data": data})).await?;
    // Loading and asking go on side by side in the editor.
    peer.quiet().await?;
    talk.command("query_ui_state", &json!({"query_id": "q"})).await?;
    peer.expect(&json!({"type": "query_ui_state", "data": {"query_id": "q"}})).await?;
    peer.quiet().await?;
    let shown = peer.events().into_iter().rfind(|event| event["event_type"] == "ui_state_response");
    ensure!(shown.as_ref().is_some_and(|event| event["data"]["thread_id"] == one.thread), "{shown:?}");
    // And a follow-up in it.
    let again = talk.prompt(&first.thread, "again").await?;
    peer.expect(&chat(TODAY, &again, Some(&one.thread), "again")).await?;
    let more = peer.run().await?;
    more.says("here");
    more.completes();
    talk.is(&again, TurnState::Completed).await?;
    ends(cluster, &talk, peer).await
}

/// The first turn of a thread does not take the editor's loop, a later one does: an interrupt ends either.
#[tokio::test(flavor = "multi_thread")]
async fn interrupt_mid_stream() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (one, run) = speaking(&talk, &peer, "one").await?;
    let two = talk.interrupt(&one.thread, "rather this").await?;
    peer.expect(&interrupting(&two, &run.thread, "rather this")).await?;
    run.ended().await?;
    talk.is(&one, TurnState::Interrupted).await?;
    let more = peer.run().await?;
    more.says("rather: half");
    talk.is(&two, TurnState::Running).await?;

    let three = talk.interrupt(&one.thread, "no, that").await?;
    peer.expect(&interrupting(&three, &run.thread, "no, that")).await?;
    more.ended().await?;
    let last = peer.run().await?;
    last.says("that");
    last.completes();
    talk.is(&three, TurnState::Completed).await?;
    talk.is(&two, TurnState::Interrupted).await?;
    for (asked, text) in [(&one, "one: half"), (&two, "rather: half"), (&three, "that")] {
        ensure!(talk.text(asked).await? == text, "{} instead of {text}", talk.text(asked).await?);
    }
    ends(cluster, &talk, peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_rapid_turns_with_cancel() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (one, first) = speaking(&talk, &peer, "one").await?;
    let two = talk.prompt(&one.thread, "two").await?;
    let three = talk.prompt(&one.thread, "three").await?;
    talk.cancel(&one).await?;
    peer.expect(&cancel(&one)).await?;
    talk.is(&one, TurnState::Cancelled).await?;
    first.ended().await?;

    peer.expect(&chat(TODAY, &two, Some(&first.thread), "two")).await?;
    let second = peer.run().await?;
    talk.cancel(&two).await?;
    peer.expect(&cancel(&two)).await?;
    talk.is(&two, TurnState::Cancelled).await?;
    second.ended().await?;

    peer.expect(&chat(TODAY, &three, Some(&first.thread), "three")).await?;
    let third = peer.run().await?;
    third.says("at last");
    third.completes();
    talk.is(&three, TurnState::Completed).await?;
    ensure!(talk.text(&three).await? == "at last", "{}", talk.text(&three).await?);
    ends(cluster, &talk, peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_turn() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (asked, run) = speaking_again(&talk, &peer).await?;
    talk.cancel(&asked).await?;
    peer.expect(&cancel(&asked)).await?;
    run.ended().await?;
    talk.is(&asked, TurnState::Cancelled).await?;
    // Its completion comes after that and changes nothing.
    peer.quiet().await?;
    let later = talk.prompt(&asked.thread, "later").await?;
    peer.expect(&chat(TODAY, &later, Some(&run.thread), "later")).await?;
    // Cancelling what is over would cancel what runs now: it must not reach the editor.
    let refused = talk.api.post(&path(&talk, &asked), &json!({"turn": asked.turn})).await?;
    ensure!([200, 409].contains(&refused.status.as_u16()), "{} {}", refused.status, refused.text);
    let more = peer.run().await?;
    more.says("later");
    more.completes();
    talk.is(&later, TurnState::Completed).await?;
    let states = talk.replay().await?;
    ensure!(states.states(&asked.turn) == ["queued", "dispatched", "running", "cancelled"], "{states:?}");
    ends(cluster, &talk, peer).await
}

fn path(talk: &Talk, asked: &Asked) -> String {
    format!("/api/v1/sessions/{}/threads/{}/cancel", talk.id, asked.thread)
}

/// A cancel that comes before the prompt has begun is a noop, and the prompt runs after all: then it is cancelled again.
#[tokio::test(flavor = "multi_thread")]
async fn cancel_noop() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    peer.next_thread(Fate::Held);
    let asked = talk.new_thread("one").await?;
    peer.expect(&chat(TODAY, &asked, None, "one")).await?;
    talk.cancel(&asked).await?;
    peer.expect(&cancel(&asked)).await?;
    peer.quiet().await?;
    let noop = |event: &Value| event["event_type"] == "turn_cancelled" && event["data"]["status"] == "noop";
    ensure!(peer.events().iter().any(noop), "no noop: {:?}", peer.events());
    ensure!(!talk.turn(&asked).await?.state.is_final(), "a noop cancels nothing");
    peer.nothing_more()?;

    peer.release();
    let run = peer.run().await?;
    peer.expect(&cancel(&asked)).await?;
    run.ended().await?;
    talk.is(&asked, TurnState::Cancelled).await?;
    ends(cluster, &talk, peer).await
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_defer_and_interrupt() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (one, run) = speaking_again(&talk, &peer).await?;
    let deferred = talk.prompt(&one.thread, "when you are done").await?;
    let (other, elsewhere) = (talk.new_thread("elsewhere").await?, "elsewhere");
    ensure!(talk.turn(&deferred).await?.state == TurnState::Queued, "not held back");
    ensure!(talk.turn(&other).await?.state == TurnState::Queued, "the loop is taken, also for new threads");
    peer.nothing_more()?;

    let now = talk.interrupt(&one.thread, "now").await?;
    peer.expect(&interrupting(&now, &run.thread, "now")).await?;
    run.ended().await?;
    talk.is(&one, TurnState::Interrupted).await?;
    let urgent = peer.run().await?;
    ensure!(urgent.message == "now", "{}", urgent.message);
    urgent.says("urgent");
    talk.is(&now, TurnState::Running).await?;
    peer.nothing_more()?;
    urgent.completes();
    talk.is(&now, TurnState::Completed).await?;

    peer.expect(&chat(TODAY, &deferred, Some(&run.thread), "when you are done")).await?;
    let calm = peer.run().await?;
    calm.says("calm");
    calm.completes();
    talk.is(&deferred, TurnState::Completed).await?;
    peer.expect(&chat(TODAY, &other, None, elsewhere)).await?;
    let new = peer.run().await?;
    new.says("new");
    new.completes();
    talk.is(&other, TurnState::Completed).await?;
    ends(cluster, &talk, peer).await
}

/// The first turn of a thread does not take the loop: a new thread need not wait for it, a follow-up there does.
#[tokio::test(flavor = "multi_thread")]
async fn first_turns_run_side_by_side() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (one, first) = speaking(&talk, &peer, "one").await?;
    let more = talk.prompt(&one.thread, "more").await?;
    let (two, second) = speaking(&talk, &peer, "two").await?;
    ensure!(first.is_running() && second.is_running(), "not side by side");
    ensure!(talk.turn(&more).await?.state == TurnState::Queued, "a follow-up would end the turn before it");
    first.completes();
    talk.is(&one, TurnState::Completed).await?;
    peer.expect(&chat(TODAY, &more, Some(&first.thread), "more")).await?;
    let third = peer.run().await?;
    ensure!(second.is_running(), "ended by another thread's prompt");
    third.completes();
    second.completes();
    talk.is(&more, TurnState::Completed).await?;
    talk.is(&two, TurnState::Completed).await?;
    ends(cluster, &talk, peer).await
}

/// An agent's question is an event that any client answers, once.
#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_through_the_api() -> Result<()> {
    let (cluster, talk, peer) = stage().await?;
    let (asked, run) = speaking(&talk, &peer, "one").await?;
    let schema = json!({"type": "object", "properties": {"db": {"type": "string", "enum": ["pg", "sqlite"]}}});
    let question = run.asks("el_1", "form", "Which database?", &schema);
    eventually("the question is told", secs(20), || async {
        let detail = talk.detail(&asked.thread).await?;
        ensure!(detail.questions.len() == 1 && detail.questions[0].schema == schema, "{detail:?}");
        ensure!(detail.thread.open_questions == 1, "{detail:?}");
        Ok(())
    })
    .await?;
    let path = format!("/api/v1/sessions/{}/threads/{}/questions/el_1", talk.id, asked.thread);
    let yes = json!({"action": "accept", "content": {"db": "pg"}});
    talk.api.post(&path, &yes).await?.expect(200)?;
    peer.expect(&json!({"type": "respond_elicitation", "data": {
        "acp_thread_id": run.thread, "elicitation_id": "el_1", "action": "accept", "content": {"db": "pg"}}}))
        .await?;
    ensure!(question.answer().await?["content"] == json!({"db": "pg"}), "another answer");
    let no = talk.api.post(&path, &json!({"action": "decline"})).await?;
    ensure!(no.status == 409, "answered twice: {} {}", no.status, no.text);
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    ensure!(talk.detail(&asked.thread).await?.thread.open_questions == 0, "still open");
    ends(cluster, &talk, peer).await
}
