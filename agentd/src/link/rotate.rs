//! A new token of this runner's own, when a server wants one: the runner's part of `server/src/runners/rotate.rs`.
//!
//! One task ([`run`]). What is wanted comes with every desired set, so nothing has to be remembered: each step is done from
//! what is on the disk and what the server says, and done again after a crash, a lost answer or an unreachable server.

use std::io;
use std::sync::Arc;

use helix_protocol::ErrorCode;
use helix_protocol::api::runners::RenewToken;
use helix_protocol::ids::secret_hash;
use helix_protocol::link::RotateToken;
use reqwest::Method;
use tokio::sync::watch;

use super::backoff::Backoff;
use super::enrol::{self, EnrolError};
use super::token::OwnToken;
use crate::config::{Config, Secret};

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
enum RotateError {
    #[error("the token's file: {0}")]
    Disk(#[from] io::Error),
    #[error("{0}")]
    Server(#[from] EnrolError),
}

/// Rotates whenever `wanted` says so.
pub async fn run(config: Arc<Config>, token: OwnToken, mut wanted: watch::Receiver<Option<RotateToken>>) {
    let mut backoff = Backoff::default();
    // Hash of the token that a server has been told of, which the desired set may not say yet.
    let mut announced = None;
    loop {
        let Ok(Some(rotation)) = wanted.wait_for(Option::is_some).await.map(|rotation| rotation.clone()) else {
            return;
        };
        wanted.mark_unchanged();
        match rotate(&config, &token, &rotation, &mut announced).await {
            Ok(()) => {
                announced = None;
                backoff.reset();
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!("no new token yet; the one of before goes on: {error}");
                let pause = tokio::time::sleep(backoff.pause());
                // Both arms are cancel safe: a timer and a watch.
                tokio::select! {
                    () = pause => {}
                    changed = wanted.changed() => if changed.is_err() { return },
                }
            }
        }
    }
}

async fn rotate(
    config: &Config,
    token: &OwnToken,
    rotation: &RotateToken,
    announced: &mut Option<String>,
) -> Result<(), RotateError> {
    let mut own = token.current();
    let hash = Some(secret_hash(own.expose()));
    // Otherwise an agentd before this one came as far as that, or the server was gone at this very moment.
    if rotation.next != hash && *announced != hash {
        match renew(config, &own, &token.next()?).await {
            // Not wanted any more: the desired set was an old one.
            Err(EnrolError::Refused { code, .. }) if code == ErrorCode::Conflict.to_string() => {
                return Ok(token.forget_next()?);
            }
            done => done?,
        }
        own = token.take_next()?;
        *announced = Some(secret_hash(own.expose()));
    }
    let proved = renew(config, &own, &own).await;
    // The link comes back with it, whatever the server said: both are good, or this one alone.
    token.tell(&own);
    proved?;
    tracing::info!("this runner has a new token of its own");
    Ok(())
}

/// The same request twice: with the old token as bearer it announces the new one, with the new one it proves it.
async fn renew(config: &Config, bearer: &Secret, token: &Secret) -> Result<(), EnrolError> {
    let body = RenewToken { token_hash: secret_hash(token.expose()) };
    let path = format!("/api/v1/runners/{}/token", config.runner);
    enrol::call(config, Method::PUT, &path, bearer, &body).await.map(|_| ())
}
