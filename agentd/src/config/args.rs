//! Flags of `agentd run`. Values stay text here: `read` checks them together with file and environment, so
//! that all mistakes come out at once. Secrets have no flag: a command line is readable by every process.

use std::path::PathBuf;

/// Flags of `agentd run`; each overrides environment and file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RunArgs {
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Server to enrol at; more, separated by commas, may be dialled too [env: API_HOST, HELIX_API_HOST]
    #[arg(long, value_name = "URL")]
    api_host: Option<String>,
    /// File with the enrolment token [env: API_TOKEN or HELIX_API_TOKEN hold the token itself]
    #[arg(long, value_name = "FILE")]
    api_token_file: Option<String>,
    /// Id of this runner [env: RUNNER_ID]
    #[arg(long, value_name = "ID")]
    runner_id: Option<String>,
    /// Sessions at once [env: CONCURRENCY, AGENT_CONCURRENCY]
    #[arg(long, value_name = "N")]
    concurrency: Option<String>,
    /// Ended sessions after which to drain and exit, 0 = never [env: MAX_TASKS, AGENT_MAX_TASKS]
    #[arg(long, value_name = "N")]
    max_tasks: Option<String>,
    /// Time from Ready to a forced stop, 0 = never [env: SESSION_TIMEOUT]
    #[arg(long, value_name = "SECONDS")]
    session_timeout: Option<String>,
    /// Where workspaces are made [env: WORKSPACE_DIR]
    #[arg(long, value_name = "DIR")]
    workspace_dir: Option<String>,
    /// NATS address instead of the one the server names [env: NATS_URL]
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// Width of a desktop in pixels [env: DISPLAY_WIDTH]
    #[arg(long, value_name = "PIXELS")]
    display_width: Option<String>,
    /// Height of a desktop in pixels [env: DISPLAY_HEIGHT]
    #[arg(long, value_name = "PIXELS")]
    display_height: Option<String>,
    /// Where ledger, token and session directories live
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// Directory of kinds beside the shipped ones
    #[arg(long, value_name = "DIR")]
    kinds_dir: Option<String>,
    /// Kind of a session that names none, instead of the editor where it can run, else command
    #[arg(long, value_name = "KIND")]
    default_kind: Option<String>,
    /// Loopback port of /health, 0 = off
    #[arg(long, value_name = "PORT")]
    health_port: Option<String>,
    /// What SIGTERM does with sessions: keep or stop
    #[arg(long, value_name = "WHAT")]
    on_exit: Option<String>,
    /// What runs sessions: systemd, process, or auto (systemd where agentd is root and systemd is PID 1)
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// The Zed editor's program [env: ZED_BINARY]
    #[arg(long, value_name = "FILE")]
    zed_binary: Option<String>,
    /// The Vulkan driver's file (lvp_icd*.json) with which editors draw [env: HELIX_VULKAN_ICD]
    #[arg(long, value_name = "FILE")]
    vulkan_icd: Option<String>,
    /// Whose images sessions may run in: an allowed_signers file
    #[arg(long, value_name = "FILE")]
    image_signers: Option<String>,
    /// Images that stay although no session has them
    #[arg(long, value_name = "N")]
    images_keep: Option<String>,
    /// What to log: error, warn, info, debug or a filter [env: LOG_LEVEL]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Check the settings, tell every fault, and end
    #[arg(long)]
    pub check_config: bool,
}

impl RunArgs {
    /// Flags that were given: key of the setting and value.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("api_host", &self.api_host),
            ("api_token_file", &self.api_token_file),
            ("runner_id", &self.runner_id),
            ("concurrency", &self.concurrency),
            ("max_tasks", &self.max_tasks),
            ("session_timeout", &self.session_timeout),
            ("workspace_dir", &self.workspace_dir),
            ("nats_url", &self.nats_url),
            ("display_width", &self.display_width),
            ("display_height", &self.display_height),
            ("state_dir", &self.state_dir),
            ("kinds_dir", &self.kinds_dir),
            ("default_kind", &self.default_kind),
            ("image_signers", &self.image_signers),
            ("images_keep", &self.images_keep),
            ("health_port", &self.health_port),
            ("on_exit", &self.on_exit),
            ("backend", &self.backend),
            ("zed_binary", &self.zed_binary),
            ("vulkan_icd", &self.vulkan_icd),
            ("log_level", &self.log_level),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }
}
