//! What every benchmark counts: quantiles, CPU seconds and memory of process trees.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

/// Value at quantile `q` (0..=1) of `samples`, nearest rank.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = ((sorted.len() as f64) * q).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// `p50 12.3 · p99 45.6 · n 10`, with a unit.
pub fn summary(samples: &[f64], unit: &str) -> String {
    format!(
        "p50 {:.1} {unit} · p99 {:.1} {unit} · n {}",
        quantile(samples, 0.5),
        quantile(samples, 0.99),
        samples.len()
    )
}

/// A process as `/proc/<pid>/stat` shows it.
struct Stat {
    ppid: u32,
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in brackets may hold blanks: fields count from behind the last bracket.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // Own time and that of children already waited for.
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Stat { ppid: fields.get(1)?.parse().ok()?, ticks })
}

fn pids() -> Vec<u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Every living process that descends from one of `roots`, roots included.
pub fn tree(roots: &[u32]) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in pids() {
        if let Some(stat) = stat(pid) {
            children.entry(stat.ppid).or_default().push(pid);
        }
    }
    let mut seen = HashSet::new();
    let mut todo = roots.to_vec();
    while let Some(pid) = todo.pop() {
        if seen.insert(pid) {
            todo.extend(children.get(&pid).into_iter().flatten());
        }
    }
    seen.into_iter().collect()
}

/// Processes whose working directory lies under `dir`: a runner's guests, which are children of nobody.
pub fn working_under(dir: &Path) -> Vec<u32> {
    pids()
        .into_iter()
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
        .collect()
}

/// CPU seconds that these processes and their reaped children have used.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    let ticks: u64 = pids.iter().filter_map(|&pid| stat(pid)).map(|stat| stat.ticks).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// CPU seconds by scheduler nanoseconds of every thread: exact enough for "idle".
pub fn scheduler_seconds(pids: &[u32]) -> f64 {
    let threads = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let nanos: u64 = threads
        .filter_map(|thread| {
            fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok()
        })
        .sum();
    nanos as f64 / 1e9
}

/// Sum of a `smaps_rollup` field (`Pss`, `Rss`) over processes, in MiB.
pub fn memory_mib(pids: &[u32], field: &str) -> f64 {
    let kib: u64 = pids.iter().filter_map(|pid| smaps_field(*pid, field)).sum();
    kib as f64 / 1024.0
}

fn smaps_field(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// First word of a process' command line, without its directory.
pub fn program(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(first);
    name.rsplit('/').next().unwrap_or_default().to_owned()
}
