//! Control groups as the kernel shows them: which there are, who is in one, what it uses, and ending or freezing all
//! of it. systemd makes the groups and sets their limits; nothing here writes but `cgroup.kill` and `cgroup.freeze`.
//!
//! [`processes`](Cgroups::processes), [`kill_all`](Cgroups::kill_all) and [`freeze`](Cgroups::freeze) in
//! `cgroup/members.rs`, [`usage`](Cgroups::usage) in `cgroup/usage.rs`; synchronous, for a blocking thread. The kernel
//! tells of kills at the memory limit in `cgroup/oom.rs` ([`OomEvents`]), one task for all groups.
//!
//! A machine has version 2, version 1, or version 1 with an empty version 2 beside it (hybrid), where processes can be
//! killed and frozen as in version 2 and nothing else. Groups are named as systemd does (`ControlGroup`):
//! `/helix.slice/helix-s….slice`.

mod enforcement;
mod members;
mod oom;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use self::oom::OomEvents;

/// Which versions a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// Version 2 alone.
    V2,
    /// Controllers in version 1, processes also in version 2.
    Hybrid,
    /// Version 1 alone.
    V1,
}

/// The control groups of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Version 2, with or without controllers.
    unified: Option<PathBuf>,
    /// systemd's own hierarchy of version 1, without controllers.
    named: Option<PathBuf>,
    /// Controllers of version 1.
    v1: BTreeMap<String, Mount>,
    /// Controllers of version 2.
    v2: BTreeSet<String>,
    /// A disk has a scheduler that heeds weights.
    weights: bool,
}

/// Where a controller of version 1 is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    path: PathBuf,
    writable: bool,
}

impl Cgroups {
    /// Looks at what is mounted.
    pub fn detect() -> io::Result<Self> {
        let mut found = Self::mounted(&fs::read_to_string("/proc/self/mountinfo")?);
        if let Some(root) = &found.unified {
            found.v2 = words(&fs::read_to_string(root.join("cgroup.controllers"))?);
        }
        found.weights = found.unified.as_deref().is_some_and(costs_are_counted) || has_bfq(Path::new("/sys/block"));
        Ok(found)
    }

    /// From the text of `/proc/self/mountinfo`, without controllers of version 2.
    fn mounted(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            // id, parent, device, root, mount point, options, fields … - type, source, options of the file system
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
            let (Some(point), Some(options)) = (left.get(4), left.get(5)) else { continue };
            let path = PathBuf::from(point);
            match right.first() {
                Some(&"cgroup2") => found.unified = found.unified.or(Some(path)),
                Some(&"cgroup") => {
                    let writable = options.split(',').any(|option| option == "rw");
                    for option in right.get(2).into_iter().flat_map(|options| options.split(',')) {
                        if option == "name=systemd" {
                            found.named.get_or_insert_with(|| path.clone());
                        } else if CONTROLLERS.contains(&option) {
                            let mount = Mount { path: path.clone(), writable };
                            found.v1.entry(option.to_owned()).or_insert(mount);
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Which versions there are.
    pub fn hierarchy(&self) -> Hierarchy {
        match (&self.unified, self.named.is_some() || !self.v1.is_empty()) {
            (Some(_), false) => Hierarchy::V2,
            (Some(_), true) => Hierarchy::Hybrid,
            (None, _) => Hierarchy::V1,
        }
    }

    /// True while the group exists, with or without processes.
    pub fn exists(&self, group: &str) -> bool {
        self.trees().any(|tree| within(tree, group).is_dir())
    }

    /// The trees that hold every process: systemd's own of version 1 and version 2.
    fn trees(&self) -> impl Iterator<Item = &Path> {
        [self.named.as_deref(), self.unified.as_deref()].into_iter().flatten()
    }

    /// A file of version 2, if the group has it.
    fn unified_file(&self, group: &str, name: &str) -> Option<PathBuf> {
        let file = within(self.unified.as_deref()?, group).join(name);
        file.exists().then_some(file)
    }
}

/// Controllers of version 1 that matter here.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "freezer", "blkio"];

/// The directory of a group in a hierarchy.
fn within(tree: &Path, group: &str) -> PathBuf {
    // A path that begins with a slash would replace the tree's.
    tree.join(group.trim_start_matches('/'))
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// The number behind a word in a file of `word number` lines.
fn number_of(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `io.cost` gives weights their meaning, whatever a disk's scheduler is.
fn costs_are_counted(root: &Path) -> bool {
    fs::read_to_string(root.join("io.cost.qos")).is_ok_and(|text| text.contains("enable=1"))
}

fn has_bfq(block: &Path) -> bool {
    let Ok(disks) = fs::read_dir(block) else { return false };
    disks
        .filter_map(Result::ok)
        .any(|disk| fs::read_to_string(disk.path().join("queue/scheduler")).is_ok_and(|text| text.contains("[bfq]")))
}

#[cfg(test)]
mod tests;
