//! From texts to a checked [`Config`]. Every reader answers a usable value even after a fault, so that all faults
//! are found in one pass; the config of a faulty pass is thrown away.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use helix_protocol::session::Geometry;
use helix_protocol::{KindName, RunnerId};
use reqwest::Url;

use super::source::{Environment, Value, Values};
use crate::reconciler::kept::KeepRules;

use super::{Backend, Config, MAX_SLOTS, OnExit, SAMPLE_TOKEN, Secret, default_state_dir};

pub(super) fn config(values: &mut Values, env: &Environment) -> Config {
    let state_dir = state_dir(values, env);
    let workspace_dir = path(values, "workspace_dir").unwrap_or_else(|| state_dir.join("workspaces"));
    Config {
        api_hosts: api_hosts(values),
        enrolment_token: enrolment_token(values, env),
        runner: runner(values),
        slots: number(values, "concurrency", 1, (1, MAX_SLOTS)),
        max_tasks: number(values, "max_tasks", 0, (0, u32::MAX)),
        session_timeout: duration(values, "session_timeout", Duration::from_hours(1)),
        checkpoint_interval: duration(values, "checkpoint_interval", Duration::from_mins(5)),
        workspace_dir,
        state_dir,
        nats_url: nats_url(values),
        nats_ca_file: path(values, "nats_ca_file"),
        geometry: geometry(values),
        kinds_dir: path(values, "kinds_dir").unwrap_or_else(|| PathBuf::from("/etc/helix/kinds.d")),
        default_kind: default_kind(values),
        health_port: number(values, "health_port", 3030, (0, u16::MAX)),
        on_exit: on_exit(values),
        backend: backend(values),
        slot_user_prefix: slot_user_prefix(values),
        slot_user_first: number(values, "slot_user_first", 1, (1, MAX_SLOTS)),
        default_resources: values.amounts.default_resources,
        max_resources: values.amounts.max_resources,
        direct: values.direct.take(),
        default_reserve: values.amounts.default_reserve,
        reservable: values.amounts.reservable,
        labels: labels(values),
        log_level: log_level(values),
        zed_binary: path(values, "zed_binary"),
        vulkan_icd: path(values, "vulkan_icd"),
        image_signers: path(values, "image_signers").unwrap_or_else(|| PathBuf::from("/etc/helix/allowed_signers")),
        images_keep: number(values, "images_keep", 3, (0, 1000)),
        kept: kept(values),
        unused: ["VNC_PASSWORD", "RDP_USER", "RDP_PASSWORD"]
            .into_iter()
            .filter(|name| env.get(*name).is_some_and(|text| !text.is_empty()))
            .collect(),
    }
}

fn number<N>(values: &mut Values, key: &'static str, default: N, (low, high): (N, N)) -> N
where
    N: FromStr + PartialOrd + Copy + std::fmt::Display,
{
    let Some(value) = values.take(key) else { return default };
    match value.text.parse::<N>() {
        Ok(number) if (low..=high).contains(&number) => number,
        _ => {
            let what = format!("`{}` is not a whole number from {low} to {high}", value.text);
            values.fault(value.place, what, format!("write for example {key} = {default}"));
            default
        }
    }
}

fn duration(values: &mut Values, key: &'static str, default: Duration) -> Duration {
    let Some(value) = values.take(key) else { return default };
    parse_duration(&value.text).unwrap_or_else(|| {
        let what = format!("`{}` is not a duration", value.text);
        values.fault(
            value.place,
            what,
            format!("write {key} in seconds (3600) or with a unit (\"3600s\", \"60m\", \"1h\")"),
        );
        default
    })
}

pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = |factor: u64| number.checked_mul(factor).filter(|s| *s <= 366 * 86_400).map(Duration::from_secs);
    match unit {
        "" | "s" => seconds(1),
        "ms" => Some(Duration::from_millis(number)).filter(|d| d.as_secs() <= 366 * 86_400),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => None,
    }
}

fn kept(values: &mut Values) -> KeepRules {
    let place = values.place("kept_for").unwrap_or_else(|| "default of kept_for".to_owned());
    let rules = KeepRules {
        longest: duration(values, "kept_for", Duration::from_hours(7 * 24)),
        at_least: duration(values, "kept_at_least", Duration::from_hours(24)),
        min_free_percent: number(values, "kept_min_free_percent", 10, (0, 90)),
    };
    if rules.longest < rules.at_least && !rules.longest.is_zero() {
        let what = "kept_for is shorter than kept_at_least";
        values.fault(place, what, "write for example kept_for = \"168h\" and kept_at_least = \"24h\"");
    }
    rules
}

fn path(values: &mut Values, key: &'static str) -> Option<PathBuf> {
    let value = values.take(key)?;
    if value.text.starts_with('/') {
        return Some(PathBuf::from(value.text));
    }
    values.fault(value.place, format!("`{}` is not an absolute path", value.text), format!("write {key} = \"/…\""));
    None
}

fn state_dir(values: &mut Values, env: &Environment) -> PathBuf {
    if let Some(path) = path(values, "state_dir") {
        return path;
    }
    default_state_dir(env, rustix::process::geteuid().is_root()).unwrap_or_else(|| {
        let what = "cannot be guessed: neither XDG_STATE_HOME nor HOME is an absolute path";
        values.fault("setting state_dir", what, "set state_dir or --state-dir");
        PathBuf::new()
    })
}

fn api_hosts(values: &mut Values) -> Vec<String> {
    let value = values
        .take("api_host")
        .unwrap_or_else(|| Value { text: "http://localhost:80".to_owned(), place: "default of api_host".to_owned() });
    let mut hosts = Vec::new();
    for text in value.text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match normalise_origin(text) {
            Some(origin) if hosts.contains(&origin) => {}
            Some(origin) => hosts.push(origin),
            None => {
                let fix = "write http://host:port or https://host, without path, user or query";
                values.fault(value.place.as_str(), format!("`{}` is not a server's address", shown(text)), fix);
            }
        }
    }
    if hosts.is_empty() && !value.text.contains(|c: char| !c.is_whitespace() && c != ',') {
        values.fault(value.place, "names no server", "write http://host:port or https://host");
    }
    hosts
}

/// `scheme://host[:port]` without a default port, for comparison; None for anything else.
pub(crate) fn normalise_origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none();
    plain.then(|| url.origin().ascii_serialization())
}

/// An address for a message: what stands before an `@` may be a password.
fn shown(text: &str) -> &str {
    text.rsplit('@').next().unwrap_or_default()
}

fn nats_url(values: &mut Values) -> Option<String> {
    let value = values.take("nats_url")?;
    let bad = value.text.split(',').find(|text| text.trim().parse::<async_nats::ServerAddr>().is_err());
    if let Some(bad) = bad {
        let what = format!("`{}` is not a NATS address", shown(bad));
        values.fault(value.place, what, "write nats://host:4222 or tls://host:4222");
        return None;
    }
    Some(value.text)
}

fn enrolment_token(values: &mut Values, env: &Environment) -> Option<Secret> {
    let variable = ["API_TOKEN", "HELIX_API_TOKEN"].into_iter().find_map(|name| {
        Some((format!("environment variable {name}"), env.get(name).filter(|t| !t.is_empty())?.clone()))
    });
    let file = values.take("api_token_file");
    let (place, token) = match (variable, file) {
        (Some(found), _) => found,
        (None, Some(value)) => (format!("{} ({})", value.place, value.text), read_token(values, &value)?),
        (None, None) => return None,
    };
    let token = token.trim();
    if token == SAMPLE_TOKEN {
        let what = format!("is `{SAMPLE_TOKEN}`, the sample token of the documents, which everybody knows");
        values.fault(place, what, "use the server's own enrolment token (RUNNER_TOKEN)");
        return None;
    }
    // A header value: a token with other characters could never be sent.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        values.fault(place, "holds no token", "write one token of visible ASCII characters");
        return None;
    }
    Some(Secret::new(token))
}

fn read_token(values: &mut Values, value: &Value) -> Option<String> {
    let path = Path::new(&value.text);
    let read =
        || Ok::<_, std::io::Error>((std::fs::metadata(path)?.permissions().mode(), std::fs::read_to_string(path)?));
    match read() {
        Ok((mode, _)) if mode & 0o077 != 0 => {
            let what = format!("`{}` can be read by others (mode {:04o})", value.text, mode & 0o7777);
            values.fault(value.place.as_str(), what, format!("chmod 600 {}", value.text));
            None
        }
        Ok((_, token)) => Some(token),
        Err(error) => {
            let what = format!("`{}` cannot be read: {error}", value.text);
            values.fault(value.place.as_str(), what, "name a file with the enrolment token, mode 0600");
            None
        }
    }
}

fn runner(values: &mut Values) -> RunnerId {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (place, id) = match values.take("runner_id") {
        Some(value) => (value.place, RunnerId::parse(value.text)),
        None => ("default of runner_id".to_owned(), RunnerId::from_hostname("external-zed-", &hostname)),
    };
    id.unwrap_or_else(|error| {
        values.fault(place, error.to_string(), "set runner_id or RUNNER_ID, for example runner-1");
        RunnerId::parse("unknown").expect("the literal is a valid id")
    })
}

fn default_kind(values: &mut Values) -> Option<KindName> {
    let value = values.take("default_kind")?;
    let kind = KindName::parse(value.text);
    kind.inspect_err(|error| values.fault(value.place, error.to_string(), "write default_kind = \"command\"")).ok()
}

fn geometry(values: &mut Values) -> Geometry {
    let width = number(values, "display_width", 1920, (320, 7680));
    let height = number(values, "display_height", 1080, (200, 4320));
    Geometry { width, height }
}

fn on_exit(values: &mut Values) -> OnExit {
    let Some(value) = values.take("on_exit") else { return OnExit::Keep };
    match value.text.as_str() {
        "keep" => OnExit::Keep,
        "stop" => OnExit::Stop,
        other => {
            values.fault(value.place, format!("`{other}` is neither keep nor stop"), "write on_exit = \"keep\"");
            OnExit::Keep
        }
    }
}

fn backend(values: &mut Values) -> Backend {
    let Some(value) = values.take("backend") else { return Backend::Auto };
    match value.text.as_str() {
        "auto" => Backend::Auto,
        "systemd" => Backend::Systemd,
        "process" => Backend::Process,
        other => {
            let what = format!("`{other}` is neither auto nor systemd nor process");
            values.fault(value.place, what, "write backend = \"auto\"");
            Backend::Auto
        }
    }
}

fn slot_user_prefix(values: &mut Values) -> String {
    let Some(value) = values.take("slot_user_prefix") else { return "helix-u".to_owned() };
    let mut characters = value.text.chars();
    let lower = |c: char| c.is_ascii_lowercase();
    let ok = characters.next().is_some_and(lower)
        && characters.all(|c| lower(c) || c.is_ascii_digit() || c == '-')
        && value.text.len() <= 24;
    if !ok {
        let what = format!("`{}` is not the beginning of a user's name", value.text);
        values.fault(value.place, what, "write slot_user_prefix = \"helix-u\"");
        return "helix-u".to_owned();
    }
    value.text
}

fn log_level(values: &mut Values) -> String {
    let Some(value) = values.take("log_level") else { return "info".to_owned() };
    if crate::telemetry::filter(&value.text).is_err() {
        let what = format!("`{}` is not a log level", value.text);
        values.fault(value.place, what, "write error, warn, info, debug or a filter like helix_agentd=debug,info");
        return "info".to_owned();
    }
    value.text
}

fn labels(values: &mut Values) -> BTreeMap<String, String> {
    let given = std::mem::take(&mut values.labels);
    for (name, value) in &given {
        let ok = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
        if name.is_empty() || !ok(name, 63) || !ok(&value.text, 255) {
            let what = format!("label `{name}` is too long or has control characters");
            values.fault(value.place.as_str(), what, "use at most 63 characters for a name, 255 for a value");
        }
    }
    given.into_iter().map(|(name, value)| (name, value.text)).collect()
}
