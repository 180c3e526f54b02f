//! Secrets derived from the server key: session tokens and the callout's signing key.
//!
//! Each use has its own HMAC label, so that no derived secret says anything about another. Every replica with the
//! same key file derives the same secrets; nothing of them is stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use helix_protocol::{Epoch, SessionId};
use hmac::{Hmac, KeyInit as _, Mac as _};
use nkeys::{KeyPair, KeyPairType};
use sha2::Sha256;

/// Begins every session token: the documents' word.
pub const SESSION_TOKEN_PREFIX: &str = "ext_token_";

const LABEL_SESSION: &[u8] = b"helix/session-token/1";
const LABEL_CALLOUT: &[u8] = b"helix/nats-callout/1";

/// Derived keys.
pub struct Keys {
    session: [u8; 32],
    callout: KeyPair,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("callout_issuer", &self.callout_issuer()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Derives everything from the 32 bytes of the key file.
    pub fn derive(server_key: &[u8; 32]) -> anyhow::Result<Self> {
        let callout = KeyPair::new_from_raw(KeyPairType::Account, mac(server_key, &[LABEL_CALLOUT]))
            .map_err(|err| anyhow::anyhow!("cannot derive the callout's signing key: {err}"))?;
        Ok(Self { session: mac(server_key, &[LABEL_SESSION]), callout })
    }

    /// Public key that nats-server must trust as the issuer of runners' user JWTs.
    pub fn callout_issuer(&self) -> String {
        self.callout.public_key()
    }

    /// Signs as the callout's issuer.
    pub fn callout_sign(&self, bytes: &[u8]) -> Result<Vec<u8>, nkeys::error::Error> {
        self.callout.sign(bytes)
    }

    /// The session's own bearer under this epoch; see [`token_epoch`].
    pub fn session_token(&self, session: &SessionId, epoch: Epoch) -> String {
        let proof = self.session_proof(session, epoch);
        format!("{SESSION_TOKEN_PREFIX}{}.{}", URL_SAFE_NO_PAD.encode(session.as_str()), URL_SAFE_NO_PAD.encode(proof))
    }

    /// True when `token` is the session's bearer under this epoch. Takes the same time for every wrong token.
    pub fn is_session_token(&self, token: &str, session: &SessionId, epoch: Epoch) -> bool {
        same_secret(token, &self.session_token(session, epoch))
    }

    fn session_proof(&self, session: &SessionId, epoch: Epoch) -> [u8; 32] {
        mac(&self.session, &[session.as_str().as_bytes(), &[0], &epoch.0.to_be_bytes()])
    }
}

/// The epoch of a session's token. A session that was never assigned has the token of its first assignment already,
/// so that what its creator was told stays true.
pub fn token_epoch(epoch: Epoch, assigned: bool) -> Epoch {
    if assigned { epoch } else { Epoch(epoch.0.saturating_add(1)) }
}

/// The session that a token claims to be for; says nothing about its truth.
pub fn session_of_token(token: &str) -> Option<SessionId> {
    let (session, _proof) = token.strip_prefix(SESSION_TOKEN_PREFIX)?.split_once('.')?;
    let session = URL_SAFE_NO_PAD.decode(session).ok()?;
    SessionId::parse(String::from_utf8(session).ok()?).ok()
}

/// Compares two secrets without telling by its duration where they differ.
pub fn same_secret(given: &str, expected: &str) -> bool {
    let (given, expected) = (given.as_bytes(), expected.as_bytes());
    let differ = given.iter().zip(expected).fold(0_u8, |acc, (a, b)| acc | (a ^ b));
    given.len() == expected.len() && std::hint::black_box(differ) == 0
}

/// A fresh secret of 256 random bits, as text without characters that need quoting anywhere.
pub fn random_secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A fresh id of a process or a session: 96 random bits.
pub fn random_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 12];
    getrandom::fill(&mut bytes)?;
    Ok(helix_protocol::ids::hex(&bytes))
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::derive(&[7; 32]).expect("a key of 32 bytes derives")
    }

    fn session(id: &str) -> SessionId {
        SessionId::parse(id).expect("valid id")
    }

    #[test]
    fn a_session_token_names_its_session_and_is_bound_to_its_epoch() {
        let (keys, id) = (keys(), session("s_1-x"));
        let token = keys.session_token(&id, Epoch(2));
        assert!(token.starts_with("ext_token_"));
        assert_eq!(session_of_token(&token), Some(id.clone()));
        assert!(keys.is_session_token(&token, &id, Epoch(2)));
        assert!(!keys.is_session_token(&token, &id, Epoch(3)));
        assert!(!keys.is_session_token(&token, &session("s_1-y"), Epoch(2)));
        assert!(!keys.is_session_token(&token[..token.len() - 1], &id, Epoch(2)));
        let other = Keys::derive(&[8; 32]).expect("a key of 32 bytes derives");
        assert!(!other.is_session_token(&token, &id, Epoch(2)));
    }

    #[test]
    fn the_token_told_at_creation_is_that_of_the_first_assignment() {
        let (keys, id) = (keys(), session("s"));
        let token = |epoch, assigned| keys.session_token(&id, token_epoch(Epoch(epoch), assigned));
        assert_eq!(token(7, false), token(8, true));
        assert_ne!(token(7, false), token(7, true));
    }

    #[test]
    fn what_is_no_session_token_names_no_session() {
        for bad in ["", "ext_token_", "ext_token_.x", "ext_token_%%.x", "ext_token_YS9i.x", "other_YQ.x"] {
            assert_eq!(session_of_token(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_callout_key_is_an_account_key_and_the_same_on_every_replica() {
        assert!(keys().callout_issuer().starts_with('A'));
        assert_eq!(keys().callout_issuer(), keys().callout_issuer());
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(same_secret("abc", "abc"));
        for (given, expected) in [("abc", "abd"), ("ab", "abc"), ("abc", "ab"), ("", "a")] {
            assert!(!same_secret(given, expected), "{given} {expected}");
        }
    }
}
