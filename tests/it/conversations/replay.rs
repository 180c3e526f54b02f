//! The feed read from the first event on, and what its events add up to: a fold of its own, by the documented rules
//! alone, so that it can disagree with the server's.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt as _;
use helix_protocol::api::threads::{ThreadDetail, ThreadList};
use helix_tests::Api;
use helix_tests::eventually::secs;
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// What the feed told.
#[derive(Debug, Default)]
pub struct Replay {
    /// Every item, in order.
    pub items: Vec<Value>,
    /// Threads by our id.
    pub threads: BTreeMap<String, Folded>,
}

/// A thread as the feed tells it.
#[derive(Debug, Default)]
pub struct Folded {
    /// Turns in the order of their prompts, each with its states.
    pub turns: Vec<(String, Vec<String>)>,
    /// Entries where their first appearance put them: id, text, turn.
    pub entries: Vec<(String, String, Option<String>)>,
    /// The agent's id.
    pub acp: Option<String>,
    /// Title.
    pub title: Option<String>,
}

impl Replay {
    /// Reads everything that the threads have now.
    pub async fn read(api: &Api, session: &str) -> Result<Self> {
        let mut replay = Self::default();
        for item in Self::read_after(api, session, 0).await? {
            replay.take(item)?;
        }
        Ok(replay)
    }

    /// Items after a sequence, up to the last one that the threads have now.
    pub async fn read_after(api: &Api, session: &str, after: u64) -> Result<Vec<Value>> {
        let all: ThreadList = api.get(&format!("/api/v1/sessions/{session}/threads")).await?.json()?;
        let last = all.threads.iter().map(|thread| thread.sequence).max().unwrap_or(0);
        let (mut items, mut sequence) = (Vec::new(), after);
        let mut feed = api.socket(&format!("/api/v1/sessions/{session}/events?after={after}")).await?;
        while sequence < last {
            let next = timeout(secs(20), feed.next()).await;
            let message = next.with_context(|| format!("the feed stops at {sequence} of {last}"))?;
            let Message::Text(text) = message.context("the feed ended")?? else { continue };
            let item: Value = serde_json::from_str(&text)?;
            ensure!(item["type"] != "gap", "a gap for a client that reads: {item}");
            let next = item["sequence"].as_u64().with_context(|| format!("no sequence: {item}"))?;
            ensure!(next > sequence, "sequence {next} after {sequence}");
            sequence = next;
            items.push(item);
        }
        Ok(items)
    }

    fn take(&mut self, item: Value) -> Result<()> {
        let text = |key: &str| item[key].as_str().map(str::to_owned);
        let thread = text("thread").context("no thread")?;
        if thread != "_" {
            let folded = self.threads.entry(thread).or_default();
            match text("type").context("no type")?.as_str() {
                "thread_started" | "thread_renamed" => folded.title = text("title"),
                "thread_bound" => folded.acp = text("acp_thread_id"),
                "turn_queued" => folded.turns.push((text("turn").context("no turn")?, vec!["queued".to_owned()])),
                "turn_moved" => {
                    let turn = text("turn").context("no turn")?;
                    let known = folded.turns.iter_mut().find(|(id, _)| *id == turn);
                    let (_, states) = known.with_context(|| format!("an unknown turn moves: {item}"))?;
                    states.push(text("state").context("no state")?);
                }
                "entry" => folded.entry(&item)?,
                _ => {}
            }
        }
        self.items.push(item);
        Ok(())
    }

    /// The states that a turn went through.
    pub fn states(&self, turn: &str) -> Vec<&str> {
        let all = self.threads.values().flat_map(|thread| &thread.turns);
        all.filter(|(id, _)| id == turn).flat_map(|(_, states)| states).map(String::as_str).collect()
    }

    /// Items of one kind.
    pub fn of(&self, kind: &str) -> Vec<&Value> {
        self.items.iter().filter(|item| item["type"] == kind).collect()
    }

    /// That the API says the same of a thread.
    pub fn agrees(&self, detail: &ThreadDetail) -> Result<()> {
        let id = detail.thread.id.as_str();
        let folded = self.threads.get(id).with_context(|| format!("the feed does not know thread {id}"))?;
        ensure!(folded.acp == detail.thread.acp_thread_id, "acp id: {folded:?} against {detail:?}");
        ensure!(folded.title == detail.thread.title, "title: {folded:?} against {detail:?}");
        let told: Vec<_> = folded.turns.iter().map(|(id, states)| (id.as_str(), states.last().cloned())).collect();
        let told = &told[told.len().saturating_sub(detail.recent_turns.len())..];
        let said: Vec<_> =
            detail.recent_turns.iter().map(|turn| (turn.id.as_str(), Some(turn.state.to_string()))).collect();
        ensure!(told == said, "turns of {id}: the feed tells {told:?}, the API {said:?}");
        ensure!(detail.thread.turns as usize == folded.turns.len(), "count of turns: {folded:?} against {detail:?}");
        let told: Vec<_> = folded.entries.iter().map(|(id, text, _)| (id.as_str(), text.as_str())).collect();
        let said: Vec<_> = detail.entries.iter().map(|entry| (entry.id.as_str(), entry.text.as_str())).collect();
        ensure!(told == said, "entries of {id}: the feed tells {told:?}, the API {said:?}");
        Ok(())
    }
}

impl Folded {
    /// Keep `offset` bytes of the text so far, append `text`.
    fn entry(&mut self, item: &Value) -> Result<()> {
        let id = item["entry"].as_str().context("no entry")?.to_owned();
        let turn = item["turn"].as_str().map(str::to_owned);
        let offset = usize::try_from(item["offset"].as_u64().context("no offset")?)?;
        let more = item["text"].as_str().context("no text")?;
        let place = |id: &str| self.entries.iter().position(|(known, ..)| known == id);
        if place(&id).is_none() {
            let place = item["before"].as_str().and_then(place).unwrap_or(self.entries.len());
            self.entries.insert(place, (id.clone(), String::new(), None));
        }
        let Some((_, text, of)) = self.entries.iter_mut().find(|(known, ..)| *known == id) else { bail!("lost") };
        ensure!(offset <= text.len() && text.is_char_boundary(offset), "offset {offset} of {} bytes", text.len());
        text.truncate(offset);
        text.push_str(more);
        *of = turn.or_else(|| of.take());
        Ok(())
    }
}
