//! What is in a workspace. Links are told and never followed; what git ignores is left out, unless git keeps it all the same.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use helix_protocol::checkpoint::{
    LeftOut, MAX_ENTRIES, MAX_FILE_BYTES, MAX_NAMED, MAX_PIECE_BYTES, MAX_TOTAL_BYTES, Piece,
};
use helix_protocol::image::Digest;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::super::files::PARTS;
use super::restore::DRAFT;
use crate::session::workspace::KEPT;

/// For git to say what it ignores in one repository.
const GIT_WITHIN: Duration = Duration::from_mins(1);
/// Most bytes of that.
const MAX_IGNORED_BYTES: u64 = 64 << 20;
/// A file that was changed so shortly before it is read may change once more without showing it.
const UNSETTLED: Duration = Duration::from_secs(2);

/// One thing in a workspace, as a page has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Path in the workspace ([`encode`]).
    #[serde(rename = "p")]
    pub(super) path: String,
    /// `f`, `d` or `l`.
    #[serde(rename = "k")]
    pub(super) kind: char,
    /// Permissions.
    #[serde(rename = "m")]
    pub(super) mode: u32,
    /// When it was changed, in nanoseconds since 1970. 0 for directories: theirs change with every file that comes and goes.
    #[serde(rename = "t")]
    pub(super) modified: i64,
    /// Bytes of a file.
    #[serde(rename = "s", default)]
    pub(super) size: u64,
    /// Where a link leads.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
    /// Where a file's bytes are.
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pieces: Vec<Piece>,
}

impl Entry {
    pub(super) fn is_file(&self) -> bool {
        self.kind == 'f'
    }

    /// The same but for where its bytes are.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.path, self.kind, self.mode, self.modified, self.size, &self.target)
            == (&other.path, other.kind, other.mode, other.modified, other.size, &other.target)
    }
}

/// What changes whenever a file does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stat {
    changed: i64,
    inode: u64,
}

/// An entry and how it was when it was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) entry: Entry,
    pub(super) stat: Stat,
}

impl Item {
    pub(super) fn new(path: String, metadata: &Metadata, target: Option<String>) -> Self {
        let kind = if metadata.is_dir() {
            'd'
        } else if metadata.is_symlink() {
            'l'
        } else {
            'f'
        };
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        let entry = Entry {
            path,
            kind,
            mode: metadata.mode() & 0o7777,
            modified: if kind == 'd' { 0 } else { nanos(metadata.mtime(), metadata.mtime_nsec()) },
            size: if kind == 'f' { metadata.size() } else { 0 },
            target,
            pieces: Vec::new(),
        };
        Self { entry, stat: Stat { changed: nanos(metadata.ctime(), metadata.ctime_nsec()), inode: metadata.ino() } }
    }

    /// What is changed after this moment shows in [`Stat`].
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let limit = now.saturating_sub(UNSETTLED).as_nanos();
        i64::try_from(limit).is_ok_and(|limit| self.stat.changed < limit && self.entry.modified < limit)
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Refs and indices of repositories before their objects: whatever those name is there when they are read.
    pub(super) entries: Vec<Item>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) left_out_count: u64,
}

impl Found {
    pub(super) fn leave_out(&mut self, path: &str, reason: impl Into<String>) {
        self.left_out_count += 1;
        if self.left_out.len() < MAX_NAMED {
            self.left_out.push(LeftOut { path: path.to_owned(), reason: reason.into() });
        }
    }
}

/// Looks at everything below `workspace`.
pub(super) fn walk(workspace: &Path) -> io::Result<Found> {
    let device = fs::metadata(workspace)?.dev();
    let (mut found, mut objects, mut bytes) = (Found::default(), Vec::new(), 0_u64);
    let mut ignored: HashSet<PathBuf> = HashSet::new();
    let mut rest = vec![PathBuf::new()];
    while let Some(dir) = rest.pop() {
        let place = workspace.join(&dir);
        if place.join(".git").symlink_metadata().is_ok() {
            ignored.extend(ignored_by_git(&place).into_iter().map(|path| dir.join(path)));
        }
        let mut names = match fs::read_dir(&place).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if !dir.as_os_str().is_empty() => {
                found.leave_out(&encode(dir.as_os_str()), error.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        names.sort_unstable_by_key(fs::DirEntry::file_name);
        for name in names {
            let path = dir.join(name.file_name());
            let ours = dir.as_os_str().is_empty() && [PARTS, DRAFT].iter().any(|ours| path.as_os_str() == *ours);
            if ours || ignored.contains(&path) && !path.starts_with(KEPT) {
                continue;
            }
            let Ok(metadata) = name.metadata() else { continue };
            let text = encode(path.as_os_str());
            let kind = metadata.file_type();
            let target = if kind.is_symlink() {
                match fs::read_link(name.path()) {
                    Ok(target) => Some(encode(target.as_os_str())),
                    Err(_) => continue,
                }
            } else if kind.is_dir() && metadata.dev() != device {
                found.leave_out(&text, "it is another file system");
                continue;
            } else if kind.is_dir() {
                rest.push(path.clone());
                None
            } else if !kind.is_file() {
                found.leave_out(&text, "it is a pipe, a socket or a device");
                continue;
            } else if metadata.size() > MAX_FILE_BYTES {
                found.leave_out(&text, format!("it has {} bytes, at most {MAX_FILE_BYTES} are kept", metadata.size()));
                continue;
            } else {
                bytes += metadata.size();
                None
            };
            let item = Item::new(text, &metadata, target);
            if is_object(&path) { objects.push(item) } else { found.entries.push(item) }
        }
        if (found.entries.len() + objects.len()) as u64 > MAX_ENTRIES || bytes > MAX_TOTAL_BYTES {
            return Err(io::Error::other(format!(
                "it has more than {MAX_ENTRIES} files or {} GiB that git does not ignore; remove or ignore some",
                MAX_TOTAL_BYTES >> 30
            )));
        }
    }
    found.entries.append(&mut objects);
    Ok(found)
}

fn is_object(path: &Path) -> bool {
    let mut parts = path.components().map(Component::as_os_str);
    parts.by_ref().any(|part| part == ".git") && parts.any(|part| part == "objects")
}

/// What git ignores in this repository and does not keep, relative to it. Nothing where it cannot be asked: then it is kept.
fn ignored_by_git(repository: &Path) -> Vec<PathBuf> {
    let mut git = Command::new("git");
    // A repository's own settings name programs; none of those that looking needs is left to it.
    for setting in ["core.fsmonitor=false", "core.hooksPath=/dev/null", "core.untrackedCache=false", "safe.directory=*"]
    {
        git.args(["-c", setting]);
    }
    git.arg("--git-dir").arg(repository.join(".git")).arg("--work-tree").arg(repository);
    git.args(["ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"]);
    git.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    git.envs([
        ("HOME", "/nonexistent"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("GIT_NO_LAZY_FETCH", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
    ]);
    git.current_dir(repository).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = git.spawn() else { return Vec::new() };
    let Some(output) = child.stdout.take() else { return Vec::new() };
    let (sender, said) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = output.take(MAX_IGNORED_BYTES).read_to_end(&mut text);
        let _ = sender.send(read.map(|_| text));
    });
    let text = said.recv_timeout(GIT_WITHIN);
    // One that is done is not hurt; one that hangs would hang for ever.
    let _ = child.kill();
    let _ = child.wait();
    let Ok(Ok(text)) = text else { return Vec::new() };
    let paths = text.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    paths.map(|path| PathBuf::from(OsStr::from_bytes(path.strip_suffix(b"/").unwrap_or(path)))).collect()
}

/// Why a file is not read.
pub(super) enum ReadError {
    /// It is not there any more.
    Gone,
    /// It cannot be read.
    LeftOut(String),
    /// What was read cannot be brought.
    Stream(io::Error),
}

/// Reads a file in pieces; its size and times are those of what was read.
pub(super) fn read(
    workspace: &Path,
    item: &mut Item,
    mut take: impl FnMut(&[u8]) -> io::Result<Digest>,
) -> Result<Vec<Digest>, ReadError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Gone,
        _ => ReadError::LeftOut(error.to_string()),
    };
    let path = decode(&item.entry.path).ok_or(ReadError::Gone)?;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut file = fs::OpenOptions::new().read(true).custom_flags(flags).open(workspace.join(path)).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ReadError::Gone);
    }
    *item = Item::new(std::mem::take(&mut item.entry.path), &metadata, None);
    if !item.is_settled() {
        // Read again next time.
        item.stat = Stat::default();
    }
    let (mut buffer, mut hashes, mut size) =
        (vec![0; MAX_PIECE_BYTES.min(metadata.size() as usize + 1)], Vec::new(), 0);
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        if filled == 0 {
            break;
        }
        size += filled as u64;
        if size > MAX_FILE_BYTES {
            return Err(ReadError::LeftOut("it grows while it is read".to_owned()));
        }
        hashes.push(take(&buffer[..filled]).map_err(ReadError::Stream)?);
    }
    item.entry.size = size;
    Ok(hashes)
}

/// A path as text: bytes that are no text, and `%` itself, as `%` and two hex digits.
pub(super) fn encode(path: &OsStr) -> String {
    let mut text = String::new();
    for chunk in path.as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The path again; None for what [`encode`] never makes.
pub(super) fn decode(text: &str) -> Option<PathBuf> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    (!bytes.contains(&0)).then(|| PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}
