//! How this machine is: whether it can take something new. Told in heartbeats; a server places nothing on a runner of
//! whose machine something is wrong, and what runs there goes on.
//!
//! Looked at between heartbeats, by a thread of its own, for a disk may not answer: two system calls and two small files of
//! /proc. What is wrong stays so until it is clearly
//! better than where it began, so that a runner at the edge does not come and go. What cannot be read is not wrong.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use helix_protocol::resources::Bytes;
use helix_protocol::runner::{Degradation, Degraded};

/// Free of the disk with workspaces: a twentieth of it, and no more than this. Images that nobody uses go before
/// ([`crate::images`]).
const MOST_FREE: u64 = 1 << 30;
/// Free inodes.
const INODES: u64 = 10_000;
/// Free memory, in percent.
const MEMORY_PERCENT: u64 = 3;
/// Share of the last ten seconds in which everything waited for memory, in percent.
const STALLED_PERCENT: f64 = 25.0;
/// A disk that does not answer for so long is wrong, too.
const HANGS: Duration = Duration::from_secs(10);
/// What is wrong is over when there is so many times as much free, or the wait is such a part.
const CLEARLY: u32 = 2;

/// What was seen of the machine. Absent: it cannot be told.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Seen {
    /// Free and all bytes of the disk.
    disk: Option<(u64, u64)>,
    /// Free and all inodes; a file system that makes them as they are needed has none.
    inodes: Option<(u64, u64)>,
    /// Free and all memory in bytes.
    memory: Option<(u64, u64)>,
    /// Percent of the time in which everything waited for memory.
    stalled: Option<f64>,
}

/// The machine of a runner.
#[derive(Debug)]
pub struct Condition {
    workspaces: PathBuf,
    found: Vec<Degraded>,
    /// A look that is under way, and since when.
    looking: Option<(Instant, JoinHandle<Seen>)>,
}

impl Condition {
    /// Of the machine whose sessions work here. Begins to look.
    pub fn of(workspaces: &Path) -> Self {
        let workspaces = workspaces.to_owned();
        Self { looking: begin(&workspaces), workspaces, found: Vec::new() }
    }

    /// All that was wrong when it was looked at last; looks again meanwhile. Never blocks.
    pub fn told(&mut self) -> Vec<Degraded> {
        match self.looking.take() {
            Some((_, look)) if look.is_finished() => {
                // A look that panicked saw nothing.
                if let Ok(seen) = look.join() {
                    let before = self.found.iter().map(|degraded| degraded.what).collect();
                    self.note(judge(&before, &seen, &self.workspaces));
                }
                self.looking = begin(&self.workspaces);
            }
            Some((since, look)) => {
                if since.elapsed() >= HANGS {
                    let seconds = HANGS.as_secs();
                    let detail = format!("the disk of {} does not answer for {seconds} s", self.workspaces.display());
                    let others = self.found.iter().filter(|degraded| degraded.what != Degradation::Disk).cloned();
                    let hangs = Degraded { what: Degradation::Disk, detail };
                    self.note(std::iter::once(hangs).chain(others).collect());
                }
                self.looking = Some((since, look));
            }
            None => self.looking = begin(&self.workspaces),
        }
        self.found.clone()
    }

    fn note(&mut self, found: Vec<Degraded>) {
        let what = |found: &[Degraded]| -> BTreeSet<_> { found.iter().map(|degraded| degraded.what).collect() };
        let (before, now) = (what(&self.found), what(&found));
        for degraded in found.iter().filter(|degraded| !before.contains(&degraded.what)) {
            tracing::error!("this runner takes nothing new: {}", degraded.detail);
        }
        for what in before.difference(&now) {
            tracing::info!("{what}: this runner can take sessions again");
        }
        self.found = found;
    }
}

/// None where the machine has no room for a thread: the next heartbeat tries again.
fn begin(workspaces: &Path) -> Option<(Instant, JoinHandle<Seen>)> {
    let workspaces = workspaces.to_owned();
    let look = std::thread::Builder::new().name("condition".to_owned()).spawn(move || seen(&workspaces)).ok()?;
    Some((Instant::now(), look))
}

/// All that is wrong, where that was wrong before.
fn judge(before: &BTreeSet<Degradation>, seen: &Seen, workspaces: &Path) -> Vec<Degraded> {
    let factor = |what| if before.contains(&what) { CLEARLY } else { 1 };
    let disk = u64::from(factor(Degradation::Disk));
    let too_full = seen
        .disk
        .filter(|(free, total)| *free < (total / 20).min(MOST_FREE) * disk)
        .map(|(free, _)| format!("{} are free on the disk of {}: make room", Bytes(free), workspaces.display()));
    let too_many = seen.inodes.filter(|(free, total)| *total > 0 && *free < INODES.min(total / 20) * disk);
    let too_many = too_many
        .map(|(free, _)| format!("{free} inodes are free on the disk of {}: remove files", workspaces.display()));
    let memory = factor(Degradation::Memory);
    let too_little = seen.memory.filter(|(free, total)| *free < total / 100 * MEMORY_PERCENT * u64::from(memory));
    let too_little = too_little.map(|(free, total)| {
        format!("{} of {} of memory are free: stop sessions, or add memory", Bytes(free), Bytes(total))
    });
    let stalled = seen.stalled.filter(|percent| *percent >= STALLED_PERCENT / f64::from(memory));
    let stalled = stalled
        .map(|percent| format!("everything waits for memory {percent:.0} % of the time: stop sessions, or add memory"));
    let degraded = |what, detail: Option<String>| detail.map(|detail| Degraded { what, detail });
    let disk = degraded(Degradation::Disk, too_full.or(too_many));
    disk.into_iter().chain(degraded(Degradation::Memory, too_little.or(stalled))).collect()
}

fn seen(workspaces: &Path) -> Seen {
    let disk = rustix::fs::statvfs(workspaces).ok();
    Seen {
        disk: disk
            .as_ref()
            .map(|disk| (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize))),
        inodes: disk.map(|disk| (disk.f_favail, disk.f_files)),
        memory: fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory(&text)),
        stalled: fs::read_to_string("/proc/pressure/memory").ok().and_then(|text| stalled(&text)),
    }
}

/// Free and all memory, of /proc/meminfo.
fn memory(text: &str) -> Option<(u64, u64)> {
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Some((kib("MemAvailable")? * 1024, kib("MemTotal")? * 1024))
}

/// How much of the last ten seconds everything waited, of /proc/pressure/memory.
fn stalled(text: &str) -> Option<f64> {
    let full = text.lines().find(|line| line.starts_with("full "))?;
    full.split(' ').find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_is_wrong_stays_so_until_it_is_clearly_better() {
        use Degradation::{Disk, Memory};
        let disk = |free, total| Seen { disk: Some((free, total)), ..Seen::default() };
        let inodes = |free, total| Seen { inodes: Some((free, total)), ..Seen::default() };
        let memory = |free, total| Seen { memory: Some((free, total)), ..Seen::default() };
        let stalled = |percent| Seen { stalled: Some(percent), ..Seen::default() };
        // what was wrong before, seen → what is wrong
        let table: [(&[Degradation], Seen, &[Degradation]); 17] = [
            (&[], Seen::default(), &[]),
            (&[Disk, Memory], Seen::default(), &[]),
            (&[], disk(GIB, 1000 * GIB), &[]),
            (&[], disk(GIB - 1, 1000 * GIB), &[Disk]),
            (&[Disk], disk(GIB, 1000 * GIB), &[Disk]),
            (&[Disk], disk(2 * GIB, 1000 * GIB), &[]),
            // A small one need not have so much free.
            (&[], disk(GIB / 2, 8 * GIB), &[]),
            (&[], disk(GIB / 4, 8 * GIB), &[Disk]),
            (&[], inodes(9_999, 1_000_000), &[Disk]),
            (&[], inodes(10_000, 1_000_000), &[]),
            (&[], inodes(0, 0), &[]),
            (&[], memory(GIB, 16 * GIB), &[]),
            (&[], memory(GIB / 4, 16 * GIB), &[Memory]),
            (&[Memory], memory(GIB / 2, 16 * GIB), &[Memory]),
            (&[Memory], memory(GIB, 16 * GIB), &[]),
            (&[], stalled(24.9), &[]),
            (&[Memory], stalled(24.9), &[Memory]),
        ];
        for (before, seen, wrong) in table {
            let found = judge(&before.iter().copied().collect(), &seen, Path::new("/w"));
            let found: Vec<_> = found.into_iter().map(|degraded| degraded.what).collect();
            assert_eq!(found, wrong, "{before:?} {seen:?}");
        }
    }

    #[test]
    fn proc_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       24576000 kB\nMemFree:          100000 kB\nMemAvailable:    1000000 kB\n";
        assert_eq!(memory(text), Some((1_024_000_000, 25_165_824_000)));
        assert_eq!(memory("MemTotal: 1 kB\n"), None);
        let text = "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=3.25 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(stalled(text), Some(3.25));
        assert_eq!(stalled(""), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        let seen = Seen { disk: Some((300 << 20, 100 * GIB)), memory: Some((1 << 20, GIB)), ..Seen::default() };
        let found = judge(&BTreeSet::new(), &seen, Path::new("/var/lib/helix/agentd/workspaces"));
        let said: Vec<_> = found.into_iter().map(|degraded| degraded.detail).collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        300MiB are free on the disk of /var/lib/helix/agentd/workspaces: make room
        1MiB of 1GiB of memory are free: stop sessions, or add memory
        ");
    }

    #[test]
    fn a_look_is_told_with_a_later_heartbeat_and_what_was_wrong_before_counts() {
        let mut condition = Condition::of(Path::new("/"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while condition.looking.as_ref().is_some_and(|(_, look)| !look.is_finished()) {
            assert!(Instant::now() < deadline, "the look does not end");
            std::thread::yield_now();
        }
        // As if hardly any memory had been free: it is told until the look, whatever that finds.
        condition.found = vec![Degraded { what: Degradation::Memory, detail: String::new() }];
        let told = condition.told();
        assert!(told.iter().all(|degraded| !degraded.detail.is_empty()), "the former word is told: {told:?}");
        assert!(condition.looking.is_some(), "it does not look again");
    }

    #[test]
    fn a_disk_that_does_not_answer_is_told_and_nobody_waits_for_it() {
        let (ends, end) = std::sync::mpsc::channel::<()>();
        let look = std::thread::spawn(move || {
            let _ = end.recv();
            Seen::default()
        });
        let begun = Instant::now().checked_sub(HANGS).expect("this machine runs for longer");
        let mut condition = Condition { workspaces: "/w".into(), found: Vec::new(), looking: Some((begun, look)) };
        let told = condition.told();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].detail, "the disk of /w does not answer for 10 s");
        assert_eq!(condition.told(), told);
        drop(ends);
        let (_, look) = condition.looking.take().expect("it goes on");
        look.join().expect("it ends");
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let seen = seen(Path::new("/"));
        assert!(seen.disk.is_some_and(|(_, total)| total > 0) && seen.memory.is_some_and(|(_, total)| total > 0));
    }
}
