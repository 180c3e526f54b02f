//! Peers: the scripts in `peers/`, started and ended like the product.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// A running peer script. Everything it started ends on drop.
pub struct Peer {
    child: Child,
    /// Its working files; gone with it.
    dir: tempfile::TempDir,
}

/// A script beside this program's source.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers").join(name)
}

impl Peer {
    /// Starts `script-desktop.sh`: a desktop whose websockify listens on the loopback `port`.
    pub fn script_desktop(display: u32, port: u16) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hxp").tempdir()?;
        let work = dir.path().join("d");
        let args = [display.to_string(), port.to_string(), work.display().to_string()];
        Self::spawn("script-desktop.sh", &args, dir)
    }

    /// Starts `tigervnc-desktop.sh`: Xtigervnc, openbox and xterm alone.
    pub fn tigervnc_desktop(display: u32) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hxp").tempdir()?;
        let rc = script("rc.xml");
        let args = [display.to_string(), dir.path().join("d").display().to_string(), rc.display().to_string()];
        Self::spawn("tigervnc-desktop.sh", &args, dir)
    }

    fn spawn(name: &str, args: &[String], dir: tempfile::TempDir) -> Result<Self> {
        // A benchmark that is killed takes its peers along.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(script(name))
            .args(args)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, dir })
    }

    /// RFB socket of [`Peer::script_desktop`], once it is there.
    pub fn vnc_socket(&self) -> PathBuf {
        self.dir.path().join("d/vnc.sock")
    }

    /// Every process of it but the script's own shell.
    pub fn processes(&self) -> Vec<u32> {
        let shell = self.child.id();
        super::measure::tree(&[shell]).into_iter().filter(|pid| *pid != shell).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The script ends its children on SIGTERM; its process group is what is left if it does not.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(group, rustix::process::Signal::TERM);
            let _ = self.child.wait();
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
