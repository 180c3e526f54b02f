//! A runner gets a new token of its own.
//!
//! It is a state, not a message: an operator's word makes the rotation wanted, which stands in the runner's record and in
//! every answer to `sync` until it is done. The runner makes the token and announces its hash with the old one as bearer:
//! from then on both are good, so whichever it has on its disk lets it in. It proves the new one by using it as bearer, and
//! that ends the old one. Either request may come again after a lost answer or a crash, on any server.

use helix_protocol::api::RunnerView;
use helix_protocol::api::runners::RenewToken;
use helix_protocol::link::Nudge;
use helix_protocol::record::{Rotation, RunnerRecord, Scope, TokenRecord};
use helix_protocol::{ErrorCode, RunnerId};
use jiff::Timestamp;

use super::enrol::check_hash;
use super::{Runners, not_found};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::store::Lookup;

impl Runners {
    /// Makes a rotation wanted; one that is wanted already stays as it is.
    pub async fn rotate(&self, id: &RunnerId) -> Result<RunnerView> {
        let want = |record: &RunnerRecord| {
            let rotation = Some(Rotation { wanted_at: Timestamp::now(), next: None });
            Ok(record.rotation.is_none().then(|| RunnerRecord { rotation, ..record.clone() }))
        };
        let entry = self.inner.store.runners.modify(id.as_str(), want, || not_found(id)).await?;
        self.inner.bus.nudge(id, Nudge::Sync {}).await;
        tracing::info!(runner.id = %id, "a new token is wanted of the runner");
        Ok(self.view(&entry.value, self.active_tasks(id)))
    }

    /// The runner's part: announces a token, or proves to have it.
    pub async fn renew_token(&self, by: &Principal, request: RenewToken) -> Result<()> {
        let RenewToken { token_hash } = request;
        check_hash(&token_hash)?;
        let id = by.runner().ok_or_else(|| Error::new(ErrorCode::Forbidden, "the token is not a runner's"))?;
        if by.token_hash == token_hash {
            self.prove(id, &token_hash).await
        } else {
            self.announce(by, id, token_hash).await
        }
    }

    async fn announce(&self, by: &Principal, id: &RunnerId, token_hash: String) -> Result<()> {
        let store = &self.inner.store;
        if let Lookup::Found(other) = store.tokens.get(&token_hash).await?
            && other.value.scope != Scope::Runner(id.clone())
        {
            return Err(Error::new(ErrorCode::InvalidRequest, "token_hash is that of another token; make a fresh one"));
        }
        let mut replaced = None;
        let announce = |record: &RunnerRecord| {
            if record.token_hash != by.token_hash {
                let detail = "only with the token that a runner has can it announce another one";
                return Err(Error::new(ErrorCode::Forbidden, detail));
            }
            let Some(rotation) = &record.rotation else {
                let detail =
                    format!("no new token is wanted of runner {id}; an operator asks: helixctl runner rotate {id}");
                return Err(Error::new(ErrorCode::Conflict, detail));
            };
            replaced.clone_from(&rotation.next);
            let rotation = Some(Rotation { next: Some(token_hash.clone()), ..rotation.clone() });
            Ok((record.rotation != rotation).then(|| RunnerRecord { rotation, ..record.clone() }))
        };
        // The record first: a repeat after a crash in between makes the token.
        store.runners.modify(id.as_str(), announce, || not_found(id)).await?;
        if let Some(other) = replaced.filter(|other| *other != token_hash) {
            self.drop_token(&other).await?;
        }
        let token = TokenRecord {
            name: format!("runner {id}"),
            scope: Scope::Runner(id.clone()),
            created_at: Timestamp::now(),
            expires_at: None,
            used_by: None,
        };
        match store.tokens.create(&token_hash, &token).await {
            Err(err) if err.code != ErrorCode::Conflict => Err(err),
            _ => Ok(()),
        }
    }

    async fn prove(&self, id: &RunnerId, token_hash: &str) -> Result<()> {
        let store = &self.inner.store;
        let record = store.runners.get(id.as_str()).await?.found().ok_or_else(|| not_found(id))?.value;
        if record.next_token() != Some(token_hash) {
            // The answer was lost, and this is the same again.
            if record.token_hash == token_hash {
                return Ok(());
            }
            return Err(Error::new(ErrorCode::TokenInvalid, "the token is neither the runner's nor announced by it"));
        }
        // The old token first: a repeat after a crash in between finds the rotation unfinished, and ends it.
        self.drop_token(&record.token_hash).await?;
        let done = |record: &RunnerRecord| {
            let is_next = record.next_token() == Some(token_hash);
            Ok(is_next.then(|| RunnerRecord {
                token_hash: token_hash.to_owned(),
                token_since: Some(Timestamp::now()),
                rotation: None,
                ..record.clone()
            }))
        };
        let entry = store.runners.modify(id.as_str(), done, || not_found(id)).await?;
        self.inner.bus.end_connections(id).await;
        let view = self.view(&entry.value, self.active_tasks(id));
        self.tell(id, view.status, view.liveness, entry.revision).await;
        tracing::info!(runner.id = %id, "the runner has a new token");
        Ok(())
    }

    async fn drop_token(&self, hash: &str) -> Result<()> {
        let tokens = &self.inner.store.tokens;
        let Some(token) = tokens.get(hash).await?.found() else { return Ok(()) };
        match tokens.delete(hash, token.revision).await {
            // Only a removal writes there meanwhile.
            Err(err) if err.code != ErrorCode::Conflict => Err(err),
            _ => Ok(()),
        }
    }
}
