//! Images on this machine: fetched from the servers, proved, unpacked, kept while they are needed.
//!
//! ```text
//! <state>/images/chunks/<2 hex>/<hex>     chunks as they came (zstd), named by what they are without compression
//! <state>/images/roots/<hex>/root/        the file system of an image; complete, and never changed
//! <state>/images/roots/<hex>/manifest.json  what was signed; its time says when the image was needed last
//! <state>/images/mnt/                     empty; where a process of the process backend puts its image's root together
//! <state>/images/roots/<hex>.new/         one that is being unpacked; removed at the next start
//! ```
//!
//! One task per image on its way ([`pull`]), however many sessions wait for it; it outlives the session that asked. What a
//! `kill -9` interrupts goes on with the chunks that are here. Nothing is used before a key that this machine trusts has
//! signed it: no key, no image. An image that a session has ([`Hold`]) is never removed; of the others the last
//! `images_keep` stay, beside those that pools want here ([`ahead`]), and none where a pull needs their room or the disk is
//! nearly full ([`room`]). Removing waits until nothing is on its way.

mod ahead;
pub mod enter;
mod fetch;
mod place;
mod pull;
mod room;
pub mod root;
mod unpack;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use helix_protocol::image::Digest;
use helix_protocol::image::signature::Signers;
use helix_protocol::runner::{ImagePull, RunnerImages};
use tokio::sync::watch;

use self::ahead::Ahead;
pub use self::fetch::Fetcher;
use self::place::Place;
pub use self::pull::PullError;
pub use self::root::Inside;

/// Images on this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Place,
    fetcher: Fetcher,
    /// Whom this machine trusts: an `allowed_signers` file. Read for each pull, so that a new key counts at once.
    signers: PathBuf,
    /// Images that stay although no session has them.
    keep: usize,
    /// Why there are none here.
    unavailable: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many sessions have each.
    held: BTreeMap<Digest, usize>,
    pulls: BTreeMap<Digest, watch::Receiver<Progress>>,
    /// Those whose servers stayed away: the next pull goes on with the chunks that have come.
    broken_off: BTreeSet<Digest>,
    /// Those that pools want here.
    ahead: BTreeMap<Digest, Ahead>,
}

/// Which unused images stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spare {
    /// Those that pools want here.
    Wanted,
    /// None.
    Nothing,
}

/// How far an image is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Bytes that are here, as they are in the image.
    pub bytes: u64,
    /// Bytes of all of it; 0 while that is not known.
    pub total: u64,
    /// Its files are being written.
    pub unpacking: bool,
    /// How it ended.
    pub done: Option<Result<(), Arc<PullError>>>,
}

/// Keeps an image from being removed.
#[derive(Debug)]
pub struct Hold {
    images: Images,
    digest: Digest,
}

impl State {
    /// A pull has ended.
    fn ended(&mut self, digest: Digest, done: &Result<(), PullError>) {
        self.pulls.remove(&digest);
        if let Some(ahead) = self.ahead.get_mut(&digest) {
            match done {
                Ok(()) => *ahead = Ahead::default(),
                Err(error) => ahead.failed(error.to_string()),
            }
        }
        match done {
            Err(PullError::Unreachable { .. }) => {
                self.broken_off.insert(digest);
            }
            // Whatever makes room is welcome.
            Err(PullError::DiskFull { .. }) => self.broken_off.clear(),
            _ => {
                self.broken_off.remove(&digest);
            }
        }
    }

    /// True where no pull goes on with chunks that no image has.
    fn needs_no_more(&self) -> bool {
        self.pulls.is_empty() && self.broken_off.is_empty()
    }
}

impl Images {
    /// Of this machine; what a former agentd left half unpacked is removed. `unavailable` says why sessions here run in none.
    pub fn new(
        state_dir: &std::path::Path,
        fetcher: Fetcher,
        signers: PathBuf,
        keep: usize,
        unavailable: Option<String>,
    ) -> Self {
        let place = Place::new(state_dir);
        if let Err(error) = place.remove_unfinished() {
            tracing::error!("what is left of an interrupted pull cannot be removed: {error}");
        }
        let state = Mutex::default();
        Self { inner: Arc::new(Inner { place, fetcher, signers, keep, unavailable, state }) }
    }

    /// The file system of an image below a state directory.
    pub fn root_of(state_dir: &std::path::Path, digest: Digest) -> PathBuf {
        Place::new(state_dir).root(digest)
    }

    /// Why sessions here run in no image.
    pub fn unavailable(&self) -> Option<&str> {
        self.inner.unavailable.as_deref()
    }

    /// Fingerprints of the keys that this machine trusts.
    pub fn keys(&self) -> Vec<String> {
        self.signers().map(|signers| signers.fingerprints()).unwrap_or_default()
    }

    /// What a session in this image finds; None where the image is not here.
    pub fn inside(&self, digest: Digest) -> Option<Inside> {
        self.inner.place.is_complete(digest).then(|| Inside::new(self.inner.place.root(digest)))
    }

    /// Keeps an image, whether it is here yet or not.
    pub fn hold(&self, digest: Digest) -> Hold {
        *self.state().held.entry(digest).or_default() += 1;
        self.inner.place.touch(digest);
        Hold { images: self.clone(), digest }
    }

    /// Fetches an image, unless somebody does already. Its progress; the last has `done`.
    pub fn pull(&self, digest: Digest) -> watch::Receiver<Progress> {
        let mut state = self.state();
        if let Some(running) = state.pulls.get(&digest) {
            return running.clone();
        }
        let (sender, receiver) = watch::channel(Progress::default());
        state.pulls.insert(digest, receiver.clone());
        drop(state);
        let images = self.clone();
        tokio::spawn(async move {
            let done = images.fetch(digest, &sender).await;
            match &done {
                Ok(()) => tracing::info!(image = %digest, "image is here"),
                Err(error) => {
                    // A session tells of it itself; nobody waits for one that is had ahead.
                    tracing::warn!("image {digest} cannot be had: {error}");
                    if let Err(error) = images.inner.place.abandon(digest) {
                        tracing::warn!("what was unpacked of it cannot be removed: {error}");
                    }
                }
            }
            images.state().ended(digest, &done);
            images.tidy().await;
            sender.send_modify(|progress| progress.done = Some(done.map_err(Arc::new)));
        });
        receiver
    }

    /// For the heartbeat.
    pub fn report(&self) -> RunnerImages {
        let state = self.state();
        let pulls = state.pulls.iter().map(|(digest, progress)| {
            let Progress { bytes, total, .. } = *progress.borrow();
            ImagePull { digest: *digest, bytes, total }
        });
        let pulls = pulls.collect();
        let present: Vec<_> = self.inner.place.complete().into_iter().map(|(digest, _)| digest).collect();
        let lacks = state.ahead.iter().filter(|(digest, _)| !present.contains(digest));
        let lacking = lacks.filter_map(|(digest, ahead)| ahead.lacking(*digest)).collect();
        RunnerImages { present, pulls, lacking }
    }

    /// Removes images beyond those that are kept, and chunks that no image has.
    async fn tidy(&self) {
        let (images, keep) = (self.clone(), self.inner.keep);
        let tidied = tokio::task::spawn_blocking(move || {
            images.evict(Spare::Wanted, |unused| unused.saturating_sub(keep))?;
            images.inner.place.remove_chunks(&HashSet::new(), || images.state().needs_no_more())
        });
        match tidied.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("images that nobody needs cannot be removed: {error}"),
            Err(error) => tracing::error!("removing images failed: {error}"),
        }
    }

    /// Removes as many unused images as `how_many` says of their number: those first that no pool wants here, and of those
    /// the ones that were needed longest ago.
    fn evict(&self, spare: Spare, how_many: impl FnOnce(usize) -> usize) -> std::io::Result<()> {
        let mut unused: Vec<_> = {
            let complete = self.inner.place.complete();
            let state = self.state();
            let free = complete
                .into_iter()
                .filter(|(digest, _)| !state.held.contains_key(digest) && !state.pulls.contains_key(digest));
            free.map(|(digest, needed)| (state.ahead.contains_key(&digest), needed, digest)).collect()
        };
        unused.retain(|(wanted, ..)| !wanted || spare == Spare::Nothing);
        unused.sort_unstable();
        let number = how_many(unused.len());
        for (_, _, digest) in unused.into_iter().take(number) {
            // Under the lock: a session may have come for it.
            let out_of_the_way = {
                let mut state = self.state();
                if state.held.contains_key(&digest) {
                    None
                } else {
                    if let Some(ahead) = state.ahead.get_mut(&digest) {
                        ahead.failed("it was removed: its room was needed".to_owned());
                    }
                    Some(self.inner.place.retire(digest)?)
                }
            };
            if let Some(retired) = out_of_the_way {
                tracing::info!(image = %digest, "image removed");
                std::fs::remove_dir_all(retired)?;
            }
        }
        Ok(())
    }

    fn signers(&self) -> Option<Signers> {
        let text = std::fs::read_to_string(&self.inner.signers).ok()?;
        Some(Signers::parse(&text))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        {
            let mut state = self.images.state();
            if let Some(count) = state.held.get_mut(&self.digest) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(&self.digest);
                }
            }
        }
        self.images.inner.place.touch(self.digest);
        // Not in a drop that happens while the runtime ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let images = self.images.clone();
            runtime.spawn(async move { images.tidy().await });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests;
