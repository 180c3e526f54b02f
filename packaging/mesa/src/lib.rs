//! The Vulkan driver that draws without a graphics card, Mesa's lavapipe: where it is on this machine ([`Places`]), and
//! which version of Mesa it belongs to ([`Driver`]).
//!
//! agentd offers kind `zed` by what it finds here, and `helixctl doctor` tells people what agentd would find: one list
//! of places for both. The version counts because GPUI, Zed's toolkit, draws nothing with the Mesa of Debian 12 and
//! reports no error. A Mesa that set-up put beside the system's own comes first for the same reason.

mod places;

use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use places::Places;

/// GPUI is seen with this Mesa and newer ones.
pub const OLDEST: u32 = 25;
/// What brings one.
pub const FIX: &str = "packaging/setup.sh mesa";

/// A driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Its manifest.
    pub icd: PathBuf,
    /// Version of Mesa, where it can be read.
    pub version: Option<String>,
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

impl Driver {
    /// The driver of a manifest; the text is what is wrong with that file, after its name.
    pub fn read(icd: &Path) -> Result<Self, String> {
        let library = library(icd)?;
        let version = std::fs::read(library).ok().as_deref().and_then(version);
        Ok(Self { icd: icd.to_owned(), version })
    }

    /// For people: `Mesa 25.0.7`.
    pub fn words(&self) -> String {
        self.version
            .as_ref()
            .map_or_else(|| "a driver of unknown version".to_owned(), |version| format!("Mesa {version}"))
    }

    /// Whether it is new enough for Zed; nobody knows of a driver that names no Mesa.
    pub fn is_new(&self) -> Option<bool> {
        let major = self.version.as_deref()?.split('.').next()?.parse::<u32>().ok()?;
        Some(major >= OLDEST)
    }
}

/// The library that a manifest leads to.
fn library(icd: &Path) -> Result<PathBuf, String> {
    let text = std::fs::read(icd).map_err(|error| format!("cannot be read: {error}"))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("is no manifest of a Vulkan driver: {error}"))?;
    let path = manifest.icd.library_path;
    // A bare name is looked for as every other library is.
    let path = if path.components().count() == 1 {
        library_dirs().into_iter().map(|dir| dir.join(&path)).find(|path| path.is_file()).unwrap_or(path)
    } else {
        icd.parent().unwrap_or(Path::new("/")).join(path)
    };
    if path.is_file() { Ok(path) } else { Err(format!("names {}, which does not exist", path.display())) }
}

/// Whether this machine has what finds Vulkan drivers.
pub fn has_loader() -> bool {
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
    fn a_driver_is_read_through_its_manifest() {
        let dir = tempfile::tempdir().expect("a directory");
        let (icd, library) = (dir.path().join("icd.d/lvp_icd.json"), dir.path().join("libvulkan_lvp.so"));
        std::fs::create_dir(dir.path().join("icd.d")).expect("made");
        assert!(Driver::read(&icd).is_err_and(|why| why.starts_with("cannot be read")));
        std::fs::write(&icd, "{}").expect("written");
        assert!(Driver::read(&icd).is_err_and(|why| why.starts_with("is no manifest")));
        std::fs::write(&icd, r#"{"ICD": {"library_path": "../libvulkan_lvp.so"}}"#).expect("written");
        assert!(Driver::read(&icd).is_err_and(|why| why.ends_with("libvulkan_lvp.so, which does not exist")));
        for (content, words, is_new) in [
            ("Mesa 25.0.7 (LLVM", "Mesa 25.0.7", Some(true)),
            ("Mesa 22.3.6 (LLVM", "Mesa 22.3.6", Some(false)),
            ("of somebody else", "a driver of unknown version", None),
        ] {
            std::fs::write(&library, content).expect("written");
            let driver = Driver::read(&icd).expect("a driver");
            assert_eq!((driver.words().as_str(), driver.is_new()), (words, is_new));
        }
    }
}
