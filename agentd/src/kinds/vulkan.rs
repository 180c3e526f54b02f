//! The Vulkan driver that draws without a graphics card: Mesa's lavapipe, found by the pattern of its file's name.
//!
//! A Mesa that was put beside the system's comes first: GPUI draws nothing with the one of Debian 12.

use std::fs;
use std::path::{Path, PathBuf};

/// Trees in which a Mesa of Helix's own may lie.
const OWN: [&str; 1] = ["/opt/helix/mesa"];
/// Directories of the system's.
const SYSTEM: [&str; 2] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
/// Deep enough for `<version>/usr/local/share/vulkan/icd.d`.
const DEPTH: usize = 8;

/// Where people are told that it was looked for.
pub(super) fn places() -> String {
    OWN.iter().chain(&SYSTEM).copied().collect::<Vec<_>>().join(", ")
}

/// The driver's file on this machine.
pub fn find() -> Option<PathBuf> {
    find_in(&OWN.map(Path::new), &SYSTEM.map(Path::new))
}

/// The newest of those in trees, as their names tell, else the first in one of the directories.
fn find_in(trees: &[&Path], dirs: &[&Path]) -> Option<PathBuf> {
    let own = trees.iter().find_map(|tree| {
        let mut found = Vec::new();
        search(tree, DEPTH, &mut found);
        found.sort();
        found.pop()
    });
    own.or_else(|| dirs.iter().find_map(|dir| best(dir)))
}

fn search(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    found.extend(best(dir));
    let Some(depth) = depth.checked_sub(1) else { return };
    // A link is not followed: it could lead anywhere, and round in a circle.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            search(&entry.path(), depth, found);
        }
    }
}

/// The file in `dir` that is meant for this processor.
fn best(dir: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let fitting = names.filter_map(|name| Some((rank(&name)?, name)));
    fitting.min().map(|(_, name)| dir.join(name))
}

/// How well a file fits, the less the better: named after this processor, after none, after something unknown. None
/// where it is another driver's, or another processor's.
fn rank(name: &str) -> Option<u8> {
    const OTHERS: [&str; 8] = ["x86_64", "i386", "i686", "aarch64", "armv7l", "armv7hl", "ppc64le", "riscv64"];
    let middle = name.strip_prefix("lvp_icd")?.strip_suffix(".json")?.trim_start_matches('.');
    match middle {
        own if own == std::env::consts::ARCH => Some(0),
        "" => Some(1),
        other if OTHERS.contains(&other) => None,
        _ => Some(2),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    fn put(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{}").unwrap();
    }

    #[test]
    fn a_driver_beside_the_systems_comes_first_and_another_processors_never() {
        let dir = tempfile::tempdir().unwrap();
        let (own, system) = (dir.path().join("mesa"), dir.path().join("icd.d"));
        let find = || find_in(&[&own], &[&dir.path().join("none"), &system]);
        assert_eq!(find(), None);
        let arch = std::env::consts::ARCH;
        let foreign = if arch == "aarch64" { "x86_64" } else { "aarch64" };
        put(&system.join(format!("lvp_icd.{foreign}.json")));
        put(&system.join("radeon_icd.json"));
        assert_eq!(find(), None);
        put(&system.join("lvp_icd.json"));
        assert_eq!(find(), Some(system.join("lvp_icd.json")));
        put(&system.join(format!("lvp_icd.{arch}.json")));
        assert_eq!(find(), Some(system.join(format!("lvp_icd.{arch}.json"))));

        for version in ["25.0.7", "25.2.1"] {
            put(&own.join(version).join(format!("usr/share/vulkan/icd.d/lvp_icd.{arch}.json")));
        }
        std::os::unix::fs::symlink(&own, own.join("25.0.7/circle")).unwrap();
        assert_eq!(find(), Some(own.join(format!("25.2.1/usr/share/vulkan/icd.d/lvp_icd.{arch}.json"))));
    }
}
