//! Readiness lines: files that a unit writes its line to (`-displayfd 1`, `--print-address=1`).

use std::io::{self, Read as _};
use std::path::Path;

use inotify::WatchMask;

use crate::file_events::FileEvents;

/// No readiness line is longer.
const MAX_LINE_BYTES: u64 = 4096;

/// Waits for readiness lines. Clones share the inotify instance.
#[derive(Debug, Clone)]
pub struct ReadyLines(FileEvents);

impl ReadyLines {
    /// Needs a runtime.
    pub fn new() -> io::Result<Self> {
        FileEvents::new().map(Self)
    }

    /// Waits until `dir/name` has a whole line and answers it, without its end. Cancel safe.
    pub async fn line(&self, dir: &Path, name: &str) -> io::Result<String> {
        let events = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
        self.0.until(dir, events, || read_line(&dir.join(name))).await
    }
}

/// The line of that file, if it is whole.
pub fn read_line(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(MAX_LINE_BYTES).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(text.split_once('\n').map(|(line, _)| line.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_line_counts_once_it_is_whole() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let ready = ReadyLines::new().expect("inotify");
        let path = dir.path().join("display");
        let waiting = tokio::spawn({
            let (ready, dir) = (ready.clone(), dir.path().to_owned());
            async move { ready.line(&dir, "display").await }
        });
        let mut file = std::fs::File::create(&path).expect("created");
        file.write_all(b"1").expect("written");
        file.write_all(b"7\nnoise").expect("written");
        let line = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time");
        assert_eq!(line.expect("task ran").expect("read"), "17");
        // A later agentd finds the line that is there already.
        let again = tokio::time::timeout(Duration::from_secs(5), ready.line(dir.path(), "display")).await;
        assert_eq!(again.expect("in time").expect("read"), "17");
    }
}
