//! What must be true in the end, whatever was killed.
//!
//! Of every prompt that was acknowledged: it is over; an older build ran it at most once, and where that it ran to its
//! end is not proved, it is `unknown`; a newer build never ran it again after a run that was done, and runs that a kill
//! cut off are not in effect; our bridge ran each at most once, and says of every one what became of it. What the API tells as the text of a turn is what its agent said. Prompts of a thread ran
//! in the order in which they were asked, those that interrupt before those that wait. The feed from its beginning
//! adds up to what the API says, at both servers. Nothing runs, nothing waits.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::threads::TurnView;
use helix_protocol::thread::TurnState;
use helix_tests::Api;
use helix_tests::eventually::{eventually, secs};
use helix_tests::zed_peer::Dialect;
use helix_tests::zed_peer::ledger::{Effect, End};

use super::bridges::Bridge;
use super::clients::{Asked, acknowledged};
use super::editors::Editor;
use crate::conversations::stage::{self, Talk};

/// A busy store may have to be asked again.
const BUSY: Duration = secs(120);

/// Judges everything; answers what came of it in one line.
pub async fn judge(
    apis: &[Api; 2],
    editors: &[Arc<Editor>],
    bridge: &Bridge,
    asked: &[Asked],
    within: Duration,
) -> Result<String> {
    let mut talks = BTreeMap::new();
    for session in editors.iter().map(|editor| &editor.session).chain([&bridge.session]) {
        talks.insert(session.as_str(), Talk::of(apis[0].clone(), session).await?);
    }
    for one in asked {
        let talk = &talks[one.session.as_str()];
        eventually(&format!("{one:?} is over"), within, || async {
            let turn = talk.turn(&at(one)).await?;
            ensure!(turn.state.is_final(), "{turn:?}");
            Ok(())
        })
        .await?;
    }
    for editor in editors {
        eventually(&format!("nothing runs in {}", editor.session), secs(60), || async {
            let busy = editor.with(|peer| peer.is_busy().then(|| peer.told())).await.flatten();
            ensure!(busy.is_none(), "{}", busy.unwrap_or_default());
            Ok(())
        })
        .await?;
    }
    let mut states: BTreeMap<String, u32> = BTreeMap::new();
    for one in asked {
        let talk = &talks[one.session.as_str()];
        let read = || async { Ok((talk.turn(&at(one)).await?, talk.text(&at(one)).await?)) };
        let (turn, text) = eventually("the turn is read", BUSY, read).await?;
        let editor = editors.iter().find(|editor| editor.session == one.session);
        let effects = editor.map(|editor| editor.ledger.of(&one.turn)).unwrap_or_default();
        let build = editor.map_or("bridge", |editor| if editor.newer { "newer" } else { "older" });
        let told = || format!("{one:?}\n{turn:?}\nruns {effects:#?}\ntext {text:?}, {build}");
        if let Some(editor) = editor {
            promise(editor.newer, one, &turn, &effects).with_context(told)?;
            said(&turn, &effects, &text).with_context(told)?;
        } else {
            bridge.promise(one, &turn, &text).with_context(told)?;
        }
        // Once more under the same key: the same turn, and nothing runs.
        let (path, body) = &one.request;
        let again = acknowledged(&[&apis[1]], path, body, &[200, 201, 202]).await?;
        ensure!(again.text.contains(&one.turn), "another turn under the same key: {}\n{}", again.text, told());
        *states.entry(format!("{build} {}", turn.state)).or_default() += 1;
    }
    for editor in editors {
        let talk = &talks[editor.session.as_str()];
        eventually("nothing is left", BUSY, || talk.nothing_is_left(Dialect::Today)).await?;
        let here = eventually("the feed of the first server", BUSY, || talk.replay()).await?;
        let other = || Talk::of(apis[1].clone(), &editor.session);
        let other = eventually("the session at the second server", BUSY, other).await?;
        let there = eventually("the feed of the second server", BUSY, || other.replay()).await?;
        ensure!(here.items == there.items, "the servers' feeds differ");
        order(editor, asked)?;
        let known = asked.iter().filter(|one| one.session == editor.session).count();
        let turns: usize = here.threads.values().map(|thread| thread.turns.len()).sum();
        ensure!(turns == known, "{turns} turns of {known} prompts in {}", editor.session);
        let faults = editor.with(|peer| (peer.faults(), peer.told())).await.context("no editor")?;
        ensure!(faults.0.is_empty(), "{:#?}\n{}", faults.0, faults.1);
    }
    worth(&states, asked.len())?;
    let mut summary = format!("{} prompts:", asked.len());
    for (state, count) in states {
        let _ = write!(summary, " {count} {state},");
    }
    Ok(summary)
}

fn at(asked: &Asked) -> stage::Asked {
    stage::Asked { thread: asked.thread.clone(), turn: asked.turn.clone() }
}

/// How often it ran, and that its state is no lie.
fn promise(newer: bool, asked: &Asked, turn: &TurnView, effects: &[Effect]) -> Result<()> {
    let ends: Vec<_> = effects.iter().map(|effect| effect.end).collect();
    ensure!(ends.iter().all(Option::is_some), "it still runs");
    if newer {
        // What is over must not begin again. A run is not over where a kill cut it off, or buried the word of its end
        // before that was sent; nor where it failed, and the one event that a break loses was the word of it.
        let before = &effects[..effects.len().saturating_sub(1)];
        // Nor where the agent neither said nor did anything, and the one event was all that there was.
        let in_vain = |effect: &Effect| {
            let untold = effect.lost && (effect.end == Some(End::Failed) || effect.text.is_empty());
            effect.end == Some(End::Killed) || effect.buried || untold
        };
        ensure!(before.iter().all(in_vain), "it ran again after {before:?}");
    } else {
        ensure!(ends.len() <= 1, "it ran {} times", ends.len());
    }
    ensure!(turn.prompt == asked.prompt, "another prompt");
    let last = ends.last().copied().flatten();
    let by_us = turn.cause.as_ref().map(|cause| cause.code.as_str());
    match turn.state {
        // Where the answer to a cancel was lost, the end of the turn looks like any other.
        TurnState::Completed => ensure!(
            last == Some(End::Completed) || effects.last().is_some_and(|effect| effect.lost),
            "completed, says the API"
        ),
        TurnState::Failed => ensure!(last == Some(End::Failed), "failed, says the API"),
        // It may have been done a moment before, and its end lost.
        TurnState::Interrupted => {}
        TurnState::Cancelled => ensure!(asked.cancelled || by_us.is_some(), "nobody cancelled it"),
        TurnState::Unknown => {
            let known = ["end_lost", "not_proved", "silent", "no_thread_created"];
            ensure!(by_us.is_some_and(|code| known.contains(&code)), "unknown, and why?");
        }
        TurnState::Queued | TurnState::Dispatched | TurnState::Running => anyhow::bail!("not over"),
    }
    Ok(())
}

/// The text of a turn is what its agent said. Of what was cut off it may be the beginning.
fn said(turn: &TurnView, effects: &[Effect], text: &str) -> Result<()> {
    let Some((last, former)) = effects.split_last() else {
        ensure!(text.is_empty(), "nobody said that");
        return Ok(());
    };
    // What a lost event told is told again when another entry begins and at the end, unless that was the end.
    if turn.state != TurnState::Completed || last.lost_text {
        return Ok(());
    }
    if former.is_empty() {
        ensure!(text == last.text, "the agent said {:?}", last.text);
    } else {
        // What a killed run had said stands before it.
        ensure!(text.ends_with(&last.text), "the agent said {:?} in the end", last.text);
    }
    Ok(())
}

/// Per thread, prompts began to run in the order in which they were asked.
fn order(editor: &Editor, asked: &[Asked]) -> Result<()> {
    let runs = editor.ledger.all();
    let first = |one: &Asked| runs.iter().position(|effect| effect.request_id == one.turn);
    let mut threads: BTreeMap<(&str, bool), Vec<&Asked>> = BTreeMap::new();
    for one in asked.iter().filter(|one| one.session == editor.session) {
        threads.entry((&one.thread, one.interrupt)).or_default().push(one);
    }
    for ((thread, interrupts), prompts) in threads {
        let began: Vec<_> = prompts.iter().filter_map(|one| Some((first(one)?, one.prompt.as_str()))).collect();
        ensure!(
            began.is_sorted(),
            "order in {thread} of {} (interrupting: {interrupts}): {began:?}\n{runs:#?}",
            editor.session
        );
    }
    Ok(())
}

/// A chaos in which hardly anything is done would prove nothing.
fn worth(states: &BTreeMap<String, u32>, asked: usize) -> Result<()> {
    let count =
        |word: &str| states.iter().filter(|(state, _)| state.contains(word)).map(|(_, count)| count).sum::<u32>();
    ensure!(count("completed") as usize * 3 >= asked, "too little was done: {states:?}");
    // Whoever gave up on every turn that a break met would be right, and useless.
    ensure!(count("unknown") as usize * 5 <= asked, "too much is unknown: {states:?}");
    Ok(())
}
