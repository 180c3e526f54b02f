//! A host: an address, a key and a kind. What differs between kinds is in `container` and `guest`.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::tail;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::timeout;

use super::boot::Kind;
use super::cgroup::Cgroup;
use super::root::Root;
use super::ssh::{Login, Output};
use super::{container, guest, lab};

/// A running host. Dropping it kills all that runs in it, and removes all that was made for it.
#[derive(Debug)]
pub struct Host {
    /// Where it is reached, from the trials and from other hosts.
    pub address: Ipv4Addr,
    /// The private key of `root`, and of `ops`, who may use sudo.
    pub key: PathBuf,
    /// What it is made of.
    pub kind: Kind,
    /// Its host name.
    pub name: String,
    seat: Seat,
    login: Login,
    child: Option<Child>,
}

/// What is fixed for a host, from its first boot to its end.
#[derive(Debug)]
pub struct Seat {
    /// Host name.
    pub name: String,
    /// Address on the bridge.
    pub address: Ipv4Addr,
    /// What it boots from.
    pub root: Root,
    /// Its own files, outside.
    pub dir: PathBuf,
    /// Of a guest, in MiB.
    pub memory: u32,
    /// One more word for a guest's kernel; may be empty.
    pub kernel: &'static str,
    /// Holds all that runs in it.
    pub cgroup: Cgroup,
}

impl Host {
    /// Makes what it has outside: files and, for a guest, its link.
    pub fn furnish(kind: Kind, seat: Seat) -> Result<Self> {
        let login = Login { host: seat.name.clone(), address: seat.address.to_string(), key: seat.root.key() };
        let (address, key, name) = (seat.address, seat.root.key(), seat.name.clone());
        // Made first: dropping it undoes what succeeded when the rest fails.
        let host = Self { address, key, kind, name, seat, login, child: None };
        fs::create_dir_all(host.seat.inbox())?;
        match kind {
            Kind::Container => container::furnish(&host.seat)?,
            Kind::Guest => guest::furnish(&host.seat)?,
        }
        Ok(host)
    }

    /// Packages that it may be offered, as files here.
    pub fn debs(&self) -> PathBuf {
        self.seat.root.debs()
    }

    /// Processor time in milliseconds that it has used since it was started.
    pub fn processor_ms(&self) -> Result<f64> {
        self.seat.cgroup.processor_ms()
    }

    /// Runs a command line as root.
    pub async fn run(&self, line: &str) -> Result<Output> {
        self.run_as("root", line).await
    }

    /// Runs a command line as `root` or `ops`, in a login of its own right.
    pub async fn run_as(&self, user: &str, line: &str) -> Result<Output> {
        self.login.run(user, line, self.patience()).await
    }

    /// Runs a command line as root; its output, or an error when it fails.
    pub async fn run_ok(&self, line: &str) -> Result<String> {
        self.run(line).await?.ok().with_context(|| format!("on {}: {line}", self.name))
    }

    /// The same for what takes its time.
    pub async fn run_within(&self, line: &str, patience: Duration) -> Result<String> {
        let output = self.login.run("root", line, patience).await?;
        output.ok().with_context(|| format!("on {}: {line}", self.name))
    }

    /// Copies a file to the host, with these permissions. Directories are made.
    pub async fn put(&self, local: &Path, remote: &str, mode: u32) -> Result<()> {
        self.install(&[(local, remote, mode)]).await
    }

    /// Copies files to the host, in one go: (file here, path there, permissions).
    pub async fn install(&self, files: &[(&Path, &str, u32)]) -> Result<()> {
        let mut lines = vec!["set -e".to_owned()];
        for (number, (local, remote, mode)) in files.iter().enumerate() {
            let staged = self.seat.inbox().join(number.to_string());
            tokio::fs::copy(local, staged).await.with_context(|| format!("cannot read {}", local.display()))?;
            lines.push(format!("install -D -m {mode:o} /srv/inbox/{number} '{remote}'"));
        }
        self.run_ok(&lines.join("\n")).await?;
        for number in 0..files.len() {
            fs::remove_file(self.seat.inbox().join(number.to_string()))?;
        }
        Ok(())
    }

    /// Writes a file on the host, with these permissions. Directories are made.
    pub async fn write(&self, remote: &str, text: &str, mode: u32) -> Result<()> {
        let file = self.seat.dir.join("text");
        fs::write(&file, text)?;
        self.put(&file, remote, mode).await
    }

    /// Reads a text file of the host.
    pub async fn get(&self, remote: &str) -> Result<String> {
        self.run(&format!("cat '{remote}'")).await?.ok().with_context(|| format!("{remote} of {}", self.name))
    }

    /// How far its clock is ahead of ours, in seconds; off by half of what a command takes at most.
    pub async fn clock_ahead(&self) -> Result<f64> {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs_f64());
        let before = now()?;
        let its: f64 = self.run_ok("date +%s.%N").await?.parse()?;
        Ok(its - f64::midpoint(before, now()?))
    }

    /// Cuts it off from everybody.
    pub fn partition(&self) -> Result<()> {
        lab::ip(&format!("link set {} down", self.link()))
    }

    /// Undoes [`Host::partition`].
    pub fn heal(&self) -> Result<()> {
        lab::ip(&format!("link set {} up", self.link()))
    }

    /// Cuts two hosts off from each other, and from nobody else.
    pub fn cut(&self, other: &Self) -> Result<()> {
        lab::cut(&self.link(), &other.link())
    }

    /// Undoes [`Host::cut`].
    pub fn mend(&self, other: &Self) -> Result<()> {
        lab::mend(&self.link(), &other.link())
    }

    /// Cuts its power. Its disk stays for the next [`Host::boot`].
    #[expect(clippy::unused_async, reason = "a verb like boot and reboot: that it need not wait may change")]
    pub async fn kill(&mut self) -> Result<()> {
        self.cut_power()
    }

    /// Shuts it down in good order.
    pub async fn shut_down(&mut self) -> Result<()> {
        // The connection may end before the answer.
        let _ = self.login.run("root", "systemctl poweroff", secs(20)).await;
        let patience = self.patience();
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        if timeout(patience, child.wait()).await.is_err() {
            bail!("{} did not shut down\n{}", self.name, self.console());
        }
        self.cut_power()
    }

    /// Shuts it down and starts it again.
    pub async fn reboot(&mut self) -> Result<()> {
        self.shut_down().await?;
        self.boot().await
    }

    /// Starts it again after its end, with the same disk and address, and waits as [`Boot::start`] does.
    pub async fn boot(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs", self.name);
        let Err(fault) = self.try_boot().await else { return Ok(()) };
        // Known: one container in fifty ends at once, for reasons that nobody found.
        super::say(&format!("{} did not boot, and is started once more: {fault:#}", self.name));
        self.cut_power()?;
        self.try_boot().await
    }

    /// Ends it, and proves that nothing of it is left.
    #[expect(clippy::unused_async, reason = "as for kill")]
    pub async fn stop(mut self) -> Result<()> {
        self.cut_power()?;
        let left = self.seat.cgroup.present();
        ensure!(left.is_empty(), "cgroups of {} are left: {left:?}", self.name);
        Ok(())
    }

    /// The console's last lines.
    pub fn console(&self) -> String {
        tail(&self.seat.dir.join("console.log"))
    }

    /// How long a command or a shutdown may take here.
    pub const fn patience(&self) -> Duration {
        match self.kind {
            Kind::Container => secs(40),
            Kind::Guest => secs(240),
        }
    }

    async fn try_boot(&mut self) -> Result<()> {
        let mut child = match self.kind {
            Kind::Container => container::spawn(&self.seat)?,
            Kind::Guest => guest::spawn(&self.seat)?,
        };
        let outcome = tokio::select! {
            outcome = self.comes_up() => outcome,
            ended = child.wait() => Err(anyhow!("ended while it booted: {ended:?}")),
        };
        self.child = Some(child);
        outcome.with_context(|| self.console())
    }

    /// Waits for ssh, then for systemd.
    async fn comes_up(&self) -> Result<()> {
        let ssh = SocketAddr::from((self.address, 22));
        eventually(&format!("{} answers at port 22", self.name), self.patience(), async || {
            // Short: a try that began before the host had its address waits a second for its next packet.
            timeout(Duration::from_millis(200), TcpStream::connect(ssh)).await??;
            Ok(())
        })
        .await?;
        let state = self.run("systemctl is-system-running --wait").await?;
        if state.stdout.trim() != "running" {
            let failed =
                self.run("systemctl list-units --state=failed --no-legend --plain; systemctl list-jobs").await?;
            bail!("{} is {:?}: {}", self.name, state.stdout.trim(), failed.stdout);
        }
        Ok(())
    }

    /// Kills all that runs in it and waits for its end. The link may outlive a container for a moment, and would be in
    /// the way of the next boot.
    fn cut_power(&mut self) -> Result<()> {
        self.login.hang_up();
        if let Some(mut child) = self.child.take() {
            self.seat.cgroup.kill(|pid| self.kind == Kind::Guest || container::inside(pid))?;
            let deadline = Instant::now() + secs(10);
            // Dropping a host is not asynchronous. What does not end is killed below.
            while child.try_wait()?.is_none() && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        if self.kind == Kind::Container {
            let _ = lab::ip(&format!("link delete {}", self.link()));
        }
        self.seat.cgroup.remove()
    }

    fn link(&self) -> String {
        match self.kind {
            Kind::Container => container::link(&self.name),
            Kind::Guest => guest::link(&self.name),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(fault) = self.cut_power() {
            super::say(&format!("{}: {fault:#}", self.name));
        }
        match self.kind {
            Kind::Container => container::clear(&self.seat),
            Kind::Guest => drop(lab::ip(&format!("link delete {}", self.link()))),
        }
        let _ = fs::remove_dir_all(&self.seat.dir);
    }
}

impl Seat {
    /// What the host sees, read-only, as `/srv/inbox`.
    pub fn inbox(&self) -> PathBuf {
        self.dir.join("inbox")
    }
}

/// Starts a program in the host's cgroup, its output in the console's log.
pub fn spawn_in(seat: &Seat, command: &Command) -> Result<Child> {
    seat.cgroup.make()?;
    let console = File::options().create(true).append(true).open(seat.dir.join("console.log"))?;
    let mut inside = seat.cgroup.command(command)?;
    inside.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console).current_dir(&seat.dir);
    inside.spawn().with_context(|| format!("cannot start {}", seat.name))
}
