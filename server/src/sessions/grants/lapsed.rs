//! Grants end with the token that made them, and with its right to make them: as everything else that it opened does.

use std::collections::BTreeSet;
use std::sync::Arc;

use helix_protocol::grant::{GrantRecord, Grants};
use helix_protocol::record::SessionRecord;
use helix_protocol::session::Desired;
use helix_protocol::{ErrorCode, GrantId};
use jiff::Timestamp;

use super::{live, not_found};
use crate::error::Result;
use crate::sessions::Sessions;
use crate::tokens::Tokens;

impl Sessions {
    /// Ends every grant whose token was revoked, has ended, or may not change the session any more; its gate closes what
    /// came with it. For the leader.
    pub async fn end_lapsed_grants(&self, tokens: &Tokens) -> Result<()> {
        if self.lapsed_grants(tokens).is_empty() {
            return Ok(());
        }
        // The view may be a moment behind the replica that issued a token.
        self.inner.store.tokens.catch_up().await?;
        for (record, lapsed) in self.lapsed_grants(tokens) {
            let amend = |record: &SessionRecord| {
                let left = record.grants.list.iter().filter(|grant| !lapsed.contains(&grant.id));
                let grants = Grants { epoch: record.grants.epoch + 1, list: left.cloned().collect() };
                let is_changed = grants.list.len() < record.grants.list.len();
                Ok(is_changed.then(|| SessionRecord { grants, ..record.clone() }))
            };
            match self.inner.store.sessions.modify(record.id.as_str(), amend, || not_found(&record.id)).await {
                Ok(_) => tracing::info!(session.id = %record.id, grants = ?lapsed, "grants ended with their token"),
                // Removed meanwhile, and everything of it ended.
                Err(error) if error.code == ErrorCode::SessionNotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The sessions that have such grants, as far as this replica knows.
    fn lapsed_grants(&self, tokens: &Tokens) -> Vec<(Arc<SessionRecord>, BTreeSet<GrantId>)> {
        let granted: Vec<Arc<SessionRecord>> = {
            let sessions = self.inner.store.sessions.view().read();
            let has_some =
                |record: &SessionRecord| record.desired == Desired::Running && !record.grants.list.is_empty();
            sessions.iter().map(|(_, entry)| &entry.value).filter(|record| has_some(record)).cloned().collect()
        };
        let now = Timestamp::now();
        let lapsed = granted.into_iter().map(|record| {
            let gone = live(&record.grants, now).filter(|grant| !self.may_still_grant(tokens, grant, &record));
            let gone: BTreeSet<GrantId> = gone.map(|grant| grant.id.clone()).collect();
            (record, gone)
        });
        lapsed.filter(|(_, gone)| !gone.is_empty()).collect()
    }

    /// Whether who made the grant could make it now, under any of the desktop's names.
    fn may_still_grant(&self, tokens: &Tokens, grant: &GrantRecord, record: &SessionRecord) -> bool {
        let Some(by) = tokens.bearer(&grant.token_hash) else { return false };
        if by.may_change(&record.id, &record.owner) {
            return true;
        }
        let sessions = self.inner.store.sessions.view().read();
        let mut names = sessions.iter().map(|(_, entry)| &entry.value);
        names.any(|name| name.desktop_of.as_ref() == Some(&record.id) && by.may_change(&name.id, &name.owner))
    }
}
