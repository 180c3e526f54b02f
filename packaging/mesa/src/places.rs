//! Where a driver may be, and which of several is taken.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The tree in which set-up puts a Mesa of Helix's own.
const OWN: &str = "/opt/helix/mesa";
/// Where it puts it without root, in the user's data directory.
const OWN_WITHOUT_ROOT: &str = "helix/mesa";
/// Directories of the system's.
const SYSTEM: [&str; 2] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
/// Deep enough for `<version>/usr/local/share/vulkan/icd.d`.
const DEPTH: usize = 8;

/// Where a driver is looked for, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Trees of Helix's own.
    trees: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Places {
    /// Those of this machine: for sessions of the user whose environment this is, or (`homes` is false) for sessions
    /// of other users, which see no home directory.
    pub fn new(env: &dyn Fn(&str) -> Option<String>, homes: bool) -> Self {
        let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = || absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        let own = homes.then(data).flatten().map(|data| data.join(OWN_WITHOUT_ROOT));
        Self { trees: std::iter::once(PathBuf::from(OWN)).chain(own).collect(), dirs: SYSTEM.map(PathBuf::from).into() }
    }

    /// Those in another root: an image.
    pub fn within(root: &Path) -> Self {
        let inside = |path: &str| root.join(path.trim_start_matches('/'));
        Self { trees: vec![inside(OWN)], dirs: SYSTEM.map(inside).into() }
    }

    /// The manifest: the newest one of those in a tree, as their names tell, else the first in one of the directories.
    pub fn find(&self) -> Option<PathBuf> {
        let own = self.trees.iter().find_map(|tree| {
            let mut found = Vec::new();
            search(tree, DEPTH, &mut found);
            found.sort();
            found.pop()
        });
        own.or_else(|| self.dirs.iter().find_map(|dir| best(dir)))
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.trees.iter().chain(&self.dirs).map(|place| place.to_string_lossy()).collect();
        f.write_str(&all.join(", "))
    }
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
mod tests {
    use super::*;

    fn put(path: &Path) {
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, "{}").expect("written");
    }

    #[test]
    fn a_driver_beside_the_systems_comes_first_and_another_processors_never() {
        let dir = tempfile::tempdir().expect("a directory");
        let (own, system) = (dir.path().join("mesa"), dir.path().join("icd.d"));
        let places = Places {
            trees: vec![dir.path().join("none"), own.clone()],
            dirs: vec![dir.path().join("none"), system.clone()],
        };
        assert_eq!(places.find(), None);
        let arch = std::env::consts::ARCH;
        let foreign = if arch == "aarch64" { "x86_64" } else { "aarch64" };
        put(&system.join(format!("lvp_icd.{foreign}.json")));
        put(&system.join("radeon_icd.json"));
        assert_eq!(places.find(), None);
        put(&system.join("lvp_icd.json"));
        assert_eq!(places.find(), Some(system.join("lvp_icd.json")));
        put(&system.join(format!("lvp_icd.{arch}.json")));
        assert_eq!(places.find(), Some(system.join(format!("lvp_icd.{arch}.json"))));

        for version in ["25.0.7", "25.2.1"] {
            put(&own.join(version).join(format!("usr/share/vulkan/icd.d/lvp_icd.{arch}.json")));
        }
        std::os::unix::fs::symlink(&own, own.join("25.0.7/circle")).expect("linked");
        assert_eq!(places.find(), Some(own.join(format!("25.2.1/usr/share/vulkan/icd.d/lvp_icd.{arch}.json"))));
    }

    #[test]
    fn a_users_own_driver_is_for_sessions_that_see_home_directories() {
        let told = |name: &str, value: &str, homes| {
            Places::new(&|asked| (asked == name).then(|| value.to_owned()), homes).to_string()
        };
        let system = "/usr/share/vulkan/icd.d, /etc/vulkan/icd.d";
        let with = |own: &str| format!("/opt/helix/mesa, {own}{system}");
        assert_eq!(told("HOME", "/home/me", true), with("/home/me/.local/share/helix/mesa, "));
        assert_eq!(told("XDG_DATA_HOME", "/data", true), with("/data/helix/mesa, "));
        for (value, homes) in [("/home/me", false), ("", true), ("relative", true)] {
            assert_eq!(told("HOME", value, homes), with(""));
        }
    }
}
