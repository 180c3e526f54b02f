//! The Vulkan driver that draws without a graphics card: Mesa's, by the file that the runner takes, with its version.
//!
//! agentd's `kinds/vulkan.rs` looks in the same places in the same order.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::for_zed;
use super::report::{Check, Report};
use crate::settings::{process_env, xdg};

/// A Mesa beside the system's own.
const OWN: &str = "/opt/helix/mesa";
const SYSTEM: [&str; 2] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
/// Deep enough for `<version>/usr/local/share/vulkan/icd.d`.
const DEPTH: usize = 8;
const OLDEST_MESA: u32 = 25;
/// What brings all of it.
pub const FIX: &str = "packaging/setup.sh mesa";
const NAME: &str = "vulkan";

/// A driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Its manifest.
    pub icd: PathBuf,
    /// Version of Mesa, where it can be read.
    pub version: Option<String>,
}

impl Driver {
    /// For people: `Mesa 25.0.7`.
    pub fn words(&self) -> String {
        self.version
            .as_ref()
            .map_or_else(|| "a driver of unknown version".to_owned(), |version| format!("Mesa {version}"))
    }

    /// Older than what GPUI is seen with; one of unknown age may be.
    pub fn is_old(&self) -> bool {
        let major = self.version.as_deref().and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        major.is_none_or(|major| major < OLDEST_MESA)
    }
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "ICD")]
    icd: Icd,
}

#[derive(Deserialize)]
struct Icd {
    library_path: PathBuf,
}

/// Looks at the driver that was named, else for one.
pub fn check(named: Option<PathBuf>, zed: bool, report: &mut Report) -> Option<Driver> {
    let Some(icd) = named.or_else(find) else {
        let places: Vec<_> =
            trees().into_iter().chain(SYSTEM.map(PathBuf::from)).map(|dir| dir.display().to_string()).collect();
        let found = format!("no Vulkan driver: there is no lvp_icd*.json in {}", places.join(", "));
        report.add(for_zed(zed, NAME, found).next(FIX));
        return None;
    };
    let library = match library(&icd) {
        Ok(library) => library,
        Err(why) => {
            report.add(for_zed(zed, NAME, format!("{} {why}", icd.display())).next(FIX));
            return None;
        }
    };
    let driver = Driver { version: std::fs::read(&library).ok().as_deref().and_then(version), icd };
    let found = format!("{} ({})", driver.words(), driver.icd.display());
    report.add(if !has_loader() {
        for_zed(zed, NAME, format!("{found}, but no libvulkan.so.1 to find it with")).next(FIX)
    } else if driver.is_old() {
        // The look at the window decides.
        Check::warn(NAME, format!("{found}: Zed needs Mesa {OLDEST_MESA} or newer")).next(FIX)
    } else {
        Check::ok(NAME, found)
    });
    Some(driver)
}

/// The library that a manifest leads to.
fn library(icd: &Path) -> Result<PathBuf, String> {
    let text = std::fs::read(icd).map_err(|error| format!("cannot be read: {error}"))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("is no manifest of a Vulkan driver: {error}"))?;
    let path = manifest.icd.library_path;
    let path = if path.components().count() == 1 {
        library_dirs().into_iter().map(|dir| dir.join(&path)).find(|path| path.is_file()).unwrap_or(path)
    } else {
        icd.parent().unwrap_or(Path::new("/")).join(path)
    };
    if path.is_file() { Ok(path) } else { Err(format!("names {}, which does not exist", path.display())) }
}

fn has_loader() -> bool {
    library_dirs().iter().any(|dir| dir.join("libvulkan.so.1").exists())
}

fn library_dirs() -> [PathBuf; 5] {
    let debian = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [debian.as_str(), "/usr/local/lib", "/usr/lib64", "/usr/lib", "/lib64"].map(PathBuf::from)
}

/// Mesa's drivers carry their version as text.
fn version(library: &[u8]) -> Option<String> {
    const WORD: &[u8] = b"Mesa ";
    memchr::memmem::find_iter(library, WORD).find_map(|at| {
        let rest = &library[at + WORD.len()..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
        let text = String::from_utf8_lossy(&rest[..length]).trim_end_matches('.').to_owned();
        let is_version = text.contains('.') && text.starts_with(|c: char| c.is_ascii_digit());
        is_version.then_some(text)
    })
}

fn trees() -> Vec<PathBuf> {
    let own = xdg(&process_env, "XDG_DATA_HOME", ".local/share").map(|data| data.join("helix/mesa"));
    std::iter::once(PathBuf::from(OWN)).chain(own.ok()).collect()
}

fn find() -> Option<PathBuf> {
    find_in(&trees(), &SYSTEM.map(PathBuf::from))
}

/// The newest of those in trees, as their names tell, else the first in one of the directories.
fn find_in(trees: &[PathBuf], dirs: &[PathBuf]) -> Option<PathBuf> {
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
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            search(&entry.path(), depth, found);
        }
    }
}

/// The file in `dir` for this processor.
fn best(dir: &Path) -> Option<PathBuf> {
    let names = [format!("lvp_icd.{}.json", std::env::consts::ARCH), "lvp_icd.json".to_owned()];
    names.into_iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_first_that_reads_as_one() {
        assert_eq!(version(b"\0Mesa: no cache\0Mesa ...\x0025.0.7Mesa 25.0.7-2 (LLVM"), Some("25.0.7".to_owned()));
        assert_eq!(version(b"Mesa 22.3.6 (LLV6 (LLVM 15"), Some("22.3.6".to_owned()));
        assert_eq!(version(b"Mesa 22"), None);
        assert_eq!(version(b"no word"), None);
    }

    #[test]
    fn a_driver_beside_the_systems_comes_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let (own, system) = (dir.path().join("mesa"), dir.path().join("icd.d"));
        let find = || find_in(&[dir.path().join("none"), own.clone()], std::slice::from_ref(&system));
        let put = |path: &Path| {
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            std::fs::write(path, r#"{"ICD": {"library_path": "../libvulkan_lvp.so"}}"#).expect("written");
        };
        let arch = std::env::consts::ARCH;
        put(&system.join("lvp_icd.other.json"));
        assert_eq!(find(), None);
        put(&system.join("lvp_icd.json"));
        assert_eq!(find(), Some(system.join("lvp_icd.json")));
        put(&own.join("25.0.7").join(format!("lvp_icd.{arch}.json")));
        put(&own.join("25.2.1/lvp_icd.json"));
        let newest = own.join("25.2.1/lvp_icd.json");
        assert_eq!(find(), Some(newest.clone()));

        assert!(library(&newest).is_err_and(|why| why.contains("libvulkan_lvp.so, which does not exist")));
        std::fs::write(own.join("libvulkan_lvp.so"), "").expect("written");
        assert!(library(&newest).is_ok());
        std::fs::write(&newest, "{}").expect("written");
        assert!(library(&newest).is_err_and(|why| why.contains("no manifest")));
    }
}
