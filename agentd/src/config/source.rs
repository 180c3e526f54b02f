//! The layers of settings: file, environment, flags. Keeps where each value came from, so that a mistake can be named
//! by file and line, variable or flag.

use std::collections::BTreeMap;
use std::path::Path;

use helix_protocol::resources::{Reserve, Resources};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::RunArgs;
use super::direct::{Direct, DirectTable};

/// The environment as a map, so that loading is a pure function of its inputs.
pub type Environment = BTreeMap<String, String>;

/// Settings and the documents' variables for them; the first variable that is set wins.
const SETTINGS: &[(&str, &[&str])] = &[
    ("api_host", &["API_HOST", "HELIX_API_HOST"]),
    ("api_token_file", &[]),
    ("runner_id", &["RUNNER_ID"]),
    ("concurrency", &["CONCURRENCY", "AGENT_CONCURRENCY"]),
    ("max_tasks", &["MAX_TASKS", "AGENT_MAX_TASKS"]),
    ("session_timeout", &["SESSION_TIMEOUT"]),
    ("checkpoint_interval", &[]),
    ("workspace_dir", &["WORKSPACE_DIR"]),
    ("nats_url", &["NATS_URL"]),
    ("nats_ca_file", &[]),
    ("display_width", &["DISPLAY_WIDTH"]),
    ("display_height", &["DISPLAY_HEIGHT"]),
    ("state_dir", &[]),
    ("kinds_dir", &[]),
    ("default_kind", &[]),
    ("health_port", &[]),
    ("on_exit", &[]),
    ("labels", &[]),
    ("backend", &[]),
    ("slot_user_prefix", &[]),
    ("slot_user_first", &[]),
    (DEFAULT_RESOURCES, &[]),
    (MAX_RESOURCES, &[]),
    (DEFAULT_RESERVE, &[]),
    (RESERVABLE, &[]),
    (DIRECT, &[]),
    ("zed_binary", &["ZED_BINARY"]),
    ("vulkan_icd", &["HELIX_VULKAN_ICD"]),
    ("image_signers", &[]),
    ("images_keep", &[]),
    ("kept_for", &[]),
    ("kept_at_least", &[]),
    ("kept_min_free_percent", &[]),
    ("log_level", &["LOG_LEVEL"]),
];

const DEFAULT_RESOURCES: &str = "default_resources";
const MAX_RESOURCES: &str = "max_resources";
const DEFAULT_RESERVE: &str = "default_reserve";
const RESERVABLE: &str = "reservable";
const DIRECT: &str = "direct";

/// The tables of amounts; only a file can have them.
#[derive(Debug, Default)]
pub(super) struct Amounts {
    pub default_resources: Resources,
    pub max_resources: Resources,
    pub default_reserve: Reserve,
    pub reservable: Reserve,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: file and line, variable or flag.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub fix: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.what, self.fix)
    }
}

/// Every mistake of the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the settings of agentd are not valid:{}", list(.0))]
pub struct ConfigError(pub Vec<Fault>);

fn list(faults: &[Fault]) -> String {
    faults.iter().fold(String::new(), |text, fault| text + "\n  " + &fault.to_string())
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub text: String,
    pub place: String,
}

/// All layers merged; values are taken out by key, mistakes are collected.
#[derive(Debug, Default)]
pub(super) struct Values {
    settings: BTreeMap<&'static str, Value>,
    pub labels: BTreeMap<String, Value>,
    pub amounts: Amounts,
    pub direct: Option<Direct>,
    faults: Vec<Fault>,
}

impl Values {
    pub fn collect(args: &RunArgs, env: &Environment) -> Self {
        let mut values = Self::default();
        if let Some(path) = &args.config {
            values.add_file(path);
        }
        for (key, names) in SETTINGS {
            let set = names.iter().find_map(|name| Some((name, env.get(*name).filter(|text| !text.is_empty())?)));
            if let Some((name, text)) = set {
                let place = format!("environment variable {name}");
                values.settings.insert(key, Value { text: text.clone(), place });
            }
        }
        for (key, text) in args.given() {
            let place = format!("flag --{}", key.replace('_', "-"));
            values.settings.insert(key, Value { text: text.to_owned(), place });
        }
        values
    }

    /// The value of a setting, if any layer has one.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.settings.remove(key)
    }

    /// Where a setting was given.
    pub fn place(&self, key: &str) -> Option<String> {
        self.settings.get(key).map(|value| value.place.clone())
    }

    pub fn fault(&mut self, place: impl Into<String>, what: impl Into<String>, fix: impl Into<String>) {
        self.faults.push(Fault { place: place.into(), what: what.into(), fix: fix.into() });
    }

    pub fn finish(self) -> Result<(), ConfigError> {
        if self.faults.is_empty() { Ok(()) } else { Err(ConfigError(self.faults)) }
    }

    fn add_file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let fix = "name a readable TOML file with --config, or leave the flag out";
                return self.fault(path.display().to_string(), format!("cannot be read: {error}"), fix);
            }
        };
        let place = |offset: usize| format!("{} line {}", path.display(), line_of(&text, offset));
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            self.fault(place(offset), error.message().to_owned(), "correct the TOML syntax");
        }
        for (key, value) in table.get_ref() {
            let at = place(key.span().start);
            let Some((name, _)) = SETTINGS.iter().find(|(name, _)| *name == key.get_ref().as_ref()) else {
                let known: Vec<_> = SETTINGS.iter().map(|(name, _)| *name).collect();
                let fix = format!("remove it or use one of: {}", known.join(", "));
                self.fault(at, format!("unknown setting `{}`", key.get_ref()), fix);
                continue;
            };
            match (*name, value.get_ref()) {
                ("labels", DeValue::Table(labels)) => self.add_labels(labels, &place),
                (DEFAULT_RESOURCES, _) => self.amounts.default_resources = self.resources(at, name, value),
                (MAX_RESOURCES, _) => self.amounts.max_resources = self.resources(at, name, value),
                (DEFAULT_RESERVE, _) => self.amounts.default_reserve = self.table(at, name, value),
                (DIRECT, _) => self.direct = self.direct(&at, value),
                (RESERVABLE, _) => self.amounts.reservable = self.table(at, name, value),
                ("labels", other) => {
                    self.fault(
                        at,
                        format!("`labels` is of type {}", other.type_str()),
                        "write labels = { name = \"value\" }",
                    );
                }
                (_, other) => {
                    if let Some(text) = scalar(name, other) {
                        self.settings.insert(name, Value { text, place: at });
                    } else {
                        let fix = format!("write {name} = \"…\" or a number");
                        self.fault(at, format!("`{name}` is of type {}", other.type_str()), fix);
                    }
                }
            }
        }
    }

    fn table<T: DeserializeOwned + Default>(&mut self, at: String, name: &str, value: &Spanned<DeValue<'_>>) -> T {
        T::deserialize(ValueDeserializer::from(value.clone())).unwrap_or_else(|error| {
            let fix = format!("write for example {name} = {{ cpu = 2, memory = \"4GiB\" }}");
            self.fault(at, format!("`{name}`: {}", error.message()), fix);
            T::default()
        })
    }

    /// Only a file can have it, so that a fault has one place.
    fn direct(&mut self, at: &str, value: &Spanned<DeValue<'_>>) -> Option<Direct> {
        let table = DirectTable::deserialize(ValueDeserializer::from(value.clone()));
        let faults = match table.map(DirectTable::check) {
            Ok(Ok(direct)) => return Some(direct),
            Ok(Err(faults)) => faults,
            Err(error) => vec![(error.message().to_owned(), "write listen, allow and perhaps host")],
        };
        for (what, fix) in faults {
            self.fault(at, format!("`{DIRECT}`: {what}"), fix);
        }
        None
    }

    fn resources(&mut self, at: String, name: &str, value: &Spanned<DeValue<'_>>) -> Resources {
        let resources: Resources = self.table(at.clone(), name, value);
        if let Some(fault) = resources.fault() {
            self.fault(at, format!("`{name}`: {fault}"), "choose a larger amount, or leave it out");
        }
        resources
    }

    fn add_labels(&mut self, labels: &DeTable<'_>, place: &dyn Fn(usize) -> String) {
        for (name, value) in labels {
            let at = place(name.span().start);
            match scalar("labels", value.get_ref()) {
                Some(text) => {
                    self.labels.insert(name.get_ref().to_string(), Value { text, place: at });
                }
                None => self.fault(at, format!("label `{}` is not a text", name.get_ref()), "write name = \"value\""),
            }
        }
    }
}

/// A scalar as text; for `api_host` a list of strings too, joined with commas.
fn scalar(name: &str, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().to_owned()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Array(items) if name == "api_host" => {
            let texts: Option<Vec<&str>> =
                items.iter().map(|item: &Spanned<DeValue<'_>>| item.get_ref().as_str()).collect();
            Some(texts?.join(","))
        }
        DeValue::Array(_) | DeValue::Table(_) | DeValue::Datetime(_) => None,
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}
