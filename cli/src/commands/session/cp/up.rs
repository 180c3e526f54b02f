//! From this machine to a session.

use std::io::SeekFrom;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use helix_protocol::ids::secret_hash;
use helix_protocol::tools::MAX_DATA;
use helix_protocol::{ErrorCode, SessionId};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::{Copied, Patience, joined, local};
use crate::client::{Client, Upload};
use crate::error::{CliError, Kind, Result};
use crate::ui::{Transfer, Ui};

const WHAT: &str = "cannot copy to the session";
/// Digits of an upload's name.
const NAME_DIGITS: usize = 32;

/// A file to send.
struct Source {
    file: PathBuf,
    path: String,
    size: u64,
}

/// Copies a file, or all files of a directory.
pub(super) async fn copy(client: &Client, source: &Path, id: &SessionId, to: &str, ui: &Ui) -> Result<Copied> {
    let metadata = std::fs::metadata(source).map_err(|error| local(WHAT, source, &error))?;
    let top = if to.ends_with('/') || is_directory(client, id, to).await? {
        let name =
            std::path::absolute(source).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        name.map_or_else(|| to.to_owned(), |name| joined(to, &name))
    } else {
        to.to_owned()
    };
    let mut sources = Vec::new();
    if metadata.is_dir() {
        collect(source, &top, &mut sources, ui)?;
    } else {
        sources.push(Source { file: source.to_owned(), path: top, size: metadata.len() });
    }
    let mut copied = Copied::default();
    let bar = ui.transfer(sources.iter().map(|source| source.size).sum());
    for source in &sources {
        bar.file(&source.path);
        copied.bytes += send(client, id, source, &bar).await?;
        copied.files += 1;
    }
    Ok(copied)
}

async fn is_directory(client: &Client, id: &SessionId, path: &str) -> Result<bool> {
    match client.list_files(id, path, None).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.code, Some(ErrorCode::FileNotFound | ErrorCode::WrongFileKind)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// All files below `dir`. Links are followed to files only: a link to a directory could lead in a circle.
fn collect(dir: &Path, to: &str, sources: &mut Vec<Source>, ui: &Ui) -> Result<()> {
    let failed = |error: std::io::Error| local(WHAT, dir, &error);
    let mut entries = std::fs::read_dir(dir).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (file, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else {
            ui.warn(&format!("left out, its name is not UTF-8: {}", file.display()));
            continue;
        };
        let path = joined(to, name);
        let own = entry.file_type().map_err(failed)?;
        if own.is_dir() {
            collect(&file, &path, sources, ui)?;
            continue;
        }
        match std::fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => sources.push(Source { file, path, size: metadata.len() }),
            _ => ui.warn(&format!("left out, it is no file: {}", file.display())),
        }
    }
    Ok(())
}

/// Sends one file; answers its size.
async fn send(client: &Client, id: &SessionId, source: &Source, bar: &Transfer) -> Result<u64> {
    let Source { file, path, .. } = source;
    let failed = |error: std::io::Error| local(WHAT, file, &error);
    let metadata = std::fs::metadata(file).map_err(failed)?;
    let size = metadata.len();
    // The same for the same file as it is now: another call goes on with what this one has sent.
    let now = format!("{}:{size}:{}.{}", file.display(), metadata.mtime(), metadata.mtime_nsec());
    let name = secret_hash(&now)[..NAME_DIGITS].to_owned();
    let executable = metadata.permissions().mode() & 0o100 != 0;
    let mut offset = client.upload_state(id, path, &name).await?.received.min(size);
    let before = bar.position();
    bar.done(offset);
    let mut patience = Patience::new();
    loop {
        let mut opened = File::open(file).await.map_err(failed)?;
        opened.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
        let upload = Upload { path: path.clone(), name: name.clone(), offset, length: size - offset, executable };
        let written = client.write_file(id, &upload, body(opened, size - offset, bar)).await;
        let error = match written {
            Ok(entry) if entry.size == size => return Ok(size),
            Ok(entry) => {
                let why = format!("it has {} bytes there and {size} here", entry.size);
                return Err(CliError::failed(WHAT).at(file.display()).because(why).next("repeat the command"));
            }
            Err(error) => error,
        };
        // An upload whose writer is still seen as there is let go within moments.
        let error = if error.code == Some(ErrorCode::UploadMismatch) {
            CliError { kind: Kind::Unreachable, ..error }
        } else {
            error
        };
        patience.again(error, offset).await?;
        let received = client.upload_state(id, path, &name).await.map_or(0, |state| state.received.min(size));
        bar.back_to(before + received);
        offset = received;
    }
}

/// A file's rest, as it is read.
fn body(file: File, length: u64, bar: &Transfer) -> reqwest::Body {
    let count = bar.counter();
    let pieces = futures::stream::try_unfold((file, length), move |(mut file, left)| {
        let most = usize::try_from(left).unwrap_or(MAX_DATA).min(MAX_DATA);
        let mut bytes = vec![0; most];
        let read = async move {
            let taken = file.read(&mut bytes).await?;
            bytes.truncate(taken);
            std::io::Result::Ok((bytes, file))
        };
        let count = count.clone();
        async move {
            if left == 0 {
                return Ok(None);
            }
            let (bytes, file) = read.await?;
            if bytes.is_empty() {
                return Err(std::io::Error::other("it became shorter while it was copied"));
            }
            count(bytes.len() as u64);
            let left = left - bytes.len() as u64;
            Ok(Some((bytes, (file, left))))
        }
    });
    reqwest::Body::wrap_stream(pieces)
}
