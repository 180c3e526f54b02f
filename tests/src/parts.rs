//! Processes of a session of the process backend, by what they are.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::{leftovers, x};

/// The X server of the session whose directory is `slice`.
pub fn display(slice: &Path) -> Result<u32> {
    named(slice, "Xtigervnc")
}

/// The process of that program in the session whose directory is `slice`.
pub fn named(slice: &Path, program: &str) -> Result<u32> {
    let slice = slice.to_str().context("path is not UTF-8")?;
    let is_it = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let first = command.split(|byte| *byte == 0).next().map(OsStr::from_bytes).map(Path::new);
        first.and_then(Path::file_name) == Some(OsStr::new(program))
            && x::environment(*pid).is_ok_and(|env| env.values().any(|value| value.starts_with(slice)))
    };
    let found = leftovers::processes_saying(program)?.into_iter().find(is_it);
    found.with_context(|| format!("the session has no {program}"))
}

/// The bridge of the session whose directory is `slice`, not the window around it.
pub fn bridge(slice: &Path) -> Result<u32> {
    let slice = slice.to_str().context("path is not UTF-8")?;
    let is_it = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let words: Vec<_> = command.split('\0').collect();
        words.get(1) == Some(&"acp-bridge")
            && words.get(2).is_some_and(|word| word.starts_with("--"))
            && x::environment(*pid).is_ok_and(|env| env.values().any(|value| value.starts_with(slice)))
    };
    leftovers::processes_saying("acp-bridge")?.into_iter().find(is_it).context("the session has no bridge")
}

/// The guest of the session whose directory is `slice`: it names it in its arguments or environment, or works in it.
pub fn guest(slice: &Path) -> Result<u32> {
    let text = slice.to_str().context("path is not UTF-8")?;
    let of_session = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let mut words = x::environment(*pid).unwrap_or_default().into_values().chain([command]);
        words.any(|word| word.contains(text))
            || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(slice))
    };
    leftovers::processes_saying("agentd guest")?.into_iter().find(of_session).context("the session has no guest")
}
