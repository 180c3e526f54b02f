//! Secrets of people: stored sealed under their owner's name, taken from there by their sessions, told to nobody.
//!
//! A session gets values at its creation ([`Secrets::take`]); they are sealed again into its record, and opened only for
//! the runner that runs it ([`Secrets::of`]). Changing or deleting a stored secret changes no session that there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use helix_protocol::api::threads::{SecretList, SecretView, SetSecret};
use helix_protocol::ids::{hex, secret_hash};
use helix_protocol::record::{SecretRecord, SessionRecord};
use helix_protocol::thread::Secrets as Values;
use helix_protocol::{ErrorCode, SessionId};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::keys::{Keys, Place};
use crate::store::{Lookup, Store};

/// Most secrets of a session.
pub const MAX_SECRETS: usize = 64;
/// Most bytes of a session's secrets together, names included, as they are stored; and of one stored secret.
pub const MAX_BYTES: usize = 32 * 1024;
/// Most characters of a name.
const MAX_NAME_CHARS: usize = 128;
/// Most secrets that one owner stores.
const MAX_STORED: usize = 256;
/// How often a change is tried again after another writer was faster.
const MAX_TRIES: usize = 10;
/// What a session's programs get from us.
const RESERVED: [&str; 8] =
    ["DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "HOME", "PATH", "USER", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR"];
const RESERVED_PREFIXES: [&str; 3] = ["HELIX_", "LD_", "ZED_HELIX_"];

/// What a session asks for: name → value, or none for the one that its owner has stored.
pub type Asked = BTreeMap<String, Option<String>>;

/// Rules for secrets over the store. Cheap to clone.
#[derive(Clone)]
pub struct Secrets {
    store: Store,
    keys: Arc<Keys>,
}

impl Secrets {
    /// Rules over a store.
    pub fn new(store: Store, keys: Arc<Keys>) -> Self {
        Self { store, keys }
    }

    /// Stores a value under the caller's name; durable when this returns.
    pub async fn set(&self, by: &Principal, name: &str, request: &SetSecret) -> Result<SecretView> {
        check_name(name)?;
        check_value(name, &request.value)?;
        if request.value.is_empty() {
            return invalid("value is empty; delete the secret instead");
        }
        let bytes = name.len() + request.value.len();
        if bytes > MAX_BYTES {
            return invalid(format!("name and value have {bytes} bytes, at most {MAX_BYTES} are taken"));
        }
        let owner = by.name.as_str();
        let sealed = self.seal(Place::Owner { owner, name }, request.value.as_bytes())?;
        let (owner, name) = (owner.to_owned(), name.to_owned());
        let record = SecretRecord { owner, name, sealed, stored_at: Timestamp::now() };
        let (bucket, key) = (&self.store.secrets, key_of(by, &record.name));
        for _ in 0..MAX_TRIES {
            let there = bucket.get(&key).await?;
            if !matches!(there, Lookup::Found(_)) {
                self.check_room(by).await?;
            }
            match bucket.update(&key, &record, there.revision()).await {
                Ok(_) => return Ok(view_of(&record)),
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorCode::Conflict, format!("secret {} changes too fast; repeat the request", record.name)))
    }

    async fn check_room(&self, by: &Principal) -> Result<()> {
        let stored = self.list(by).await?.secrets.len();
        if stored < MAX_STORED {
            return Ok(());
        }
        invalid(format!("{stored} secrets are stored, at most {MAX_STORED} are kept; delete some first"))
    }

    /// The caller's own, by name, without their values. Knows all that was written before the call.
    pub async fn list(&self, by: &Principal) -> Result<SecretList> {
        self.store.secrets.catch_up().await?;
        let prefix = key_of(by, "");
        let stored = self.store.secrets.view().read();
        // The hash in the key says who; the name in the record says so for sure.
        let own = stored.with_prefix(&prefix).filter(|(_, entry)| entry.value.owner == by.name);
        Ok(SecretList { secrets: own.map(|(_, entry)| view_of(&entry.value)).collect() })
    }

    /// Removes one of the caller's own.
    pub async fn delete(&self, by: &Principal, name: &str) -> Result<()> {
        check_name(name)?;
        let (bucket, key) = (&self.store.secrets, key_of(by, name));
        for _ in 0..MAX_TRIES {
            let Lookup::Found(entry) = bucket.get(&key).await? else { return Err(not_stored(name)) };
            match bucket.delete(&key, entry.revision).await {
                Err(error) if error.code == ErrorCode::Conflict => {}
                done => return done.map(|_| ()),
            }
        }
        Err(Error::new(ErrorCode::Conflict, format!("secret {name} changes too fast; repeat the request")))
    }

    /// The values that a session of the caller's asks for, sealed for its record; `None` where it asks for none.
    pub async fn take(&self, by: &Principal, session: &SessionId, asked: Asked) -> Result<Option<String>> {
        if asked.is_empty() {
            return Ok(None);
        }
        let mut values = Values::new();
        for (name, value) in asked {
            let value = match value {
                Some(value) => value,
                None => self.stored(by, &name).await?,
            };
            values.insert(name, value);
        }
        let plain = encode(&values)?;
        check_size(plain.len())?;
        self.seal(Place::Session(session), &plain).map(Some)
    }

    async fn stored(&self, by: &Principal, name: &str) -> Result<String> {
        let owner = by.name.as_str();
        let found = self.store.secrets.get(&key_of(by, name)).await?.found();
        let record = found.filter(|entry| entry.value.owner == owner).ok_or_else(|| not_stored(name))?.value;
        let plain = self.keys.open(Place::Owner { owner, name }, &record.sealed).map_err(|error| {
            let detail =
                format!("the stored secret {name} cannot be opened; store it again: helixctl secret set {name}");
            Error::new(ErrorCode::SecretNotFound, detail).because(error)
        })?;
        String::from_utf8(plain)
            .map_err(|error| Error::new(ErrorCode::Internal, "a stored secret is not text").because(error.utf8_error()))
    }

    /// A session's secrets, for the runner that runs it.
    pub fn of(&self, record: &SessionRecord) -> Result<Values> {
        let Some(sealed) = &record.sealed_secrets else { return Ok(Values::new()) };
        let plain = self.keys.open(Place::Session(&record.id), sealed).map_err(|error| {
            let detail = format!("the secrets of session {} cannot be opened; make the session again", record.id);
            Error::new(ErrorCode::Internal, detail).because(error)
        })?;
        // The error would name what it could not read.
        serde_json::from_slice(&plain).map_err(|_| Error::new(ErrorCode::Internal, "sealed secrets are not a map"))
    }

    /// What makes two requests for secrets the same, without saying what they are.
    pub fn request_mark(&self, asked: &Asked) -> Result<String> {
        let marks: BTreeMap<_, _> =
            asked.iter().map(|(name, value)| (name, value.as_ref().map(|value| self.keys.mark(name, value)))).collect();
        let text = serde_json::to_vec(&marks)
            .map_err(|error| Error::new(ErrorCode::Internal, "cannot encode the request").because(error))?;
        Ok(hex(&Sha256::digest(text)))
    }

    fn seal(&self, place: Place<'_>, plain: &[u8]) -> Result<String> {
        self.keys
            .seal(place, plain)
            .map_err(|error| Error::new(ErrorCode::Internal, "a secret cannot be sealed").because(error))
    }
}

/// Names of environment variables that are not ours, with values that a process can have.
pub fn check_asked(asked: &Asked) -> Result<()> {
    if asked.len() > MAX_SECRETS {
        return invalid(format!("there are {} secrets, at most {MAX_SECRETS} are taken", asked.len()));
    }
    let mut bytes = 2;
    for (name, value) in asked {
        check_name(name)?;
        let value = value.as_deref().unwrap_or_default();
        check_value(name, value)?;
        bytes += encode(&(name, value))?.len();
    }
    check_size(bytes)
}

fn check_size(bytes: usize) -> Result<()> {
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    invalid(format!("secrets have {bytes} bytes as they are stored, at most {MAX_BYTES} are taken together"))
}

fn check_value(name: &str, value: &str) -> Result<()> {
    if value.contains('\0') { invalid(format!("secret {name} has a NUL character")) } else { Ok(()) }
}

/// The name of an environment variable that is not ours.
pub fn check_name(name: &str) -> Result<()> {
    let mut chars = name.chars();
    let head = chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    let good = head && chars.all(|rest| rest.is_ascii_alphanumeric() || rest == '_') && name.len() <= MAX_NAME_CHARS;
    if !good {
        let shown: String = name.chars().take(80).collect();
        return invalid(format!(
            "secret {shown:?} is not a name: use up to {MAX_NAME_CHARS} letters, digits and _, no digit first"
        ));
    }
    if RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return invalid(format!("secret {name} has a name that sessions get from Helix; use another one"));
    }
    Ok(())
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::new(ErrorCode::Internal, "cannot encode secrets").because(error))
}

fn key_of(by: &Principal, name: &str) -> String {
    format!("{}.{name}", secret_hash(&by.name))
}

fn view_of(record: &SecretRecord) -> SecretView {
    SecretView { name: record.name.clone(), stored_at: record.stored_at }
}

fn not_stored(name: &str) -> Error {
    let detail = format!("no secret {name} of yours is stored; store it: helixctl secret set {name}");
    Error::new(ErrorCode::SecretNotFound, detail)
}

fn invalid<T>(detail: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorCode::InvalidRequest, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, Option<&str>)]) -> Asked {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
    }

    #[test]
    fn names_are_those_of_variables_that_are_not_ours() {
        for good in ["ANTHROPIC_API_KEY", "_x", "A1", "HELIXIR", "HOMEPAGE"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "A".repeat(129);
        for bad in
            ["", "1A", "A-B", "A.B", "Ä", "A B", "HELIX_SESSION_ID", "ZED_HELIX_TOKEN", "PATH", "LD_PRELOAD", &long]
        {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_session_has_bounds_and_no_error_tells_a_value() {
        assert!(check_asked(&asked(&[("A", Some("x")), ("B", None)])).is_ok());
        let many = (0..=64).map(|index| (format!("A{index}"), None)).collect();
        assert!(check_asked(&many).is_err());
        let large = "s".repeat(MAX_BYTES);
        let quotes = "\"".repeat(20_000);
        for value in [large.as_str(), "hush\0hush", &quotes] {
            let error = check_asked(&asked(&[("A", Some(value))])).expect_err("refused");
            assert!(error.code == ErrorCode::InvalidRequest && !error.detail.contains("hush"), "{}", error.detail);
            assert!(error.detail.len() < 200);
        }
    }
}
