//! Settings of `agentd run`: one TOML file, then the environment, then flags; a later layer wins.
//!
//! [`Config::load`] reads everything, checks everything and reports all mistakes at once, each with its place and
//! what to write instead. After that a [`Config`] is valid; nothing else in the crate reads the environment.
//! Secrets are wrapped in [`Secret`], which no `Debug` output and no log shows.

mod args;
mod direct;
mod read;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use helix_protocol::resources::{Reserve, Resources};
use helix_protocol::session::Geometry;
use helix_protocol::{KindName, RunnerId};

pub use args::RunArgs;
pub use direct::{Direct, Network};
pub(crate) use read::{normalise_origin, parse_duration};
pub use source::{ConfigError, Environment, Fault};

use crate::reconciler::kept::KeepRules;

/// The enrolment token printed in the documents' examples: known to everybody, hence refused.
const SAMPLE_TOKEN: &str = "oh-hallo-insecure-token";
/// Most sessions at once that can be configured.
const MAX_SLOTS: u32 = 1000;

/// A text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Only for the place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What SIGTERM does with the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// They run on and are adopted by the next agentd.
    Keep,
    /// They are stopped and reported first.
    Stop,
}

/// What runs sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// systemd where agentd is root and systemd is PID 1, the process backend otherwise.
    Auto,
    /// Transient units.
    Systemd,
    /// One guest process per session.
    Process,
}

/// Valid settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Servers: the first enrols this runner, all of them may be dialled. Normalised origins (`http://host:port`).
    pub api_hosts: Vec<String>,
    /// Exchanged for this runner's own token; not needed any more once it is enrolled.
    pub enrolment_token: Option<Secret>,
    /// Who this runner is.
    pub runner: RunnerId,
    /// Sessions at once (documents: `CONCURRENCY`).
    pub slots: u32,
    /// Ended sessions after which it drains and exits; 0 = never.
    pub max_tasks: u32,
    /// From Ready to a forced stop; zero = never.
    pub session_timeout: Duration,
    /// Between two looks at the work of a session that is kept in checkpoints; zero = only when asked, and at its end.
    pub checkpoint_interval: Duration,
    /// Where sessions' workspaces are made.
    pub workspace_dir: PathBuf,
    /// Ledger, token, session directories.
    pub state_dir: PathBuf,
    /// NATS address that overrides the server's answer at enrolment.
    pub nats_url: Option<String>,
    /// Who signs the certificates of NATS, in place of what the server says at enrolment.
    pub nats_ca_file: Option<PathBuf>,
    /// Desktop size of a session that names none.
    pub geometry: Geometry,
    /// Kinds beside the shipped ones.
    pub kinds_dir: PathBuf,
    /// Kind of a session that names none; the editor where it can run, else `command`, where absent.
    pub default_kind: Option<KindName>,
    /// Loopback port of `/health`; 0 = off.
    pub health_port: u16,
    /// What SIGTERM does with sessions.
    pub on_exit: OnExit,
    /// What runs sessions.
    pub backend: Backend,
    /// The users that sessions run as under systemd: this prefix and a number.
    pub slot_user_prefix: String,
    /// Number of the first of them; a second runner on one machine has others.
    pub slot_user_first: u32,
    /// What a session may use whose spec and kind say nothing.
    pub default_resources: Resources,
    /// Most that a session may use.
    pub max_resources: Resources,
    /// Ports of sessions on the machine's network; none: nothing listens there.
    pub direct: Option<Direct>,
    /// What is kept free for a session whose spec and kind say nothing.
    pub default_reserve: Reserve,
    /// What admission may give away in all; the machine's memory and processors where absent.
    pub reservable: Reserve,
    /// Operator's labels.
    pub labels: BTreeMap<String, String>,
    /// Log filter (`info`, `debug`, `helix_agentd=debug,info`).
    pub log_level: String,
    /// The Zed editor, for kinds that run it.
    pub zed_binary: Option<PathBuf>,
    /// The Vulkan driver that draws without a graphics card, for kinds that need one; looked for where absent.
    pub vulkan_icd: Option<PathBuf>,
    /// Whose images sessions may run in: an `allowed_signers` file.
    pub image_signers: PathBuf,
    /// Images that stay although no session has them.
    pub images_keep: usize,
    /// How long workspaces stay that were put aside.
    pub kept: KeepRules,
    /// Documents' settings that nothing uses yet, for a note at start: native VNC and RDP listeners do not exist.
    pub unused: Vec<&'static str>,
}

impl Config {
    /// Reads file, environment and flags; every mistake at once.
    pub fn load(args: &RunArgs, env: &Environment) -> Result<Self, ConfigError> {
        let (config, faults) = Self::load_anyway(args, env);
        faults.map_or(Ok(config), Err)
    }

    /// What can be made of settings that may be faulty, and the faults: a setting that cannot be read is as if it were
    /// not there. For `agentd hold`, which must act just when agentd itself refuses to.
    pub fn load_anyway(args: &RunArgs, env: &Environment) -> (Self, Option<ConfigError>) {
        let mut values = source::Values::collect(args, env);
        let config = read::config(&mut values, env);
        (config, values.finish().err())
    }
}

/// `<state>` where none is configured: what systemd made for the service (`StateDirectory=`), else
/// `/var/lib/helix/agentd` for root, the XDG state directory otherwise.
pub fn default_state_dir(env: &Environment, root: bool) -> Option<PathBuf> {
    let absolute = |name: &str| env.get(name).filter(|path| path.starts_with('/')).map(PathBuf::from);
    // A list, where a drop-in adds one of its own. Only a service of ours has it in that place.
    let made = env.get("STATE_DIRECTORY").and_then(|list| list.split(':').next());
    if let Some(made) = made.filter(|made| made.starts_with("/var/lib/helix/")) {
        return Some(PathBuf::from(made));
    }
    if root {
        return Some(PathBuf::from("/var/lib/helix/agentd"));
    }
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("helix-agentd"))
}
