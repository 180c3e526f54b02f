//! The agents: peers that answer every prompt by themselves, are killed and come back.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use helix_tests::random::Random;
use helix_tests::zed_peer::cable::Cable;
use helix_tests::zed_peer::{Ledger, Options, Peer, Run};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;

use crate::conversations::stage::{Talk, address};

/// What an answer takes at the least.
const THOUGHT: Duration = Duration::from_millis(30);

/// One session's editor, whatever process it is at the moment.
pub struct Editor {
    /// Session.
    pub session: String,
    /// A newer build: it reports its turns.
    pub newer: bool,
    /// To the server that it dials.
    pub cable: Cable,
    /// Every run of all its lives.
    pub ledger: Ledger,
    options: Options,
    seed: u64,
    /// Counts runs that came to their end.
    ended: Arc<watch::Sender<u64>>,
    peer: Mutex<Option<Peer>>,
}

impl Editor {
    /// Starts one.
    pub async fn start(talk: &Talk, newer: bool, seed: u64, ended: Arc<watch::Sender<u64>>) -> Result<Self> {
        let cable = Cable::to(&address(&talk.api)).await?;
        let ledger = Ledger::default();
        let mut options = talk.options().ledger(&ledger);
        cable.address().clone_into(&mut options.address);
        options.replays_history = true;
        if newer {
            options = options.newer();
        }
        let session = talk.id.clone();
        let editor = Self { session, newer, cable, ledger, options, seed, ended, peer: Mutex::new(None) };
        editor.revive().await;
        Ok(editor)
    }

    /// Starts its process, if it does not run.
    pub async fn revive(&self) {
        let mut peer = self.peer.lock().await;
        if peer.is_none() {
            let started = Peer::start(self.options.clone());
            tokio::spawn(answer(started.runs(), self.seed, Arc::clone(&self.ended)));
            *peer = Some(started);
        }
    }

    /// `kill -9`. A server's fault that the dead one had seen must not be buried with it.
    pub async fn kill(&self) -> Result<()> {
        if let Some(peer) = self.peer.lock().await.take() {
            ensure!(peer.faults().is_empty(), "{}: {:#?}\n{}", self.session, peer.faults(), peer.told());
            peer.kill();
        }
        Ok(())
    }

    /// Does something with its process, if it runs.
    pub async fn with<T>(&self, act: impl FnOnce(&Peer) -> T) -> Option<T> {
        self.peer.lock().await.as_ref().map(act)
    }
}

/// Plays every run of one process; ends with it.
async fn answer(runs: Arc<Mutex<UnboundedReceiver<Run>>>, seed: u64, ended: Arc<watch::Sender<u64>>) {
    while let Some(run) = runs.lock().await.recv().await {
        tokio::spawn(play(run, seed, Arc::clone(&ended)));
    }
}

/// One answer: what is said depends on the seed and the prompt alone, so that a replay says the same.
async fn play(run: Run, seed: u64, ended: Arc<watch::Sender<u64>>) {
    let salt = run.message.bytes().fold(seed, |salt, byte| salt.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut random = Random::seeded(salt);
    let work = async {
        // A model never answers in the instant in which a server may die.
        sleep(THOUGHT).await;
        for number in 0..random.below(4) {
            if random.below(3) == 0 {
                let tool = run.uses("Build", "In Progress", &format!("building {number} for {}", run.message));
                sleep(Duration::from_millis(random.below(200))).await; // the tool's work
                tool.is_at("Completed", &format!("built {number} for {}", run.message));
            } else {
                let entry = run.says(&format!("part {number} of {}", run.message));
                for word in 0..random.below(8) {
                    sleep(Duration::from_millis(random.below(80))).await; // a model thinks
                    entry.adds(&format!(" w{word}"));
                }
            }
        }
        if random.below(12) == 0 {
            run.fails("the model is offline");
        } else {
            run.completes();
        }
        ended.send_modify(|ended| *ended += 1);
    };
    tokio::select! {
        () = work => {}
        // Cancelled or killed: an agent says nothing after that.
        () = run.end_of_it() => {}
    }
}
