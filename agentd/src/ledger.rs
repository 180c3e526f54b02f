//! What this runner was ordered and what became of it, on disk: `<state>/ledger/<unit key>.json`.
//!
//! The ledger is read once at start and then only written. Each session task owns its [`Entry`]; one thread writes
//! all of them, in order, replacing files atomically. [`Ledger::save`] returns when the entry is on disk (before
//! something is acted on); [`Ledger::note`] does not wait and may be lost in a power cut, which loses nothing that
//! matters: report numbers jump by `REPORT_GAP` at every start, and units are found again by their identity.
//! The thread ends when the last [`Ledger`] is dropped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use helix_protocol::assignment::DesiredSession;
use helix_protocol::checkpoint::WorkSeen;
use helix_protocol::resources::Limits;
use helix_protocol::session::{Cause, DirectPorts, Display, ObservedSession, SessionResult, TimelineStep, Unclaimed};
use helix_protocol::{Generation, KindName, RecordingId, RunnerId, SessionId};
use jiff::Timestamp;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::session::state::{Outcome, State};
use crate::supervisor::Identity;

/// Larger than the number of reports between two durable writes.
const REPORT_GAP: u64 = 64;

/// Everything known of one session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The order that it runs under.
    pub desired: DesiredSession,
    /// When the first order came.
    pub received_at: Timestamp,
    /// Where it is.
    pub state: State,
    /// Number of the last report.
    pub report: u64,
    /// The kind that is run.
    pub kind: KindName,
    /// Proof of its slice, once opened.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// When it became Ready: its time-out counts from here.
    #[serde(default)]
    pub ready_at: Option<Timestamp>,
    /// Why it ended.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// Outcome of its task.
    #[serde(default)]
    pub result: Option<SessionResult>,
    /// Timed steps so far.
    #[serde(default)]
    pub timeline: Vec<TimelineStep>,
    /// Its desktop.
    #[serde(default)]
    pub display: Option<Display>,
    /// The agent's process.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Port of the loopback interface on which its agent reaches the servers: named in the agent's environment, hence
    /// the same as long as the session lives.
    #[serde(default)]
    pub forward_port: Option<u16>,
    /// Ports of the machine at which native viewers reach it; asked for again by the next agentd.
    #[serde(default)]
    pub direct: Option<DirectPorts>,
    /// Its workspace.
    #[serde(default)]
    pub workspace: Option<String>,
    /// The limits that it runs under.
    #[serde(default)]
    pub limits: Option<Limits>,
    /// Generation whose limits are set; absent where they are those of the spec it was opened with.
    #[serde(default)]
    pub limits_generation: Option<Generation>,
    /// Shall be held still until a server confirms its epoch; noted before it is done.
    #[serde(default)]
    pub holding: bool,
    /// Is held still.
    #[serde(default)]
    pub frozen: bool,
    /// The desired set does not name it.
    #[serde(default)]
    pub unclaimed: bool,
    /// What is recorded of it: of this life, whatever epoch an order to end comes under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingId>,
    /// Workspace and logs are removed; kept until that is acknowledged.
    #[serde(default)]
    pub forgotten: bool,
    /// Its checkpoints of this life.
    #[serde(default)]
    pub work: WorkSeen,
}

impl Entry {
    /// A session as it comes with an order.
    pub fn new(desired: DesiredSession, kind: KindName, now: Timestamp) -> Self {
        let received = TimelineStep { step: "received".to_owned(), at: now, duration_ms: None, detail: None };
        let recorded = desired.spec.recording.is_some();
        let recording = recorded.then(|| RecordingId::of(&desired.session, desired.epoch));
        let asked = desired.work.asked;
        Self {
            desired,
            received_at: now,
            state: State::Starting,
            report: 0,
            kind,
            identity: None,
            ready_at: None,
            cause: None,
            result: None,
            timeline: vec![received],
            display: None,
            pid: None,
            forward_port: None,
            direct: None,
            workspace: None,
            limits: None,
            limits_generation: None,
            holding: false,
            frozen: false,
            unclaimed: false,
            recording,
            forgotten: false,
            // What was asked of a former life is done.
            work: WorkSeen { asked, ..WorkSeen::default() },
        }
    }

    /// Which session.
    pub fn session(&self) -> &SessionId {
        &self.desired.session
    }

    /// True once nothing of it runs.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended(Outcome::Stopped | Outcome::Failed))
    }

    /// The report about it.
    pub fn observed(&self, runner: &RunnerId) -> ObservedSession {
        ObservedSession {
            session: self.desired.session.clone(),
            runner: runner.clone(),
            epoch: self.desired.epoch,
            generation: self.desired.generation,
            report: self.report,
            phase: self.state.phase(),
            cause: self.cause.clone(),
            result: self.result.clone(),
            timeline: self.timeline.clone(),
            kind: self.kind.clone(),
            display: self.display.clone(),
            pid: self.pid,
            workspace: self.workspace.clone(),
            limits: self.limits.clone(),
            control: self.desired.control.epoch,
            grants: self.desired.grants,
            direct: self.direct.clone(),
            frozen: self.frozen,
            forgotten: self.forgotten,
            work: (self.work != WorkSeen::default()).then(|| self.work.clone()),
            unclaimed: self
                .unclaimed
                .then(|| Unclaimed { spec: self.desired.spec.clone(), received_at: self.received_at }),
        }
    }
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A directory or file cannot be read or made.
    #[error("cannot use {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not an entry. Going on without it would let the reaper kill its session.
    #[error("{path} is not an entry of the ledger: {reason}; move it away to give its session up")]
    Broken {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Writes entries. Clones share the thread.
#[derive(Debug, Clone)]
pub struct Ledger {
    ops: mpsc::Sender<Op>,
}

/// Whom to tell that it is on disk.
type Done = oneshot::Sender<io::Result<()>>;

#[derive(Debug)]
struct Op {
    key: String,
    /// None removes the file.
    content: Option<Vec<u8>>,
    /// Present when somebody waits.
    done: Option<Done>,
}

/// What is to be done with one file.
#[derive(Debug, Default)]
struct Pending {
    content: Option<Vec<u8>>,
    dones: Vec<Done>,
}

impl Ledger {
    /// Makes the directory where missing and reads every entry.
    pub fn open(state_dir: &Path) -> Result<(Self, Vec<Entry>), LedgerError> {
        let dir = state_dir.join("ledger");
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| LedgerError::Io { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io(&dir))?;
        // Held by the writer until its last write: a ledger that was just closed is read when it is complete.
        let lock = fs::File::open(&dir).map_err(io(&dir))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| io(&dir)(error.into()))?;
        let mut entries = Vec::new();
        for file in fs::read_dir(&dir).map_err(io(&dir))? {
            let path = file.map_err(io(&dir))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // A temporary file of a write that did not finish.
                fs::remove_file(&path).map_err(io(&path))?;
                continue;
            }
            let mut entry = read_entry(&path)?;
            entry.report += REPORT_GAP;
            entries.push(entry);
        }
        let (ops, queue) = mpsc::channel();
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn({
                let dir = dir.clone();
                move || {
                    write_all(&dir, &queue);
                    drop(lock);
                }
            })
            .map_err(io(&dir))?;
        Ok((Self { ops }, entries))
    }

    /// Writes the entry and waits until it is on disk.
    pub async fn save(&self, entry: &Entry) -> io::Result<()> {
        self.apply(entry.session().unit_key(), Some(encode(entry))).await
    }

    /// Writes the entry soon.
    pub fn note(&self, entry: &Entry) {
        // The thread lives as long as a sender does.
        let _ = self.ops.send(Op { key: entry.session().unit_key(), content: Some(encode(entry)), done: None });
    }

    /// Removes the entry and waits until that is on disk.
    pub async fn remove(&self, session: &SessionId) -> io::Result<()> {
        self.apply(session.unit_key(), None).await
    }

    async fn apply(&self, key: String, content: Option<Vec<u8>>) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        let gone = || io::Error::other("the ledger's thread has ended");
        self.ops.send(Op { key, content, done: Some(done) }).map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }
}

/// Every entry as it is on disk, for a reader beside the ledger's owner: changes nothing and waits for nobody.
pub fn read(state_dir: &Path) -> Result<Vec<Result<Entry, LedgerError>>, LedgerError> {
    let dir = state_dir.join("ledger");
    let files = fs::read_dir(&dir).map_err(|source| LedgerError::Io { path: dir, source })?;
    let paths = files.filter_map(|file| Some(file.ok()?.path()));
    let entries = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    Ok(entries.map(|path| read_entry(&path)).collect())
}

fn read_entry(path: &Path) -> Result<Entry, LedgerError> {
    let content = fs::read(path).map_err(|source| LedgerError::Io { path: path.to_owned(), source })?;
    serde_json::from_slice(&content)
        .map_err(|error| LedgerError::Broken { path: path.to_owned(), reason: error.to_string() })
}

fn encode(entry: &Entry) -> Vec<u8> {
    serde_json::to_vec(entry).expect("an entry has only text keys, so it is JSON")
}

/// The writer: takes all that waits, keeps the newest content per entry, and syncs once for everybody.
fn write_all(dir: &Path, queue: &mpsc::Receiver<Op>) {
    while let Ok(first) = queue.recv() {
        let mut batch: BTreeMap<String, Pending> = BTreeMap::new();
        for op in std::iter::once(first).chain(queue.try_iter()) {
            let pending = batch.entry(op.key).or_default();
            pending.content = op.content;
            pending.dones.extend(op.done);
        }
        let mut written = Vec::new();
        for (key, Pending { content, dones }) in batch {
            match write_one(dir, &key, content.as_deref()) {
                Ok(()) => written.extend(dones),
                Err(error) => {
                    tracing::error!(unit_key = key, "cannot write the ledger: {error}");
                    answer(dones, Some(&error));
                }
            }
        }
        if !written.is_empty() {
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            answer(written, synced.err().as_ref());
        }
    }
}

fn write_one(dir: &Path, key: &str, content: Option<&[u8]>) -> io::Result<()> {
    let path = dir.join(format!("{key}.json"));
    let Some(content) = content else {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let temporary = dir.join(format!("{key}.new"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    // Before the rename, also when nobody waits: a power cut must leave the old content or the new, never half.
    file.sync_data()?;
    fs::rename(&temporary, &path)
}

fn answer(dones: Vec<Done>, error: Option<&io::Error>) {
    for done in dones {
        let result = error.map_or(Ok(()), |error| Err(io::Error::new(error.kind(), error.to_string())));
        // Whoever waited may be gone: then nobody needs the answer.
        let _ = done.send(result);
    }
}

#[cfg(test)]
mod tests {
    use helix_protocol::Epoch;
    use helix_protocol::session::{Desired, SessionSpec};

    use super::*;

    fn entry(id: &str) -> Entry {
        let desired = DesiredSession {
            session: SessionId::parse(id).expect("valid id"),
            epoch: Epoch(1),
            generation: Generation(1),
            desired: Desired::Running,
            spec: SessionSpec::default(),
            control: helix_protocol::control::Control::default(),
            grants: 0,
            deleted: false,
            work: helix_protocol::checkpoint::WorkOrder::default(),
            access: None,
        };
        Entry::new(desired, KindName::parse("command").expect("valid kind"), Timestamp::UNIX_EPOCH)
    }

    #[tokio::test]
    async fn what_is_saved_is_read_again_with_larger_report_numbers() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (ledger, found) = Ledger::open(dir.path()).expect("opened");
        assert!(found.is_empty());
        let (mut first, second) = (entry("a"), entry("b"));
        first.report = 7;
        ledger.save(&first).await.expect("saved");
        ledger.save(&second).await.expect("saved");
        ledger.remove(second.session()).await.expect("removed");
        ledger.remove(second.session()).await.expect("removing twice is the same");

        drop(ledger);
        let (_ledger, found) = Ledger::open(dir.path()).expect("opened again");
        first.report = 7 + REPORT_GAP;
        assert_eq!(found, [first]);
    }

    #[tokio::test]
    async fn writes_keep_their_order() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (ledger, _) = Ledger::open(dir.path()).expect("opened");
        let mut entry = entry("a");
        for number in 1..=50 {
            entry.report = number;
            ledger.note(&entry);
        }
        ledger.save(&entry).await.expect("saved");
        drop(ledger);
        let (_ledger, found) = Ledger::open(dir.path()).expect("opened again");
        assert_eq!(found[0].report, 50 + REPORT_GAP);
    }

    #[test]
    fn a_broken_file_is_named_and_a_half_written_one_removed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        drop(Ledger::open(dir.path()).expect("opened"));
        let half = dir.path().join("ledger/0123.new");
        fs::write(&half, "{").expect("written");
        drop(Ledger::open(dir.path()).expect("a half-written file does not matter"));
        assert!(!half.exists());
        fs::write(dir.path().join("ledger/0123.json"), "{}").expect("written");
        let error = Ledger::open(dir.path()).expect_err("a broken entry is refused").to_string();
        assert!(error.contains("0123.json is not an entry"), "{error}");
    }

    #[tokio::test]
    async fn a_full_or_missing_disk_is_an_error_not_a_panic() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (ledger, _) = Ledger::open(dir.path()).expect("opened");
        fs::remove_dir_all(dir.path().join("ledger")).expect("removed");
        ledger.save(&entry("a")).await.expect_err("there is no directory to write to");
    }
}
