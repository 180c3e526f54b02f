//! What a kind's file says to the bridge.

use std::path::PathBuf;

use anyhow::Context as _;

/// Arguments of `agentd acp-bridge`.
#[derive(Debug, clap::Parser)]
#[command(
    name = "agentd acp-bridge",
    about = "Runs an ACP agent, or shell commands, as the agent of this session",
    max_term_width = 100
)]
pub struct Options {
    /// Run each prompt as a shell command instead of giving it to an agent
    #[arg(long, conflicts_with = "program")]
    pub shell: bool,
    /// Name of the agent towards the server [default: the program's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Directory of the session whose result the first prompt's outcome is; empty: none
    #[arg(long, value_name = "DIR", value_parser = non_empty_path)]
    pub result: Option<PathBuf>,
    /// Where the journal is [default: $HOME/.local/state/helix]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// What the agent may do without being asked about
    #[arg(long, value_enum, default_value_t, value_name = "POLICY", env = "HELIX_AGENT_PERMISSIONS")]
    permissions: Permissions,
    /// Mode to set in every new thread, by id or name
    #[arg(long, value_name = "MODE", env = "HELIX_AGENT_MODE")]
    mode: Option<String>,
    /// Model to set in every new thread, by id or name
    #[arg(long, value_name = "MODEL", env = "HELIX_AGENT_MODEL")]
    model: Option<String>,
    /// Way to authenticate, where the agent offers several [default: one whose key is in the environment]
    #[arg(long, value_name = "ID")]
    auth_method: Option<String>,
    /// Seconds between two signs of life of what runs and says nothing, and of questions that are open
    #[arg(long, value_name = "SECONDS", default_value_t = 15, hide = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub beat: u64,
    /// Seconds after which an agent that says nothing during a turn is not vouched for any more
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, hide = true)]
    pub patience: u64,
    /// The agent and its arguments
    #[arg(last = true, value_name = "PROGRAM", required_unless_present = "shell")]
    program: Vec<String>,
}

/// Whether a person is asked before the agent uses a tool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Permissions {
    /// Whatever the agent asks is asked
    #[default]
    Ask,
    /// Whatever the agent asks is allowed
    Allow,
}

/// How to run an ACP agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Program and arguments.
    pub program: Vec<String>,
    /// Where it works: nothing outside is read or written for it.
    pub project: PathBuf,
    /// What is asked.
    pub permissions: Permissions,
    /// Mode of new threads.
    pub mode: Option<String>,
    /// Model of new threads.
    pub model: Option<String>,
    /// Way to authenticate.
    pub auth_method: Option<String>,
}

impl Options {
    /// Name of the agent.
    pub fn name(&self) -> &str {
        let program = || std::path::Path::new(self.program.first()?).file_name()?.to_str();
        self.name.as_deref().or_else(program).unwrap_or("command")
    }

    /// Where the journal is.
    pub fn state_dir(&self) -> anyhow::Result<PathBuf> {
        if let Some(state) = &self.state {
            return Ok(state.clone());
        }
        let home = std::env::var_os("HOME").context("HOME is not set: there is no place for the journal")?;
        Ok(PathBuf::from(home).join(".local/state/helix/bridge"))
    }

    /// What the agent's task needs.
    pub fn agent(&self) -> anyhow::Result<AgentOptions> {
        let project = std::env::current_dir().context("the working directory is gone")?;
        Ok(AgentOptions {
            program: self.program.clone(),
            project,
            permissions: self.permissions,
            mode: self.mode.clone(),
            model: self.model.clone(),
            auth_method: self.auth_method.clone(),
        })
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a value parser")]
fn non_empty_path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}
