//! The TOML file of a kind: what it says, and the check of each value as it is read.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use helix_protocol::resources::{Reserve, Resources};
use helix_protocol::session::DisplayServer;
use serde::{Deserialize, Deserializer};

/// A kind's file as written. Unknown keys are refused with their line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindFile {
    /// One sentence for people.
    pub description: String,
    /// Program and arguments of the app unit, each a template.
    #[serde(deserialize_with = "command")]
    pub command: Vec<String>,
    /// Additions to the app's environment, each value a template.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Files to write before the app starts.
    #[serde(default)]
    pub files: Vec<FileTemplate>,
    /// What a session's `input` means to it.
    pub input: Input,
    /// When the agent is up.
    pub readiness: Readiness,
    /// Whether the app is started again after its end.
    #[serde(default)]
    pub restart: Restart,
    /// How long to wait before that; a growing time where absent.
    #[serde(default, deserialize_with = "duration")]
    pub restart_pause: Option<Duration>,
    /// Directories of its HOME that are kept in the workspace, so that they live as long as that.
    #[serde(default, deserialize_with = "relative_paths")]
    pub keep: Vec<PathBuf>,
    /// Secrets that it can use; a session without them is told about them when its agent fails.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// What the app's end means to the session, once it is not started again.
    pub on_exit: OnExit,
    /// Whether a D-Bus session bus is started for it.
    #[serde(default)]
    pub dbus: bool,
    /// What draws its desktop; a session's spec may say otherwise.
    #[serde(default)]
    pub display_server: Option<DisplayServer>,
    /// Whether its first turn's outcome is the session's result (`agentd acp-bridge --result`).
    #[serde(default)]
    pub task: bool,
    /// Whether it brings a sandbox of its own, which needs namespaces (Chromium).
    #[serde(default)]
    pub own_sandbox: bool,
    /// What a session may use whose spec says nothing.
    #[serde(default)]
    pub resources: Resources,
    /// What is kept free for one whose spec says nothing.
    #[serde(default)]
    pub reserve: Reserve,
    /// What the machine must have.
    #[serde(default)]
    pub requires: Requires,
}

impl KindFile {
    /// In the place of a kind that is not there any more: its agent is never started again, and its end means nothing.
    pub fn gone() -> Self {
        Self {
            description: String::new(),
            command: vec!["false".to_owned()],
            environment: BTreeMap::new(),
            files: Vec::new(),
            input: Input::Optional,
            readiness: Readiness::None,
            restart: Restart::No,
            restart_pause: None,
            keep: Vec::new(),
            secrets: Vec::new(),
            on_exit: OnExit::Keep,
            dbus: false,
            display_server: None,
            task: false,
            own_sandbox: false,
            resources: Resources::default(),
            reserve: Reserve::default(),
            requires: Requires::default(),
        }
    }
}

/// A file that a kind writes into the session's directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTemplate {
    /// Path below the session's directory (`home/.config/x` is in its HOME); no template.
    #[serde(deserialize_with = "relative_path")]
    pub path: PathBuf,
    /// Octal mode, for example "0600".
    #[serde(default = "private", deserialize_with = "mode")]
    pub mode: u32,
    /// Template of the content.
    pub content: String,
}

/// What a session's `input` means to a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// A session of this kind must have one.
    Required,
    /// It may have one.
    Optional,
    /// It would be ignored, so a session that has one is refused.
    None,
}

/// What tells that the agent is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// Its first window is on the screen.
    Window,
    /// It has been started.
    None,
}

/// What the app's end means to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// Nothing: it stays Ready until it is stopped.
    Keep,
    /// It ends, too.
    End,
}

/// When the app is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// After an exit status other than 0 and 78, which says that another start would change nothing.
    OnFailure,
    /// After every end.
    Always,
}

impl Restart {
    /// Exit status of an app that says that another start would change nothing (`EX_CONFIG` of sysexits.h).
    const GIVEN_UP: i32 = 78;
    /// Longest pause between two starts.
    const MAX_BACKOFF: Duration = Duration::from_secs(30);

    /// How long to wait before the app that ended with `exit_status` is started again, after `restarts` restarts in
    /// a row; None when it is not. A run of a minute or more begins a new row: the caller counts.
    pub fn delay(self, exit_status: i32, restarts: u32) -> Option<Duration> {
        let again = match self {
            Self::No => false,
            Self::OnFailure => exit_status != 0 && exit_status != Self::GIVEN_UP,
            Self::Always => true,
        };
        let backoff = Duration::from_millis(250).saturating_mul(2_u32.saturating_pow(restarts.min(16)));
        again.then_some(backoff.min(Self::MAX_BACKOFF))
    }
}

/// What a kind needs on the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requires {
    /// The Zed editor ([`super::Kinds::zed`]).
    #[serde(default)]
    pub zed: bool,
    /// A Vulkan driver that draws without a graphics card ([`super::Kinds::vulkan_icd`]).
    #[serde(default)]
    pub vulkan: bool,
    /// Program → package that has it.
    #[serde(default)]
    pub programs: BTreeMap<String, String>,
    /// Secrets without which no session of it begins.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Program that no package has → what brings it, as it is to be typed or done.
    #[serde(default)]
    pub agent: BTreeMap<String, String>,
}

fn private() -> u32 {
    0o600
}

fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let command = Vec::<String>::deserialize(deserializer)?;
    if command.is_empty() {
        return Err(serde::de::Error::custom("a kind needs a command: [\"program\", \"argument\", …]"));
    }
    Ok(command)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = crate::config::parse_duration(&text);
    duration.map(Some).ok_or_else(|| serde::de::Error::custom("a duration is wanted: \"2s\" or \"500ms\""))
}

fn relative_paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    Vec::<PathBuf>::deserialize(deserializer)?.into_iter().map(inside).collect()
}

fn relative_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    inside(PathBuf::deserialize(deserializer)?)
}

fn inside<E: serde::de::Error>(path: PathBuf) -> Result<PathBuf, E> {
    let inside = path.components().all(|part| matches!(part, Component::Normal(_))) && path != Path::new("");
    if !inside {
        return Err(E::custom("a path below the session's directory is wanted, without .."));
    }
    Ok(path)
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    match u32::from_str_radix(&text, 8) {
        // Nobody but the session's user: other sessions' users must not read what a kind writes.
        Ok(mode) if mode & !0o700 == 0 && mode & 0o400 != 0 => Ok(mode),
        _ => Err(serde::de::Error::custom("an octal mode for the owner alone is wanted: \"0600\" or \"0700\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_back_off_up_to_a_cap() {
        assert_eq!(Restart::No.delay(1, 0), None);
        assert_eq!(Restart::OnFailure.delay(0, 0), None);
        assert_eq!(Restart::OnFailure.delay(1, 0), Some(Duration::from_millis(250)));
        assert_eq!(Restart::OnFailure.delay(78, 0), None);
        assert_eq!(Restart::Always.delay(0, 3), Some(Duration::from_secs(2)));
        assert_eq!(Restart::Always.delay(0, u32::MAX), Some(Duration::from_secs(30)));
    }
}
