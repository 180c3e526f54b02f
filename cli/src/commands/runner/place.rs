//! Where an agentd runs, and how to speak to it there: this machine's systemd, or another's over SSH, as root.
//!
//! A machine has one `agentd.service` and any number of `agentd@NAME.service`, each with settings, state and journal of its
//! own ([`Service`]). People name one by that NAME (`agentd` for the first) or by its runner's id. Everything below is asked
//! and done by commands that [`Place`] runs, so that a command of `helixctl runner` is the same wherever that is.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Mutex;

use crate::error::{CliError, Kind, Result};
use crate::inventory::Machine;
use crate::ssh::{Connection, Shell, Ssh, program, quote};
use crate::ui::Ui;

/// A command over SSH that is asked something.
const ASK_WITHIN: Duration = Duration::from_mins(2);

/// Longest NAME, as of ids.
const MAX_NAME: usize = 64;
/// Every agentd that has settings, one a line: the name of its settings, its runner's id and its state directory where we may
/// read them. What stands in `.env` wins, as it does for agentd.
const LIST: &str = r#"
for file in /etc/helix/agentd.toml /etc/helix/agentd-*.toml; do
  [ -e "$file" ] || continue
  stem=${file##*/}; stem=${stem%.toml}
  id=$(sed -n 's/^RUNNER_ID="\{0,1\}\([A-Za-z0-9_-]*\)"\{0,1\}$/\1/p' "/etc/helix/$stem.env" 2>/dev/null | tail -n 1)
  [ -n "$id" ] || id=$(sed -n 's/^runner_id *= *"\([A-Za-z0-9_-]*\)".*$/\1/p' "$file" 2>/dev/null | tail -n 1)
  echo "$stem $id $(sed -n 's/^state_dir *= *"\(.*\)".*$/\1/p' "$file" 2>/dev/null | tail -n 1)"
done
"#;

/// A machine on which commands are run.
#[derive(Debug, Clone)]
pub enum Place {
    /// This one.
    Here,
    /// One over SSH.
    Over(Arc<Remote>),
}

/// A connection to a machine, and a root shell on it.
pub struct Remote {
    connection: Connection,
    ssh: Ssh,
    shell: Mutex<Shell>,
    ui: Ui,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Remote").field(&self.connection.place).finish()
    }
}

/// What a command said, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its exit code; 128 and more where a signal ended it.
    pub code: u8,
    /// Its output.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
}

impl Place {
    /// Connects to a machine and becomes root there.
    pub async fn over(machine: &Machine, ssh: Ssh, ui: &Ui) -> Result<Self> {
        let way = ssh.way(machine).await?;
        let connection = ssh.connect(&way).await?;
        let shell = Mutex::new(ssh.shell(&connection).await?);
        Ok(Self::Over(Arc::new(Remote { connection, ssh, shell, ui: ui.clone() })))
    }

    /// Runs a command to its end, without input, and answers what it said.
    pub async fn ask(&self, command: &[&str]) -> Result<Said> {
        match self {
            Self::Here => {
                let output = here(command)?.stdin(Stdio::null()).output().await;
                let output = output.map_err(|error| not_run(command, &error))?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
                Ok(Said { code: code(output.status), stdout, stderr })
            }
            Self::Over(remote) => {
                let words: Vec<_> = command.iter().map(|word| quote(word)).collect();
                let answer = remote.shell.lock().await.run(&[], &words.join(" "), ASK_WITHIN).await?;
                Ok(Said { code: u8::try_from(answer.code).unwrap_or(1), stdout: answer.stdout, stderr: answer.stderr })
            }
        }
    }

    /// Runs a command with our own input, output and errors, and answers its exit code.
    pub async fn hand_over(&self, command: &[&str]) -> Result<u8> {
        match self {
            Self::Here => {
                let status = here(command)?.status().await.map_err(|error| not_run(command, &error))?;
                Ok(code(status))
            }
            Self::Over(remote) => program::run(&remote.connection, &remote.ssh, command, &remote.ui).await,
        }
    }

    /// The agentd of this name, or with a runner of this id.
    pub async fn find(&self, name: &str) -> Result<Service> {
        let mut services = self.services().await?;
        let wanted = ServiceName::parse(name)?;
        let by_name = services.iter().position(|service| service.name == wanted);
        let found = by_name.or_else(|| services.iter().position(|service| service.runner.as_deref() == Some(name)));
        found.map(|place| services.swap_remove(place)).ok_or_else(|| {
            let names: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
            let there = if names.is_empty() { "none is set up here".to_owned() } else { names.join(", ") };
            CliError::failed(format!("there is no agentd {name}"))
                .at(self)
                .because(format!("every agentd has a settings file in /etc/helix; there are: {there}"))
                .next("to attach this machine: helixctl runner join --help")
        })
    }

    /// Every agentd with settings.
    pub async fn services(&self) -> Result<Vec<Service>> {
        let said = self.ask(&["sh", "-c", LIST]).await?;
        let service = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (stem, runner, state_dir) = (words.next()?, words.next()?, words.next()?);
            let name = ServiceName::parse(stem.strip_prefix("agentd-").unwrap_or(stem)).ok()?;
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let state_dir = given(state_dir).unwrap_or_else(|| name.state_dir());
            Some(Service { place: self.clone(), name, runner: given(runner), state_dir })
        };
        Ok(said.stdout.lines().filter_map(service).collect())
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here => f.write_str("this machine"),
            Self::Over(remote) => f.write_str(&remote.connection.place),
        }
    }
}

fn here(command: &[&str]) -> Result<Command> {
    let (program, args) = command.split_first().ok_or_else(|| CliError::new(Kind::Usage, "no command is given"))?;
    let mut made = Command::new(program);
    made.args(args).kill_on_drop(true);
    Ok(made)
}

fn not_run(command: &[&str], error: &std::io::Error) -> CliError {
    let program = command.first().copied().unwrap_or_default();
    CliError::failed(format!("cannot run {program}")).at("this machine").because(error)
}

/// As a shell says it: 128 and the signal's number where one ended it.
fn code(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Which agentd of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceName(Option<String>);

impl ServiceName {
    /// From what people write: NAME, `agentd` for the first, `agentd@NAME` and the unit's whole name.
    pub fn parse(text: &str) -> Result<Self> {
        let name = text.strip_suffix(".service").unwrap_or(text);
        if name == "agentd" {
            return Ok(Self(None));
        }
        let name = name.strip_prefix("agentd@").unwrap_or(name);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins && name.len() <= MAX_NAME && name.bytes().all(plain) {
            return Ok(Self(Some(name.to_owned())));
        }
        Err(CliError::new(Kind::Usage, format!("{text:?} cannot be the name of an agentd"))
            .because(format!("it has 1 to {MAX_NAME} letters, digits, _ . and -, the first a letter or digit"))
            .next("helixctl runner join --container-name NAME"))
    }

    /// The name as people write it.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("agentd")
    }

    /// What its files are named after: `agentd`, `agentd-NAME`.
    pub fn stem(&self) -> String {
        self.0.as_ref().map_or_else(|| "agentd".to_owned(), |name| format!("agentd-{name}"))
    }

    /// Its unit.
    pub fn unit(&self) -> String {
        self.0.as_ref().map_or_else(|| "agentd.service".to_owned(), |name| format!("agentd@{name}.service"))
    }

    /// Its settings.
    pub fn settings(&self) -> String {
        format!("/etc/helix/{}.toml", self.stem())
    }

    /// The environment that wins over them.
    pub fn environment(&self) -> String {
        format!("/etc/helix/{}.env", self.stem())
    }

    /// Whose images its sessions run in, where a join was told.
    pub fn image_signers(&self) -> String {
        format!("/etc/helix/{}.image_signers", self.stem())
    }

    /// Where it keeps everything, unless its settings say otherwise.
    pub fn state_dir(&self) -> String {
        format!("/var/lib/helix/{}", self.stem())
    }
}

/// One agentd, and the machine that it runs on.
#[derive(Debug, Clone)]
pub struct Service {
    /// Where.
    pub place: Place,
    /// Which.
    pub name: ServiceName,
    /// Id of its runner, where its settings say one that we may read.
    pub runner: Option<String>,
    /// Where it keeps everything.
    pub state_dir: String,
}

impl Service {
    /// The one of this name on this very machine, set up or not.
    pub fn here(name: &ServiceName) -> Self {
        Self { place: Place::Here, name: name.clone(), runner: None, state_dir: name.state_dir() }
    }

    /// Slices of its live sessions: agentd writes into their description whose they are.
    pub async fn sessions(&self) -> Result<Vec<String>> {
        let list = ["systemctl", "list-units", "--type=slice", "--state=active", "--plain", "--no-legend", "--full"];
        let said = self.place.ask(&[&list[..], &["helix-s*.slice"]].concat()).await?;
        let tail = format!(", state {}", self.state_dir);
        let its = said.stdout.lines().filter(|line| line.trim_end().ends_with(&tail));
        Ok(its.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_as_people_write_it() {
        for name in ["box-1", "agentd@box-1", "agentd@box-1.service"] {
            let service = ServiceName::parse(name).expect("valid");
            assert_eq!(service.unit(), "agentd@box-1.service");
            assert_eq!(service.settings(), "/etc/helix/agentd-box-1.toml");
        }
        for name in ["agentd", "agentd.service"] {
            let service = ServiceName::parse(name).expect("valid");
            assert_eq!((service.unit().as_str(), service.stem().as_str()), ("agentd.service", "agentd"));
        }
        for bad in ["", "a/b", "-x", "../x", "a b", "x\n", "é", &"x".repeat(65)] {
            assert!(ServiceName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_command_here_says_what_it_said() {
        let said = Place::Here.ask(&["sh", "-c", "echo out; echo err >&2; exit 7"]).await.expect("run");
        assert_eq!(said, Said { code: 7, stdout: "out\n".to_owned(), stderr: "err\n".to_owned() });
        let error = Place::Here.ask(&["/no/such/program"]).await.expect_err("there is none");
        assert_eq!(error.kind, Kind::Failed);
    }
}
