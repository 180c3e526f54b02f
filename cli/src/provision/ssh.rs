//! A connection to a host: TCP (through one jump host where ssh's settings say so), the host's key, the login.
//!
//! Each connection is a task of russh's; it ends when [`Connection`] is dropped. A key that is not the host's ends the
//! handshake before anything of ours was sent; why is kept beside the handler, as russh's own error does not say.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::client::{self, Handle, Msg};
use russh::keys::agent::client::AgentClient;
use russh::keys::key::ALL_KEY_TYPES;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, Preferred, cipher};
use tokio::time::timeout;

use super::known_hosts::{self, Entry, Verdict};
use super::prompts::Prompts;
use super::ssh_config::Route;
use crate::error::{CliError, Kind, Result, chain};

/// TCP, key exchange.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// A login, which may ask an agent, and through it a person.
const LOGIN_WITHIN: Duration = Duration::from_mins(1);
/// A host that does not answer for three of these is gone.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// An authenticated connection.
pub struct Connection {
    handle: Handle<Checker>,
    /// The connection that this one goes through.
    _jump: Option<Box<Connection>>,
    /// `user@host:port`.
    pub place: String,
}

/// How strict, and whom to ask.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Pins the key of a host that nothing is known of.
    pub accept_new: bool,
    /// Asks for passphrases.
    pub prompts: Prompts,
}

/// Decides about the host's key.
struct Checker {
    name: String,
    entries: Vec<Entry>,
    /// Where a new key is pinned; None refuses it.
    pin_in: Option<PathBuf>,
    refusal: Arc<Mutex<Option<(String, String)>>>,
}

impl Connection {
    /// Connects and logs in.
    pub async fn open(route: &Route, jump: Option<&Route>, policy: &Policy) -> Result<Self> {
        let through = match jump {
            Some(jump) => Some(Box::new(Box::pin(Self::open(jump, None, policy)).await?)),
            None => None,
        };
        let place = format!("{}@{}:{}", route.user, route.host, route.port);
        let unreachable = |why: String| {
            CliError::new(Kind::Unreachable, "cannot connect")
                .at(&place)
                .because(why)
                .next(format!("see that its sshd answers: ssh -p {} {}@{} true", route.port, route.user, route.host))
        };
        // An alias stands alone, whatever the port: as ssh has it.
        let name = route
            .alias
            .as_ref()
            .map_or_else(|| known_hosts::name_of(&route.host, route.port), |alias| alias.to_ascii_lowercase());
        let mut entries = Vec::new();
        for file in &route.known_hosts {
            let bytes = match tokio::fs::read(file).await {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                read => read.map_err(|error| {
                    CliError::new(Kind::Refused, "cannot read which key the host must have")
                        .at(file.display())
                        .because(error)
                        .next("make it readable; without it no host is trusted")
                })?,
            };
            let text = String::from_utf8_lossy(&bytes);
            entries.extend(known_hosts::entries(&text, &file.display().to_string(), &name));
        }
        let refusal = Arc::new(Mutex::new(None));
        let config = Arc::new(config(&entries));
        let pin_in = route.known_hosts.first().filter(|_| policy.accept_new).cloned();
        let checker = Checker { name, entries, pin_in, refusal: Arc::clone(&refusal) };
        let connecting = async {
            if let Some(through) = &through {
                let channel =
                    through.handle.channel_open_direct_tcpip(&route.host, u32::from(route.port), "127.0.0.1", 0);
                client::connect_stream(config, channel.await?.into_stream(), checker).await
            } else {
                client::connect(config, (route.host.as_str(), route.port), checker).await
            }
        };
        let connected = timeout(CONNECT_WITHIN, connecting).await;
        if let Some((why, next)) = refusal.lock().ok().and_then(|mut refusal| refusal.take()) {
            return Err(CliError::new(Kind::Refused, "the host's key is refused").at(&place).because(why).next(next));
        }
        let handle = match connected {
            Ok(Ok(handle)) => handle,
            Ok(Err(error)) => return Err(unreachable(chain(&error))),
            Err(_elapsed) => return Err(unreachable(format!("no answer within {} s", CONNECT_WITHIN.as_secs()))),
        };
        let mut connection = Self { handle, _jump: through, place };
        timeout(LOGIN_WITHIN, connection.log_in(route, policy)).await.map_err(|_elapsed| {
            CliError::new(Kind::TimedOut, "the login took too long").at(connection_place(route)).next("try it with ssh")
        })??;
        Ok(connection)
    }

    /// A channel of its own.
    pub async fn channel(&self) -> Result<Channel<Msg>> {
        self.handle.channel_open_session().await.map_err(|error| self.lost(&error))
    }

    /// What it means when the connection fails.
    pub fn lost(&self, error: &dyn std::error::Error) -> CliError {
        CliError::new(Kind::Unreachable, "the connection was lost")
            .at(&self.place)
            .because(chain(error))
            .next("run it again: what was begun is finished or undone first")
    }

    /// An agent's keys, then key files.
    async fn log_in(&mut self, route: &Route, policy: &Policy) -> Result<()> {
        let mut tried = Vec::new();
        let named: Vec<_> = route.identities.iter().filter_map(|file| public_half(file)).collect();
        if let Some(socket) = &route.agent
            && let Ok(mut agent) = AgentClient::connect_uds(socket).await
        {
            for identity in agent.request_identities().await.unwrap_or_default() {
                let key = identity.public_key().into_owned();
                if route.identities_only && !named.iter().any(|named| named.key_data() == key.key_data()) {
                    continue;
                }
                tried.push(format!("{} of the agent", key.fingerprint(HashAlg::Sha256)));
                let login = self.handle.authenticate_publickey_with(&route.user, key, None, &mut agent).await;
                if login.is_ok_and(|login| login.success()) {
                    return Ok(());
                }
            }
        }
        for file in route.identities.iter().filter(|file| file.is_file()) {
            let key = match read_key(file, policy).await {
                Ok(key) => key,
                Err(why) => {
                    tried.push(format!("{} ({why})", file.display()));
                    continue;
                }
            };
            tried.push(file.display().to_string());
            let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
            let login =
                self.handle.authenticate_publickey(&route.user, key).await.map_err(|error| self.lost(&error))?;
            if login.success() {
                return Ok(());
            }
        }
        let tried =
            if tried.is_empty() { "there is none to try".to_owned() } else { format!("tried: {}", tried.join(", ")) };
        Err(CliError::new(Kind::Refused, format!("the host takes no key of ours for user {}", route.user))
            .at(&self.place)
            .because(tried)
            .next(format!("ssh-copy-id -p {} {}@{}, or name another user or key", route.port, route.user, route.host)))
    }
}

fn connection_place(route: &Route) -> String {
    format!("{}@{}:{}", route.user, route.host, route.port)
}

fn config(entries: &[Entry]) -> client::Config {
    let preferred = Preferred {
        key: known_hosts::preferred(entries, ALL_KEY_TYPES).into(),
        // In front: they are as quick as the processor's own AES.
        cipher: vec![cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR].into(),
        ..Preferred::default()
    };
    client::Config {
        preferred,
        nodelay: true,
        keepalive_interval: Some(KEEPALIVE),
        inactivity_timeout: None,
        ..client::Config::default()
    }
}

fn public_half(file: &Path) -> Option<PublicKey> {
    let mut name = file.as_os_str().to_owned();
    name.push(".pub");
    PublicKey::from_openssh(std::fs::read_to_string(name).ok()?.trim()).ok()
}

/// A key, or why there is none.
async fn read_key(file: &Path, policy: &Policy) -> std::result::Result<PrivateKey, String> {
    match russh::keys::load_secret_key(file, None) {
        Ok(key) => Ok(key),
        Err(russh::keys::Error::KeyIsEncrypted) => {
            let phrase = policy.prompts.passphrase(file).await?;
            russh::keys::load_secret_key(file, Some(&phrase)).map_err(|_| "not the right passphrase".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

impl Checker {
    /// Why the key is refused, and what to do.
    fn judge(&self, key: &PublicKey) -> std::result::Result<(), (String, String)> {
        let shown = format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256));
        let (why, next) = match known_hosts::judge(&self.entries, key) {
            Verdict::Known => return Ok(()),
            Verdict::Changed(Entry { file, line, .. }) => (
                format!(
                    "{file} line {line} names another key for {}: the host shows {shown}. Somebody may be in between, or \
                     the host was made anew",
                    self.name
                ),
                format!(
                    "compare it at the host (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), then: ssh-keygen -R '{}'",
                    self.name
                ),
            ),
            Verdict::Revoked(Entry { file, line, .. }) => (
                format!("{file} line {line} revokes its key {shown}"),
                "give the host a new key: ssh-keygen -A after removing the old one".to_owned(),
            ),
            Verdict::Unknown => match &self.pin_in {
                Some(file) => match self.pin(file, key) {
                    Ok(()) => return Ok(()),
                    Err(error) => (
                        format!("its key {shown} cannot be pinned in {}: {error}", file.display()),
                        "make the file writable".to_owned(),
                    ),
                },
                None => (
                    format!("nothing is known of {}: the host shows {shown}", self.name),
                    "compare it at the host, then: helixctl provision --accept-new-host-key (pins it), or ssh to it \
                     once"
                        .to_owned(),
                ),
            },
        };
        Err((why, next))
    }

    fn pin(&self, file: &Path, key: &PublicKey) -> std::io::Result<()> {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        // One write: several hosts may be pinned at once.
        // Behind a last line that has no end it would be a part of that.
        let is_open = std::fs::read(file).is_ok_and(|bytes| bytes.last().is_some_and(|last| *last != b'\n'));
        let line = known_hosts::line_of(&self.name, key);
        let mut file = std::fs::File::options().append(true).create(true).mode(0o600).open(file)?;
        file.write_all(format!("{}{line}", if is_open { "\n" } else { "" }).as_bytes())
    }
}

impl client::Handler for Checker {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> std::result::Result<bool, Self::Error> {
        let verdict = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.judge(key),
            PublicKeyOrCertificate::Certificate(_) => Err((
                "the host shows a certificate, which is not taken".to_owned(),
                "put its plain key into known_hosts".to_owned(),
            )),
        };
        let Err(why) = verdict else { return Ok(true) };
        if let Ok(mut refusal) = self.refusal.lock() {
            *refusal = Some(why);
        }
        Ok(false)
    }
}
