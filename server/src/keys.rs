//! Secrets derived from the server key: session tokens, the callout's signing key, and the key that seals what is stored.
//!
//! Each use has its own HMAC label, so that no derived secret says anything about another. Every replica with the
//! same key file derives the same secrets; nothing of them is stored. What is sealed is bound to its place: moved to
//! another one it does not open.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use helix_protocol::{Epoch, GrantId, SessionId};
use hmac::{Hmac, KeyInit as _, Mac as _};
use nkeys::{KeyPair, KeyPairType};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::Sha256;

/// Begins every session token: the documents' word.
pub const SESSION_TOKEN_PREFIX: &str = "ext_token_";

const LABEL_SESSION: &[u8] = b"helix/session-token/1";
const LABEL_CALLOUT: &[u8] = b"helix/nats-callout/1";
const LABEL_SEAL: &[u8] = b"helix/sealed-secrets/1";
const LABEL_MARK: &[u8] = b"helix/secret-marks/1";
const LABEL_FINGERPRINT: &[u8] = b"helix/fingerprint/1";
const LABEL_BACKUP: &[u8] = b"helix/backup/1";
const LABEL_ROUTES: &[u8] = b"helix/nats-routes/1";
/// Bytes of a fingerprint: enough to tell keys from each other.
const FINGERPRINT_BYTES: usize = 8;

/// Derived keys.
pub struct Keys {
    session: [u8; 32],
    callout: KeyPair,
    seal: LessSafeKey,
    mark: [u8; 32],
    fingerprint: String,
    backup: [u8; 32],
    routes: String,
}

/// Where something sealed is kept. It opens only there.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In the record of this session.
    Session(&'a SessionId),
    /// Under this name among an owner's secrets.
    Owner {
        /// Name of the owner's token.
        owner: &'a str,
        /// Name of the secret.
        name: &'a str,
    },
    /// Among the grants of this session, under this id.
    Grant {
        /// Whose desktop.
        session: &'a SessionId,
        /// Which.
        id: &'a GrantId,
    },
}

impl Place<'_> {
    fn bytes(self) -> Vec<u8> {
        // Ids and names of secrets have no NUL, so no two places read the same.
        match self {
            Self::Session(id) => format!("session\0{id}"),
            Self::Owner { owner, name } => format!("owner\0{name}\0{owner}"),
            Self::Grant { session, id } => format!("grant\0{id}\0{session}"),
        }
        .into_bytes()
    }
}

/// Why nothing is sealed, or nothing opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No nonce can be made.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
    /// It is not ours, not for this place, or was changed.
    #[error("it was sealed under another server key or for another place, or was changed")]
    Unreadable,
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
        let seal = UnboundKey::new(&CHACHA20_POLY1305, &mac(server_key, &[LABEL_SEAL]))
            .map_err(|_| anyhow::anyhow!("cannot derive the key that seals secrets"))?;
        Ok(Self {
            session: mac(server_key, &[LABEL_SESSION]),
            callout,
            seal: LessSafeKey::new(seal),
            mark: mac(server_key, &[LABEL_MARK]),
            fingerprint: helix_protocol::ids::hex(&mac(server_key, &[LABEL_FINGERPRINT])[..FINGERPRINT_BYTES]),
            backup: mac(server_key, &[LABEL_BACKUP]),
            routes: helix_protocol::ids::hex(&mac(server_key, &[LABEL_ROUTES])),
        })
    }

    /// Seals something for its place: a fresh nonce and the ciphertext, as base64. The same is never sealed the same.
    pub fn seal(&self, place: Place<'_>, plain: &[u8]) -> Result<String, SealError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(SealError::Random)?;
        let mut text = plain.to_vec();
        let sealed = Nonce::assume_unique_for_key(nonce);
        self.seal
            .seal_in_place_append_tag(sealed, Aad::from(place.bytes()), &mut text)
            .map_err(|_| SealError::Unreadable)?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &text].concat()))
    }

    /// Opens what was sealed for this place.
    pub fn open(&self, place: Place<'_>, sealed: &str) -> Result<Vec<u8>, SealError> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| SealError::Unreadable)?;
        let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Unreadable)?;
        let mut text = text.to_vec();
        let opened = self.seal.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place.bytes()), &mut text);
        Ok(opened.map_err(|_| SealError::Unreadable)?.to_vec())
    }

    /// What tells a secret from another one and says nothing of it to whoever has not the server key.
    pub fn mark(&self, name: &str, value: &str) -> String {
        helix_protocol::ids::hex(&mac(&self.mark, &[name.as_bytes(), &[0], value.as_bytes()]))
    }

    /// Tells server keys apart, and says nothing of this one.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Proves that a backup with this digest was made by who has the server key.
    pub fn backup_proof(&self, digest: &[u8]) -> String {
        helix_protocol::ids::hex(&mac(&self.backup, &[digest]))
    }

    /// Password by which the nats-servers of a cluster let each other in.
    pub fn routes_password(&self) -> &str {
        &self.routes
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

/// A fresh secret of 256 random bits, as text without characters that need quoting anywhere, and that is no flag: people give
/// it to commands (`--token`).
pub fn random_secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    loop {
        getrandom::fill(&mut bytes)?;
        let secret = URL_SAFE_NO_PAD.encode(bytes);
        if !secret.starts_with('-') {
            return Ok(secret);
        }
    }
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
    fn a_secret_is_never_taken_for_a_flag() {
        for _ in 0..2_000 {
            assert!(!random_secret().expect("random bytes").starts_with('-'));
        }
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
    fn what_is_sealed_opens_in_its_place_alone() {
        let (keys, one, two) = (keys(), session("one"), session("two"));
        let sealed = keys.seal(Place::Session(&one), b"sk-123").expect("sealed");
        assert_eq!(keys.open(Place::Session(&one), &sealed).expect("opened"), b"sk-123");
        assert_ne!(keys.seal(Place::Session(&one), b"sk-123").expect("sealed"), sealed, "a nonce is used once");
        let owned = Place::Owner { owner: "one", name: "KEY" };
        for place in [Place::Session(&two), owned] {
            assert!(keys.open(place, &sealed).is_err(), "{place:?}");
        }
        let other = Keys::derive(&[8; 32]).expect("a key of 32 bytes derives");
        assert!(other.open(Place::Session(&one), &sealed).is_err());
        let mut bytes = URL_SAFE_NO_PAD.decode(&sealed).expect("base64");
        for place in 0..bytes.len() {
            bytes[place] ^= 1;
            assert!(keys.open(Place::Session(&one), &URL_SAFE_NO_PAD.encode(&bytes)).is_err(), "byte {place}");
            bytes[place] ^= 1;
        }
        for bad in ["", "%", "AAAA", &sealed[..20]] {
            assert!(keys.open(Place::Session(&one), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mark_is_of_name_and_value_and_key() {
        let keys = keys();
        assert_eq!(keys.mark("A", "x"), keys.mark("A", "x"));
        let marks = [keys.mark("A", "x"), keys.mark("B", "x"), keys.mark("A", "y"), keys.mark("A\0x", "")];
        assert_eq!(std::collections::BTreeSet::from(marks).len(), 4);
        let other = Keys::derive(&[8; 32]).expect("a key of 32 bytes derives");
        assert_ne!(keys.mark("A", "x"), other.mark("A", "x"));
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(same_secret("abc", "abc"));
        for (given, expected) in [("abc", "abd"), ("ab", "abc"), ("abc", "ab"), ("", "a")] {
            assert!(!same_secret(given, expected), "{given} {expected}");
        }
    }
}
