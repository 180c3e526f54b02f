//! The login: an agent's keys, key files, and at last a password, where a person can be asked for it.

use std::path::Path;
use std::sync::Arc;

use russh::MethodKind;
use russh::client::{AuthResult, KeyboardInteractiveAuthResponse};
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};

use super::Connection;
use crate::error::{CliError, Kind, Result};
use crate::ssh::config::Route;
use crate::ssh::prompts::Prompts;

/// Questions of one login that are answered at most.
const MOST_QUESTIONS: usize = 4;

/// Tries everything that there is.
pub(super) async fn log_in(connection: &mut Connection, route: &Route, prompts: &Prompts) -> Result<()> {
    let mut login = Login { connection, route, tried: Vec::new(), offered: None };
    if login.agent().await? || login.files(prompts).await? || login.password(prompts).await? {
        return Ok(());
    }
    let tried = match login.tried.join(", ") {
        none if none.is_empty() => "there is none to try".to_owned(),
        tried => format!("tried: {tried}"),
    };
    Err(CliError::new(Kind::Refused, format!("the host takes no key of ours for user {}", route.user))
        .at(&connection.place)
        .because(tried)
        .next(format!("ssh-copy-id -p {} {}@{}, or name another user or key", route.port, route.user, route.host)))
}

struct Login<'a> {
    connection: &'a mut Connection,
    route: &'a Route,
    tried: Vec<String>,
    /// Ways to log in that the host offers, once it has said so.
    offered: Option<Vec<MethodKind>>,
}

impl Login<'_> {
    async fn agent(&mut self) -> Result<bool> {
        let Some(socket) = &self.route.agent else { return Ok(false) };
        let Ok(mut agent) = AgentClient::connect_uds(socket).await else { return Ok(false) };
        let named: Vec<_> = self.route.identities.iter().filter_map(|file| public_half(file)).collect();
        for identity in agent.request_identities().await.unwrap_or_default() {
            let key = identity.public_key().into_owned();
            if self.route.identities_only && !named.iter().any(|named| named.key_data() == key.key_data()) {
                continue;
            }
            self.tried.push(format!("{} of the agent", key.fingerprint(HashAlg::Sha256)));
            let handle = &mut self.connection.handle;
            // The agent signs, so RSA needs nothing of ours; the old way with SHA-1 is not taken.
            let hash = match key.algorithm() {
                Algorithm::Rsa { .. } => {
                    Some(handle.best_supported_rsa_hash().await.ok().flatten().flatten().unwrap_or(HashAlg::Sha256))
                }
                _ => None,
            };
            match handle.authenticate_publickey_with(&self.route.user, key, hash, &mut agent).await {
                Ok(result) if self.is_in(&result)? => return Ok(true),
                // A key that the agent does not sign with is one that does not fit.
                _ => {}
            }
        }
        Ok(false)
    }

    async fn files(&mut self, prompts: &Prompts) -> Result<bool> {
        for file in self.route.identities.iter().filter(|file| file.is_file()) {
            let key = match read_key(file, prompts).await {
                Ok(key) => key,
                Err(why) => {
                    self.tried.push(format!("{} ({why})", file.display()));
                    continue;
                }
            };
            self.tried.push(file.display().to_string());
            let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
            let result = self.connection.handle.authenticate_publickey(&self.route.user, key).await;
            let result = result.map_err(|error| self.connection.lost(&error))?;
            if self.is_in(&result)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Only where the host takes one and a person is there to type it.
    async fn password(&mut self, prompts: &Prompts) -> Result<bool> {
        if !prompts.somebody() {
            return Ok(false);
        }
        let user = &self.route.user;
        if self.offered.is_none() {
            let result = self.connection.handle.authenticate_none(user).await;
            let result = result.map_err(|error| self.connection.lost(&error))?;
            if self.is_in(&result)? {
                return Ok(true);
            }
        }
        let offers = |kind: MethodKind| self.offered.as_ref().is_some_and(|offered| offered.contains(&kind));
        let (plain, questions) = (offers(MethodKind::Password), offers(MethodKind::KeyboardInteractive));
        if !plain && !questions {
            return Ok(false);
        }
        let password = match prompts.password(&self.connection.place).await {
            Ok(password) => password,
            Err(why) => {
                self.tried.push(format!("a password ({why})"));
                return Ok(false);
            }
        };
        self.tried.push("a password".to_owned());
        let handle = &mut self.connection.handle;
        if plain {
            let result = handle.authenticate_password(user, password).await;
            let result = result.map_err(|error| self.connection.lost(&error))?;
            return self.is_in(&result);
        }
        let mut said = handle.authenticate_keyboard_interactive_start(user, None).await;
        for _ in 0..MOST_QUESTIONS {
            let asked = match said.map_err(|error| self.connection.lost(&error))? {
                KeyboardInteractiveAuthResponse::Success => return Ok(true),
                KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts.len(),
            };
            let answers = vec![password.clone(); asked];
            said = self.connection.handle.authenticate_keyboard_interactive_respond(answers).await;
        }
        Ok(false)
    }

    /// A connection that ends meanwhile is, to the library, a host that refuses and offers nothing else; a host that refuses
    /// says what it would take.
    fn is_in(&mut self, result: &AuthResult) -> Result<bool> {
        if let AuthResult::Failure { remaining_methods, .. } = result {
            if remaining_methods.is_empty() {
                return Err(self.connection.lost(&std::io::Error::other("it ended during the login")));
            }
            self.offered = Some(remaining_methods.to_vec());
        }
        Ok(result.success())
    }
}

fn public_half(file: &Path) -> Option<PublicKey> {
    let mut name = file.as_os_str().to_owned();
    name.push(".pub");
    PublicKey::from_openssh(std::fs::read_to_string(name).ok()?.trim()).ok()
}

/// A key, or why there is none.
async fn read_key(file: &Path, prompts: &Prompts) -> std::result::Result<PrivateKey, String> {
    match russh::keys::load_secret_key(file, None) {
        Ok(key) => Ok(key),
        Err(russh::keys::Error::KeyIsEncrypted) => {
            let phrase = prompts.passphrase(file).await?;
            russh::keys::load_secret_key(file, Some(&phrase)).map_err(|_| "not the right passphrase".to_owned())
        }
        Err(error) => {
            let is_rsa = public_half(file).is_some_and(|key| matches!(key.algorithm(), Algorithm::Rsa { .. }));
            Err(if is_rsa { "an RSA key: load it into an agent, ssh-add".to_owned() } else { error.to_string() })
        }
    }
}
