//! What is left of a cluster: processes that carry its directory in their environment or command line, and sockets.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Processes (but for this one) whose environment or command line names `dir`: `pid command`.
pub fn processes(dir: &Path) -> Result<Vec<String>> {
    let needle = dir.as_os_str().as_encoded_bytes();
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() || !crate::process::runs(pid) {
            continue;
        }
        // A process may end while we look; one of another user cannot be read and is not ours.
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let command = read("cmdline");
        if contains(&read("environ"), needle) || contains(&command, needle) {
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            left.push(format!("{pid} {}", command.trim_end()));
        }
    }
    Ok(left)
}

/// Processes whose command line contains `words`, wherever they came from.
pub fn processes_saying(words: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if pid != std::process::id() && command.contains(words) && crate::process::runs(pid) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Sockets anywhere below `dir`.
pub fn sockets(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_socket() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Of these X displays, the sockets that nobody answers: a display that lives again belongs to somebody else.
pub fn stale_displays(numbers: &[u32]) -> Vec<PathBuf> {
    let sockets = numbers.iter().map(|number| PathBuf::from(format!("/tmp/.X11-unix/X{number}")));
    let refused = |path: &PathBuf| {
        let fault = std::os::unix::net::UnixStream::connect(path).err();
        fault.is_some_and(|fault| fault.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    sockets.filter(refused).collect()
}

/// Fails if a process, or a socket below `dir`, is left.
pub fn none(dir: &Path) -> Result<()> {
    let processes = processes(dir)?;
    ensure!(processes.is_empty(), "processes left behind:\n{}", processes.join("\n"));
    let sockets = sockets(dir)?;
    ensure!(sockets.is_empty(), "sockets left behind: {sockets:?}");
    Ok(())
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}
