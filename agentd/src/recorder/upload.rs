//! Takes recordings to the server: over HTTPS, with the runner's own token, chunk after chunk.
//!
//! One task. It looks at every spool on the [`shelf`] when a chunk appears in one (inotify), when a session has ended, and
//! after a pause when something failed. A recording whose end could not be written (a full disk) gets it then. A chunk is removed once the server has it; a recording once all of it is there.
//! Nothing depends on it: while no server can be reached the spools grow up to their bound. A recording that the server
//! has deleted is given up; one that it does not take is kept for [`GIVE_UP_AFTER`].

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use helix_protocol::api::Problem;
use helix_protocol::recording::MAX_KEEP_SECONDS;
use helix_protocol::{ErrorCode, RecordingId};
use inotify::{WatchMask, Watches};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::shelf::{self, About};
use super::spool;
use crate::config::Config;
use crate::file_events;
use crate::link::token::OwnToken;
use crate::outbound;

/// For one chunk to get to the server.
const TIMEOUT: Duration = Duration::from_mins(1);
/// After a failure, doubled up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Before a recording that was refused is offered again.
const OFFER_AGAIN: Duration = Duration::from_mins(10);
/// A recording that has ended and that no server takes.
const GIVE_UP_AFTER: Duration = Duration::from_secs(MAX_KEEP_SECONDS);
/// Most bytes of a refusal that are read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The hold of session tasks on the uploads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Uploads {
    state_dir: Arc<PathBuf>,
    wake: Arc<Notify>,
    /// Held while a recording gets its end, and while one that has it is removed.
    ending: Arc<Mutex<()>>,
    /// Those that could not get their end yet.
    unended: Arc<Mutex<BTreeSet<RecordingId>>>,
}

impl Uploads {
    /// Of the runner with this state directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: Arc::new(state_dir.into()),
            wake: Arc::default(),
            ending: Arc::default(),
            unended: Arc::default(),
        }
    }

    /// Something new is to be looked at.
    pub fn look(&self) {
        self.wake.notify_one();
    }

    /// Gives a recording its end, once nobody records any more, and lets the server have it; where it cannot be written
    /// now, with the next uploads. May be repeated.
    pub async fn finish(&self, recording: &RecordingId) {
        match self.end(recording).await {
            Ok(()) => {}
            Err(error) if may_pass(&error) => {
                tracing::error!(%recording, "a recording has no proper end yet; it is tried again: {error}");
                self.unended().insert(recording.clone());
            }
            Err(error) => tracing::error!(%recording, "a recording has no proper end: {error}"),
        }
        self.look();
    }

    /// The same for those that could not have it before. False where one still cannot.
    async fn finish_rest(&self) -> bool {
        let rest = self.unended().clone();
        for recording in rest {
            match self.end(&recording).await {
                Err(error) if may_pass(&error) => {}
                ended => {
                    if let Err(error) = ended {
                        tracing::error!(%recording, "a recording has no proper end: {error}");
                    }
                    self.unended().remove(&recording);
                }
            }
        }
        self.unended().is_empty()
    }

    async fn end(&self, recording: &RecordingId) -> io::Result<()> {
        let (state_dir, recording, ending) = (self.state_dir.clone(), recording.clone(), self.ending.clone());
        let ended = tokio::task::spawn_blocking(move || {
            let _alone = ending.lock().unwrap_or_else(PoisonError::into_inner);
            match spool::finish(&shelf::spool(&state_dir, &recording)) {
                Ok(true) => Ok(()),
                // Nothing was ever recorded.
                Ok(false) => shelf::remove(&state_dir, &recording),
                Err(error) if error.kind() == io::ErrorKind::NotFound => shelf::remove(&state_dir, &recording),
                Err(error) => Err(error),
            }
        });
        ended.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
    }

    fn unended(&self) -> MutexGuard<'_, BTreeSet<RecordingId>> {
        self.unended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves all recordings. `live` are those whose sessions go on; whatever else is there at the start is given its end.
pub async fn run(uploads: Uploads, config: Arc<Config>, token: OwnToken, live: BTreeSet<RecordingId>) {
    if let Err(error) = upload(uploads, config, token, live).await {
        tracing::error!("recordings do not get to the server: {error}; restart agentd after it is mended");
    }
}

async fn upload(uploads: Uploads, config: Arc<Config>, token: OwnToken, live: BTreeSet<RecordingId>) -> io::Result<()> {
    let state_dir = uploads.state_dir.clone();
    for (recording, _) in shelf::list(&state_dir)? {
        if !live.contains(&recording) {
            uploads.finish(&recording).await;
        }
    }
    let inotify = file_events::inotify()?;
    let mut watches = inotify.watches();
    let mut events = inotify.into_event_stream(vec![0; 4096])?;
    let ending = uploads.ending.clone();
    let mut courier = Courier { config, token, client: None, refused: HashMap::new(), ending };
    let mut pause = PAUSE;
    loop {
        // What the server takes of others makes room on the disk for the end of these.
        let all_ended = uploads.finish_rest().await;
        if let Err(error) = courier.look(&state_dir, &mut watches).await {
            tracing::warn!("recordings wait for the server: {error}");
            // Whatever comes meanwhile waits with them.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            continue;
        }
        pause = PAUSE;
        let refused = courier.refused.values().min().copied();
        // Every arm is cancel safe.
        tokio::select! {
            _ = events.next() => {}
            () = uploads.wake.notified() => {}
            () = async { tokio::time::sleep_until(refused.unwrap_or_else(Instant::now)).await }, if refused.is_some() => {}
            // Nobody tells when a disk has room again.
            () = tokio::time::sleep(LONGEST_PAUSE), if !all_ended => {}
        }
    }
}

/// The system's own refusals may pass: a full disk, a limit. What is wrong with a spool's content stays.
fn may_pass(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}

struct Courier {
    config: Arc<Config>,
    token: OwnToken,
    /// Made for the first chunk: most runners record nothing.
    client: Option<reqwest::Client>,
    /// Recordings that the server does not take, and when each is offered again.
    refused: HashMap<RecordingId, Instant>,
    ending: Arc<Mutex<()>>,
}

/// Why a chunk is not at the server.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    /// It may be later.
    #[error("{0}")]
    Later(String),
    /// It never will be: the recording was deleted.
    #[error("the recording was deleted")]
    Deleted,
    /// The server will have none of it.
    #[error("{0}")]
    Refused(String),
}

impl Courier {
    /// Takes everything that is closed to the server. An error where something failed that may be tried again.
    async fn look(&mut self, state_dir: &Path, watches: &mut Watches) -> Result<(), UploadError> {
        let later = |error: io::Error| UploadError::Later(format!("the recordings cannot be read: {error}"));
        let mut failed = None;
        for (recording, about) in shelf::list(state_dir).map_err(later)? {
            let spool = shelf::spool(state_dir, &recording);
            // Before the look at what is there: what comes after it is told. The same watch, where there is one; a spool that
            // is not made yet is told by its session.
            let _ = watches.add(&spool, WatchMask::MOVED_TO | WatchMask::ONLYDIR);
            if self.refused.get(&recording).is_some_and(|again| *again > Instant::now()) {
                continue;
            }
            let refused_before = self.refused.remove(&recording).is_some();
            let taken = match about {
                Some(about) => self.take(&spool, &recording, &about).await,
                None => Err(UploadError::Refused("agentd's own word about it is missing".to_owned())),
            };
            match taken {
                Ok(()) => {}
                Err(UploadError::Deleted) => discard(&spool).map_err(later)?,
                Err(UploadError::Refused(reason)) => {
                    self.refused.insert(recording.clone(), Instant::now() + OFFER_AGAIN);
                    if !refused_before {
                        tracing::error!(%recording, reason, "the server does not take a recording; it is kept here");
                    }
                    if is_old(&spool) {
                        tracing::error!(%recording, "a recording that no server took is given up");
                        discard(&spool).map_err(later)?;
                    }
                }
                Err(UploadError::Later(reason)) => failed = Some(UploadError::Later(reason)),
            }
            let _alone = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
            if spool::is_done(&spool).unwrap_or(false) {
                tracing::info!(%recording, "a recording is complete at the server");
                self.refused.remove(&recording);
                shelf::remove(state_dir, &recording).map_err(later)?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn take(&mut self, spool: &Path, recording: &RecordingId, about: &About) -> Result<(), UploadError> {
        let later = |error: io::Error| UploadError::Later(format!("the spool of {recording} cannot be read: {error}"));
        let numbers = match spool::closed(spool) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            numbers => numbers.map_err(later)?,
        };
        for number in numbers {
            let bytes = spool::read_chunk(spool, number).map_err(later)?;
            self.put(recording, about, number, bytes).await?;
            spool::remove_chunk(spool, number).map_err(later)?;
        }
        Ok(())
    }

    async fn put(
        &mut self,
        recording: &RecordingId,
        about: &About,
        number: u32,
        bytes: Vec<u8>,
    ) -> Result<(), UploadError> {
        let client = if let Some(client) = &self.client {
            client.clone()
        } else {
            let client = outbound::client(&self.config.api_hosts, TIMEOUT);
            let client = client.map_err(|error| UploadError::Later(error.to_string()))?;
            self.client.insert(client).clone()
        };
        let bytes = bytes::Bytes::from(bytes);
        let mut last = UploadError::Later("no server is configured".to_owned());
        for host in &self.config.api_hosts {
            let About { session, epoch } = about;
            let url = format!("{host}/api/v1/recordings/{recording}/chunks/{number}?session={session}&epoch={epoch}");
            let request = client.put(url).bearer_auth(self.token.current().expose()).body(bytes.clone());
            let request = request.header("content-type", "application/octet-stream");
            let mut answer = match request.send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => answer,
                Err(error) => {
                    last = UploadError::Later(format!("{host}: {error}"));
                    continue;
                }
            };
            let (status, mut text) = (answer.status(), Vec::new());
            while let Ok(Some(piece)) = answer.chunk().await {
                text.extend_from_slice(&piece);
                if text.len() > MAX_ANSWER_BYTES {
                    break;
                }
            }
            let problem: Option<Problem> = serde_json::from_slice(&text).ok();
            let code = problem.as_ref().map(|problem| problem.code);
            let detail = problem.map_or_else(|| format!("{host} answers {status}"), |problem| problem.detail);
            match code {
                Some(ErrorCode::RecordingDeleted) => return Err(UploadError::Deleted),
                // The server's own trouble, or a token that is not known there yet.
                Some(ErrorCode::TokenInvalid | ErrorCode::Conflict) => last = UploadError::Later(detail),
                Some(_) if status.is_client_error() => return Err(UploadError::Refused(detail)),
                _ => last = UploadError::Later(detail),
            }
        }
        Err(last)
    }
}

/// Removes what is closed.
fn discard(spool: &Path) -> io::Result<()> {
    for number in spool::closed(spool)? {
        spool::remove_chunk(spool, number)?;
    }
    Ok(())
}

/// Nothing was written there for longer than any server keeps a recording.
fn is_old(spool: &Path) -> bool {
    let changed = std::fs::symlink_metadata(spool).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > GIVE_UP_AFTER))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use helix_protocol::recording::Start;
    use helix_protocol::{Epoch, RunnerId, SessionId};

    use super::*;

    #[tokio::test]
    async fn an_end_that_could_not_be_written_comes_with_the_next_uploads() {
        let state_dir = tempfile::tempdir().unwrap();
        let about = About { session: SessionId::parse("s").unwrap(), epoch: Epoch(7) };
        let recording = shelf::prepare(state_dir.path(), &about).unwrap();
        let spool = shelf::make_spool(state_dir.path(), &recording).unwrap();
        let About { session, epoch } = about;
        let (id, runner) = (recording.clone(), RunnerId::parse("r").unwrap());
        let started_at = jiff::Timestamp::UNIX_EPOCH;
        drop(spool::Spool::open(&spool, || Start { recording: id, session, epoch, runner, started_at }).unwrap());
        // As on a disk that is full.
        let in_the_way = spool.join("head.new");
        std::fs::create_dir(&in_the_way).unwrap();
        let uploads = Uploads::new(state_dir.path());
        uploads.finish(&recording).await;
        assert!(!uploads.finish_rest().await);
        assert_eq!(spool::closed(&spool).unwrap(), [0]);
        std::fs::remove_dir(in_the_way).unwrap();
        assert!(uploads.finish_rest().await);
        assert_eq!(spool::closed(&spool).unwrap(), [0, 1], "its end waits for the server");
        assert!(uploads.unended().is_empty());
    }
}
