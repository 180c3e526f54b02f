//! What a machine must have for a kind, and what is told where it has not.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use helix_mesa::{Driver, FIX, OLDEST, Places};

use super::ZED;
use super::file::KindFile;

/// Where it is put by its own installer, and is not seen by services.
const HOMES: [&str; 2] = ["/home", "/root"];

/// What kinds find on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// Value of PATH.
    pub path: &'a OsStr,
    /// The Zed editor; `zed` in `path` where no other is named.
    pub zed: Option<&'a Path>,
    /// File of the Vulkan driver that draws without a graphics card.
    pub vulkan_icd: Option<&'a Path>,
    /// Where it was looked for, unless it was named.
    pub vulkan_places: &'a Places,
}

impl KindFile {
    /// The kind if the machine has what it needs, else what is missing and how to get it.
    pub(super) fn check(self, machine: &Machine<'_>) -> Result<Self, String> {
        let (path, zed) = (machine.path, machine.zed_program());
        if self.requires.zed && machine.editor().is_none() {
            let hint = if HOMES.iter().any(|home| Path::new(&zed).starts_with(home)) {
                " (sessions under systemd see no home directories: install it in /opt or /usr/local)"
            } else {
                ""
            };
            return Err(format!(
                "the Zed editor's program {zed} is not there; set zed_binary (ZED_BINARY) to it{hint}"
            ));
        }
        if self.requires.vulkan {
            machine.vulkan()?;
        }
        let missing = self.requires.programs.iter().filter(|(program, _)| !is_in_path(program, path));
        let (programs, packages): (Vec<&str>, Vec<&str>) =
            missing.map(|(program, package)| (program.as_str(), package.as_str())).unzip();
        if !programs.is_empty() {
            let (programs, packages) = (programs.join(", "), packages.join(" "));
            return Err(format!("{programs} not found in PATH; install it: apt-get install {packages}"));
        }
        let mut agents = self.requires.agent.iter().filter(|(program, _)| !is_in_path(program, path));
        match agents.next() {
            Some((program, how)) => Err(format!("{program} not found in PATH; install it: {how}")),
            None => Ok(self),
        }
    }
}

impl Machine<'_> {
    /// The editor's file, or how it would be called.
    pub(super) fn zed_program(&self) -> String {
        let named = || self.zed.map_or_else(|| PathBuf::from(ZED), Path::to_owned);
        self.editor().unwrap_or_else(named).to_string_lossy().into_owned()
    }

    /// A driver that Zed is seen with. One whose version cannot be read is not Mesa's, or not as Debian builds it: whoever
    /// named it knows it.
    fn vulkan(&self) -> Result<(), String> {
        const MISSING: &str = "the Vulkan driver that draws without a graphics card is missing";
        let what = match self.vulkan_icd {
            Some(file) if file.is_file() => {
                let driver = Driver::read(file);
                let file = file.display();
                match driver {
                    Ok(driver) if driver.is_new() != Some(false) => return Ok(()),
                    Ok(old) => {
                        let mesa = old.words();
                        format!("the Vulkan driver is too old: with {mesa} ({file}) Zed's windows stay black")
                    }
                    Err(why) => format!("the Vulkan driver cannot be used: {file} {why}"),
                }
            }
            Some(file) => format!("{MISSING}: {} is not there", file.display()),
            None => format!("{MISSING}: there is no lvp_icd*.json in {}", self.vulkan_places),
        };
        Err(format!(
            "{what}; bring Mesa {OLDEST} or newer: {FIX}, or set vulkan_icd (HELIX_VULKAN_ICD) to the lvp_icd*.json of \
             another one"
        ))
    }

    fn editor(&self) -> Option<PathBuf> {
        if let Some(zed) = self.zed {
            return is_executable(zed).then(|| zed.to_owned());
        }
        // `zed` of the administrator's directories is another program: the event daemon of ZFS.
        let dirs = std::env::split_paths(self.path).filter(|dir| !dir.ends_with("sbin"));
        dirs.map(|dir| dir.join(ZED)).find(|file| is_executable(file))
    }
}

fn is_in_path(program: &str, path: &OsStr) -> bool {
    if program.contains('/') {
        return is_executable(Path::new(program));
    }
    std::env::split_paths(path).any(|dir| is_executable(&dir.join(program)))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
