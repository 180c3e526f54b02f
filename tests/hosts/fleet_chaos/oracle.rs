//! What has to be true in the end, of what clients were told and of what is left on hosts and in the store.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use futures::{StreamExt, TryStreamExt};
use helix_protocol::subject;
use helix_protocol::thread::TurnState;
use helix_tests::cluster::Cluster;
use helix_tests::eventually::{eventually, secs};

use super::clients::{Asked, POOL, Story};
use super::witness::{Heard, Word};
use crate::fleet::STATE_DIR;
use crate::harness::Host;

/// Within which a fleet that is well again has nothing left to do.
const SETTLED: Duration = secs(120);

/// Ends what clients left, which is the pool and what was made by a request whose answer nobody got, and waits until
/// nothing of any session is anywhere.
pub async fn nothing_is_left(cluster: &Cluster, hosts: &[Host]) -> Result<()> {
    let api = cluster.api()?;
    eventually("the pool is ended", SETTLED, || async {
        let answer = api.delete(&format!("/api/v1/pools/{POOL}?stop=true")).await?;
        ensure!(answer.status.is_success() || answer.status == 404, "{} {}", answer.status, answer.text);
        Ok(())
    })
    .await?;
    eventually("no session is left", SETTLED, || async {
        let left = api.sessions().await?;
        for view in &left {
            api.delete(&format!("/api/v1/sessions/{}", view.id)).await?;
        }
        ensure!(left.is_empty(), "{:?}", left.iter().map(helix_tests::http::told).collect::<Vec<_>>());
        Ok(())
    })
    .await?;
    for host in hosts {
        eventually(&format!("nothing is left on {}", host.name), SETTLED, || async {
            // What a lost runner's session had not brought away stays on purpose, and is nobody's.
            let look = format!(
                "systemctl list-units --all --plain --no-legend 'helix-s*'; \
                 ps -eo user:20=,pid=,args= | grep '^helix-u'; \
                 ls {STATE_DIR}/s | grep -E '^[0-9a-f]{{16}}'; ls {STATE_DIR}/ledger | grep json; \
                 ls {STATE_DIR}/workspaces | grep -v '\\.kept-'; \
                 find {STATE_DIR}/workspaces -printf '%u %p\\n' | grep '^helix-u'; \
                 grep 'helix/agentd/s/' /proc/mounts; find /sys/fs/cgroup -name 'helix-s*' -type d; true"
            );
            let left = host.run_ok(&look).await?;
            ensure!(left.is_empty(), "left:\n{left}");
            Ok(())
        })
        .await?;
    }
    let bus = jetstream::new(cluster.bus().await?);
    let buckets = [
        subject::BUCKET_SESSIONS,
        subject::BUCKET_DESIRED,
        subject::BUCKET_OBSERVED,
        subject::BUCKET_POOLS,
        subject::BUCKET_CHECKPOINTS,
    ];
    for bucket in buckets {
        eventually(&format!("no key is left in {bucket}"), SETTLED, || async {
            let store = bus.get_key_value(bucket).await?;
            let keys: Vec<_> = store.keys().await?.try_collect().await?;
            ensure!(keys.is_empty(), "{keys:?}");
            Ok(())
        })
        .await?;
    }
    eventually("no word of a conversation is left", SETTLED, || async {
        let stream = bus.get_stream(subject::STREAM_THREADS).await?;
        let mut words = stream.info_with_subjects(subject::THREADS_ALL).await?;
        let mut left = Vec::new();
        while let Some(word) = words.next().await {
            left.push(word?);
        }
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

/// Judges what clients were told by what hosts have heard. Answers what came of it, in one line.
pub fn judge(heard: &Heard, stories: &[Story]) -> Result<String> {
    let copies = heard.never_two()?;
    let mut states = BTreeMap::<String, usize>::new();
    for asked in stories.iter().flat_map(|story| &story.asked) {
        let (begins, ends) = heard.prompt(&asked.name);
        promise(asked, begins, ends).with_context(|| format!("{asked:?}\nbegins {begins:?}\nends {ends:?}"))?;
        *states.entry(asked.turn.state.to_string()).or_default() += 1;
    }
    let sessions: Vec<_> = stories.iter().flat_map(|story| &story.sessions).collect();
    let extents: Vec<_> = sessions.iter().map(|session| heard.extent(session)).collect();
    let moved = extents.iter().filter(|(hosts, _)| *hosts > 1).count();
    let epochs: usize = extents.iter().map(|(_, epochs)| epochs).sum();
    let mut failures = BTreeMap::<&str, usize>::new();
    for (_, code) in stories.iter().flat_map(|story| &story.failures) {
        *failures.entry(code).or_default() += 1;
    }
    let prompts: usize = states.values().sum();
    // A chaos in which hardly anything is done would prove nothing.
    let done = states.get(&TurnState::Completed.to_string()).copied().unwrap_or_default();
    ensure!(prompts > 0 && done * 2 >= prompts, "too little was done: {states:?}, failures {failures:?}");
    ensure!(
        failures.values().sum::<usize>() * 2 <= sessions.len(),
        "too much failed: {failures:?} of {}",
        sessions.len()
    );
    Ok(format!(
        "{} sessions, {moved} of them on more than one host, {epochs} epochs, {copies} copies and never two at once; failures {failures:?}; {prompts} prompts {states:?}",
        sessions.len()
    ))
}

/// Once at most, wherever its session was begun, and the state is no lie.
fn promise(asked: &Asked, begins: &[Word], ends: &[Word]) -> Result<()> {
    ensure!(begins.len() <= 1 && ends.len() <= 1, "it ran more than once");
    ensure!(begins.iter().chain(ends).all(|word| word.session == asked.session), "it ran in another session");
    let begun = |end: &Word| begins.iter().any(|begin| begin.host == end.host && begin.at <= end.at);
    ensure!(ends.iter().all(begun), "it ended where it never began");
    let turn = &asked.turn;
    let has_cause = turn.cause.as_ref().is_some_and(|cause| !cause.code.is_empty());
    match turn.state {
        TurnState::Completed => {
            ensure!(!begins.is_empty(), "completed, says the API, and it never ran");
            // A cancel may come to its end as any other turn, when its command was done at the same moment.
            ensure!(!ends.is_empty() || asked.cancelled, "completed, says the API, and it never ended");
        }
        TurnState::Cancelled => ensure!(asked.cancelled || has_cause, "nobody cancelled it"),
        TurnState::Failed | TurnState::Unknown => ensure!(has_cause, "{}, and not why", turn.state),
        state => anyhow::bail!("nobody asked for {state}"),
    }
    Ok(())
}
