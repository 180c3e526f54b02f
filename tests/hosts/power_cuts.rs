//! A machine with server and NATS loses its power in the middle of writes, again and again: what was acknowledged is there.
//!
//! The machine is a guest with a kernel and a disk of its own; [`clients`] are outside and remember what was acknowledged.
//! It is cut by `kill -9` of its kernel. What that kernel held in memory and had not written to its disk is gone: page
//! cache, journal, sockets, processes. What it had written is there, also where it had not flushed it: a write cache
//! of a disk that loses its content is not played. After each boot everything that was ever acknowledged is asked for.
//!
//! `HELIX_POWER_CUTS` sets how often, and draws another seed for every run (`make soak`: 100); `HELIX_CHAOS_SEED` replays one.

mod clients;
mod machine;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use helix_tests::chaos::{History, Kills, number, seed};
use helix_tests::eventually::{eventually, secs};
use helix_tests::random::Random;
use tokio::sync::watch;

use self::clients::{Kept, Writer};
use self::machine::Machine;
use crate::harness::{Case, say};

/// Cuts of `make test`.
const CUTS: u64 = 3;
/// Clients at once.
const WRITERS: u64 = 4;
/// Writes that are acknowledged before the power goes, at least.
const LEAST: usize = 8;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![Case::always("power_cuts_lose_nothing_that_was_acknowledged", power_cuts_lose_nothing_that_was_acknowledged)]
}

async fn power_cuts_lose_nothing_that_was_acknowledged() -> Result<()> {
    let asked = number("HELIX_POWER_CUTS");
    let (cuts, seed) = (asked.unwrap_or(CUTS), seed(asked.is_some()));
    let replay = format!("HELIX_CHAOS_SEED={seed} HELIX_POWER_CUTS={cuts}");
    let history = History::begin("power", seed)?;
    say(&format!("replay with {replay}; log: {}", history.path().display()));
    let (kills, mut random) = (Kills::of("power", seed), Random::seeded(seed));
    let mut machine = Machine::start().await?;
    let mut kept = Kept::default();
    for cut in 0..cuts {
        let told = || format!("cut {cut}: {replay}; log: {}", history.path().display());
        machine.serves().await.with_context(told)?;
        write_until_it_is_dark(&mut machine, &mut kept, cut, &mut random, &history).await.with_context(told)?;
        kills.count("machine", 1);
        machine.boot().await.with_context(told)?;
        machine.serves().await.with_context(told)?;
        let judged = kept.judge(&machine.api).await;
        if judged.is_err() {
            let journal = machine.journal().await.unwrap_or_default();
            let _ = std::fs::write(history.path().with_extension("journal"), journal);
        }
        judged.with_context(told)?;
        history.note("oracle", format!("after cut {cut} all of it is there: {kept}"));
    }
    machine.stop().await?;
    say(&format!("{cuts} power cuts in the middle of writes, seed {seed}: nothing lost of {kept}"));
    say(&kills.survived()?);
    history.discard()
}

/// Clients write, and at a drawn moment there is no machine any more.
async fn write_until_it_is_dark(
    machine: &mut Machine,
    kept: &mut Kept,
    cut: u64,
    random: &mut Random,
    history: &History,
) -> Result<()> {
    let (dark, is_dark) = watch::channel(false);
    let done = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let writer = Writer::new(machine.api.clone(), format!("c{cut}-{number}"), random.draw(), Arc::clone(&done));
            tokio::spawn(writer.work(is_dark.clone()))
        })
        .collect();
    eventually("something is acknowledged", secs(120), || async {
        let done = done.load(std::sync::atomic::Ordering::Relaxed);
        ensure!(done >= LEAST, "{done} of {LEAST}");
        Ok(())
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(random.below(3000))).await; // the random point
    machine.cut().await?;
    dark.send_replace(true);
    for written in try_join_all(writers).await? {
        let written = written?;
        history.note("client", format!("was told of {written}"));
        kept.add(written);
    }
    Ok(())
}
