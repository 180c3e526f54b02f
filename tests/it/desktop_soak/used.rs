//! What the programs of a fleet use, by program: whichever of them keeps something is named.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use helix_tests::{Cluster, leftovers};

/// What all processes of one program use together.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    processes: u64,
    /// Memory of their own (not of files), in KiB.
    resident: u64,
    descriptors: u64,
}

/// By program: `helix-server`, `Xtigervnc`, `agentd recorder`, …
pub struct Use(BTreeMap<String, Share>);

impl fmt::Debug for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (program, Share { processes, resident, descriptors }) in &self.0 {
            writeln!(f, "  {processes} {program}: {} MiB, {descriptors} descriptors", resident / 1024)?;
        }
        Ok(())
    }
}

/// What each process of a program may have more than before: KiB that an allocator keeps or that grow with what sessions have
/// said, and descriptors of work that ends by its own time (kept connections, a desktop's X connection).
fn slack(program: &str) -> (u64, u64) {
    match program {
        // A garbage collector, and blocks of streams in memory.
        "nats-server" => (128 * 1024, 8),
        "helix-server" | "agentd run" => (32 * 1024, 8),
        // The pictures that slow viewers have not taken: their buffers stay.
        "Xtigervnc" | "X0tigervnc" | "Xvfb" => (10 * 1024, 2),
        _ => (6 * 1024, 2),
    }
}

impl Use {
    /// Of every process of the cluster.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let mut shares: BTreeMap<String, Share> = BTreeMap::new();
        for line in leftovers::processes(cluster.dir())? {
            let Some((pid, command)) = line.split_once(' ') else { continue };
            // It may end while we look.
            let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
            let kib = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default()
            };
            let share = shares.entry(program(command)).or_default();
            share.processes += 1;
            share.resident += kib("RssAnon:") + kib("RssShmem:");
            share.descriptors += std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
        }
        Ok(Self(shares))
    }

    /// What is more than before and cannot be explained.
    pub fn grown(&self, before: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        for (program, now) in &self.0 {
            let then = before.0.get(program).copied().unwrap_or_default();
            let (kib, descriptors) = slack(program);
            let mut more = |what: &str, now: u64, then: u64, slack: u64| {
                if now > then + slack {
                    grown.push(format!("{program}: {now} {what}, {then} before"));
                }
            };
            more("processes", now.processes, then.processes, 0);
            more("KiB", now.resident, then.resident, kib * now.processes);
            more("descriptors", now.descriptors, then.descriptors, descriptors * now.processes);
        }
        grown
    }
}

/// The program of a command line; ours with their first word, which says what they are for.
fn program(command: &str) -> String {
    let mut words = command.split(' ');
    let name = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    match (name, words.next()) {
        ("agentd", Some(part)) => format!("agentd {part}"),
        _ => name.trim_end_matches(':').to_owned(),
    }
}
