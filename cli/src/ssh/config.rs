//! How to reach a host, as ssh's own settings say: `ssh -G`, which knows every `Include` and `Match`; without an ssh
//! program, ssh's defaults. `ProxyJump` becomes hops before the host, each with settings of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::error::{CliError, Kind, Result};
use crate::inventory::Machine;

/// Source of environment variables; a plain function, as it is asked in tasks.
type Env = fn(&str) -> Option<String>;

/// Keys that ssh tries by default, of the kinds that we know.
const DEFAULT_KEYS: [&str; 2] = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa"];

/// More jump hosts than anybody has: settings that lead in a circle.
const MOST_HOPS: usize = 8;

/// The way to a host: the hosts in the order in which they are connected to, itself the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// At least one.
    pub hops: Vec<Route>,
}

/// One hop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// Name or address to connect to.
    pub host: String,
    /// Port of its sshd.
    pub port: u16,
    /// Login.
    pub user: String,
    /// Name in known_hosts, where that is another one.
    pub alias: Option<String>,
    /// Private keys to try.
    pub identities: Vec<PathBuf>,
    /// Only these keys, whatever an agent has.
    pub identities_only: bool,
    /// Socket of an agent.
    pub agent: Option<PathBuf>,
    /// Files of known hosts; the first is written to.
    pub known_hosts: Vec<PathBuf>,
    /// Hosts to go through, as `ProxyJump` has them.
    pub jump: Option<String>,
    /// A program to go through: a command line for a shell.
    pub proxy_command: Option<String>,
}

impl Route {
    /// `user@host:port`.
    pub fn place(&self) -> String {
        format!("{}@{}:{}", self.user, self.host, self.port)
    }
}

/// Asks ssh about a machine and every host before it.
pub async fn way(machine: &Machine, config: Option<&Path>, env: Env) -> Result<Way> {
    let (mut hops, mut next) = (Vec::new(), Some(machine.clone()));
    while let Some(machine) = next.take() {
        let last = route(&machine, config, env).await?;
        let jumps: Vec<_> = last.jump.iter().flat_map(|jumps| jumps.split(',')).map(str::trim).collect();
        let jumps = jumps.into_iter().map(|jump| jump.strip_prefix("ssh://").unwrap_or(jump));
        let jumps = jumps.map(Machine::parse).collect::<Result<Vec<_>, _>>();
        let jumps = jumps.map_err(|why| CliError::new(Kind::Usage, "cannot read ProxyJump").because(why))?;
        hops.insert(0, last);
        if hops.len() + jumps.len() > MOST_HOPS {
            return Err(CliError::new(Kind::Usage, "ssh's settings lead over too many jump hosts")
                .at(&machine.host)
                .because(format!("more than {MOST_HOPS}: does a host jump over itself?"))
                .next(format!("correct ProxyJump: ssh -G {}", machine.host)));
        }
        // Of several, the first is reached as its own settings say; the others from the one before.
        let mut jumps = jumps.into_iter();
        next = jumps.next();
        for jump in jumps.rev() {
            hops.insert(0, Route { proxy_command: None, ..route(&jump, config, env).await? });
        }
    }
    Ok(Way { hops })
}

/// Asks ssh.
async fn route(machine: &Machine, config: Option<&Path>, env: Env) -> Result<Route> {
    let mut command = Command::new("ssh");
    if let Some(file) = config {
        command.arg("-F").arg(file);
    }
    if let Some(user) = &machine.user {
        command.args(["-l", user]);
    }
    if let Some(port) = machine.port {
        command.args(["-p", &port.to_string()]);
    }
    command.args(["-G", "--", &machine.host]).stdin(Stdio::null());
    let home = env("HOME").map(PathBuf::from);
    let mut route = match command.output().await {
        Ok(output) if output.status.success() => parse(&String::from_utf8_lossy(&output.stdout)),
        Ok(output) => {
            return Err(CliError::new(Kind::Usage, "cannot read ssh's settings")
                .at(format!("ssh -G {}", machine.host))
                .because(String::from_utf8_lossy(&output.stderr).trim())
                .next("correct the settings that it names"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && config.is_none() => defaults(machine, env),
        Err(error) => {
            return Err(CliError::new(Kind::Usage, "cannot read ssh's settings")
                .because(format!("ssh cannot be started: {error}"))
                .next("install openssh-client, or leave --ssh-config out"));
        }
    };
    if let Some(identity) = &machine.identity {
        route.identities.insert(0, identity.clone());
    }
    let at_home = |path: &mut PathBuf| {
        if let (Ok(rest), Some(home)) = (path.strip_prefix("~"), &home) {
            *path = home.join(rest);
        }
    };
    route.identities.iter_mut().chain(&mut route.known_hosts).for_each(at_home);
    let agent = route.agent.take().map(|agent| agent.to_string_lossy().into_owned());
    route.agent = match agent.as_deref() {
        Some("none") => None,
        Some("SSH_AUTH_SOCK") | None => env("SSH_AUTH_SOCK").map(PathBuf::from),
        Some(path) => Some(path.into()),
    };
    if let Some(agent) = &mut route.agent {
        at_home(agent);
    }
    route.proxy_command = route.proxy_command.take().map(|command| expand(&command, machine, &route)).transpose()?;
    Ok(route)
}

/// Puts host, port and user into a `ProxyCommand`; a shell reads it, so nothing of them may mean something to that.
fn expand(command: &str, machine: &Machine, route: &Route) -> Result<String> {
    let port = route.port.to_string();
    let mut text = String::new();
    let mut rest = command.chars();
    while let Some(c) = rest.next() {
        let value = match (c == '%').then(|| rest.next()).flatten() {
            None => {
                text.push(c);
                continue;
            }
            Some('h') => route.host.as_str(),
            Some('n') => machine.host.as_str(),
            Some('p') => port.as_str(),
            Some('r') => route.user.as_str(),
            Some('%') => "%",
            Some(other) => {
                return Err(CliError::new(Kind::Usage, "cannot read ProxyCommand")
                    .at(command)
                    .because(format!("%{other} is not known"))
                    .next("use %h, %n, %p, %r and %%"));
            }
        };
        if value.contains(|c: char| "'`\"$\\;&<>|(){}*?!".contains(c) || c.is_whitespace()) {
            return Err(CliError::new(Kind::Usage, "cannot give a host's name to ProxyCommand")
                .at(value)
                .because("a shell would read it as more than a name"));
        }
        text.push_str(value);
    }
    Ok(text)
}

fn defaults(machine: &Machine, env: Env) -> Route {
    Route {
        host: machine.host.clone(),
        port: machine.port.unwrap_or(22),
        user: machine
            .user
            .clone()
            .or_else(|| env("USER"))
            .or_else(|| env("LOGNAME"))
            .unwrap_or_else(|| "root".to_owned()),
        identities: DEFAULT_KEYS.map(PathBuf::from).into(),
        known_hosts: ["~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts"].map(PathBuf::from).into(),
        ..Route::default()
    }
}

fn parse(text: &str) -> Route {
    let mut route = Route { port: 22, ..Route::default() };
    let mut system = Vec::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        let paths = || value.split_whitespace().map(PathBuf::from);
        match key {
            "hostname" => value.clone_into(&mut route.host),
            "port" => route.port = value.parse().unwrap_or(22),
            "user" => value.clone_into(&mut route.user),
            "hostkeyalias" => route.alias = Some(value.to_owned()),
            "identityfile" => route.identities.push(value.into()),
            "identitiesonly" => route.identities_only = value == "yes",
            "identityagent" => route.agent = Some(value.into()),
            "userknownhostsfile" => route.known_hosts = paths().collect(),
            "globalknownhostsfile" => system = paths().collect(),
            "proxyjump" if value != "none" => route.jump = Some(value.to_owned()),
            "proxycommand" if value != "none" => route.proxy_command = Some(value.to_owned()),
            _ => {}
        }
    }
    route.known_hosts.extend(system);
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_says_is_the_route() {
        let route = parse(
            "user ops\nhostname 10.0.0.5\nport 2222\nidentityfile ~/.ssh/id_ed25519\nidentityfile /k\nidentitiesonly yes\n\
             userknownhostsfile /h/known_hosts /h/known_hosts2\nglobalknownhostsfile /etc/ssh/ssh_known_hosts\n\
             proxyjump gate:22\nproxycommand none\nunheard of\n",
        );
        assert_eq!((route.host.as_str(), route.port, route.user.as_str()), ("10.0.0.5", 2222, "ops"));
        assert_eq!((route.identities.len(), route.known_hosts.len()), (2, 3));
        assert!(route.identities_only && route.jump.as_deref() == Some("gate:22") && route.proxy_command.is_none());
    }

    #[test]
    fn a_proxy_command_gets_names_and_nothing_else() {
        let machine = Machine::parse("box").expect("valid");
        let route = |host: &str| Route { host: host.to_owned(), port: 22, user: "ops".to_owned(), ..Route::default() };
        let expanded = expand("nc -x p%% %h %p # %n %r", &machine, &route("10.0.0.5")).expect("good");
        assert_eq!(expanded, "nc -x p% 10.0.0.5 22 # box ops");
        assert!(expand("nc %h", &machine, &route("a;reboot")).is_err());
        assert!(expand("nc %x", &machine, &route("a")).is_err());
    }

    #[tokio::test]
    async fn jump_hosts_come_before_the_host_and_in_their_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("config");
        let text =
            "Host far\n  ProxyJump ops@one:2201,two\nHost one\n  ProxyJump gate\nHost round\n  ProxyJump round\n";
        std::fs::write(&file, text).expect("written");
        let way = async |host: &str| {
            let machine = Machine::parse(host).expect("valid");
            way(&machine, Some(&file), |_| None).await
        };
        let far = way("far").await.expect("a way");
        let hosts: Vec<_> = far.hops.iter().map(|hop| (hop.host.as_str(), hop.port)).collect();
        assert_eq!(hosts, [("gate", 22), ("one", 2201), ("two", 22), ("far", 22)]);
        assert_eq!(way("round").await.expect_err("a circle").kind, Kind::Usage);
    }
}
