//! A connection to a host: TCP, or a program's streams, or a channel through the host before it; the host's key; the login.
//!
//! Each connection is a task of russh's; it ends when [`Connection`] is dropped, with the program that it goes through. A key
//! that is not the host's ends the handshake before anything of ours was sent; why is kept beside the handler, as russh's
//! own error does not say.

mod login;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::client::{self, Handle, Msg};
use russh::keys::key::ALL_KEY_TYPES;
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, Preferred, cipher};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Ssh;
use super::config::{Route, Way};
use super::known_hosts::{self, Entry, Verdict};
use crate::error::{CliError, Kind, Result, chain};

/// TCP, key exchange.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// A login, which may ask an agent, and through it a person.
const LOGIN_WITHIN: Duration = Duration::from_mins(1);
/// A host that does not answer for three of these is gone; and a host that hears nothing of us for six of them, a minute, may
/// give its lock to another run (`begin.sh`).
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What is said of a connection that ended on its way.
pub const LOST: &str = "the connection was lost";

/// An authenticated connection.
pub struct Connection {
    handle: Handle<Checker>,
    /// What this one goes through: the connection to the host before, or a program.
    _through: Through,
    /// `user@host:port`.
    pub place: String,
}

enum Through {
    Nothing,
    Host(#[expect(dead_code, reason = "held: the connection ends with it")] Box<Connection>),
    Program(#[expect(dead_code, reason = "held: killed when dropped")] Child),
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
    /// Connects and logs in, hop by hop.
    pub async fn open(way: &Way, ssh: &Ssh) -> Result<Self> {
        let mut through = None;
        for route in &way.hops {
            through = Some(Box::pin(Self::hop(route, through, ssh)).await?);
        }
        through.ok_or_else(|| CliError::failed("there is no way to the host"))
    }

    async fn hop(route: &Route, before: Option<Self>, ssh: &Ssh) -> Result<Self> {
        let place = route.place();
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
        let pin_in = route.known_hosts.first().filter(|_| ssh.accept_new).cloned();
        let checker = Checker { name, entries, pin_in, refusal: Arc::clone(&refusal) };
        let connecting = async {
            match (before, &route.proxy_command) {
                (Some(before), _) => {
                    let (host, port) = (&route.host, u32::from(route.port));
                    let channel = before.handle.channel_open_direct_tcpip(host, port, "127.0.0.1", 0).await?;
                    let handle = client::connect_stream(config, channel.into_stream(), checker).await?;
                    Ok((handle, Through::Host(Box::new(before))))
                }
                (None, Some(command)) => {
                    let (child, stream) = program(command)?;
                    Ok((client::connect_stream(config, stream, checker).await?, Through::Program(child)))
                }
                (None, None) => {
                    let handle = client::connect(config, (route.host.as_str(), route.port), checker).await?;
                    Ok((handle, Through::Nothing))
                }
            }
        };
        let connected: std::result::Result<std::result::Result<_, russh::Error>, _> =
            timeout(CONNECT_WITHIN, connecting).await;
        if let Some((why, next)) = refusal.lock().ok().and_then(|mut refusal| refusal.take()) {
            return Err(CliError::new(Kind::Refused, "the host's key is refused").at(&place).because(why).next(next));
        }
        let (handle, through) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(unreachable(chain(&error))),
            Err(_elapsed) => return Err(unreachable(format!("no answer within {} s", CONNECT_WITHIN.as_secs()))),
        };
        let mut connection = Self { handle, _through: through, place };
        timeout(LOGIN_WITHIN, login::log_in(&mut connection, route, &ssh.prompts)).await.map_err(|_elapsed| {
            CliError::new(Kind::TimedOut, "the login took too long").at(route.place()).next("try it with ssh")
        })??;
        Ok(connection)
    }

    /// A channel of its own.
    pub async fn channel(&self) -> Result<Channel<Msg>> {
        self.handle.channel_open_session().await.map_err(|error| self.lost(&error))
    }

    /// An error of something that went over the connection: where that has ended, it is the cause, whatever was noticed first.
    pub async fn or_lost(&self, error: CliError) -> CliError {
        // Either the host answers, or the library's task is seen to end.
        let asked = timeout(KEEPALIVE, self.handle.send_ping()).await;
        if matches!(asked, Ok(Ok(()))) && !self.handle.is_closed() {
            return error;
        }
        self.lost(&std::io::Error::other(error.why.unwrap_or(error.what)))
    }

    /// What it means when the connection fails.
    pub fn lost(&self, error: &dyn std::error::Error) -> CliError {
        CliError::new(Kind::Unreachable, LOST).at(&self.place).because(chain(error)).next("run it again")
    }
}

/// A program whose streams lead to the host, as ssh starts it.
fn program(
    command: &str,
) -> std::io::Result<(Child, tokio::io::Join<tokio::process::ChildStdout, tokio::process::ChildStdin>)> {
    // What it has to say goes where our own words go.
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("exec {command}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    match (child.stdout.take(), child.stdin.take()) {
        (Some(from), Some(to)) => Ok((child, tokio::io::join(from, to))),
        _ => Err(std::io::ErrorKind::BrokenPipe.into()),
    }
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
                    "compare it at the host, then: --accept-new-host-key (pins it), or ssh to it once".to_owned(),
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
