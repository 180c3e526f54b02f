//! Manifests and chunks from the servers, over HTTPS, with the runner's own token.

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::ErrorCode;
use helix_protocol::api::Problem;
use helix_protocol::api::images::StoredImage;
use helix_protocol::image::{Digest, MAX_STORED_BYTES, SignedManifest};

use super::pull::PullError;
use crate::config::Config;
use crate::link::backoff::Backoff;
use crate::link::token::OwnToken;

/// For one chunk.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Without anything that comes, a pull is given up. What is here stays for the next one.
const PATIENCE: Duration = Duration::from_mins(2);
/// Most bytes of a refusal that are read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Asks the servers of the settings, one after the other.
#[derive(Debug, Clone)]
pub struct Fetcher {
    config: Arc<Config>,
    token: OwnToken,
    client: reqwest::Client,
    patience: Duration,
}

/// Why one request did not succeed.
enum Failed {
    /// It may later.
    Later(String),
    /// It never will.
    Refused(ErrorCode, String),
}

impl Fetcher {
    /// With the runner's settings and token.
    pub fn new(config: Arc<Config>, token: OwnToken) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { config, token, client, patience: PATIENCE })
    }

    /// With less patience.
    #[cfg(test)]
    pub(super) fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// A manifest, believed by nobody yet.
    pub(super) async fn manifest(&self, digest: Digest) -> Result<SignedManifest, PullError> {
        let bytes = self.get(&format!("/api/v1/images/manifests/{digest}")).await?;
        let stored: StoredImage = serde_json::from_slice(&bytes)
            .map_err(|error| PullError::Damaged(format!("the manifest cannot be read: {error}")))?;
        if stored.signed.digest() != digest {
            return Err(PullError::Damaged(format!("the manifest is that of {}", stored.signed.digest())));
        }
        Ok(stored.signed)
    }

    /// A chunk as it is stored, not looked at.
    pub(super) async fn chunk(&self, digest: Digest) -> Result<Vec<u8>, PullError> {
        self.get(&format!("/api/v1/images/chunks/{digest}")).await
    }

    /// Asks until there is an answer, or patience is over.
    async fn get(&self, path: &str) -> Result<Vec<u8>, PullError> {
        let mut backoff = Backoff::default();
        let mut last = "no server is configured".to_owned();
        let tries = async {
            loop {
                for host in &self.config.api_hosts {
                    match self.get_once(&format!("{host}{path}")).await {
                        Ok(bytes) => return Ok(bytes),
                        Err(Failed::Later(reason)) => last = format!("{host}: {reason}"),
                        Err(Failed::Refused(ErrorCode::ImageNotFound | ErrorCode::ChunkNotFound, detail)) => {
                            return Err(PullError::NotThere(detail));
                        }
                        Err(Failed::Refused(_, detail)) => return Err(PullError::Refused(detail)),
                    }
                }
                tokio::time::sleep(backoff.pause()).await;
            }
        };
        match tokio::time::timeout(self.patience, tries).await {
            Ok(done) => done,
            Err(_) => Err(PullError::Unreachable { seconds: self.patience.as_secs(), last }),
        }
    }

    async fn get_once(&self, url: &str) -> Result<Vec<u8>, Failed> {
        let later = |error: reqwest::Error| Failed::Later(error.without_url().to_string());
        let request = self.client.get(url).bearer_auth(self.token.current().expose());
        let mut answer = request.send().await.map_err(later)?;
        let (status, good) = (answer.status(), answer.status().is_success());
        let most = if good { MAX_STORED_BYTES } else { MAX_ANSWER_BYTES };
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(later)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > most {
                return Err(Failed::Refused(
                    ErrorCode::BodyTooLarge,
                    format!("the server sends more than {most} bytes"),
                ));
            }
        }
        if good {
            return Ok(bytes);
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            // A token that was just changed is not known everywhere at once.
            Ok(problem) if status.is_client_error() && problem.code != ErrorCode::TokenInvalid => {
                Err(Failed::Refused(problem.code, problem.detail))
            }
            Ok(problem) => Err(Failed::Later(problem.detail)),
            Err(_) => Err(Failed::Later(format!("it answers {status}"))),
        }
    }
}
