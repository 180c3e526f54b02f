//! A fleet on one machine as an operator starts it: `helixctl up --detach`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::eventually::secs;
use crate::http::Api;
use crate::process::{exit_code, run, signal_pid};
use crate::{leftovers, ports, programs};

const PATIENCE: Duration = secs(90);

/// What `helixctl up --json` tells.
#[derive(Debug, Clone, Deserialize)]
pub struct Told {
    /// The server.
    pub url: String,
    /// File with the admin token.
    pub token_file: PathBuf,
    /// NATS, with credentials that may read everything.
    pub nats_url: String,
    /// Process ids by name.
    pub pids: std::collections::BTreeMap<String, u32>,
}

/// A machine with a state directory for `helixctl up`.
pub struct Machine {
    dir: Option<TempDir>,
    listen: String,
}

impl Machine {
    /// A state directory that does not exist yet, and a free port.
    pub fn new() -> Result<Self> {
        crate::init();
        let dir = tempfile::Builder::new().prefix("hu").rand_bytes(6).tempdir_in("/tmp")?;
        Ok(Self { dir: Some(dir), listen: format!("127.0.0.1:{}", ports::free()?) })
    }

    fn dir(&self) -> &Path {
        self.dir.as_ref().map_or_else(|| Path::new("/nonexistent"), TempDir::path)
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// Runs helixctl with the machine's HOME.
    pub async fn helixctl(&self, args: &[&str]) -> Result<Output> {
        let home = self.dir().to_str().context("path is not UTF-8")?.to_owned();
        run(
            &programs::ours("helixctl")?,
            args,
            &[("HOME".to_owned(), home), ("NATS_SERVER".to_owned(), nats()?)],
            PATIENCE,
        )
        .await
    }

    /// `helixctl up --detach --json`.
    pub async fn up(&self) -> Result<Told> {
        let output = self.try_up().await?;
        ensure!(output.status.success(), "helixctl up: {}\n{}", exit_code(output.status), words(&output));
        let text = String::from_utf8(output.stdout)?;
        ensure!(text.trim_end().lines().count() == 1, "not one compact object: {text}");
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// The same where the kernel gives no more namespaces, as in many containers.
    pub async fn up_without_namespaces(&self) -> Result<Told> {
        const NONE: &str =
            "echo 0 >/proc/sys/user/max_user_namespaces && echo 0 >/proc/sys/user/max_mnt_namespaces && exec \"$@\"";
        let text = |path: PathBuf| path.into_os_string().into_string().ok().context("path is not UTF-8");
        let (state, home) = (text(self.state_dir())?, text(self.dir().to_owned())?);
        let helixctl = text(programs::ours("helixctl")?)?;
        let within = ["--user", "--map-root-user", "sh", "-c", NONE, "sh", &helixctl];
        let args = ["up", "--detach", "--json", "--state-dir", &state, "--listen", &self.listen, "--slots", "2"];
        let env = [("HOME".to_owned(), home), ("NATS_SERVER".to_owned(), nats()?)];
        let output = run(&programs::installed("unshare")?, &[&within[..], &args].concat(), &env, PATIENCE).await?;
        ensure!(output.status.success(), "helixctl up: {}\n{}", exit_code(output.status), words(&output));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The same, whatever comes of it.
    pub async fn try_up(&self) -> Result<Output> {
        let state = self.state_dir();
        let state = state.to_str().context("path is not UTF-8")?;
        let args = ["up", "--detach", "--json", "--state-dir", state, "--listen", &self.listen, "--slots", "2"];
        self.helixctl(&args).await
    }

    /// `helixctl up --json`, which stays in the foreground as it does on a terminal.
    pub async fn up_attached(&self) -> Result<Attached> {
        let mut command = Command::new(programs::ours("helixctl")?);
        command.args(["up", "--json", "--listen", &self.listen, "--slots", "2", "--state-dir"]).arg(self.state_dir());
        command.env("HOME", self.dir()).env("NATS_SERVER", nats()?);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start helixctl")?;
        let mut said = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let line = timeout(PATIENCE, said.next_line()).await.context("helixctl up says nothing")??;
        let line = line.context("helixctl up ended without a word")?;
        let told = serde_json::from_str(&line).with_context(|| line.clone())?;
        Ok(Attached { told, child, said })
    }

    /// `helixctl down`.
    pub async fn down(&self) -> Result<Output> {
        let state = self.state_dir();
        self.helixctl(&["down", "--state-dir", state.to_str().context("path is not UTF-8")?]).await
    }

    /// The admin's client.
    pub fn api(&self, told: &Told) -> Result<Api> {
        let token = std::fs::read_to_string(&told.token_file).context("token file")?;
        Api::new(&told.url, token.trim())
    }

    /// Fails if a process or a socket of it is left.
    pub fn nothing_runs(&self) -> Result<()> {
        leftovers::none(self.dir())
    }

    /// Throws the state directory away.
    pub fn close(mut self) -> Result<()> {
        if let Some(dir) = self.dir.take() {
            dir.close()?;
        }
        Ok(())
    }
}

/// A `helixctl up` in the foreground.
pub struct Attached {
    /// What it told.
    pub told: Told,
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Attached {
    /// Ctrl-C; its exit code, and what it said on standard output after its first line.
    pub async fn interrupt(mut self) -> Result<(i32, Vec<String>)> {
        signal_pid(self.child.id().context("helixctl up has ended")?, rustix::process::Signal::INT)?;
        let status = timeout(PATIENCE, self.child.wait()).await.context("helixctl up does not end on Ctrl-C")??;
        let mut more = Vec::new();
        while let Some(line) = self.said.next_line().await? {
            more.push(line);
        }
        Ok((exit_code(status), more))
    }
}

impl Drop for Machine {
    /// A failed test: end it, keep the directory with its logs.
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        if let Ok(helixctl) = programs::ours("helixctl") {
            let state = dir.path().join("state");
            let _ = std::process::Command::new(helixctl).arg("down").arg("--state-dir").arg(state).output();
        }
        let _ = dir.keep();
    }
}

/// Both outputs, for messages.
pub fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn nats() -> Result<String> {
    programs::nats_server()?.into_os_string().into_string().ok().context("path is not UTF-8")
}
