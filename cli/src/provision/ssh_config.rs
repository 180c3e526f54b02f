//! How to reach a host, as ssh's own settings say: `ssh -G`, which knows every `Include` and `Match`; without an ssh
//! program, ssh's defaults.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::inventory::Machine;
use crate::error::{CliError, Kind, Result};

/// Source of environment variables; a plain function, as it is asked in tasks.
type Env = fn(&str) -> Option<String>;

/// Keys that ssh tries by default, of the kinds that we know.
const DEFAULT_KEYS: [&str; 2] = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa"];

/// The way to a host.
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
    /// Host to go through.
    pub jump: Option<String>,
    /// A program to go through, which is not taken.
    pub proxy_command: Option<String>,
}

/// Asks ssh.
pub async fn route(machine: &Machine, config: Option<&Path>, env: Env) -> Result<Route> {
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
    Ok(route)
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
}
