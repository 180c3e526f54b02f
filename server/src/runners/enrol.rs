//! How a machine becomes a runner: the id is bound to the hash of the runner's own token.
//!
//! Repeating a request is the same enrolment, so a lost answer costs nothing. An enrolment token for one use remembers for
//! whom it was used: it is good for that very request again, and for nothing else.

use helix_protocol::api::runners::{EnrolRunner, Enrolled};
use helix_protocol::record::{Losses, RunnerRecord, Scope, TokenRecord};
use helix_protocol::runner::Liveness;
use helix_protocol::{ErrorCode, RunnerId};
use jiff::Timestamp;

use super::Runners;
use crate::auth::Principal;
use crate::error::{Error, Result};

/// Where a new enrolment token comes from.
const ASK: &str = "ask for a new one: helixctl token create --runner";

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
        let is_same = self.is_same(&id, &token_hash).await?;
        if let Scope::Enrol(enrolment) = &by.scope {
            if let Some(only) = enrolment.runner.as_ref().filter(|only| **only != id) {
                let detail = format!("this enrolment token is for runner {only}, not for {id}; {ASK}");
                return Err(Error::new(ErrorCode::Forbidden, detail));
            }
            // Who is enrolled needs no token any more, and has another one of its own after a rotation.
            if !enrolment.reusable && !is_same {
                self.use_up(by, &token_hash).await?;
            }
        }
        // The runner first: it claims the id. A repeat after a crash in between completes the token.
        let record = RunnerRecord {
            id: id.clone(),
            token_hash: token_hash.clone(),
            facts: None,
            cordoned: false,
            labels: std::collections::BTreeMap::new(),
            rotation: None,
            token_since: None,
            liveness: Liveness::Lost,
            enrolled_at: Timestamp::now(),
            registered_at: None,
            losses: Losses::default(),
        };
        match store.runners.create(id.as_str(), &record).await {
            Ok(_) => tracing::info!(runner.id = %id, by = by.name, "runner enrolled"),
            Err(err) if err.code == ErrorCode::Conflict => {
                if !self.is_same(&id, &token_hash).await? {
                    return Err(elsewhere(&id));
                }
            }
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

    /// From here on the token is this runner's, whatever becomes of the rest: of two that come with it, one does.
    async fn use_up(&self, by: &Principal, token_hash: &str) -> Result<()> {
        let used = |other: &str| {
            let detail = format!("this enrolment token was used by another machine ({}...); {ASK}", &other[..8]);
            Error::new(ErrorCode::TokenInvalid, detail)
        };
        let change = |record: &TokenRecord| match &record.used_by {
            Some(other) if other == token_hash => Ok(None),
            Some(other) => Err(used(other)),
            None => Ok(Some(TokenRecord { used_by: Some(token_hash.to_owned()), ..record.clone() })),
        };
        let gone = || Error::new(ErrorCode::TokenInvalid, format!("this enrolment token ended; {ASK}"));
        self.inner.store.tokens.modify(&by.token_hash, change, gone).await.map(|_| ())
    }

    /// True where the id has this very token, false where nobody has the id; `RunnerEnrolledElsewhere` otherwise.
    async fn is_same(&self, id: &RunnerId, token_hash: &str) -> Result<bool> {
        match self.inner.store.runners.get(id.as_str()).await?.found() {
            None => Ok(false),
            Some(entry) if entry.value.has_token(token_hash) => Ok(true),
            Some(_) => Err(elsewhere(id)),
        }
    }
}

fn elsewhere(id: &RunnerId) -> Error {
    Error::new(
        ErrorCode::RunnerEnrolledElsewhere,
        format!(
            "runner id {id} is enrolled with another token; use another RUNNER_ID, or remove the old runner: helixctl \
             runner remove --server-only {id}"
        ),
    )
}

/// A SHA-256 in hex.
pub(super) fn check_hash(hash: &str) -> Result<()> {
    if hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::InvalidRequest, "token_hash is not a SHA-256 in 64 lower-case hex digits"))
}
