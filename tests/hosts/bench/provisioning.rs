//! T9: four hosts that have a desktop's packages become runners, and are looked at again when nothing is to change. Helix,
//! tar over OpenSSH, Ansible with mitogen, Ansible with pipelining, and pyinfra take the same ten steps (`provisioning/`)
//! to the same files; Helix besides proves signatures on the host, sets up the way back, and shows a test session's first
//! frame. Fresh hosts for each of them in each round. Processor time is that of the cgroups of the hosts and of the
//! controller; servers and NATS are outside.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::secs;
use helix_tests::programs;
use tokio::process::Command;
use tokio::time::timeout;

use super::{report, rounds};
use crate::figures::Figures;
use crate::fleet::{self, RunnerSettings};
use crate::harness::{Boot, Cgroup, lab, say};
use crate::provision::stage::Stage;

const PLAY: &str = include_str!("provisioning/play.yml");
const DEPLOY: &str = include_str!("provisioning/deploy.py");
const FLOOR: &str = include_str!("provisioning/floor.sh");
const HOSTS: usize = 4;
/// What a desktop needs, by the names of packages.
const PACKAGES: &str = "tigervnc-standalone-server openbox xterm dbus-daemon xauth x11-xkb-utils xkb-data xrdp git";

/// Who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Helix,
    Floor,
    Mitogen,
    Pipelining,
    Pyinfra,
}

impl Way {
    const ALL: [Self; 5] = [Self::Helix, Self::Floor, Self::Mitogen, Self::Pipelining, Self::Pyinfra];

    const fn name(self) -> &'static str {
        match self {
            Self::Helix => "Helix: `helixctl provision`, with signatures, way back and a session's first frame",
            Self::Floor => "`tar` over OpenSSH (does all again each time)",
            Self::Mitogen => "Ansible with mitogen",
            Self::Pipelining => "Ansible with pipelining",
            Self::Pyinfra => "pyinfra",
        }
    }
}

/// Samples of one way, per host where they are processor time.
#[derive(Default)]
struct Samples {
    cold: Vec<f64>,
    cold_wall: Vec<f64>,
    again: Vec<f64>,
    again_wall: Vec<f64>,
}

/// Where `packaging/setup.sh bench` puts the peers.
fn peers() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
    let dir = base.context("neither XDG_DATA_HOME nor HOME is set")?.join("helix/bench/peers/bin");
    ensure!(dir.join("pyinfra").is_file(), "{} is not there: run packaging/setup.sh bench", dir.display());
    Ok(dir)
}

/// One way on fresh hosts: what the peers need beside the operator's directory of [`Stage`].
struct Track {
    stage: Stage,
    controller: Cgroup,
}

impl Track {
    async fn start(way: Way) -> Result<Self> {
        let stage = Stage::start([Boot::container(); HOSTS]).await?;
        let controller = lab::cgroup()?.host(&format!("controller-{}", stage.hosts[0].name));
        controller.make()?;
        let track = Self { stage, controller };
        if way != Way::Helix {
            track.write_files().await?;
        }
        Ok(track)
    }

    async fn write_files(&self) -> Result<()> {
        let dir = &self.stage.dir;
        let mut line = Command::new("tar");
        line.arg("-C").arg(fleet::staged()?).args(["--owner=0", "--group=0", "--exclude=helix-server*"]);
        line.args(["--exclude=usr/bin/helixctl", "--exclude=server.toml*", "-cf"]).arg(dir.join("payload.tar"));
        std::fs::create_dir_all(dir.join("etc/helix"))?;
        ensure!(line.arg("usr").arg("-C").arg(dir).arg("etc").status().await?.success(), "tar");
        std::fs::write(dir.join("token"), self.stage.fleet.cluster.enrolment_token()?)?;
        let (mut ini, mut python) = (String::new(), "hosts = [\n".to_owned());
        for host in &self.stage.hosts {
            let settings = RunnerSettings { id: host.name.clone().leak(), ..RunnerSettings::default() };
            std::fs::write(dir.join(format!("{}.toml", host.name)), self.stage.fleet.settings_text(&settings)?)?;
            writeln!(ini, "{} ansible_user=root runner={}", host.address, host.name)?;
            writeln!(python, "    ({:?}, {{\"runner\": {:?}}}),", host.address.to_string(), host.name)?;
        }
        writeln!(
            ini,
            "[all:vars]\nansible_python_interpreter=/usr/bin/python3\npayload={d}/payload.tar\nsettings={d}\npackages={PACKAGES:?}",
            d = dir.display()
        )?;
        // pyinfra reads ssh's settings itself, those of a file of that name in ~/.ssh.
        writeln!(
            python,
            "]\ngroup = (hosts, {{\"ssh_user\": \"root\", \"ssh_config_file\": \"{d}/ssh_config\", \"ssh_key\": {key:?}, \
             \"ssh_known_hosts_file\": \"{d}/known_hosts\", \"payload\": \"{d}/payload.tar\", \"settings\": \"{d}\", \
             \"packages\": {PACKAGES:?}}})\ndel hosts",
            d = dir.display(),
            key = self.stage.hosts[0].key.display().to_string(),
        )?;
        let texts = [
            ("inventory.ini", ini.as_str()),
            ("inventory.py", &python),
            ("play.yml", PLAY),
            ("deploy.py", DEPLOY),
            ("floor.sh", FLOOR),
        ];
        for (name, text) in texts {
            std::fs::write(dir.join(name), text)?;
        }
        // tar carries permissions; agentd takes no token that others may read.
        for name in
            ["token".to_owned()].into_iter().chain(self.stage.hosts.iter().map(|host| format!("{}.toml", host.name)))
        {
            std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }

    /// The command of a way, outside of its cgroup.
    fn command(&self, way: Way) -> Result<Command> {
        let dir = &self.stage.dir;
        let peer = |program: &str| Ok::<_, anyhow::Error>(Command::new(peers()?.join(program)));
        let mut command = match way {
            Way::Helix => return self.stage.command("root", &["--slots", "8"]),
            Way::Floor => {
                let mut command = Command::new("bash");
                command.arg(dir.join("floor.sh")).arg(dir).arg(PACKAGES);
                for host in &self.stage.hosts {
                    command.arg(format!("root@{}", host.address)).arg(&host.name);
                }
                command
            }
            Way::Mitogen | Way::Pipelining => {
                let mut command = peer("ansible-playbook")?;
                command.arg("-i").arg(dir.join("inventory.ini")).arg(dir.join("play.yml"));
                let ssh =
                    format!("-F {} -o ControlMaster=auto -o ControlPersist=60s", dir.join("ssh_config").display());
                command.env("ANSIBLE_SSH_ARGS", ssh).env("ANSIBLE_FORKS", HOSTS.to_string());
                command.env("ANSIBLE_NOCOWS", "1").env("ANSIBLE_HOME", dir.join("ansible"));
                if way == Way::Mitogen {
                    command.env("ANSIBLE_STRATEGY", "mitogen_linear").env("ANSIBLE_STRATEGY_PLUGINS", strategy()?);
                } else {
                    command.env("ANSIBLE_PIPELINING", "True");
                }
                command
            }
            Way::Pyinfra => {
                let mut command = peer("pyinfra")?;
                command.args(["-y", "inventory.py", "deploy.py"]);
                command
            }
        };
        command.current_dir(dir).env("HOME", dir).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        Ok(command)
    }

    /// Runs it; wall time in ms and processor time in seconds per host.
    async fn run(&self, way: Way) -> Result<(f64, f64)> {
        let command = self.command(way)?;
        let mut inside = self.controller.command(command.as_std())?;
        inside.stdin(Stdio::null()).kill_on_drop(true);
        let before = self.used()?;
        let begun = Instant::now();
        let output = timeout(secs(600), inside.output()).await.context("it does not end")??;
        let wall = begun.elapsed().as_secs_f64() * 1e3;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {}\n{said}", way.name(), output.status);
        Ok((wall, (self.used()? - before) / 1e3 / HOSTS as f64))
    }

    /// Processor time of controller and hosts, in ms.
    fn used(&self) -> Result<f64> {
        let mut sum = self.controller.processor_ms()?;
        for host in &self.stage.hosts {
            sum += host.processor_ms()?;
        }
        Ok(sum)
    }

    async fn stop(self) -> Result<()> {
        self.stage.stop().await?;
        self.controller.remove()
    }
}

/// Mitogen's strategies for Ansible.
fn strategy() -> Result<PathBuf> {
    let lib = peers()?.join("../lib");
    let python = std::fs::read_dir(&lib)?.next().context("an empty environment of Python")??.path();
    Ok(python.join("site-packages/ansible_mitogen/plugins/strategy"))
}

/// Wants all four to be online.
async fn all_online(stage: &Stage) -> Result<()> {
    for host in &stage.hosts {
        stage.fleet.online(&host.name).await?;
    }
    Ok(())
}

pub async fn provisioning() -> Result<()> {
    let mut samples: Vec<_> = Way::ALL.iter().map(|way| (*way, Samples::default())).collect();
    let mut trips = Vec::new();
    for round in 0..rounds() {
        for (way, samples) in &mut samples {
            let track = Track::start(*way).await?;
            let (wall, used) = track.run(*way).await?;
            all_online(&track.stage).await?;
            let (again_wall, again) = track.run(*way).await?;
            if *way == Way::Helix {
                let run = track.stage.provision(&["--slots", "8"]).await?;
                run.expect(0, "unchanged")?;
                trips.extend((0..HOSTS).filter_map(|number| run.host(number)["round_trips"].as_f64()));
            }
            say(&format!(
                "provisioning {round}, {way:?}: cold {used:.2} CPU-s a host in {wall:.0} ms, again {again:.2} in {again_wall:.0}"
            ));
            samples.cold.push(used);
            samples.cold_wall.push(wall);
            samples.again.push(again);
            samples.again_wall.push(again_wall);
            track.stop().await?;
        }
    }
    let agentd = programs::ours("agentd")?;
    let mut lines = vec![
        "## Provisioning four container hosts (fresh ones for each way in each round)".to_owned(),
        versions(&agentd).await?,
        "\n| | cold: CPU-s per host | cold: all four | again: CPU-s per host | again: all four |\n|---|---|---|---|---|".to_owned(),
    ];
    for (way, samples) in samples {
        lines.push(format!(
            "| {} | {} | {} | {} | {} |",
            way.name(),
            Figures::of(samples.cold, "s"),
            Figures::of(samples.cold_wall, "ms"),
            Figures::of(samples.again, "s"),
            Figures::of(samples.again_wall, "ms"),
        ));
    }
    lines.push(format!("\nRound trips of Helix with nothing to change: {}.", Figures::of(trips, "")));
    report(&lines);
    Ok(())
}

async fn versions(agentd: &Path) -> Result<String> {
    let line = format!(
        "ssh -V 2>&1; {p}/ansible --version | head -1; {p}/pyinfra --version; {p}/pip list 2>/dev/null | grep -i '^mitogen '; \
         echo agentd of $(stat -c %s {}) bytes",
        agentd.display(),
        p = peers()?.display(),
    );
    let output = Command::new("bash").args(["-c", &line]).output().await?;
    Ok(format!("- {}", String::from_utf8_lossy(&output.stdout).trim().replace('\n', ", ")))
}
