//! A Helix of its own for one test: `helixctl up` in a directory of its own on a free port, with images that were built here.
//!
//! It ends with the test, and also where the test is killed: the kernel tells it. What it does not end itself (it proves that
//! nothing is left) is told.

use std::path::PathBuf;
use std::process::Stdio;

use helix_protocol::image::{ImageRef, own_arch};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::commands::image::push::push;
use crate::error::{CliError, Result};
use crate::images::store::Store;
use crate::settings::{Connection, Secret, base_url};
use crate::ui::Ui;
use crate::up::record::UpInfo;

/// It runs.
pub struct Scratch {
    /// To its server.
    pub client: Client,
    child: Child,
    dir: TempDir,
}

impl Scratch {
    /// Starts it.
    pub async fn start(ui: &Ui) -> Result<Self> {
        let failed = |why: String| {
            CliError::failed("cannot start a Helix for the test").because(why).next("helixctl up shows more")
        };
        // Sockets of sessions lie deep below, and their paths are short.
        let dir = tempfile::Builder::new().prefix("helix-test-").tempdir_in("/tmp");
        let dir = dir.map_err(|error| failed(error.to_string()))?;
        let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let progress = ui.progress();
        progress.now("starting nats-server, helix-server and agentd for the test");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program);
        command.args(["--quiet", "--json", "up", "--listen", "127.0.0.1:0", "--state-dir"]).arg(dir.path().join("s"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = child.map_err(|error| failed(format!("setpriv: {error}")))?;
        let stdout = child.stdout.take().ok_or_else(|| failed("it has no output".to_owned()))?;
        let said = BufReader::new(stdout).lines().next_line().await.ok().flatten();
        let info: UpInfo = said
            .and_then(|line| serde_json::from_str(&line).ok())
            .ok_or_else(|| failed("it ended before it was ready, as told above".to_owned()))?;
        let token = Some(Secret::read(&info.token_file)?);
        let client = Client::new(Connection { url: base_url(&info.url, "up.json")?, token })?;
        Ok(Self { client, child, dir })
    }

    /// Brings images of this machine: these, or every tag of this machine's architecture.
    pub async fn bring(&self, store: &Store, images: &[ImageRef], ui: &Ui) -> Result<()> {
        let mut wanted = images.to_vec();
        if wanted.is_empty() {
            for (name, tag, found) in store.tags()? {
                if store.manifest(&found.digest)?.arch == own_arch() {
                    wanted.push(ImageRef::Tag { name, tag });
                }
            }
        }
        for image in &wanted {
            ui.progress().now(&format!("pushing {image}"));
            push(&self.client, store, image, None, ui).await?;
        }
        Ok(())
    }

    /// Ends it, with all that it started.
    pub async fn end(mut self) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let left = |why: String, dir: PathBuf| {
            CliError::failed("the test's own Helix did not end well")
                .at(dir.display())
                .because(why)
                .next(format!("helixctl down --state-dir {}", dir.join("s").display()))
        };
        match self.child.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(left(status.to_string(), self.dir.keep())),
            Err(error) => Err(left(error.to_string(), self.dir.keep())),
        }
    }
}
