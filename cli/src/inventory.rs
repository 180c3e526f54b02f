//! Which machines, and what differs between them: arguments and `fleet.toml`. Pure.
//!
//! Every command that goes to machines over SSH takes both.

use std::collections::BTreeMap;
use std::path::PathBuf;

use helix_protocol::{PoolName, RunnerId};
use serde::Deserialize;

use crate::error::{CliError, Kind, Result};

/// A machine as the operator names it. What is absent is ssh's own settings' to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Name or address, as `ssh` takes it.
    pub host: String,
    /// Login.
    pub user: Option<String>,
    /// Port of its sshd.
    pub port: Option<u16>,
    /// Private key to try first.
    pub identity: Option<PathBuf>,
    /// Id of its runner; its host name where absent.
    pub runner: Option<RunnerId>,
    /// Sessions at once.
    pub slots: Option<u32>,
    /// Pool that it serves.
    pub pool: Option<PoolName>,
    /// More labels.
    pub labels: BTreeMap<String, String>,
}

/// `fleet.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fleet {
    /// For every machine that says nothing else.
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    host: Vec<Entry>,
    /// Not of machines: `helixctl apply` reads it.
    #[serde(default, rename = "pool")]
    _pools: serde::de::IgnoredAny,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    user: Option<String>,
    port: Option<u16>,
    identity: Option<PathBuf>,
    slots: Option<u32>,
    pool: Option<PoolName>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// What is not named here is read as [`Defaults`], which takes nothing that it does not know.
#[derive(Debug, Deserialize)]
struct Entry {
    host: String,
    runner: Option<RunnerId>,
    #[serde(flatten)]
    own: BTreeMap<String, toml::Value>,
}

impl Machine {
    /// `[USER@]HOST[:PORT]`; an IPv6 address with a port is written `[::1]:22`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (user, rest) = match text.rsplit_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, text),
        };
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or("what follows ] must be :PORT")?)),
            // More than one colon: an IPv6 address alone.
            None if rest.matches(':').count() > 1 => (rest, None),
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(|port| port.parse().map_err(|_| format!("{port:?} is not a port"))).transpose()?;
        let machine = Self { host: host.to_owned(), user, port, ..Self::default() };
        machine.check().map(|()| machine)
    }

    /// Nothing here may be taken for an option or for more than one word by a program that gets it.
    fn check(&self) -> Result<(), String> {
        let word = |text: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.chars().all(|c| c.is_ascii_graphic() && !"'\"\\@".contains(c))
        };
        if !word(&self.host) {
            return Err(format!("{:?} is not the name of a host", self.host));
        }
        match &self.user {
            Some(user) if !word(user) => Err(format!("{user:?} is not the name of a user")),
            _ => Ok(()),
        }
    }
}

/// The machine that people mean: by its runner's id or its host as the inventory has it, else as ssh does.
pub fn find(machines: &[Machine], name: &str) -> Option<Machine> {
    let is_runner = |machine: &&Machine| machine.runner.as_ref().is_some_and(|id| id.as_str() == name);
    let is_host = |machine: &&Machine| machine.host == name;
    machines.iter().find(is_runner).or_else(|| machines.iter().find(is_host)).cloned()
}

/// Reads `fleet.toml`; `place` is its name, for messages.
pub fn read(text: &str, place: &str) -> Result<Vec<Machine>> {
    let bad = |why: String| {
        CliError::new(Kind::Usage, "cannot read the inventory").at(place).because(why).next(
            "write [[host]] tables with host = \"NAME\" and, if need be, user, port, identity, runner, slots, pool, labels",
        )
    };
    let fleet: Fleet = toml::from_str(text).map_err(|error| bad(error.to_string().trim_end().to_owned()))?;
    let mut machines = Vec::new();
    for Entry { host, runner, own } in fleet.host {
        let own: Defaults = toml::Value::Table(own.into_iter().collect())
            .try_into()
            .map_err(|error| bad(format!("{host}: {error}")))?;
        let mut machine = Machine::parse(&host).map_err(&bad)?;
        let mut labels = fleet.defaults.labels.clone();
        labels.extend(own.labels);
        machine.user = machine.user.or(own.user).or_else(|| fleet.defaults.user.clone());
        machine.port = machine.port.or(own.port).or(fleet.defaults.port);
        machine.identity = own.identity.or_else(|| fleet.defaults.identity.clone());
        machine.runner = runner;
        machine.slots = own.slots.or(fleet.defaults.slots);
        machine.pool = own.pool.or_else(|| fleet.defaults.pool.clone());
        machine.labels = labels;
        machine.check().map_err(&bad)?;
        machines.push(machine);
    }
    if machines.is_empty() {
        return Err(bad("it has no [[host]]".to_owned()));
    }
    Ok(machines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(text: &str) -> (String, Option<String>, Option<u16>) {
        let machine = Machine::parse(text).expect("valid");
        (machine.host, machine.user, machine.port)
    }

    #[test]
    fn a_host_is_written_as_for_ssh() {
        assert_eq!(machine("box"), ("box".to_owned(), None, None));
        assert_eq!(machine("ops@box:2222"), ("box".to_owned(), Some("ops".to_owned()), Some(2222)));
        assert_eq!(machine("::1").0, "::1");
        assert_eq!(machine("root@[fe80::1]:22"), ("fe80::1".to_owned(), Some("root".to_owned()), Some(22)));
        for bad in ["", "-oProxyCommand=x", "ops@", "box:", "box:99999", "a b", "[::1]22", "-x@box", "box'"] {
            assert!(Machine::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_inventory_gives_each_host_what_it_does_not_say_itself() {
        let text = "[defaults]\nuser = \"ops\"\npool = \"ci\"\nlabels = { site = \"cellar\" }\n\
                    [[host]]\nhost = \"one\"\n\
                    [[host]]\nhost = \"root@two\"\nport = 2222\nrunner = \"r2\"\nlabels = { rack = \"7\" }\n";
        let machines = read(text, "fleet.toml").expect("valid");
        assert_eq!(machines[0].user.as_deref(), Some("ops"));
        assert_eq!((machines[1].user.as_deref(), machines[1].port), (Some("root"), Some(2222)));
        assert_eq!(machines[1].labels.len(), 2);
        assert_eq!(machines[1].pool.as_ref().map(PoolName::as_str), Some("ci"));
        for bad in ["", "[[host]]\nhost = \"a\"\nuesr = \"b\"\n", "[[host]]\nhost = \"-a\"\n", "[[host]]\nport = 1\n"] {
            assert_eq!(read(bad, "fleet.toml").expect_err(bad).kind, Kind::Usage);
        }
    }
}
