//! How a machine becomes a runner: the id is bound to the hash of the runner's own token.
//!
//! Repeating a request is the same enrolment, so a lost answer costs nothing. A join token remembers for whom it was
//! used: it is good for that very request again, and for nothing else.

use std::time::Duration;

use helix_protocol::api::{CreateJoinToken, EnrolRunner, Enrolled, JoinToken};
use helix_protocol::record::{RunnerRecord, Scope, TokenRecord};
use helix_protocol::runner::Liveness;
use helix_protocol::{ErrorCode, RunnerId};
use jiff::Timestamp;

use super::Runners;
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::tokens::Tokens;

/// Life of a join token that nobody said anything about.
const JOIN_TTL: Duration = Duration::from_mins(15);
/// The longest one.
const LONGEST_JOIN_TTL: Duration = Duration::from_hours(24);

/// Makes a token with which one runner enrols, once.
pub async fn issue_join_token(tokens: &Tokens, request: &CreateJoinToken) -> Result<JoinToken> {
    let ttl = request.ttl_seconds.map_or(JOIN_TTL, Duration::from_secs);
    if ttl.is_zero() || ttl > LONGEST_JOIN_TTL {
        let most = LONGEST_JOIN_TTL.as_secs();
        return Err(Error::new(ErrorCode::InvalidRequest, format!("ttl_seconds: must be from 1 to {most}")));
    }
    let runner = request.runner.clone();
    let issued = tokens.issue(&format!("join {runner}"), Scope::Join(runner.clone()), ttl).await?;
    tracing::info!(runner.id = %runner, "join token made");
    Ok(JoinToken { token: issued.secret, runner, expires_at: issued.expires_at })
}

impl Runners {
    /// Binds the id to the runner's own token, or answers the same again; `RunnerEnrolledElsewhere` otherwise.
    pub async fn enrol(&self, by: &Principal, request: EnrolRunner) -> Result<Enrolled> {
        let EnrolRunner { id, token_hash } = request;
        check_hash(&token_hash)?;
        let store = &self.inner.store;
        let scope = Scope::Runner(id.clone());
        let known = store.tokens.get(&token_hash).await?.found();
        if known.as_ref().is_some_and(|entry| entry.value.scope != scope) {
            return Err(Error::new(ErrorCode::InvalidRequest, "token_hash is that of another token; make a fresh one"));
        }
        if let Scope::Join(for_runner) = &by.scope {
            self.use_up(by, for_runner, &id, &token_hash).await?;
        }
        // The runner first: it claims the id. A repeat after a crash in between completes the token.
        let record = RunnerRecord {
            id: id.clone(),
            token_hash: token_hash.clone(),
            facts: None,
            cordoned: false,
            liveness: Liveness::Lost,
            enrolled_at: Timestamp::now(),
            registered_at: None,
        };
        match store.runners.create(id.as_str(), &record).await {
            Ok(_) => tracing::info!(runner.id = %id, "runner enrolled"),
            Err(err) if err.code == ErrorCode::Conflict => self.check_same(&id, &token_hash).await?,
            Err(err) => return Err(err),
        }
        if known.is_none() {
            let token = TokenRecord {
                name: format!("runner {id}"),
                scope,
                created_at: Timestamp::now(),
                expires_at: None,
                used_by: None,
            };
            match store.tokens.create(&token_hash, &token).await {
                Err(err) if err.code != ErrorCode::Conflict => return Err(err),
                _ => {}
            }
        }
        Ok(Enrolled { id, nats_url: self.inner.nats_url.clone(), nats_ca: self.inner.nats_ca.clone() })
    }

    /// From here on the join token is this runner's, whatever becomes of the rest: of two that come with it, one does.
    async fn use_up(&self, by: &Principal, for_runner: &RunnerId, id: &RunnerId, token_hash: &str) -> Result<()> {
        if for_runner != id {
            let detail = format!("this join token is for runner {for_runner}, not for {id}; ask for one of its own");
            return Err(Error::new(ErrorCode::Forbidden, detail));
        }
        let used = |other: &str| {
            let detail = format!("this join token was used by another machine ({}...); ask for a new one", &other[..8]);
            Error::new(ErrorCode::TokenInvalid, detail)
        };
        let change = |record: &TokenRecord| match &record.used_by {
            Some(other) if other == token_hash => Ok(None),
            Some(other) => Err(used(other)),
            None => Ok(Some(TokenRecord { used_by: Some(token_hash.to_owned()), ..record.clone() })),
        };
        let gone = || Error::new(ErrorCode::TokenInvalid, "this join token ended; ask for a new one");
        self.inner.store.tokens.modify(&by.token_hash, change, gone).await.map(|_| ())
    }

    async fn check_same(&self, id: &RunnerId, token_hash: &str) -> Result<()> {
        let found = self.inner.store.runners.get(id.as_str()).await?.found();
        if found.is_some_and(|entry| entry.value.token_hash == token_hash) {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::RunnerEnrolledElsewhere,
            format!(
                "runner id {id} is enrolled with another token; use another RUNNER_ID, or remove the old runner while \
                 it is offline (DELETE /api/v1/runners/{id})"
            ),
        ))
    }
}

fn check_hash(hash: &str) -> Result<()> {
    if hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::InvalidRequest, "token_hash is not a SHA-256 in 64 lower-case hex digits"))
}
