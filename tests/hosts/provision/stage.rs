//! A server in the lab, bare hosts, and an operator with a directory of their own: ssh's settings, known hosts, keys.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::RunnerView;
use helix_tests::eventually::secs;
use helix_tests::programs;
use helix_tests::server::Times;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::repository::Repository;
use crate::fleet::Fleet;
use crate::harness::{Boot, Host, lab, start_all};

/// The operator's side.
pub struct Stage {
    pub fleet: Fleet,
    pub hosts: Vec<Host>,
    /// The operator's files.
    pub dir: PathBuf,
    /// Packages come by apt, too: from these, as far as hosts know them.
    pub packages: Option<Vec<Repository>>,
}

/// What a run said.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    json: Value,
}

impl Run {
    /// What it says of a host.
    pub fn host(&self, number: usize) -> &Value {
        &self.json["hosts"][number]
    }

    /// The exit code, and the outcome of the first host.
    pub fn expect(&self, code: i32, outcome: &str) -> Result<()> {
        let found = &self.host(0)["outcome"];
        ensure!(
            self.code == code && found == outcome,
            "exit code {}, {found}\n{}\n{}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(())
    }
}

impl Stage {
    /// Starts all of it; the hosts' keys are known, and there is a signing key.
    pub async fn start<const N: usize>(boots: [Boot; N]) -> Result<Self> {
        Self::start_with(Times::default(), boots).await
    }

    /// The same with other times.
    pub async fn start_with<const N: usize>(times: Times, boots: [Boot; N]) -> Result<Self> {
        let (fleet, hosts) = tokio::try_join!(Fleet::start_with(times), start_all(boots))?;
        let dir = lab::dir().join(format!("operator-{}", hosts[0].name));
        std::fs::create_dir_all(&dir)?;
        let stage = Self { fleet, hosts: hosts.into(), dir, packages: None };
        let mut settings = format!(
            "UserKnownHostsFile {}\nGlobalKnownHostsFile /dev/null\nIdentitiesOnly yes\n",
            stage.known_hosts().display(),
        );
        for host in &stage.hosts {
            // Each release of Debian has a key of its own.
            let _ = writeln!(settings, "Host {}\n  IdentityFile {}", host.address, host.key.display());
        }
        std::fs::write(stage.dir.join("ssh_config"), settings)?;
        let mut known = String::new();
        for host in &stage.hosts {
            let key = host.get("/etc/ssh/ssh_host_ed25519_key.pub").await?;
            let _ = writeln!(known, "{} {key}", host.address);
        }
        std::fs::write(stage.known_hosts(), known)?;
        let made = stage.helixctl(&["key", "new"])?.output().await?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(stage)
    }

    /// Packages come by apt: all hosts know where from.
    pub async fn with_packages(self) -> Result<Self> {
        let packages = Some(Repository::offer(&self.hosts).await?);
        Ok(Self { packages, ..self })
    }

    /// The operator's known_hosts.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    /// helixctl as the operator has it.
    pub fn helixctl(&self, args: &[&str]) -> Result<Command> {
        // A case may have put one of its own beside another agentd.
        let own = self.dir.join("bin/helixctl");
        let mut command = Command::new(if own.is_file() { own } else { programs::ours("helixctl")? });
        command.args(args).env("HOME", &self.dir).env("HELIX_TOKEN", self.fleet.api()?.token());
        for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "HELIX_URL", "HELIX_STATE_DIR", "SSH_AUTH_SOCK"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// `provision` of all hosts as root.
    pub async fn provision(&self, args: &[&str]) -> Result<Run> {
        self.provision_as("root", args).await
    }

    /// The same as another user.
    pub async fn provision_as(&self, user: &str, args: &[&str]) -> Result<Run> {
        self.provision_within(secs(300), user, args).await
    }

    /// The same with more time.
    pub async fn provision_within(&self, patience: Duration, user: &str, args: &[&str]) -> Result<Run> {
        let output = timeout(patience, self.command(user, args)?.output()).await.context("helixctl does not end")??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let json = serde_json::from_str(&stdout).with_context(|| format!("not JSON: {stdout}\n{stderr}"))?;
        Ok(Run { code: output.status.code().context("a signal ended it")?, stdout, stderr, json })
    }

    /// That command, to be started.
    pub fn command(&self, user: &str, args: &[&str]) -> Result<Command> {
        let cluster = &self.fleet.cluster;
        let server = format!("http://{}:{}", lab::SERVER, cluster.servers.first().context("no server")?.port());
        let nats = format!("nats://{}:{}", lab::SERVER, cluster.nats.port());
        let mut command = self.helixctl(&["--json", "--url", &server, "provision"])?;
        if self.packages.is_none() {
            command.arg("--no-packages");
        }
        // As long as a loaded machine may need; who says otherwise comes after.
        for (flag, value) in [("--confirm-within", "40"), ("--nats", nats.as_str())] {
            if !args.contains(&flag) {
                command.args([flag, value]);
            }
        }
        command.arg("--ssh-config").arg(self.dir.join("ssh_config")).args(args);
        command.args(self.hosts.iter().map(|host| format!("{user}@{}", host.address)));
        Ok(command)
    }

    /// Another command of helixctl with JSON, the stage's server and its settings of ssh.
    pub async fn json(&self, args: &[&str]) -> Result<(i32, Value)> {
        let output = timeout(secs(300), self.over_ssh(args)?.output()).await.context("helixctl does not end")??;
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let json = serde_json::from_str(&said).with_context(|| format!("not JSON: {said}\n{errors}"))?;
        Ok((output.status.code().context("a signal ended it")?, json))
    }

    /// That command, to be started. What an argument says is stronger.
    pub fn over_ssh(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.helixctl(args)?;
        if !args.contains(&"exec") {
            command.arg("--json");
        }
        if !args.contains(&"--url") {
            command.env("HELIX_URL", self.url()?);
        }
        Ok(command)
    }

    /// The server, as hosts reach it, too.
    pub fn url(&self) -> Result<String> {
        Ok(format!("http://{}:{}", lab::SERVER, self.fleet.cluster.servers.first().context("no server")?.port()))
    }

    /// ssh's settings of the operator.
    pub fn ssh_config(&self) -> String {
        self.dir.join("ssh_config").display().to_string()
    }

    /// The runner of a host.
    pub async fn runner(&self, number: usize) -> Result<RunnerView> {
        let name = &self.hosts[number].name;
        let runners = self.fleet.api()?.runners().await?;
        runners
            .into_iter()
            .find(|runner| runner.id.as_str() == name)
            .with_context(|| format!("there is no runner {name}"))
    }

    /// Ends all of it.
    pub async fn stop(self) -> Result<()> {
        for host in self.hosts {
            host.stop().await?;
        }
        self.fleet.stop().await
    }
}

/// All that Helix could have put on a host, with its content; not what provisioning keeps for itself.
pub async fn traces(host: &Host) -> Result<String> {
    let look = "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /srv -o -path /var/lib/helix \\) -prune -o \
                \\( -name '*helix*' -o -name 'agentd*' \\) -print | sort | while read -r path; do \
                stat -c '%n %a' \"$path\"; if [ -f \"$path\" ]; then stat -c '%n %Y' \"$path\"; sha256sum \"$path\"; fi; done; \
                find /etc/helix -type f -exec sha256sum {} + 2>/dev/null | sort; \
                systemctl is-enabled agentd 2>&1; systemctl is-active agentd 2>&1; true";
    host.run_ok(look).await
}

/// Fails with the lines that differ.
pub fn same(before: &str, after: &str) -> Result<()> {
    let lines = |text: &str, other: &str| -> Vec<String> {
        text.lines().filter(|line| !other.lines().any(|other| other == *line)).map(str::to_owned).collect()
    };
    let (gone, new) = (lines(before, after), lines(after, before));
    ensure!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
    Ok(())
}
