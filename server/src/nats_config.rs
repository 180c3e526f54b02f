//! `helix-server nats-config`: a complete nats.conf that fits a server.toml, for one nats-server or for each of a cluster.
//!
//! Off loopback there is only TLS. The members of a cluster prove themselves to each other twice: by a certificate of the
//! cluster's CA, and by a password that derives from the server key.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

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
    /// Address for servers and runners.
    pub listen: IpAddr,
    /// Its port; -1 = any free one.
    pub port: i32,
    /// Folder in which nats-server tells its port.
    pub ports_file_dir: Option<PathBuf>,
    /// TLS, without which it listens on loopback alone.
    pub tls: Option<Tls>,
    /// Its place in a cluster.
    pub cluster: Option<Member>,
}

/// Files of nats-server's certificate.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate, with those between it and its CA.
    pub cert: PathBuf,
    /// Its key, 0600.
    pub key: PathBuf,
    /// Who signs the certificates of the cluster's members.
    pub ca: Option<PathBuf>,
}

/// One nats-server of a cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name; each has another one.
    pub name: String,
    /// Where the others reach it.
    pub listen: SocketAddr,
    /// `HOST:PORT` of every member; its own may be among them.
    pub peers: Vec<String>,
}

/// Name of the cluster.
const CLUSTER: &str = "helix";
/// User of routes.
const ROUTE_USER: &str = "route";
/// Seconds for a TLS handshake, and for a route to prove itself: a loaded machine takes more than nats-server's two.
const HANDSHAKE_S: u32 = 10;

impl NatsSettings {
    /// On loopback, alone, without TLS: one machine.
    pub fn local(store_dir: PathBuf, port: i32) -> Self {
        let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { store_dir, listen, port, ports_file_dir: None, tls: None, cluster: None }
    }

    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.listen.is_loopback() || self.tls.is_some(),
            "{} is not on loopback, and passwords and tokens would cross the network in plaintext; fix: --tls-cert FILE \
             --tls-key FILE (docs/nats.md makes them)",
            self.listen
        );
        let Some(member) = &self.cluster else { return Ok(()) };
        anyhow::ensure!(
            self.tls.as_ref().is_some_and(|tls| tls.ca.is_some()),
            "the members of a cluster believe each other by their certificates; fix: --tls-cert, --tls-key and --tls-ca"
        );
        anyhow::ensure!(
            !member.name.is_empty() && member.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "{:?} is no name of a nats-server; fix: --node with letters, digits and -",
            member.name
        );
        for peer in &member.peers {
            let split = peer.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            let is_good = split.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
            anyhow::ensure!(
                is_good && !peer.contains(['/', '@', ' ']),
                "{peer:?} is no peer; fix: write HOST:PORT of its --cluster-listen, for example nats-2.example.org:6222"
            );
        }
        Ok(())
    }
}

/// The whole file. It holds passwords: keep it at mode 0600.
pub fn render(config: &ServerConfig, settings: &NatsSettings) -> anyhow::Result<String> {
    settings.check()?;
    let keys = Keys::derive(&config.secrets.key)?;
    let issuer = keys.callout_issuer();
    let observer_password = config.secrets.observer_password.as_deref().context(
        "the observer has no password; fix: name a file of mode 0600 as observer_password_file in [nats] of server.toml",
    )?;
    let (helix, runners, observers) = (subject::ACCOUNT_HELIX, subject::ACCOUNT_RUNNERS, subject::ACCOUNT_OBSERVERS);
    let (up, down) = (subject::UP_ALL, subject::DOWN_ALL);
    let (system, connections, kick) = (subject::ACCOUNT_SYSTEM, subject::SYS_CONNECTIONS, subject::SYS_KICK_ALL);
    let disconnect = subject::SYS_DISCONNECT;
    let user = quoted(&config.nats.user)?;
    let mut text = String::new();
    let (name, cluster) = match &settings.cluster {
        Some(member) => (format!("server_name: {}\n", quoted(&member.name)?), cluster(member, settings, &keys)?),
        None => (String::new(), String::new()),
    };
    let tls = match &settings.tls {
        Some(tls) => format!("\n{}\n", tls_block(tls, false, "")?),
        None => String::new(),
    };
    let ports = match &settings.ports_file_dir {
        Some(dir) => format!("ports_file_dir: {}\n", quoted(&dir.to_string_lossy())?),
        None => String::new(),
    };
    write!(
        text,
        r#"# nats-server for Helix, made by `helix-server nats-config`. Holds passwords: keep it at mode 0600.
{name}host: "{listen}"
port: {port}
{ports}max_payload: {max_payload}
{tls}{cluster}
jetstream {{
  store_dir: {store_dir}
  max_memory_store: {max_memory_store}
  max_file_store: {max_file_store}
  # What is acknowledged is on the disk.
  sync_interval: always
}}

system_account: {system}

accounts {{
  # Nobody's. Servers end a runner's connection with its token, and hear when one ends.
  {system}: {{
    exports: [
      {{ stream: "{disconnect}", accounts: [{helix}] }}
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
      {{ stream: {{ account: {system}, subject: "{disconnect}" }} }}
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
        listen = settings.listen,
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

/// Writes it where nobody but its owner reads it, whole or not at all.
pub fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, chown};
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let place = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&new);
        let mut made = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        std::io::Write::write_all(&mut made, text.as_bytes())?;
        made.sync_all()?;
        // Written again it stays nats-server's.
        if let Ok(there) = std::fs::metadata(file) {
            let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&there), std::os::unix::fs::MetadataExt::gid(&there));
            chown(&new, Some(uid), Some(gid))?;
        }
        std::fs::rename(&new, file)
    };
    place().with_context(|| format!("cannot write {}", file.display()))
}

/// Routes to the other members. Clients are not told of them: they have all addresses, by the names of the certificates.
fn cluster(member: &Member, settings: &NatsSettings, keys: &Keys) -> anyhow::Result<String> {
    let password = keys.routes_password();
    let routes: Vec<_> =
        member.peers.iter().map(|peer| format!("    \"nats-route://{ROUTE_USER}:{password}@{peer}\"")).collect();
    let tls = settings.tls.as_ref().map(|tls| tls_block(tls, true, "  ")).transpose()?.unwrap_or_default();
    Ok(format!(
        r#"
cluster {{
  name: {CLUSTER}
  listen: "{listen}"
  no_advertise: true
  authorization {{ user: {ROUTE_USER}, password: {password}, timeout: {HANDSHAKE_S} }}
{tls}
  routes: [
{routes}
  ]
}}
"#,
        listen = member.listen,
        routes = routes.join("\n"),
    ))
}

/// `verify`: the other side has to show a certificate of the CA, too.
fn tls_block(tls: &Tls, verify: bool, indent: &str) -> anyhow::Result<String> {
    let file = |path: &Path| quoted(&path.to_string_lossy());
    let mut text = format!("{indent}tls {{ cert_file: {}, key_file: {}", file(&tls.cert)?, file(&tls.key)?);
    if let (true, Some(ca)) = (verify, &tls.ca) {
        write!(text, ", ca_file: {}, verify: true", file(ca)?)?;
    }
    write!(text, ", timeout: {HANDSHAKE_S} }}")?;
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
