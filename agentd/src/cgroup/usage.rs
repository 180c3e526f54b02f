//! What a group uses now.

use std::fs;
use std::path::{Path, PathBuf};

use helix_protocol::resources::{Pressure, Usage};

use super::{Cgroups, number_of, within};

impl Cgroups {
    /// What the group uses, with everything below it. What this machine does not say is absent.
    pub fn usage(&self, group: &str) -> Usage {
        match &self.unified {
            Some(tree) if self.v1.is_empty() => unified(&within(tree, group)),
            _ => self.legacy(group),
        }
    }

    fn legacy(&self, group: &str) -> Usage {
        let dir = |controller: &str| Some(within(&self.v1.get(controller)?.path, group));
        let file = |controller: &str, name: &str| number(&dir(controller)?.join(name));
        Usage {
            memory_bytes: file("memory", "memory.usage_in_bytes"),
            cpu_usec: file("cpuacct", "cpuacct.usage").map(|nanoseconds| nanoseconds / 1000),
            cpu_milli: None,
            tasks: file("pids", "pids.current").map(|count| count as u32),
            oom_kills: dir("memory").filter(|dir| dir.is_dir()).map(|dir| kills_below(&dir)),
            pressure: None,
        }
    }
}

fn unified(dir: &Path) -> Usage {
    let counted = |name: &str, word: &str| number_of(&fs::read_to_string(dir.join(name)).ok()?, word);
    let waiting = |name: &str| some_avg10(&fs::read_to_string(dir.join(name)).ok()?);
    let pressure = || {
        let (cpu, memory) = (waiting("cpu.pressure")?, waiting("memory.pressure")?);
        Some(Pressure { cpu, memory, io: waiting("io.pressure").unwrap_or(0) })
    };
    Usage {
        memory_bytes: number(&dir.join("memory.current")),
        cpu_usec: counted("cpu.stat", "usage_usec"),
        cpu_milli: None,
        tasks: number(&dir.join("pids.current")).map(|count| count as u32),
        oom_kills: counted("memory.events", "oom_kill"),
        pressure: pressure(),
    }
}

/// Version 1 counts a kill in the group of the process alone, not in those above.
fn kills_below(dir: &Path) -> u64 {
    let (mut kills, mut dirs) = (0, vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        let text = fs::read_to_string(dir.join("memory.oom_control")).unwrap_or_default();
        kills += number_of(&text, "oom_kill").unwrap_or(0);
        dirs.extend(groups(&dir));
    }
    kills
}

/// Groups directly below one.
pub(super) fn groups(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter_map(Result::ok).filter(is_dir).map(|entry| entry.path()).collect()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Percent of the last ten seconds in which some process waited: `some avg10=1.23 avg60=…`.
fn some_avg10(text: &str) -> Option<u8> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let average: f64 = line.split(' ').find_map(|word| word.strip_prefix("avg10="))?.parse().ok()?;
    Some(average.round().clamp(0.0, 100.0) as u8)
}
