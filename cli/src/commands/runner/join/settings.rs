//! What a runner of this machine is set to: what was asked for, over what stood there. Pure, but for the environment.

use std::collections::BTreeMap;

use helix_protocol::RunnerId;
use helix_protocol::image::SIGNATURE_NAMESPACE;
use helix_protocol::image::signature::Signers;
use serde::{Deserialize, Serialize};

use super::machine::{Machine, check_workspace_dir};
use crate::error::{CliError, Kind, Result};
use crate::settings::Env;

/// First line of what a join writes: only such a file is a join's to change.
pub const MARK: &str = "# Written by helixctl runner join; the next one undoes changes.";
/// What a runner of the documents is called.
const DEFAULT_NAME: &str = "helix-external-zed-agent";
const ID_PREFIX: &str = "external-zed-";
const DEFAULT_SERVER: &str = "http://localhost:80";
/// Settings that have a place of their own, and the documents' other names of some.
const NAMED: [(&str, &str); 9] = [
    ("API_HOST", "HELIX_API_HOST"),
    ("API_TOKEN", "HELIX_API_TOKEN"),
    ("RUNNER_ID", ""),
    ("CONCURRENCY", "AGENT_CONCURRENCY"),
    ("MAX_TASKS", "AGENT_MAX_TASKS"),
    ("SESSION_TIMEOUT", ""),
    ("WORKSPACE_DIR", ""),
    ("NATS_URL", ""),
    ("CONTAINER_NAME", ""),
];
/// What else of the documents' environment agentd knows.
const PASSED_ON: [&str; 6] =
    ["LOG_LEVEL", "DISPLAY_WIDTH", "DISPLAY_HEIGHT", "ZED_BINARY", "HELIX_VULKAN_ICD", "RUST_LOG"];

/// The settings, under their names in agentd.toml; what is in `env` has a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub api_host: Vec<String>,
    pub runner_id: RunnerId,
    pub concurrency: u32,
    pub max_tasks: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_url: Option<String>,
    pub slot_user_first: u32,
    pub health_port: u16,
    /// A file of its own: whose images its sessions may run in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_signers: Option<String>,
    /// What is in it.
    #[serde(skip)]
    pub image_keys: Option<String>,
    #[serde(skip)]
    pub env: BTreeMap<String, String>,
}

/// What flags, `-e` and the environment say.
pub struct Asked {
    /// Which agentd of the machine.
    pub name: String,
    named: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
}

impl Asked {
    /// Flags before `-e` before the environment.
    pub fn new(flags: BTreeMap<String, String>, mut given: BTreeMap<String, String>, env: Env<'_>) -> Result<Self> {
        let mut named = flags;
        for (name, other) in NAMED {
            let found = [name, other].into_iter().filter(|name| !name.is_empty()).find_map(|name| given.remove(name));
            let found = found.or_else(|| env(name)).or_else(|| env(other).filter(|_| !other.is_empty()));
            if let Some(value) = found {
                named.entry(name.to_owned()).or_insert(value);
            }
        }
        for name in PASSED_ON {
            if let Some(value) = env(name) {
                given.entry(name.to_owned()).or_insert(value);
            }
        }
        for (name, value) in &given {
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && name.chars().next().is_some_and(|first| !first.is_ascii_digit());
            if !plain || value.chars().any(char::is_control) {
                return Err(CliError::new(Kind::Usage, format!("{name:?} cannot be a variable of agentd"))
                    .because("a name has letters, digits and _, a value is one line")
                    .next("-e LOG_LEVEL=debug"));
            }
        }
        let name = named.remove("CONTAINER_NAME").unwrap_or_else(|| DEFAULT_NAME.to_owned());
        Ok(Self { name, named, env: given })
    }

    /// The settings, and the enrolment token. What nobody asked for stays as it was.
    pub fn over(mut self, before: Option<&Settings>, machine: &Machine) -> Result<(Settings, Option<String>)> {
        let token = self.named.remove("API_TOKEN");
        let mut take = |name: &str| self.named.remove(name);
        let runner_id = match (take("RUNNER_ID"), before) {
            (Some(id), _) => RunnerId::parse(id).map_err(|error| {
                CliError::new(Kind::Usage, "this cannot be the id of a runner")
                    .because(error)
                    .next("--runner-id my-dev-machine")
            })?,
            (None, Some(before)) => before.runner_id.clone(),
            (None, None) => RunnerId::from_hostname(ID_PREFIX, &machine.hostname).map_err(|error| {
                CliError::new(Kind::Usage, "the host name makes no id of a runner")
                    .because(error)
                    .next("--runner-id ID")
            })?,
        };
        if let Some(before) = before.filter(|before| before.runner_id != runner_id) {
            return Err(CliError::failed(format!("agentd {} is runner {}", machine.name.as_str(), before.runner_id))
                .at(machine.name.settings())
                .because("a runner keeps its id")
                .next(format!(
                    "--container-name OTHER for one more runner; or first: helixctl runner leave {}",
                    machine.name.as_str()
                )));
        }
        let concurrency = number("CONCURRENCY", take("CONCURRENCY"), before.map(|before| before.concurrency), 1)?;
        let workspace_dir = take("WORKSPACE_DIR").or_else(|| before?.workspace_dir.clone());
        if let Some(dir) = &workspace_dir {
            check_workspace_dir(dir)?;
        }
        let servers = take("API_HOST").map(|text| text.split(',').map(|one| one.trim().to_owned()).collect());
        let mut env = before.map(|before| before.env.clone()).unwrap_or_default();
        let settings = Settings {
            api_host: servers
                .or_else(|| Some(before?.api_host.clone()))
                .unwrap_or_else(|| vec![DEFAULT_SERVER.to_owned()]),
            concurrency,
            max_tasks: number("MAX_TASKS", take("MAX_TASKS"), before.map(|before| before.max_tasks), 0)?,
            session_timeout: take("SESSION_TIMEOUT").or_else(|| before?.session_timeout.clone()),
            workspace_dir,
            nats_url: take("NATS_URL").or_else(|| before?.nats_url.clone()),
            slot_user_first: machine.slots(before.map(|before| before.slot_user_first), concurrency)?,
            health_port: before.map_or_else(|| machine.free_health_port(), |before| before.health_port),
            image_signers: before.and_then(|before| before.image_signers.clone()),
            image_keys: before.and_then(|before| before.image_keys.clone()),
            env: {
                env.extend(self.env);
                env
            },
            runner_id,
        };
        Ok((settings, token))
    }
}

impl Settings {
    /// Its sessions run in images that this key has signed, and in no others. `text` is the key's public half.
    pub fn trust(&mut self, text: &str, place: &str, machine: &Machine) -> Result<()> {
        let key = text.lines().find(|line| line.starts_with("ssh-ed25519 "));
        let key = key.filter(|key| !Signers::parse(key).is_empty()).ok_or_else(|| {
            CliError::new(Kind::Usage, "this is no public half of a signing key")
                .at(place)
                .because("a line that begins with ssh-ed25519 is looked for")
                .next("--image-key provision.key.pub, which helixctl key new makes beside the key")
        })?;
        self.image_signers = Some(machine.name.image_signers());
        self.image_keys = Some(format!("{MARK}\nimages namespaces=\"{SIGNATURE_NAMESPACE}\" {key}\n"));
        Ok(())
    }

    /// The server that enrols.
    pub fn server(&self) -> &str {
        self.api_host.first().map_or("", String::as_str)
    }

    /// agentd.toml.
    pub fn text(&self) -> Result<String> {
        let body =
            toml::to_string(self).map_err(|error| CliError::failed("cannot write the settings").because(error))?;
        Ok(format!("{MARK}\n# What else can stand there: agentd.toml.example in /usr/share/doc/helix.\n{body}"))
    }

    /// agentd.env: what wins over it.
    pub fn environment(&self) -> String {
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
        let lines = self.env.iter().map(|(name, value)| format!("{name}=\"{}\"\n", quoted(value)));
        format!("{MARK}\n{}", lines.collect::<String>())
    }

    /// Both, read back; None where they are not a join's.
    pub fn read(text: &str, environment: &str) -> Option<Self> {
        let mut settings: Self = text.starts_with(MARK).then(|| toml::from_str(text).ok()).flatten()?;
        let plain = |value: &str| value.replace("\\\"", "\"").replace("\\\\", "\\");
        settings.env = environment
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter_map(|(name, value)| Some((name.to_owned(), plain(value.strip_prefix('"')?.strip_suffix('"')?))))
            .collect();
        Some(settings)
    }
}

fn number(name: &str, asked: Option<String>, before: Option<u32>, default: u32) -> Result<u32> {
    let Some(text) = asked else { return Ok(before.unwrap_or(default)) };
    text.parse().map_err(|error| {
        CliError::new(Kind::Usage, format!("{name} {text:?} is no number"))
            .because(error)
            .next(format!("{name}={default}"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::place::ServiceName;
    use super::*;

    fn settings() -> Settings {
        Settings {
            api_host: vec!["https://helix.example".to_owned()],
            runner_id: RunnerId::parse("r1").expect("valid"),
            concurrency: 2,
            max_tasks: 0,
            session_timeout: Some("8h".to_owned()),
            workspace_dir: None,
            nats_url: None,
            slot_user_first: 3,
            health_port: 3031,
            image_signers: None,
            image_keys: None,
            env: [("LOG_LEVEL".to_owned(), r#"a "b" \ c"#.to_owned())].into(),
        }
    }

    #[test]
    fn what_a_join_writes_reads_back_and_nothing_else_does() {
        let text = settings().text().expect("text");
        insta::assert_snapshot!(text, @r#"
        # Written by helixctl runner join; the next one undoes changes.
        # What else can stand there: agentd.toml.example in /usr/share/doc/helix.
        api_host = ["https://helix.example"]
        runner_id = "r1"
        concurrency = 2
        max_tasks = 0
        session_timeout = "8h"
        slot_user_first = 3
        health_port = 3031
        "#);
        assert_eq!(Settings::read(&text, &settings().environment()), Some(settings()));
        assert_eq!(Settings::read("runner_id = \"r1\"\n", ""), None);
    }

    #[test]
    fn a_key_for_images_is_a_public_half_and_nothing_else() {
        let name = ServiceName::parse("x").expect("a name");
        let machine = Machine::look(&name).expect("a machine");
        let mut trusting = settings();
        for wrong in ["", "-----BEGIN OPENSSH PRIVATE KEY-----", "ssh-ed25519 nonsense", "ssh-rsa AAAA"] {
            let error = trusting.trust(wrong, "FILE", &machine).expect_err(wrong);
            assert!(error.kind == Kind::Usage && error.to_string().contains("provision.key.pub"), "{error}");
        }
        assert_eq!(trusting, settings());
        let key = include_str!("../../../../../protocol/src/image/signature/key.pub");
        trusting.trust(key, "FILE", &machine).expect("a key");
        assert!(trusting.text().expect("text").contains("image_signers = \"/etc/helix/agentd-x.image_signers\""));
        let keys = trusting.image_keys.expect("keys");
        assert_eq!(Signers::parse(&keys).fingerprints(), Signers::parse(key).fingerprints());
    }

    #[test]
    fn flags_win_over_e_and_e_over_the_environment() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let env = |name: &str| match name {
            "RUNNER_ID" => Some("env".to_owned()),
            "HELIX_API_HOST" => Some("http://env".to_owned()),
            "AGENT_CONCURRENCY" => Some("9".to_owned()),
            "LOG_LEVEL" => Some("warn".to_owned()),
            _ => None,
        };
        let given = [("RUNNER_ID", "e"), ("CONCURRENCY", "3"), ("LOG_LEVEL", "debug"), ("MINE", "x")];
        let asked = Asked::new(map(&[("RUNNER_ID", "flag")]), map(&given), &env).expect("fine");
        assert_eq!(asked.name, DEFAULT_NAME);
        assert_eq!(asked.named, map(&[("API_HOST", "http://env"), ("CONCURRENCY", "3"), ("RUNNER_ID", "flag")]));
        assert_eq!(asked.env, map(&[("LOG_LEVEL", "debug"), ("MINE", "x")]));
        for bad in [("A B", "c"), ("", "c"), ("1A", "c"), ("A", "two\nlines")] {
            assert!(Asked::new(BTreeMap::new(), map(&[bad]), &env).is_err(), "{bad:?}");
        }
    }
}
