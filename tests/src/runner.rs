//! One agentd process of a cluster, and the ways to end it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::{Launch, PATIENCE, Process, run};
use crate::programs;
use crate::server::quoted;

/// What a runner shall be.
#[derive(Debug, Clone)]
pub struct RunnerSpec {
    /// Its id.
    pub id: String,
    /// Sessions at once.
    pub slots: u32,
    /// Ended sessions until it drains; 0 = never.
    pub max_tasks: u32,
    /// Seconds from Ready to a forced stop.
    pub session_timeout: String,
    /// Port of `/health`; 0 = off.
    pub health_port: u16,
    /// Directories with programs that its sessions find first.
    pub programs: Vec<PathBuf>,
    /// Tables behind its other settings.
    pub settings: String,
    /// Whom it believes to sign certificates; the machine's authorities where nobody is named.
    pub authority: Option<PathBuf>,
}

impl RunnerSpec {
    /// A runner with four slots.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            slots: 4,
            max_tasks: 0,
            session_timeout: "3600s".to_owned(),
            health_port: 0,
            programs: Vec::new(),
            settings: String::new(),
            authority: None,
        }
    }

    /// With ports of its sessions open at this address, for the loopback network.
    #[must_use]
    pub fn direct(self, listen: &str) -> Self {
        self.direct_for(listen, "127.0.0.0/8")
    }

    /// The same for this network alone.
    #[must_use]
    pub fn direct_for(mut self, listen: &str, network: &str) -> Self {
        self.settings = format!("[direct]\nlisten = {listen:?}\nallow = [{network:?}]\n");
        self
    }

    /// With the kinds of this directory beside the shipped ones.
    #[must_use]
    pub fn kinds(mut self, dir: &Path) -> Self {
        self.settings = format!("kinds_dir = {}\n{}", quoted(dir), self.settings);
        self
    }

    /// With programs that are not in PATH.
    #[must_use]
    pub fn programs(mut self, dir: PathBuf) -> Self {
        self.programs.push(dir);
        self
    }

    /// With so many slots.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }
}

/// A runner of the cluster.
pub struct Runner {
    /// What it shall be.
    pub spec: RunnerSpec,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// Where its workspaces are.
    pub workspace_dir: PathBuf,
    launch: Launch,
    process: Option<Process>,
}

impl Runner {
    /// Prepares a runner in `dir`; [`Runner::start`] starts it.
    pub fn new(dir: &Path, spec: RunnerSpec, servers: &[String], enrolment: &Path) -> Result<Self> {
        let state_dir = dir.join(&spec.id);
        let workspace_dir = dir.join(format!("{}-w", spec.id));
        let mut text = String::new();
        writeln!(text, "api_host = {servers:?}")?;
        writeln!(text, "api_token_file = {}", quoted(enrolment))?;
        writeln!(text, "runner_id = {:?}", spec.id)?;
        writeln!(text, "backend = \"process\"\nconcurrency = {}\nmax_tasks = {}", spec.slots, spec.max_tasks)?;
        writeln!(text, "session_timeout = {:?}", spec.session_timeout)?;
        writeln!(text, "state_dir = {}\nworkspace_dir = {}", quoted(&state_dir), quoted(&workspace_dir))?;
        writeln!(text, "display_width = 1024\ndisplay_height = 640")?;
        writeln!(text, "health_port = {}\nlog_level = \"info,helix_agentd=debug,agentd=debug\"", spec.health_port)?;
        text.push_str(&spec.settings);
        let file = dir.join(format!("{}.toml", spec.id));
        std::fs::write(&file, text)?;
        let mut env = Vec::new();
        if let Some(authority) = &spec.authority {
            env.push(("SSL_CERT_FILE".to_owned(), authority.to_str().context("path is not UTF-8")?.to_owned()));
        }
        if !spec.programs.is_empty() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = std::env::join_paths(spec.programs.iter().cloned().chain(std::env::split_paths(&path)))?;
            env.push(("PATH".to_owned(), path.into_string().ok().context("PATH is not UTF-8")?));
        }
        let launch = Launch {
            name: spec.id.clone(),
            program: programs::ours("agentd")?,
            args: vec!["run".into(), "--config".into(), file.to_str().context("path is not UTF-8")?.into()],
            env,
            dir: dir.to_owned(),
            ready: helix_protocol::runner::REGISTERED_NOTICE,
        };
        Ok(Self { spec, state_dir, workspace_dir, launch, process: None })
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// The process, while it was not ended by the harness.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// Starts it and waits until it is registered.
    pub async fn start(&mut self) -> Result<()> {
        self.process = Some(self.launch.start().await?);
        Ok(())
    }

    /// Starts it without waiting: its server may be away.
    pub fn spawn(&mut self) -> Result<()> {
        self.process = Some(self.launch.spawn()?);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM; its exit code. Its sessions stay.
    pub async fn terminate(&mut self) -> Result<Option<i32>> {
        let Some(mut process) = self.process.take() else { return Ok(None) };
        Ok(Some(crate::process::exit_code(process.terminate(PATIENCE).await?)))
    }

    /// Its own token, as it keeps it.
    pub fn token(&self) -> Result<String> {
        let file = self.state_dir.join("token");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.trim().to_owned())
    }

    /// Arguments of `agentd reap` for this runner.
    pub fn reap_args(&self) -> Result<Vec<String>> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("path is not UTF-8");
        let (state, workspaces) = (text(&self.state_dir)?, text(&self.workspace_dir)?);
        Ok(vec!["reap".into(), "--state-dir".into(), state, "--workspace-dir".into(), workspaces])
    }

    /// Ends everything the runner left behind.
    pub async fn reap(&self) -> Result<()> {
        let args = self.reap_args()?;
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let reaped = run(&programs::ours("agentd")?, &args, &[], PATIENCE).await?;
        ensure!(reaped.status.success(), "agentd reap: {}", String::from_utf8_lossy(&reaped.stderr));
        Ok(())
    }
}
