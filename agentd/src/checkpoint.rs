//! Checkpoints, agentd's end: carries what a session's unit `tools` ([`crate::tools::checkpoint`]) keeps to the server and
//! brings what it needs, over HTTPS, with the runner's own token. Nothing of it touches this machine's disk.
//!
//! No task of its own: a session's task calls it and bounds its time. One pack is in memory per session. What a server does not answer is asked
//! again, of the next one, until [`PATIENCE`] is over; what it refuses is an error that says so. A checkpoint counts once it is
//! committed: whatever breaks off before that leaves packs that the server removes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use helix_protocol::api::Problem;
use helix_protocol::api::checkpoints::{CommitCheckpoint, Committed};
use helix_protocol::checkpoint::{MAX_STORED_BYTES, Reason, Restore};
use helix_protocol::image::Digest;
use helix_protocol::tools::{Failure, FrameKind, MAX_DATA, Request};
use helix_protocol::{Epoch, ErrorCode, SessionId};
use reqwest::Method;
use serde::Serialize;
use tokio::net::UnixStream;

use crate::config::Config;
use crate::link::backoff::Backoff;
use crate::link::token::OwnToken;
use crate::outbound;
use crate::tools::checkpoint::{Answer, Step};
use crate::tools::frames;

/// For one request.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Without an answer of any server.
const PATIENCE: Duration = Duration::from_mins(1);
/// Most bytes of a refusal that are read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Why there is no checkpoint, or nothing was restored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CheckpointError {
    /// The session's unit cannot do it.
    #[error("{0}")]
    Session(String),
    /// No server answers.
    #[error("no server takes it: {0}")]
    Unreachable(String),
    /// A server will not.
    #[error("the server refuses it: {1}")]
    Refused(ErrorCode, String),
}

impl From<std::io::Error> for CheckpointError {
    fn from(error: std::io::Error) -> Self {
        Self::Session(format!("its tools broke off: {error}"))
    }
}

type Result<T, E = CheckpointError> = std::result::Result<T, E>;

/// The way to the servers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Courier {
    config: Arc<Config>,
    token: OwnToken,
}

/// Whose work is carried.
#[derive(Debug, Clone)]
pub struct Of {
    /// The session.
    pub session: SessionId,
    /// Under which assignment.
    pub epoch: Epoch,
}

impl Courier {
    /// With the runner's settings and token.
    pub fn new(config: Arc<Config>, token: OwnToken) -> Self {
        Self { config, token }
    }

    /// Makes a checkpoint over a connection to the session's tools; none where nothing has changed since the last one.
    pub async fn make(&self, stream: UnixStream, of: &Of, reason: Reason) -> Result<Option<u32>> {
        let client = self.client()?;
        let (begun, mut sent_bytes) = (Instant::now(), 0);
        let mut line = Line { stream, payload: Vec::new() };
        line.ask(&Request::Checkpoint {}).await?;
        loop {
            match line.step().await? {
                Step::Keep { digest } => {
                    let bytes: Bytes = line.bytes().await?.into();
                    sent_bytes += bytes.len() as u64;
                    let path = format!("checkpoints/blobs/{digest}");
                    self.call(&client, Method::PUT, of, &path, bytes).await?;
                    line.answer(&Answer::Done {}).await?;
                }
                Step::Commit { manifest } => {
                    let took_ms = begun.elapsed().as_millis() as u64;
                    let commit = CommitCheckpoint { epoch: of.epoch, manifest, reason, sent_bytes, took_ms };
                    let body = serde_json::to_vec(&commit).map_err(std::io::Error::from)?.into();
                    return match self.call(&client, Method::POST, of, "checkpoints/commit", body).await {
                        Ok(answer) => {
                            line.answer(&Answer::Done {}).await?;
                            // It closes once it has noted that: not before is it the base of the next one.
                            line.until_closed().await;
                            let committed: Committed = serde_json::from_slice(&answer).map_err(std::io::Error::from)?;
                            Ok(Some(committed.number))
                        }
                        Err(error) => {
                            if matches!(error, CheckpointError::Refused(..)) {
                                line.answer(&Answer::Refused {}).await?;
                                line.until_closed().await;
                            }
                            Err(error)
                        }
                    };
                }
                Step::Unchanged {} => return Ok(None),
                Step::Want { .. } | Step::Filled {} => return Err(unexpected()),
            }
        }
    }

    /// Fills the workspace over a connection to the session's tools.
    pub async fn restore(&self, stream: UnixStream, of: &Of, restore: &Restore) -> Result<()> {
        let client = self.client()?;
        let mut line = Line { stream, payload: Vec::new() };
        line.ask(&Request::Restore { manifest: restore.manifest }).await?;
        loop {
            match line.step().await? {
                Step::Want { digest } => {
                    let path = format!("checkpoints/blobs/{digest}");
                    let bytes = self.call(&client, Method::GET, of, &path, Bytes::new()).await?;
                    if Digest::of(&bytes) != digest {
                        let detail = format!("{digest} is not what its name says");
                        return Err(CheckpointError::Refused(ErrorCode::CheckpointDamaged, detail));
                    }
                    line.send(&bytes).await?;
                }
                Step::Filled {} => return Ok(()),
                _ => return Err(unexpected()),
            }
        }
    }

    fn client(&self) -> Result<reqwest::Client> {
        let client = outbound::client(&self.config.api_hosts, TIMEOUT);
        client.map_err(|error| CheckpointError::Unreachable(error.to_string()))
    }

    /// One request, of one server after the other.
    async fn call(
        &self,
        client: &reqwest::Client,
        method: Method,
        of: &Of,
        path: &str,
        body: Bytes,
    ) -> Result<Vec<u8>> {
        let (begun, mut backoff) = (Instant::now(), Backoff::default());
        let mut last = "no server is configured".to_owned();
        loop {
            for host in &self.config.api_hosts {
                let Of { session, epoch } = of;
                let url = format!("{host}/api/v1/sessions/{session}/{path}?epoch={epoch}");
                let request = client.request(method.clone(), url).bearer_auth(self.token.current().expose());
                let kind = if method == Method::POST { "application/json" } else { "application/octet-stream" };
                let request = request.header("content-type", kind).body(body.clone());
                match answer(request).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(CheckpointError::Unreachable(reason)) => last = format!("{host}: {reason}"),
                    Err(error) => return Err(error),
                }
            }
            let pause = backoff.pause();
            if begun.elapsed() + pause > PATIENCE {
                return Err(CheckpointError::Unreachable(last));
            }
            tokio::time::sleep(pause).await;
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Vec<u8>> {
    let later = |error: reqwest::Error| CheckpointError::Unreachable(error.without_url().to_string());
    let mut answer = request.send().await.map_err(later)?;
    let (status, good) = (answer.status(), answer.status().is_success());
    let most = if good { MAX_STORED_BYTES } else { MAX_ANSWER_BYTES };
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(later)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > most {
            return Err(CheckpointError::Unreachable(format!("it sends more than {most} bytes")));
        }
    }
    if good {
        return Ok(bytes);
    }
    match serde_json::from_slice::<Problem>(&bytes) {
        // A token that was just changed is not known everywhere at once; a record may be written by two at once.
        Ok(problem) if matches!(problem.code, ErrorCode::TokenInvalid | ErrorCode::Conflict) => {
            Err(CheckpointError::Unreachable(problem.detail))
        }
        Ok(problem) if status.is_client_error() || problem.code == ErrorCode::CheckpointsFull => {
            Err(CheckpointError::Refused(problem.code, problem.detail))
        }
        Ok(problem) => Err(CheckpointError::Unreachable(problem.detail)),
        Err(_) => Err(CheckpointError::Unreachable(format!("it answers {status}"))),
    }
}

fn unexpected() -> CheckpointError {
    CheckpointError::Session("its tools say what they were not asked".to_owned())
}

/// The connection to the session's tools.
struct Line {
    stream: UnixStream,
    payload: Vec<u8>,
}

impl Line {
    async fn ask(&mut self, request: &Request) -> Result<()> {
        Ok(frames::write_json(&mut self.stream, FrameKind::Request, request).await?)
    }

    async fn step(&mut self) -> Result<Step> {
        match frames::read(&mut self.stream, &mut self.payload).await? {
            Some(FrameKind::Answer) => Ok(frames::parse(&self.payload)?),
            Some(FrameKind::Failed) => {
                let failure: Failure = frames::parse(&self.payload)?;
                Err(CheckpointError::Session(failure.detail))
            }
            Some(_) => Err(unexpected()),
            None => Err(CheckpointError::Session("its tools have ended".to_owned())),
        }
    }

    async fn answer(&mut self, answer: &impl Serialize) -> Result<()> {
        Ok(frames::write_json(&mut self.stream, FrameKind::Control, answer).await?)
    }

    /// Data up to its end.
    async fn bytes(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            match frames::read(&mut self.stream, &mut self.payload).await? {
                Some(FrameKind::Data) => bytes.extend_from_slice(&self.payload),
                Some(FrameKind::End) => return Ok(bytes),
                _ => return Err(unexpected()),
            }
            if bytes.len() > MAX_STORED_BYTES {
                return Err(unexpected());
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(MAX_DATA) {
            frames::write(&mut self.stream, FrameKind::Data, part).await?;
        }
        Ok(frames::write(&mut self.stream, FrameKind::End, &[]).await?)
    }

    async fn until_closed(&mut self) {
        while let Ok(Some(_)) = frames::read(&mut self.stream, &mut self.payload).await {}
    }
}
