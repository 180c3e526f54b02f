//! Log lines of a session's units, read from the journal through `journalctl -o json`.
//!
//! Entries are chosen by `_SYSTEMD_UNIT` alone, which journald itself writes: a session can forge every field that
//! has no underscore (`HELIX_SESSION`, `UNIT`), but none that has one. Lines of every life of a session are there,
//! those before a reboot, too, where the journal is kept on disk.
//!
//! [`follow`] spawns one task, which owns its `journalctl` and ends with the receiver or with the session; a
//! `journalctl` is killed when nobody reads it. Lines, their number and the waiting for them are bounded.

mod entry;

use std::collections::BTreeSet;
use std::io;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use helix_protocol::link::LogLine;
use tokio::io::BufReader;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::entry::{Entries, Entry};
use super::layout::unit_name;

/// The program.
const JOURNALCTL: &str = "journalctl";
/// Most lines of one unit that are read back.
const MAX_LINES: u32 = 10_000;
/// Most bytes of one unit's lines that are read back: the last ones.
const MAX_BYTES: usize = 1024 * 1024;
/// Reading back, on a machine in trouble.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// journald may take this long to put away what it has received: on a slow machine, seconds for a flood.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);
/// What follows may be told a moment late, but not begin late.
const BRIEF_SYNC: Duration = Duration::from_secs(2);
/// Lines that wait for a slow reader.
const BUFFER: usize = 256;

/// Why there are no lines.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// journalctl cannot be started.
    #[error("cannot run {JOURNALCTL}; is the package systemd complete?")]
    Spawn(#[source] io::Error),
    /// It cannot be read.
    #[error("cannot read from {JOURNALCTL}")]
    Read(#[source] io::Error),
    /// It does not come to an end.
    #[error("{JOURNALCTL} did not answer within {} s; is systemd-journald running?", READ_TIMEOUT.as_secs())]
    Timeout,
    /// It ended with an error.
    #[error("{JOURNALCTL} failed: {0}")]
    Failed(String),
}

/// The last `lines` lines of each unit, unit by unit.
pub async fn last_lines(key: &str, words: &[&str], lines: u32) -> Result<Vec<LogLine>, JournalError> {
    sync(SYNC_TIMEOUT).await;
    let mut found = Vec::new();
    for word in words {
        found.extend(history(key, word, lines).await?.into_iter().flat_map(|entry| entry.lines(word)));
    }
    Ok(found)
}

/// The same in the order in which they were written, then every new line, until the receiver is dropped or `gone`
/// says that the session has ended.
pub async fn follow<F>(
    key: &str,
    words: &[&'static str],
    lines: u32,
    gone: F,
) -> Result<mpsc::Receiver<LogLine>, JournalError>
where
    F: Future<Output = ()> + Send + 'static,
{
    sync(BRIEF_SYNC).await;
    // New is what comes after the last entry of all units; what is up to it is history.
    let last = read(command(key, words).args(["-n", "1"])).await?.pop();
    let mut past = Vec::new();
    if let Some(last) = &last {
        for word in words {
            let entries = history(key, word, lines).await?;
            past.extend(entries.into_iter().filter(|entry| entry.time <= last.time));
        }
        past.sort_by_key(|entry| entry.time);
    }
    let mut following = command(key, words);
    following.args(["-f", "--no-tail"]);
    if let Some(last) = &last {
        following.arg(format!("--after-cursor={}", last.cursor));
    }
    let (child, reader) = spawn(&mut following)?;
    let names = words.iter().map(|word| (unit_name(key, word), *word)).collect();
    let (sender, receiver) = mpsc::channel(BUFFER);
    let (key, words) = (key.to_owned(), words.to_vec());
    let end = async move {
        gone.await;
        sync(BRIEF_SYNC).await;
        let last = read(command(&key, &words).args(["-n", "1"])).await.ok().and_then(|mut entries| entries.pop());
        last.map(|entry| entry.cursor)
    };
    tokio::spawn(Follow { _child: child, entries: Entries::new(reader), names, sender }.run(
        past,
        last.map(|last| last.cursor),
        end,
    ));
    Ok(receiver)
}

/// The task behind a receiver.
struct Follow {
    /// Killed when it is dropped.
    _child: Child,
    entries: Entries<BufReader<ChildStdout>>,
    names: Vec<(String, &'static str)>,
    sender: mpsc::Sender<LogLine>,
}

impl Follow {
    /// `end` comes when the session has ended, with the cursor of its last entry.
    async fn run(mut self, past: Vec<Entry>, start: Option<String>, end: impl Future<Output = Option<String>>) {
        // Two entries of one microsecond may be in the history and come again.
        let told: BTreeSet<String> = past.iter().map(|entry| entry.cursor.clone()).chain(start).collect();
        for entry in past {
            if self.pass_on(entry).await.is_none() {
                return;
            }
        }
        let sender = self.sender.clone();
        let mut end = pin!(end);
        let mut reading = pin!(async {
            let mut latest = None;
            let mut last = None;
            loop {
                if last.is_some() && last == latest {
                    return;
                }
                tokio::select! {
                    entry = self.entries.next() => {
                        let Ok(Some(entry)) = entry else { return };
                        latest = Some(entry.cursor.clone());
                        if !told.contains(&entry.cursor) && self.pass_on(entry).await.is_none() {
                            return;
                        }
                    }
                    cursor = &mut end, if last.is_none() => {
                        // Nothing has come since the history, or what has come is the last already.
                        let Some(cursor) = cursor.filter(|cursor| !told.contains(cursor)) else { return };
                        last = Some(cursor);
                    }
                    // The last entry may have been dropped from the journal meanwhile.
                    () = tokio::time::sleep(BRIEF_SYNC), if last.is_some() => return,
                }
            }
        });
        tokio::select! {
            () = &mut reading => {}
            () = sender.closed() => {}
        }
    }

    /// None when nobody listens any more.
    async fn pass_on(&self, entry: Entry) -> Option<()> {
        let (_, word) = self.names.iter().find(|(name, _)| *name == entry.unit)?;
        for line in entry.lines(word) {
            self.sender.send(line).await.ok()?;
        }
        Some(())
    }
}

async fn history(key: &str, word: &str, lines: u32) -> Result<Vec<Entry>, JournalError> {
    if lines == 0 {
        return Ok(Vec::new());
    }
    read(command(key, &[word]).args(["-n", &lines.min(MAX_LINES).to_string()])).await
}

fn command(key: &str, words: &[&str]) -> Command {
    let mut command = Command::new(JOURNALCTL);
    // All: otherwise a field of 4 KiB and more is null.
    command.args(["-o", "json", "--quiet", "--no-pager", "--all", "--output-fields=MESSAGE,_SYSTEMD_UNIT"]);
    command.args(words.iter().map(|word| format!("_SYSTEMD_UNIT={}", unit_name(key, word))));
    command
}

fn spawn(command: &mut Command) -> Result<(Child, BufReader<ChildStdout>), JournalError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(JournalError::Spawn)?;
    let stdout = child.stdout.take().ok_or_else(|| JournalError::Read(io::ErrorKind::BrokenPipe.into()))?;
    Ok((child, BufReader::new(stdout)))
}

/// All entries of a journalctl that comes to an end; the last ones where they are too many.
async fn read(command: &mut Command) -> Result<Vec<Entry>, JournalError> {
    let (mut child, reader) = spawn(command)?;
    let whole = async {
        let mut entries = Entries::new(reader);
        let mut found = std::collections::VecDeque::new();
        let mut bytes = 0;
        while let Some(entry) = entries.next().await.map_err(JournalError::Read)? {
            bytes += entry.text.len();
            found.push_back(entry);
            while bytes > MAX_BYTES {
                bytes -= found.pop_front().map_or(bytes, |entry: Entry| entry.text.len());
            }
        }
        let status = child.wait().await.map_err(JournalError::Read)?;
        if status.success() || !found.is_empty() {
            Ok(found.into())
        } else {
            Err(JournalError::Failed(status.to_string()))
        }
    };
    timeout(READ_TIMEOUT, whole).await.map_err(|_| JournalError::Timeout)?
}

/// Has journald put away what it has received. Without that the lines are there a moment later.
async fn sync(limit: Duration) {
    let mut command = Command::new(JOURNALCTL);
    command.arg("--sync").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let done = timeout(limit, command.status()).await;
    if !matches!(done, Ok(Ok(status)) if status.success()) {
        tracing::debug!("journald did not confirm that its journal is complete");
    }
}
