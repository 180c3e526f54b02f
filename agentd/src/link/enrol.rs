//! Who this runner is to the servers: its own token, made here, and the enrolment that tells a server its hash.
//!
//! The token is on disk (0600) before its hash is sent, so a lost answer costs nothing: the same request again is the
//! same enrolment. What a server answered is kept beside it, so that a restart needs no server to know its NATS.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use helix_protocol::RunnerId;
use helix_protocol::api::{EnrolRunner, Enrolled, Problem};
use helix_protocol::ids::{hex, secret_hash};
use reqwest::StatusCode;

use crate::config::{Config, Secret};

/// A whole exchange with the server.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
const TOKEN_BYTES: usize = 32;

/// Why a runner is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Nothing to enrol with.
    #[error("no enrolment token is configured: set API_TOKEN or api_token_file to the server's enrolment token")]
    NoToken,
    /// The server said no.
    #[error("{server} refuses to enrol runner {runner}: {detail}{}", hint(.code))]
    Refused {
        /// Which server.
        server: String,
        /// Who asked.
        runner: RunnerId,
        /// The problem's code, or the HTTP status.
        code: String,
        /// What it said.
        detail: String,
    },
    /// The server cannot be reached or does not talk like one.
    #[error("{server} cannot enrol runners now: {reason}; is API_HOST right and the server up?")]
    Unreachable {
        /// Which server.
        server: String,
        /// Why.
        reason: String,
    },
}

fn hint(code: &str) -> &'static str {
    match code {
        "runner_enrolled_elsewhere" => "; choose another RUNNER_ID, or remove the runner at the server first",
        "token_invalid" | "token_missing" | "forbidden" => "; compare API_TOKEN with the server's enrolment token",
        _ => "",
    }
}

/// This runner's own token; made and written at the first call.
pub fn own_token(state_dir: &Path) -> io::Result<Secret> {
    let path = state_dir.join("token");
    match fs::read_to_string(&path) {
        Ok(token) if token.trim().len() == TOKEN_BYTES * 2 => return Ok(Secret::new(token.trim())),
        // Half a token is none: it was never enrolled, because it is on disk before it is used.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let token = hex(&bytes);
    write_private(&path, token.as_bytes())?;
    Ok(Secret::new(token))
}

/// What the last enrolment answered, if it was for this id.
pub fn last_answer(state_dir: &Path, runner: &RunnerId) -> Option<Enrolled> {
    let text = fs::read(state_dir.join("enrolled.json")).ok()?;
    let enrolled: Enrolled = serde_json::from_slice(&text).ok()?;
    (enrolled.id == *runner).then_some(enrolled)
}

/// The file with who signs the certificates of NATS, as the last enrolment told; none where the machine's own are meant.
pub fn ca_file(state_dir: &Path, enrolled: &Enrolled) -> Option<PathBuf> {
    let pem = enrolled.nats_ca.as_deref()?;
    let path = state_dir.join("nats-ca.pem");
    let is_there = fs::read_to_string(&path).is_ok_and(|there| there == pem);
    if !is_there && let Err(error) = write_private(&path, pem.as_bytes()) {
        tracing::error!(%error, "cannot keep the certificate of NATS");
    }
    Some(path)
}

/// Tells the first server the hash of `token`.
pub async fn enrol(config: &Config, token: &Secret) -> Result<Enrolled, EnrolError> {
    let bearer = config.enrolment_token.as_ref().ok_or(EnrolError::NoToken)?;
    let server = config.api_hosts.first().cloned().unwrap_or_default();
    let unreachable = |reason: String| EnrolError::Unreachable { server: server.clone(), reason };
    // Not kept: this happens a few times in a runner's life, and a client holds certificates and connections.
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| unreachable(describe(&error)))?;
    let body = EnrolRunner { id: config.runner.clone(), token_hash: secret_hash(token.expose()) };
    let mut answer = client
        .post(format!("{server}/api/v1/runners/enrol"))
        .bearer_auth(bearer.expose())
        .json(&body)
        .send()
        .await
        .map_err(|error| unreachable(describe(&error)))?;
    let status = answer.status();
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(describe(&error)))? {
        text.extend_from_slice(&chunk);
        if text.len() > MAX_ANSWER_BYTES {
            return Err(unreachable("it answers with too much".to_owned()));
        }
    }
    if !status.is_success() {
        return Err(refusal(config, server, status, &text));
    }
    let enrolled: Enrolled = serde_json::from_slice(&text)
        .map_err(|error| unreachable(format!("its answer is not an enrolment: {error}")))?;
    if let Err(error) = write_private(&config.state_dir.join("enrolled.json"), &text) {
        // Only the next start is slower.
        tracing::warn!(%error, "cannot keep the answer to the enrolment");
    }
    Ok(enrolled)
}

fn refusal(config: &Config, server: String, status: StatusCode, text: &[u8]) -> EnrolError {
    let problem: Option<Problem> = serde_json::from_slice(text).ok();
    let runner = config.runner.clone();
    match problem {
        Some(problem) if status.is_client_error() => {
            let detail = if problem.detail.is_empty() { problem.title } else { problem.detail };
            EnrolError::Refused { server, runner, code: problem.code.to_string(), detail }
        }
        Some(problem) => EnrolError::Unreachable { server, reason: problem.detail },
        None => EnrolError::Unreachable { server, reason: format!("it answers {status} without a problem document") },
    }
}

/// The error with its causes; an URL has no secret here, the token is in a header.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_token_is_made_once_and_private() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let token = own_token(dir.path()).expect("made");
        assert_eq!(token.expose().len(), 64);
        assert_eq!(own_token(dir.path()).expect("read"), token);
        let mode = fs::metadata(dir.path().join("token")).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join("token"), "half").expect("written");
        assert_ne!(own_token(dir.path()).expect("made anew"), token);
    }
}
