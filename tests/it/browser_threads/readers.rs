//! What a page shows of a conversation that went on without it: to who comes later, to who only reads along, and of
//! turns of which nobody knows. No runner: the agent is the peer.

use anyhow::{Result, ensure};
use helix_protocol::ids::secret_hash;
use helix_protocol::record::{Scope, TokenRecord};
use helix_protocol::subject::BUCKET_TOKENS;
use helix_protocol::thread::TurnState;
use helix_tests::Cluster;
use helix_tests::browser::Browser;
use helix_tests::eventually::{eventually, secs};
use helix_tests::random::secret_hex;
use helix_tests::zed_peer::{Dialect, Fate};
use serde_json::json;

use crate::browser::{no_complaints, pictures};
use crate::conversations::stage::{Talk, chat, impatient, small};

/// A token of this scope. Nothing but the store can make one of a viewer.
async fn token(cluster: &Cluster, scope: Scope) -> Result<String> {
    let secret = secret_hex(32)?;
    let record = TokenRecord {
        name: "eve".to_owned(),
        scope,
        created_at: jiff::Timestamp::now(),
        expires_at: None,
        used_by: None,
    };
    let store = async_nats::jetstream::new(cluster.bus().await?).get_key_value(BUCKET_TOKENS).await?;
    store.put(secret_hash(&secret), serde_json::to_vec(&record)?.into()).await?;
    Ok(secret)
}

async fn open(browser: &mut Browser, cluster: &Cluster, token: &str) -> Result<()> {
    browser.open(&format!("http://{}/sessions/s/view#token={token}", cluster.servers[0].address())).await
}

/// Nothing of it is seen.
async fn unseen(browser: &mut Browser, selector: &str) -> Result<()> {
    let place = browser.place(selector).await?;
    ensure!(place.width == 0.0 && place.height == 0.0, "{selector} is seen: {place:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_reads_sees_everything_and_nothing_to_press() -> Result<()> {
    let cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    let asked = talk.new_thread("look at it").await?;
    let run = peer.run().await?;
    let words = run.says("I look.");
    let schema = json!({"type": "object", "properties": {"go": {"type": "boolean"}}});
    let question = run.asks("el_1", "form", "Shall I go on?", &schema);

    let mut browser = Browser::start(cluster.dir()).await?;
    open(&mut browser, &cluster, &token(&cluster, Scope::Viewer).await?).await?;
    browser.wait(".only-reads:has-text('read along')").await?;
    browser.wait(".turn[data-state=running] .prose:has-text('I look.')").await?;
    browser.wait(".question[data-status=open]:has-text('Shall I go on?')").await?;
    browser.screenshot(&pictures()?.join("threads-reader.png")).await?;
    for control in [".composer", ".question .controls", ".turn [data-act=cancel]", ".edit", ".fresh"] {
        unseen(&mut browser, control).await?;
    }
    words.adds(" And see.");
    browser.wait(".prose:has-text('I look. And see.')").await?;
    // Answered by who may.
    let path = format!("/api/v1/sessions/s/threads/{}/questions/el_1", asked.thread);
    talk.api.post(&path, &json!({"action": "accept", "content": {"go": true}})).await?.expect(200)?;
    question.answer().await?;
    browser.wait(".question:not([data-status=open]) .outcome").await?;
    run.fails("the model is away");
    browser.wait(".turn[data-state=failed]").await?;
    unseen(&mut browser, ".turn [data-act=resend]").await?;
    browser.click(".back").await?;
    browser.wait(".thread-row").await?;
    no_complaints(&mut browser).await?;
    browser.close().await?;
    peer.kill();
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_later_sees_the_agents_own_events_and_chooses_its_model() -> Result<()> {
    let cluster = small().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    let asked = talk.new_thread("count").await?;
    peer.expect(&chat(Dialect::Today, &asked, None, "count")).await?;
    let run = peer.run().await?;
    let acp = run.thread.clone();
    peer.tell("mood_changed", json!({"mood": "fine"}));
    peer.tell("weather_changed", json!({"acp_thread_id": acp, "to": "<b>rain</b>"}));
    for number in 0..520 {
        run.says(&format!("entry {number}."));
    }
    peer.quiet().await?;
    // What the peer has written the server need not have read yet.
    let path = format!("/api/v1/sessions/s/threads/{}?last=1", asked.thread);
    eventually("the server knows every entry", secs(20), || async {
        let answer = talk.api.get(&path).await?;
        ensure!(answer.text.contains("entry 519."), "the last one is missing");
        Ok(())
    })
    .await?;

    // A long thread is read from its end.
    let mut browser = Browser::start(cluster.dir()).await?;
    let admin = cluster.admin_token().to_owned();
    open(&mut browser, &cluster, &admin).await?;
    browser.wait(".prose:has-text('entry 519.')").await?;
    browser.wait(".custom summary:has-text('weather_changed')").await?;
    let texts = browser.texts(".turn .prose").await?;
    ensure!(texts.len() == 500 && texts[0] == "entry 20.", "{} entries from {:?}", texts.len(), texts.first());
    browser.click(".earlier").await?;
    browser.wait(".prose:has-text('entry 0.')").await?;
    let texts = browser.texts(".turn .prose").await?;
    let whole: Vec<_> = (0..520).map(|number| format!("entry {number}.")).collect();
    ensure!(texts == whole, "{} entries from {:?}", texts.len(), texts.first());
    unseen(&mut browser, ".earlier").await?;
    ensure!(browser.texts(".custom summary").await? == ["weather_changed"], "not the one event");
    run.says("entry 520.");
    browser.wait(".prose:has-text('entry 520.')").await?;

    // Of the session as a whole: also what was before.
    browser.click(".sync summary").await?;
    browser.wait(".events li:has-text('agent ready')").await?;
    browser.wait(".events li:has-text('mood_changed')").await?;
    peer.tell("mood_changed", json!({"mood": "better"}));
    browser.wait(".events li:has-text('better')").await?;

    // What the agent offers is chosen; a wish that it refuses is told.
    let models = |current: &str| {
        json!({"acp_thread_id": acp, "modes": null, "models": {"currentModelId": current, "availableModels": [
            {"modelId": "small", "name": "Small"}, {"modelId": "large", "name": "Large"}]}})
    };
    peer.tell("agent_modes", models("small"));
    browser.wait("select[data-setting=model]").await?;
    browser.screenshot(&pictures()?.join("threads-model.png")).await?;
    browser.choose("select[data-setting=model]", "large").await?;
    let command = json!({"type": "set_session_model", "data": {"acp_thread_id": acp, "model_id": "large"}});
    peer.expect(&command).await?;
    browser.wait("select[data-setting=model]:disabled").await?;
    peer.tell("agent_modes", models("large"));
    browser.wait("select[data-setting=model]:enabled:has(option[value=large]:checked)").await?;
    browser.choose("select[data-setting=model]", "small").await?;
    peer.tell("agent_modes_refused", json!({"acp_thread_id": acp, "setting": "model", "error": "not paid for"}));
    browser.wait(".offers .fault:has-text('not paid for')").await?;
    browser.wait("select[data-setting=model]:has(option[value=large]:checked)").await?;
    open(&mut browser, &cluster, &admin).await?;
    browser.wait("select[data-setting=model]:enabled:has(option[value=large]:checked)").await?;
    run.completes();
    talk.is(&asked, TurnState::Completed).await?;
    no_complaints(&mut browser).await?;
    browser.close().await?;
    peer.kill();
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_of_which_nobody_knows_is_sent_again_with_one_click() -> Result<()> {
    let cluster = impatient().await?;
    let talk = Talk::begin(cluster.api()?, "s").await?;
    let peer = talk.peer(talk.options()).await?;
    peer.next_thread(Fate::Silent);
    let asked = talk.new_thread("build it").await?;
    let mut browser = Browser::start(cluster.dir()).await?;
    open(&mut browser, &cluster, cluster.admin_token()).await?;
    talk.is(&asked, TurnState::Unknown).await?;
    browser.wait(".turn[data-state=unknown] .cause").await?;
    browser.click(".turn[data-state=unknown] [data-act=resend]").await?;
    let run = peer.run().await?;
    ensure!(run.message == "build it", "{:?}", run.message);
    run.says("Built.");
    run.completes();
    browser.wait(".turn[data-state=completed]:has-text('Built.')").await?;
    ensure!(browser.texts("[data-act=resend]").await?.is_empty(), "it can be sent a third time");
    // The same for who comes later.
    open(&mut browser, &cluster, cluster.admin_token()).await?;
    browser.wait(".turn[data-state=unknown] .cause").await?;
    browser.wait(".turn[data-state=completed]:has-text('Built.')").await?;
    ensure!(browser.texts("[data-act=resend]").await?.is_empty(), "it can be sent a third time");
    no_complaints(&mut browser).await?;
    browser.close().await?;
    peer.kill();
    cluster.shutdown().await
}
