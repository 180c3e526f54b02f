//! Agent kinds: what runs in a session, as TOML files.
//!
//! The shipped ones (`packaging/kinds/`) are embedded; `<name>.toml` in a directory of [`Kinds::load`] replaces or
//! adds one. Everything is read and checked once, at start. A kind whose file is faulty or whose programs are missing
//! stays known, with the reason, and is offered to nobody; the others are not affected. [`render()`] is pure.

mod file;
mod machine;
mod render;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use helix_protocol::KindName;
use helix_protocol::resources::Reserve;
use helix_protocol::session::Geometry;

pub use file::{FileTemplate, Input, KindFile, OnExit, Readiness, Requires, Restart};
pub use machine::Machine;
pub use render::{Context, RenderError, Rendered, render, sync_url};

use crate::supervisor::SessionPaths;

const SHIPPED: [(&str, &str); 10] = [
    ("browser", include_str!("../../packaging/kinds/browser.toml")),
    ("claude", include_str!("../../packaging/kinds/claude.toml")),
    ("codex", include_str!("../../packaging/kinds/codex.toml")),
    ("command", include_str!("../../packaging/kinds/command.toml")),
    ("gemini", include_str!("../../packaging/kinds/gemini.toml")),
    ("goose", include_str!("../../packaging/kinds/goose.toml")),
    ("opencode", include_str!("../../packaging/kinds/opencode.toml")),
    ("qwen", include_str!("../../packaging/kinds/qwen.toml")),
    ("terminal", include_str!("../../packaging/kinds/terminal.toml")),
    ("zed", include_str!("../../packaging/kinds/zed.toml")),
];
/// The editor's program where the runner's settings name none.
pub const ZED: &str = "zed";

/// Why a session cannot be of a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    /// No file of this name.
    #[error("there is no kind {kind} on this runner; it knows: {known}")]
    Unknown {
        /// As asked.
        kind: KindName,
        /// Names of all kinds.
        known: String,
    },
    /// Known, but it cannot run here.
    #[error("kind {kind} cannot run on this runner: {reason}")]
    Unavailable {
        /// Which.
        kind: KindName,
        /// Why, and what to do.
        reason: String,
    },
    /// It needs an input.
    #[error("kind {kind} needs an input: say what to run in `input`")]
    InputMissing {
        /// Which.
        kind: KindName,
    },
    /// It would ignore the input.
    #[error("kind {kind} takes no input: leave `input` out, or choose another kind")]
    InputRefused {
        /// Which.
        kind: KindName,
    },
}

impl KindError {
    /// Stable word for a session's cause.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "kind_unknown",
            Self::Unavailable { .. } => "kind_unavailable",
            Self::InputMissing { .. } => "input_missing",
            Self::InputRefused { .. } => "input_refused",
        }
    }
}

/// Every kind that this runner knows.
#[derive(Debug, Clone)]
pub struct Kinds {
    known: BTreeMap<KindName, Result<KindFile, String>>,
    /// Those that the machine lacks something for: an image may have it.
    lacking: BTreeMap<KindName, KindFile>,
    zed: String,
    vulkan_icd: Option<PathBuf>,
}

impl Kinds {
    /// The shipped kinds, overlaid by the files in `dirs` (the last one wins; one that does not exist is passed
    /// over), checked against what the machine has.
    pub fn load(dirs: &[PathBuf], machine: &Machine<'_>) -> Self {
        let mut texts: BTreeMap<KindName, Result<String, String>> = BTreeMap::new();
        texts.extend(
            SHIPPED.iter().filter_map(|(name, text)| Some((KindName::parse(*name).ok()?, Ok((*text).to_owned())))),
        );
        for dir in dirs {
            texts.extend(read_dir(dir));
        }
        let (mut known, mut lacking) = (BTreeMap::new(), BTreeMap::new());
        for (name, text) in texts {
            let file = text.and_then(|text| parse(&text));
            let checked = file.clone().and_then(|kind| kind.check(machine));
            if let (Ok(file), Err(_)) = (file, &checked) {
                lacking.insert(name.clone(), file);
            }
            known.insert(name, checked);
        }
        Self { known, lacking, zed: machine.zed_program(), vulkan_icd: machine.vulkan_icd.map(Path::to_owned) }
    }

    /// The kind of a session that names none: the configured one, else the editor where it can run.
    pub fn default_kind(&self, configured: Option<&KindName>) -> KindName {
        configured.cloned().unwrap_or_else(|| {
            let editor = own(ZED);
            if self.known.get(&editor).is_some_and(Result::is_ok) { editor } else { own("command") }
        })
    }

    /// The kind, if a session with or without this input can run it here.
    pub fn get(&self, name: &KindName, input: Option<&str>) -> Result<&KindFile, KindError> {
        let kind = || name.clone();
        let found = self.known.get(name).ok_or_else(|| KindError::Unknown { kind: kind(), known: self.names() })?;
        let file = found.as_ref().map_err(|reason| KindError::Unavailable { kind: kind(), reason: reason.clone() })?;
        Self::with_input(name, file, input)
    }

    /// The same for a session in an image: what it needs is there, not on the machine.
    pub fn get_in_image(&self, name: &KindName, input: Option<&str>) -> Result<&KindFile, KindError> {
        match self.lacking.get(name) {
            Some(file) => Self::with_input(name, file, input),
            None => self.get(name, input),
        }
    }

    fn with_input<'a>(name: &KindName, file: &'a KindFile, input: Option<&str>) -> Result<&'a KindFile, KindError> {
        let kind = || name.clone();
        match (file.input, input.is_some_and(|input| !input.is_empty())) {
            (Input::Required, false) => Err(KindError::InputMissing { kind: kind() }),
            (Input::None, true) => Err(KindError::InputRefused { kind: kind() }),
            _ => Ok(file),
        }
    }

    /// The Zed editor's program, for templates.
    pub fn zed(&self) -> &str {
        &self.zed
    }

    /// File of the Vulkan driver, for templates.
    pub fn vulkan_icd(&self) -> Option<&Path> {
        self.vulkan_icd.as_deref()
    }

    /// Kinds that can run here.
    pub fn available(&self) -> Vec<KindName> {
        self.known.iter().filter(|(_, kind)| kind.is_ok()).map(|(name, _)| name.clone()).collect()
    }

    /// The others, each with the reason.
    pub fn unavailable(&self) -> BTreeMap<KindName, String> {
        let reason = |(name, kind): (&KindName, &Result<KindFile, String>)| Some((name.clone(), kind.clone().err()?));
        self.known.iter().filter_map(reason).collect()
    }

    /// What each kind that can run here reserves.
    pub fn reserves(&self) -> BTreeMap<KindName, Reserve> {
        let reserve =
            |(name, kind): (&KindName, &Result<KindFile, String>)| Some((name.clone(), kind.as_ref().ok()?.reserve));
        self.known.iter().filter_map(reserve).collect()
    }

    fn names(&self) -> String {
        self.known.keys().map(KindName::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// A kind of ours.
fn own(name: &str) -> KindName {
    KindName::parse(name).expect("the names of our kinds are valid")
}

/// `<kind>.toml` of a directory. A file that cannot be read is a kind that cannot run.
fn read_dir(dir: &Path) -> Vec<(KindName, Result<String, String>)> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("kinds in {} cannot be read: {error}", dir.display());
            }
            return Vec::new();
        }
    };
    let mut kinds = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension() != Some(OsStr::new("toml")) {
            continue;
        }
        match KindName::parse(path.file_stem().unwrap_or_default().to_string_lossy()) {
            Ok(name) => {
                let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()));
                kinds.push((name, text));
            }
            Err(error) => tracing::warn!("{} is passed over: {error}", path.display()),
        }
    }
    kinds
}

/// Reads a file and renders it once, so that a wrong name in a template is found at start and not in a session.
fn parse(text: &str) -> Result<KindFile, String> {
    let kind: KindFile = toml::from_str(text).map_err(|error| format!("its file is faulty: {error}"))?;
    if let Some(fault) = kind.fault() {
        return Err(fault);
    }
    let root = PathBuf::from("/session");
    let at = |name: &str| root.join(name);
    let paths = SessionPaths {
        home: at("home"),
        tmp: at("tmp"),
        runtime: at("run"),
        vnc_socket: at("vnc.sock"),
        xauthority: at("Xauthority"),
        workspace: PathBuf::from("/workspace"),
        root: root.clone(),
        sync_socket: at("sync.sock"),
        tools_socket: at("tools.sock"),
        notes_socket: at("note.sock"),
        recorder_apart: false,
        rdp_socket: at("rdp.sock"),
        rdp_files: at("rdp"),
        own_network: false,
        private_tmp: false,
    };
    let context = Context {
        session: &helix_protocol::SessionId::parse("check").map_err(|error| error.to_string())?,
        project: &paths.workspace.clone(),
        paths: &paths,
        agentd: Path::new("agentd"),
        input: "",
        geometry: Geometry { width: 1920, height: 1080 },
        shell: "/bin/sh",
        zed: ZED,
        vulkan_icd: None,
        forward_port: 1,
        env: &BTreeMap::new(),
        is_root: false,
    };
    render(&kind, &context).map_err(|error| format!("its file is faulty: {error}"))?;
    Ok(kind)
}

impl KindFile {
    /// What stands in the way of its limits.
    fn fault(&self) -> Option<String> {
        Some(format!("its file is faulty: {}", self.resources.fault()?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests;
