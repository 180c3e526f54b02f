//! Reading the end of a unit's log, also after the end of everything.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Most bytes looked at per file: enough for thousands of lines.
const WINDOW_BYTES: u64 = 256 * 1024;

/// The last `lines` lines of a log and its rotated predecessor.
pub fn tail(current: &Path, rotated: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut found = last_lines(current, lines)?;
    if found.len() < lines {
        let mut older = last_lines(rotated, lines - found.len())?;
        older.append(&mut found);
        found = older;
    }
    Ok(found)
}

fn last_lines(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let start = file.metadata()?.len().saturating_sub(WINDOW_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(WINDOW_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line of a window that begins inside the file is cut: leave it out.
    let all: Vec<&str> = text.lines().skip(usize::from(start > 0)).collect();
    Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn the_rotated_log_fills_up_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (current, rotated) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&rotated, "1\n2\n3\n").unwrap();
        std::fs::write(&current, b"4\n5\xff\n").unwrap();
        assert_eq!(tail(&current, &rotated, 3).unwrap(), ["3", "4", "5\u{fffd}"]);
        assert_eq!(tail(&current, &rotated, 1).unwrap(), ["5\u{fffd}"]);
        assert!(tail(&dir.path().join("none"), &dir.path().join("none"), 5).unwrap().is_empty());
    }
}
