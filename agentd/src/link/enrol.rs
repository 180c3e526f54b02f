//! Who this runner is to the servers: the enrolment that tells a server the hash of its own token ([`super::token`]).
//!
//! The token is on disk before its hash is sent, so a lost answer costs nothing: the same request again is the same
//! enrolment. What a server answered is kept beside it, so that a restart needs no server to know its NATS.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use helix_protocol::RunnerId;
use helix_protocol::api::Problem;
use helix_protocol::api::runners::{EnrolRunner, Enrolled};
use helix_protocol::ids::secret_hash;
use reqwest::{Method, StatusCode};
use serde::Serialize;

use super::token::write_private;
use crate::config::{Config, Secret};
use crate::outbound;

/// A whole exchange with the server.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Why a runner is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Nothing to enrol with.
    #[error(
        "no enrolment token is configured: set API_TOKEN or api_token_file to one (helixctl token create --runner)"
    )]
    NoToken,
    /// The server said no.
    #[error("{server} refuses runner {runner}: {detail}{}", hint(.code))]
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
    #[error("{server} cannot be reached: {reason}; is API_HOST right and the server up?")]
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
        "token_invalid" | "token_missing" | "forbidden" => {
            "; API_TOKEN has to be a good enrolment token: helixctl token create --runner"
        }
        _ => "",
    }
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
        tracing::error!("cannot keep the certificate of NATS: {error}");
    }
    Some(path)
}

/// Tells the first server the hash of `token`.
pub async fn enrol(config: &Config, token: &Secret) -> Result<Enrolled, EnrolError> {
    let bearer = config.enrolment_token.as_ref().ok_or(EnrolError::NoToken)?;
    let body = EnrolRunner { id: config.runner.clone(), token_hash: secret_hash(token.expose()) };
    let text = call(config, Method::POST, "/api/v1/runners/enrol", bearer, &body).await?;
    let enrolled: Enrolled = serde_json::from_slice(&text).map_err(|error| EnrolError::Unreachable {
        server: server(config),
        reason: format!("its answer is not an enrolment: {error}"),
    })?;
    if let Err(error) = write_private(&config.state_dir.join("enrolled.json"), &text) {
        // Only the next start is slower.
        tracing::warn!("cannot keep the answer to the enrolment: {error}");
    }
    Ok(enrolled)
}

/// One request of the runner's own to the first server: what it answers, if that is no refusal.
pub(super) async fn call<B: Serialize>(
    config: &Config,
    method: Method,
    path: &str,
    bearer: &Secret,
    body: &B,
) -> Result<Vec<u8>, EnrolError> {
    let server = server(config);
    let unreachable = |reason: String| EnrolError::Unreachable { server: server.clone(), reason };
    // A few times in a runner's life.
    let client = outbound::client(&config.api_hosts, TIMEOUT).map_err(|error| unreachable(describe(&error)))?;
    let request = client.request(method, format!("{server}{path}")).bearer_auth(bearer.expose()).json(body);
    let mut answer = request.send().await.map_err(|error| unreachable(describe(&error)))?;
    let status = answer.status();
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(describe(&error)))? {
        text.extend_from_slice(&chunk);
        if text.len() > MAX_ANSWER_BYTES {
            return Err(unreachable("it answers with too much".to_owned()));
        }
    }
    if status.is_success() { Ok(text) } else { Err(refusal(config, server, status, &text)) }
}

fn server(config: &Config) -> String {
    config.api_hosts.first().cloned().unwrap_or_default()
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
