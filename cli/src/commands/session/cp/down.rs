//! From a session to this machine.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use helix_protocol::ids::secret_hash;
use helix_protocol::tools::{FileEntry, FileKind};
use helix_protocol::{ErrorCode, SessionId};

use super::{Copied, Patience, joined, local};
use crate::client::{Client, FileHead};
use crate::error::{CliError, Kind, Result, chain};
use crate::ui::{Transfer, Ui};

const WHAT: &str = "cannot copy from the session";
/// Digits that tell one version of a file from another.
const TAG_DIGITS: usize = 12;

/// Copies a file, or all files of a directory.
pub(super) async fn copy(client: &Client, id: &SessionId, source: &str, to: &Path, ui: &Ui) -> Result<Copied> {
    let name = source.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let is_dir = to.is_dir() || to.as_os_str().as_encoded_bytes().ends_with(b"/");
    let top = if is_dir && !matches!(name, "" | ".") { to.join(name) } else { to.to_owned() };
    let mut copied = Copied::default();
    let listed = match client.list_files(id, source, None).await {
        Ok(_) => true,
        Err(error) if error.code == Some(ErrorCode::WrongFileKind) => false,
        Err(error) => return Err(error),
    };
    let bar = ui.transfer(0);
    if !listed {
        fetch(client, id, source, &top, &bar, &mut copied).await?;
        return Ok(copied);
    }
    // Directories that are still to be looked at.
    let mut ahead = vec![(source.to_owned(), top)];
    while let Some((path, dir)) = ahead.pop() {
        std::fs::create_dir_all(&dir).map_err(|error| local(WHAT, &dir, &error))?;
        for entry in entries(client, id, &path).await? {
            let (path, file) = (joined(&path, &entry.name), dir.join(&entry.name));
            match entry.kind {
                FileKind::Directory => ahead.push((path, file)),
                FileKind::File => fetch(client, id, &path, &file, &bar, &mut copied).await?,
                FileKind::Link | FileKind::Other => ui.warn(&format!("left out, it is no file: {path}")),
            }
        }
    }
    Ok(copied)
}

async fn entries(client: &Client, id: &SessionId, path: &str) -> Result<Vec<FileEntry>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = client.list_files(id, path, after).await?;
        // A session could make any name up: none leads out of the destination.
        let bad = page.entries.iter().find(|entry| !is_plain(&entry.name));
        if let Some(bad) = bad {
            let why = format!("the name {:?} is no name of a file", bad.name);
            return Err(CliError::failed(WHAT).at(path).because(why));
        }
        all.extend(page.entries);
        after = page.next_after;
        if after.is_none() {
            return Ok(all);
        }
    }
}

fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Copies one file. It comes under another name, and has its own when all of it is there.
async fn fetch(
    client: &Client,
    id: &SessionId,
    path: &str,
    to: &Path,
    bar: &Transfer,
    copied: &mut Copied,
) -> Result<()> {
    let head = client.file_head(id, path).await?;
    let part = part_of(to, &head);
    bar.file(path);
    bar.more(head.size);
    let mut reached = std::fs::metadata(&part).map_or(0, |part| part.len()).min(head.size);
    bar.done(reached);
    let mut patience = Patience::new();
    let failed = |error: std::io::Error| local(WHAT, &part, &error);
    let mode = if head.executable { 0o777 } else { 0o666 };
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.append(true).create(true).mode(mode).open(&part).map_err(failed)?;
    while reached < head.size || head.size == 0 {
        let Err(error) = receive(client, id, path, &head, &mut file, &mut reached, bar).await else { break };
        patience.again(error, reached).await?;
    }
    drop(file);
    std::fs::rename(&part, to).map_err(|error| local(WHAT, to, &error))?;
    copied.files += 1;
    copied.bytes += head.size;
    Ok(())
}

/// The same for the same version of a file, so that another call goes on with it.
fn part_of(to: &Path, head: &FileHead) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!(".{name}.{}.helix-part", &secret_hash(&head.etag)[..TAG_DIGITS]))
}

async fn receive(
    client: &Client,
    id: &SessionId,
    path: &str,
    head: &FileHead,
    file: &mut std::fs::File,
    reached: &mut u64,
    bar: &Transfer,
) -> Result<()> {
    let mut response = client.read_file(id, path, *reached, &head.etag).await?;
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) => {
                file.write_all(&bytes).map_err(|error| CliError::failed(WHAT).because(error))?;
                *reached += bytes.len() as u64;
                bar.done(bytes.len() as u64);
            }
            Ok(None) if *reached == head.size => return Ok(()),
            Ok(None) => {
                let why = format!("{} of {} bytes came", *reached, head.size);
                return Err(CliError::new(Kind::Unreachable, WHAT).at(path).because(why).next("repeat the command"));
            }
            Err(error) => {
                let why = format!("it broke off: {}", chain(&error));
                return Err(CliError::new(Kind::Unreachable, WHAT).at(path).because(why).next("repeat the command"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_beside_its_file_and_of_one_version() {
        let head = |etag: &str| FileHead { size: 1, etag: etag.to_owned(), executable: false };
        let part = part_of(Path::new("d/f"), &head("\"a\""));
        assert_eq!(part.parent(), Some(Path::new("d")));
        assert!(part.to_string_lossy().ends_with(".helix-part"));
        assert_ne!(part, part_of(Path::new("d/f"), &head("\"b\"")));
    }

    #[test]
    fn a_name_leads_nowhere() {
        for bad in ["", ".", "..", "a/b", "/etc", "a\0"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        assert!(is_plain("..a") && is_plain("a b"));
    }
}
