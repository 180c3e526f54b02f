//! Secret files: read whole, refused when others may read them, never shown.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::document::Document;

/// Fewest characters of a token or password: below that it can be guessed.
const MIN_SECRET_CHARS: usize = 16;

/// What the secret files hold.
#[derive(Clone)]
pub struct Secrets {
    /// The server key: session tokens and the callout's signing key derive from it.
    pub key: [u8; 32],
    /// Bearer of scope `admin`.
    pub admin_token: String,
    /// Bearer of scope `enrol`; no runner can be enrolled without one.
    pub enrolment_token: Option<String>,
    /// Password of the server's NATS user.
    pub nats_password: String,
    /// Password of the NATS user that may read everything; needed by `nats-config` only.
    pub observer_password: Option<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// Reads every secret that the document names; notes faults there.
pub fn read(doc: &mut Document<'_>, key_file: Option<&PathBuf>, sample: &str) -> Option<Secrets> {
    let key = key_file.and_then(|path| key(doc, path));
    let admin_file = doc.path("", "admin_token_file");
    let admin_token = admin_file.and_then(|path| secret(doc, "", "admin_token_file", &path));
    if admin_token.as_deref() == Some(sample) {
        note_sample(doc, "", "admin_token_file", sample);
    }
    let enrolment_token = enrolment_token(doc, sample);
    if admin_token.is_some() && admin_token == enrolment_token {
        let fix = "make a second random token; an enrolment token is given to every runner";
        doc.fault("", "enrolment_token_file", "the enrolment token is the admin token", fix);
    }
    let password_file = doc.path("nats", "password_file");
    let nats_password = password_file.and_then(|path| secret(doc, "nats", "password_file", &path));
    let observer_file = doc.optional_path("nats", "observer_password_file");
    let observer_password = observer_file.and_then(|path| secret(doc, "nats", "observer_password_file", &path));
    Some(Secrets {
        key: key?,
        admin_token: admin_token?,
        enrolment_token,
        nats_password: nats_password?,
        observer_password,
    })
}

fn enrolment_token(doc: &mut Document<'_>, sample: &str) -> Option<String> {
    let file = doc.optional_path("", "enrolment_token_file");
    if let Some(token) = doc.env("RUNNER_TOKEN") {
        let place = "environment variable RUNNER_TOKEN";
        if token == sample {
            let problem = format!("the sample token {sample:?} of the documents is public");
            doc.fault_at(place, &problem, "make a random one: head -c 32 /dev/urandom | base64");
        } else if token.chars().count() < MIN_SECRET_CHARS {
            doc.fault_at(place, "the token can be guessed", "make a random one: head -c 32 /dev/urandom | base64");
        }
        return Some(token);
    }
    let token = file.and_then(|path| secret(doc, "", "enrolment_token_file", &path));
    if token.as_deref() == Some(sample) {
        note_sample(doc, "", "enrolment_token_file", sample);
    }
    token
}

fn note_sample(doc: &mut Document<'_>, section: &str, key: &str, sample: &str) {
    let problem = format!("the sample token {sample:?} of the documents is public");
    doc.fault(section, key, &problem, "make a random one: head -c 32 /dev/urandom | base64");
}

fn key(doc: &mut Document<'_>, path: &Path) -> Option<[u8; 32]> {
    let bytes = private_file(doc, "", "key_file", path)?;
    let key = <[u8; 32]>::try_from(bytes.as_slice()).ok();
    if key.is_none() {
        let problem = format!("{} holds {} bytes, not 32", path.display(), bytes.len());
        doc.fault("", "key_file", &problem, "make one: head -c 32 /dev/urandom, mode 0600, the same on every replica");
    }
    key
}

/// A file's secret, which cannot be guessed; notes faults.
pub(super) fn secret(doc: &mut Document<'_>, section: &'static str, key: &'static str, path: &Path) -> Option<String> {
    let bytes = private_file(doc, section, key, path)?;
    let text = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    let good = text.chars().count() >= MIN_SECRET_CHARS && text.chars().all(|c| c.is_ascii_graphic());
    if !good {
        let problem = format!("{} holds no secret of {MIN_SECRET_CHARS} or more printable characters", path.display());
        doc.fault(section, key, &problem, "make one: head -c 32 /dev/urandom | base64, mode 0600");
        return None;
    }
    Some(text.to_owned())
}

fn private_file(doc: &mut Document<'_>, section: &'static str, key: &'static str, path: &Path) -> Option<Vec<u8>> {
    let fix = format!("chmod 600 {}", path.display());
    let read = std::fs::metadata(path).and_then(|meta| {
        let mode = meta.permissions().mode() & 0o777;
        let others_may_nothing = mode.trailing_zeros() >= 6;
        if meta.is_file() && others_may_nothing { std::fs::read(path).map(Ok) } else { Ok(Err(mode)) }
    });
    match read {
        Ok(Ok(bytes)) => Some(bytes),
        Ok(Err(mode)) => {
            let problem = format!("{} (mode {mode:03o}) must be a file only its owner may read", path.display());
            doc.fault(section, key, &problem, &fix);
            None
        }
        Err(err) => {
            let problem = format!("{} cannot be read: {err}", path.display());
            doc.fault(section, key, &problem, "make the file, mode 0600, or correct the path");
            None
        }
    }
}
