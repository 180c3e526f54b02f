//! Settings: one TOML file + environment + flags, in rising order of precedence.
//!
//! Every fault is collected before any is reported, each with its line and its fix, so that one run shows all of
//! them. Secrets live in files of their own, mode 0600; they are read here because a missing or readable-by-others
//! secret is a configuration fault like any other.

mod document;
mod fault;
mod images;
mod nats;
mod quotas;
mod reaper;
mod recording;
mod scale;
mod secrets;
mod threads;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use helix_protocol::image::signature::Signers;

pub use self::fault::{Fault, Faults};
pub use self::nats::{Ca, NatsConfig, is_tls};
pub use self::recording::RecordingDefaults;
pub use self::secrets::Secrets;

use self::document::Document;
use crate::scale::ScaleConfig;
use crate::scheduler::queue::Quotas;
use crate::threads::decide::Timing;

/// Validated settings of the server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where it listens. Off loopback only with TLS.
    pub listen: SocketAddr,
    /// Base URL under which browsers and CLIs reach the fleet, without a slash at the end.
    pub public_url: String,
    /// Base URL under which runners reach this very replica.
    pub advertise_url: String,
    /// NATS address told to runners at enrolment.
    pub runner_nats_url: String,
    /// 32-byte server key, 0600.
    pub key_file: PathBuf,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Log filter.
    pub log_level: String,
    /// Documents' `EXTERNAL_AGENT_ENABLED`: false = the `/external-agents` group answers 404.
    pub external_agents_enabled: bool,
    /// Between heartbeats.
    pub heartbeat_interval: Duration,
    /// Silence after which a runner is suspect.
    pub suspect_timeout: Duration,
    /// Silence after which it is lost.
    pub lost_timeout: Duration,
    /// Life of a runner's NATS user JWT.
    pub credential_ttl: Duration,
    /// Patience with agents.
    pub threads: Timing,
    /// What becomes of sessions that say nothing of a recording.
    pub recording: RecordingDefaults,
    /// Keys whose images are taken; any where absent.
    pub image_signers: Option<Signers>,
    /// Most sessions of owners.
    pub quotas: Quotas,
    /// Who is told what room is missing, if anybody is.
    pub scale: Option<ScaleConfig>,
    /// When what has lost its owner goes.
    pub reaper: crate::reaper::Settings,
    /// The server's own NATS connection.
    pub nats: NatsConfig,
    /// What the secret files hold.
    pub secrets: Secrets,
}

/// What flags say; each overrides file and environment.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`.
    pub listen: Option<String>,
}

/// An environment: [`std::env::var`] or a test's table.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The sample token of the documents, public since their first day.
const SAMPLE_TOKEN: &str = "oh-hallo-insecure-token";

impl ServerConfig {
    /// Reads and checks everything; all faults at once.
    pub fn load(file: &Path, env: Env<'_>, overrides: &Overrides) -> Result<Self, Faults> {
        let text = std::fs::read_to_string(file).map_err(|err| {
            Faults::one(Fault::new(
                file.display().to_string(),
                format!("cannot be read: {err}"),
                "name an existing file with --config",
            ))
        })?;
        Self::parse(&text, file, env, overrides)
    }

    /// The same for a text already read; `file` names it in faults and is the base of relative paths.
    pub fn parse(text: &str, file: &Path, env: Env<'_>, overrides: &Overrides) -> Result<Self, Faults> {
        let mut doc = Document::parse(text, file, env)?;

        let listen = doc
            .text("", "listen", None)
            .overridden(overrides.listen.clone(), "--listen")
            .or("127.0.0.1:8080")
            .check(&mut doc, listen_address);
        let fallback = listen.map_or_else(|| "http://127.0.0.1:8080".to_owned(), |addr| format!("http://{addr}"));
        let public_url = doc.text("", "public_url", None).or(&fallback).check(&mut doc, base_url);
        let advertise_url = doc
            .text("", "advertise_url", None)
            .or(public_url.as_deref().unwrap_or(&fallback))
            .check(&mut doc, base_url);
        let max_body_bytes = doc.integer("", "max_body_bytes", None).or("1048576").check(&mut doc, body_limit);
        let log_level = doc.text("", "log_level", Some("LOG_LEVEL")).or("info").check(&mut doc, log_filter);

        let nats = nats::read(&mut doc);
        let runner_nats_url = doc
            .text("nats", "runner_url", None)
            .or(nats.as_ref().map_or("nats://127.0.0.1:4222", |nats| &nats.url))
            .check(&mut doc, nats::address);

        let agents = "external_agents";
        let enabled = doc.boolean(agents, "enabled", Some("EXTERNAL_AGENT_ENABLED")).or("true").check(&mut doc, switch);
        let heartbeat = doc
            .text(agents, "heartbeat_interval", Some("EXTERNAL_AGENT_HEARTBEAT_INTERVAL"))
            .or("5s")
            .check(&mut doc, duration);
        let lost = doc.text(agents, "lost_timeout", Some("EXTERNAL_AGENT_TIMEOUT")).or("30s").check(&mut doc, duration);
        let suspect = doc.text(agents, "suspect_timeout", None).or("").check(&mut doc, |text| match text {
            // Left out: it follows from the others.
            "" => Ok(Duration::ZERO),
            text => duration(text),
        });
        let credential_ttl =
            doc.text(agents, "credential_ttl", None).or("1h").check(&mut doc, |text| duration(text).and_then(ttl));
        let timing = check_timing(&mut doc, heartbeat, suspect, lost);

        let threads = threads::read(&mut doc);
        let recording = recording::read(&mut doc, nats.as_ref());

        let image_signers = images::read(&mut doc);
        let quotas = quotas::read(&mut doc);
        let scale = scale::read(&mut doc);
        let reaper = reaper::read(&mut doc);

        let key_file = doc.path("", "key_file");
        let secrets = secrets::read(&mut doc, key_file.as_ref(), SAMPLE_TOKEN);
        doc.finish()?;

        let all = || -> Option<Self> {
            let (heartbeat_interval, suspect_timeout, lost_timeout) = timing?;
            Some(Self {
                listen: listen?,
                public_url: public_url?,
                advertise_url: advertise_url?,
                runner_nats_url: runner_nats_url?,
                key_file: key_file?,
                max_body_bytes: max_body_bytes?,
                log_level: log_level?,
                external_agents_enabled: enabled?,
                heartbeat_interval,
                suspect_timeout,
                lost_timeout,
                credential_ttl: credential_ttl?,
                threads: threads?,
                recording: recording?,
                image_signers,
                quotas,
                scale,
                reaper: reaper?,
                nats: nats?,
                secrets: secrets?,
            })
        };
        // `finish` was content, so no check above failed and every value is there.
        all().ok_or_else(|| {
            Faults::one(Fault::new(
                file.display().to_string(),
                "a setting is missing",
                "compare it with the example file",
            ))
        })
    }
}

type Checked<T> = Result<T, (String, String)>;

fn refuse<T>(problem: impl Into<String>, fix: impl Into<String>) -> Checked<T> {
    Err((problem.into(), fix.into()))
}

fn listen_address(text: &str) -> Checked<SocketAddr> {
    let Ok(addr) = text.parse::<SocketAddr>() else {
        return refuse(format!("{text:?} is not an address and port"), "write for example \"127.0.0.1:8080\"");
    };
    if !addr.ip().is_loopback() {
        return refuse(
            format!("{text} is not on loopback, and tokens would cross the network in plaintext"),
            format!("listen on 127.0.0.1:{} and let a TLS proxy on this machine serve the public address", addr.port()),
        );
    }
    Ok(addr)
}

fn base_url(text: &str) -> Checked<String> {
    let url = text.trim_end_matches('/');
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match host {
        Some(host) if !host.is_empty() && !url.contains(['?', '#', ' ']) => Ok(url.to_owned()),
        _ => refuse(format!("{text:?} is not a base URL"), "write for example \"https://helix.example.org\""),
    }
}

fn body_limit(text: &str) -> Checked<usize> {
    match text.parse() {
        Ok(bytes @ 65_536..=67_108_864) => Ok(bytes),
        _ => refuse(format!("{text} is out of range"), "use 65536 to 67108864 bytes"),
    }
}

fn log_filter(text: &str) -> Checked<String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => refuse(format!("{text:?} is not a log level"), "use error, warn, info, debug or trace"),
    }
}

fn switch(text: &str) -> Checked<bool> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => refuse(format!("{text:?} is neither true nor false"), "use true or false"),
    }
}

fn duration(text: &str) -> Checked<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let count = count.parse::<u64>().ok().filter(|count| *count > 0);
    match count.zip(millis).and_then(|(count, millis)| count.checked_mul(millis)) {
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => refuse(format!("{text:?} is not a duration"), "write for example \"500ms\", \"5s\", \"30s\" or \"1h\""),
    }
}

fn ttl(ttl: Duration) -> Checked<Duration> {
    if (Duration::from_secs(5)..=Duration::from_hours(24)).contains(&ttl) {
        return Ok(ttl);
    }
    refuse("the life of a runner's credentials is out of range", "use \"5s\" to \"24h\"")
}

/// Heartbeat < suspect < lost, whatever of them was given.
fn check_timing(
    doc: &mut Document<'_>,
    heartbeat: Option<Duration>,
    suspect: Option<Duration>,
    lost: Option<Duration>,
) -> Option<(Duration, Duration, Duration)> {
    let (heartbeat, suspect, lost) = (heartbeat?, suspect?, lost?);
    let section = "external_agents";
    if lost < Duration::from_secs(1) {
        doc.fault(section, "lost_timeout", "a lease lives whole seconds", "use at least \"1s\"");
        return None;
    }
    if heartbeat >= lost {
        doc.fault(
            section,
            "heartbeat_interval",
            &format!(
                "an interval of {heartbeat:?} is not shorter than the time-out of {lost:?}: every runner would be lost"
            ),
            "make it a sixth of lost_timeout, for example \"5s\" and \"30s\"",
        );
        return None;
    }
    let suspect = match suspect {
        Duration::ZERO if lost / 2 > heartbeat => lost / 2,
        Duration::ZERO => (heartbeat + lost) / 2,
        given => given,
    };
    if suspect <= heartbeat || suspect >= lost {
        doc.fault(
            section,
            "suspect_timeout",
            &format!("{suspect:?} is not between heartbeat_interval {heartbeat:?} and lost_timeout {lost:?}"),
            "leave it out (half of lost_timeout) or put it between the two",
        );
        return None;
    }
    Some((heartbeat, suspect, lost))
}

#[cfg(test)]
mod tests;
