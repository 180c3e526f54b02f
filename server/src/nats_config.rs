//! `helix-server nats-config`: a complete nats.conf that fits a server.toml.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use helix_protocol::subject;

use crate::config::ServerConfig;
use crate::keys::Keys;

/// NATS user that may read everything and write nothing.
pub const OBSERVER: &str = "observer";

/// What an observer may ask JetStream. Nothing that makes a consumer: a push consumer writes wherever it is aimed.
const OBSERVER_MAY_ASK: &[&str] = &[
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.CONSUMER.INFO.*.*",
    "$JS.API.CONSUMER.NAMES.*",
    "$JS.API.CONSUMER.LIST.*",
];

/// What an observer may hear. Not the callout's subject, where runners' tokens pass, and no inboxes.
const OBSERVER_MAY_HEAR: &[&str] =
    &["external_agents.>", subject::UP_ALL, subject::DOWN_ALL, "threads.>", "images.>", "$KV.>"];

/// What the command line says.
#[derive(Debug, Clone)]
pub struct NatsSettings {
    /// Folder of JetStream's files.
    pub store_dir: PathBuf,
    /// Port on loopback; -1 = any free one.
    pub port: i32,
    /// Folder in which nats-server tells its port.
    pub ports_file_dir: Option<PathBuf>,
}

/// The whole file. It holds passwords: keep it at mode 0600.
pub fn render(config: &ServerConfig, settings: &NatsSettings) -> anyhow::Result<String> {
    let issuer = Keys::derive(&config.secrets.key)?.callout_issuer();
    let observer_password = config.secrets.observer_password.as_deref().context(
        "the observer has no password; fix: name a file of mode 0600 as observer_password_file in [nats] of server.toml",
    )?;
    let (helix, runners, observers) = (subject::ACCOUNT_HELIX, subject::ACCOUNT_RUNNERS, subject::ACCOUNT_OBSERVERS);
    let (up, down) = (subject::UP_ALL, subject::DOWN_ALL);
    let (system, connections, kick) = (subject::ACCOUNT_SYSTEM, subject::SYS_CONNECTIONS, subject::SYS_KICK_ALL);
    let user = quoted(&config.nats.user)?;
    let mut text = String::new();
    let ports = match &settings.ports_file_dir {
        Some(dir) => format!("ports_file_dir: {}\n", quoted(&dir.to_string_lossy())?),
        None => String::new(),
    };
    write!(
        text,
        r#"# nats-server for Helix, made by `helix-server nats-config`. Holds passwords: keep it at mode 0600.
host: "127.0.0.1"
port: {port}
{ports}max_payload: {max_payload}

jetstream {{
  store_dir: {store_dir}
  max_memory_store: {max_memory_store}
  max_file_store: {max_file_store}
  # What is acknowledged is on the disk.
  sync_interval: always
}}

system_account: {system}

accounts {{
  # Nobody's. Servers end a runner's connection with its token.
  {system}: {{
    exports: [
      {{ service: "{connections}", response_type: Stream, accounts: [{helix}] }}
      {{ service: "{kick}", accounts: [{helix}] }}
    ]
  }}
  # Servers.
  {helix}: {{
    jetstream: enabled
    users: [{{ user: {user}, password: {server_password} }}]
    exports: [
      {{ service: "{up}", accounts: [{runners}] }}
      {{ stream: "{down}", accounts: [{runners}, {observers}] }}
{exports}    ]
    imports: [
      {{ service: {{ account: {system}, subject: "{connections}" }} }}
      {{ service: {{ account: {system}, subject: "{kick}" }} }}
    ]
  }}
  # Runners, let in by helix-server. No JetStream here.
  {runners}: {{
    imports: [
      {{ service: {{ account: {helix}, subject: "{up}" }} }}
      {{ stream: {{ account: {helix}, subject: "{down}" }} }}
    ]
  }}
  # The observer: reads, and reaches nothing that it could change. "> >" is every queue group: it listens beside the
  # servers, never in their place.
  {observers}: {{
    users: [
      {{
        user: "{OBSERVER}"
        password: {observer_password}
        permissions: {{
          publish: [{may_ask}]
          subscribe: {{ allow: [">"], deny: ["> >"] }}
        }}
      }}
    ]
    imports: [
{imports}    ]
  }}
}}

authorization {{
  auth_callout {{
    issuer: {issuer}
    account: {helix}
    auth_users: [{user}, "{OBSERVER}"]
  }}
}}
"#,
        port = settings.port,
        max_payload = config.nats.max_payload.0,
        max_memory_store = config.nats.max_memory_store.0,
        max_file_store = config.nats.max_file_store.0,
        store_dir = quoted(&settings.store_dir.to_string_lossy())?,
        server_password = quoted(&config.secrets.nats_password)?,
        observer_password = quoted(observer_password)?,
        may_ask = list(OBSERVER_MAY_ASK),
        exports = observed(|kind, subject| format!("{{ {kind}: {subject:?}, accounts: [{observers}] }}"), &[down]),
        imports = observed(|kind, subject| format!("{{ {kind}: {{ account: {helix}, subject: {subject:?} }} }}"), &[]),
    )?;
    Ok(text)
}

/// One line for each subject that the observer's account imports, but for those `without`.
fn observed(line: impl Fn(&str, &str) -> String, without: &[&str]) -> String {
    let streams = OBSERVER_MAY_HEAR.iter().map(|subject| ("stream", *subject));
    let services = OBSERVER_MAY_ASK.iter().map(|subject| ("service", *subject));
    let wanted = streams.chain(services).filter(|(_, subject)| !without.contains(subject));
    wanted.flat_map(|(kind, subject)| ["      ".to_owned(), line(kind, subject), "\n".to_owned()]).collect()
}

fn list(subjects: &[&str]) -> String {
    subjects.iter().map(|subject| format!("{subject:?}")).collect::<Vec<_>>().join(", ")
}

fn quoted(text: &str) -> anyhow::Result<String> {
    anyhow::ensure!(
        !text.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')),
        "a path, user or password for nats.conf holds a quote, backslash or control character; use another"
    );
    Ok(format!("\"{text}\""))
}
