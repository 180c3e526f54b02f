//! Grants: passwords with which native viewers (VNC, RDP) come to a session's desktop. Kept in its record, sealed; checked
//! at its runner's gate.
//!
//! Each is told once, when it is made. They are few ([`MAX_GRANTS`]). A runner
//! ends what a grant opened when the grant is gone from its list, and at the grant's end, without being told. No grant
//! outlives the token that made it ([`lapsed`]).

mod lapsed;

use std::time::Duration;

use helix_protocol::api::grants::{CreateGrant, GrantList, GrantView, NewGrant, RevokedGrant};
use helix_protocol::control::{Role, Viewer};
use helix_protocol::external_agents::RDP_USER;
use helix_protocol::grant::{Grant, GrantRecord, Grants, PASSWORD_CHARS};
use helix_protocol::record::SessionRecord;
use helix_protocol::session::Desired;
use helix_protocol::{ErrorCode, GrantId, SessionId};
use jiff::Timestamp;

use super::control::ENFORCED_WITHIN;
use super::view::observed_of;
use super::{Sessions, forbidden, not_found};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::keys::{Place, random_id};

/// Life where none is given, in seconds.
const DEFAULT_TTL: u64 = 12 * 60 * 60;
/// Shortest and longest, in seconds.
const TTL: std::ops::RangeInclusive<u64> = 60..=7 * 24 * 60 * 60;
/// Most grants of a session at once.
const MAX_GRANTS: usize = 32;
/// Of them, those of one token by the routes that tell a password with each answer: who polls keeps out nobody.
const MAX_REPEATED: usize = 8;
/// A grant with less life left is not told again.
const SOON: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
/// Of which a password is made.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

impl Sessions {
    /// Makes a grant. Answers when the gate of the session's runner knows it, or after 2 s; at once where nothing runs yet.
    pub async fn make_grant(&self, by: &Principal, id: &SessionId, asked: &CreateGrant) -> Result<NewGrant> {
        self.make(by, id, asked, false).await
    }

    async fn make(&self, by: &Principal, id: &SessionId, asked: &CreateGrant, is_repeated: bool) -> Result<NewGrant> {
        let ttl = asked.ttl_seconds.unwrap_or(DEFAULT_TTL);
        if !TTL.contains(&ttl) {
            let detail = format!("ttl_seconds: a grant lives {} to {} seconds", TTL.start(), TTL.end());
            return Err(Error::new(ErrorCode::InvalidRequest, detail));
        }
        let at = self.find(by, id).await?;
        if !by.may_change(id, &at.view.owner) {
            return Err(forbidden(id));
        }
        let random = |error| Error::new(ErrorCode::Internal, "the system gives no random bytes").because(error);
        let grant_id = GrantId::parse(random_id().map_err(random)?)
            .map_err(|error| Error::new(ErrorCode::Internal, "a made-up id is not valid").because(error))?;
        let password = random_password().map_err(random)?;
        let place = Place::Grant { session: &at.desktop, id: &grant_id };
        let sealed = self.inner.keys.seal(place, password.as_bytes());
        let sealed =
            sealed.map_err(|error| Error::new(ErrorCode::Internal, "a grant cannot be sealed").because(error))?;
        let made_at = Timestamp::now();
        let expires_at = made_at.checked_add(Duration::from_secs(ttl)).map_err(|error| {
            Error::new(ErrorCode::InvalidRequest, "the life of the grant is too long").because(error)
        })?;
        // Known to the gate, too: a runner that is cut off then ends it all the same.
        let expires_at = self.end_of_token(by).await?.map_or(expires_at, |end| expires_at.min(end));
        let grant = GrantRecord {
            id: grant_id,
            by: by.name.clone(),
            token: by.digest(),
            token_hash: by.token_hash.clone(),
            is_repeated,
            role: if asked.view_only { Role::View } else { Role::Control },
            seat: asked.seat.clone(),
            made_at,
            expires_at,
            sealed,
        };
        let record = self
            .change_grants(id, &at.desktop, |grants| {
                let mut list: Vec<_> = live(grants, made_at).cloned().collect();
                if list.len() >= MAX_GRANTS {
                    let detail = format!(
                        "session {id} has {MAX_GRANTS} grants that have not ended; revoke one: helixctl session grant {id} --list"
                    );
                    return Err(Error::new(ErrorCode::TooManyRequests, detail));
                }
                list.push(grant.clone());
                Ok(list)
            })
            .await?;
        let GrantRecord { id, role, expires_at, .. } = grant;
        let enforced = self.knows_grants(&record);
        Ok(NewGrant { id, username: RDP_USER.to_owned(), password, role, expires_at, enforced })
    }

    async fn end_of_token(&self, by: &Principal) -> Result<Option<Timestamp>> {
        let tokens = &self.inner.store.tokens;
        let record = match tokens.view().get(&by.token_hash) {
            Some(entry) => Some(entry.value),
            // Another replica may have issued it a moment ago; those of sessions are in no list.
            None => tokens.get(&by.token_hash).await?.found().map(|entry| entry.value),
        };
        Ok(record.and_then(|record| record.expires_at))
    }

    /// The password of the oldest grant that `by` has made for this session, for everything and from nowhere in particular,
    /// and that does not end soon; a new one where there is none. So a repeated creation tells the same.
    pub async fn first_grant(&self, by: &Principal, id: &SessionId) -> Result<String> {
        let at = self.find(by, id).await?;
        let end_of_token = self.end_of_token(by).await?;
        if by.may_change(id, &at.view.owner)
            && let Some(record) = self.inner.store.sessions.get(at.desktop.as_str()).await?.found()
            && let Some(grant) =
                self.live_grants(&record.value).into_iter().find(|grant| is_like_the_first(grant, by, end_of_token))
            && let Some(password) = grant.viewer.password
        {
            return Ok(password);
        }
        self.make_grant(by, id, &CreateGrant::default()).await.map(|grant| grant.password)
    }

    /// A grant for a route that tells a password with each answer: a new one, until this token has [`MAX_REPEATED`] by it;
    /// then the newest of them that does not end soon. None that was told ends before its time.
    pub async fn repeated_grant(&self, by: &Principal, id: &SessionId) -> Result<NewGrant> {
        let at = self.find(by, id).await?;
        let end_of_token = self.end_of_token(by).await?;
        if by.may_change(id, &at.view.owner)
            && let Some(record) = self.inner.store.sessions.get(at.desktop.as_str()).await?.found()
        {
            let record = &record.value;
            let own = live(&record.grants, Timestamp::now());
            let own: Vec<_> = own.filter(|grant| grant.is_repeated && grant.token_hash == by.token_hash).collect();
            if own.len() >= MAX_REPEATED
                && let Some(newest) = own.last()
                && stays(newest.expires_at, end_of_token)
                && let Some(grant) = self.live_grants(record).into_iter().find(|grant| grant.id == newest.id)
                && let Grant { id, viewer: Viewer { role, password: Some(password), .. }, expires_at } = grant
            {
                let (username, enforced) = (RDP_USER.to_owned(), self.knows_grants(record));
                return Ok(NewGrant { id, username, password, role, expires_at, enforced });
            }
        }
        self.make(by, id, &CreateGrant::default(), true).await
    }

    /// The grants of a session that have not ended, without their passwords.
    pub async fn grants(&self, by: &Principal, id: &SessionId) -> Result<GrantList> {
        let at = self.find(by, id).await?;
        if !by.may_change(id, &at.view.owner) {
            return Err(forbidden(id));
        }
        let found = self.inner.store.sessions.get(at.desktop.as_str()).await?.found();
        let record = found.ok_or_else(|| not_found(id))?.value;
        Ok(GrantList { grants: live(&record.grants, Timestamp::now()).map(view_of).collect() })
    }

    /// Ends a grant, and what it opened. Answers when the gate knows, or after 2 s.
    pub async fn revoke_grant(&self, by: &Principal, id: &SessionId, grant: &GrantId) -> Result<RevokedGrant> {
        let at = self.find(by, id).await?;
        if !by.may_change(id, &at.view.owner) {
            return Err(forbidden(id));
        }
        let mut revoked = None;
        let record = self
            .change_grants(id, &at.desktop, |grants| {
                let now = Timestamp::now();
                let (ended, left) = live(grants, now).cloned().partition::<Vec<_>, _>(|known| known.id == *grant);
                revoked = ended.first().map(view_of);
                if revoked.is_none() {
                    let detail = format!("session {id} has no grant {grant}; it has ended, or never was");
                    return Err(Error::new(ErrorCode::GrantNotFound, detail));
                }
                Ok(left)
            })
            .await?;
        let grant = revoked.ok_or_else(|| Error::new(ErrorCode::Internal, "a grant was revoked and is not known"))?;
        // Where it was never placed, nobody ever knew of it.
        let enforced = record.assignment.is_none() || self.knows_grants(&record);
        Ok(RevokedGrant { grant, enforced })
    }

    async fn change_grants(
        &self,
        id: &SessionId,
        desktop: &SessionId,
        mut change: impl FnMut(&Grants) -> Result<Vec<GrantRecord>>,
    ) -> Result<SessionRecord> {
        let amend = |record: &SessionRecord| {
            let phase = self.known_of(record).phase();
            if record.desired == Desired::Stopped || phase.is_terminal() {
                let detail = format!("session {id} is {phase}; there is no desktop to come to");
                return Err(Error::new(ErrorCode::SessionEnded, detail));
            }
            let grants = Grants { epoch: record.grants.epoch + 1, list: change(&record.grants)? };
            Ok(Some(SessionRecord { grants, ..record.clone() }))
        };
        let entry = self.inner.store.sessions.modify(desktop.as_str(), amend, || not_found(id)).await?;
        let record = (*entry.value).clone();
        tracing::info!(session.id = %desktop, epoch = record.grants.epoch, live = record.grants.list.len(), "grants changed");
        if self.has_gate(&record) {
            self.seen_within(ENFORCED_WITHIN, || self.knows_grants(&record)).await;
        }
        Ok(record)
    }

    /// Whether its runner has reported of it: before that there is nobody to wait for.
    fn has_gate(&self, record: &SessionRecord) -> bool {
        observed_of(record, &self.inner.store.observed.view().read()).is_some()
    }

    fn knows_grants(&self, record: &SessionRecord) -> bool {
        let observed = self.inner.store.observed.view().read();
        observed_of(record, &observed).is_some_and(|seen| seen.grants >= record.grants.epoch)
    }

    /// What the runner of a session is told: every grant that has not ended, with its password.
    pub(super) fn live_grants(&self, record: &SessionRecord) -> Vec<Grant> {
        let open = |grant: &GrantRecord| {
            let GrantRecord { id, by, token, role, seat, expires_at, .. } = grant.clone();
            let place = Place::Grant { session: &record.id, id: &id };
            let plain = self.inner.keys.open(place, &grant.sealed).ok().and_then(|plain| String::from_utf8(plain).ok());
            if plain.is_none() {
                // Sealed under another server key: nobody can come with it.
                tracing::error!(session.id = %record.id, grant.id = %id, "a grant cannot be opened; revoke it, and make another");
            }
            let viewer = Viewer { by, token, seat, role, password: Some(plain?) };
            Some(Grant { id, viewer, expires_at })
        };
        live(&record.grants, Timestamp::now()).filter_map(open).collect()
    }
}

/// What a creation makes, as far as can be seen. One that lives as long as its token is as good as a new one.
fn is_like_the_first(grant: &Grant, by: &Principal, end_of_token: Option<Timestamp>) -> bool {
    let Viewer { token, role, seat, .. } = &grant.viewer;
    *token == by.digest() && *role == Role::Control && seat.is_none() && stays(grant.expires_at, end_of_token)
}

/// What ends then is worth telling again.
fn stays(expires_at: Timestamp, end_of_token: Option<Timestamp>) -> bool {
    expires_at.duration_since(Timestamp::now()) > SOON || end_of_token.is_some_and(|end| expires_at >= end)
}

fn live(grants: &Grants, now: Timestamp) -> impl Iterator<Item = &GrantRecord> {
    grants.list.iter().filter(move |grant| grant.expires_at > now)
}

fn view_of(grant: &GrantRecord) -> GrantView {
    let GrantRecord { id, by, role, seat, made_at, expires_at, .. } = grant.clone();
    GrantView { id, by, role, seat, made_at, expires_at }
}

/// Each character as likely as the others: bytes that would make some likelier are thrown away.
fn random_password() -> std::result::Result<String, getrandom::Error> {
    let fair = u8::MAX - u8::MAX % ALPHABET.len() as u8;
    let mut password = String::with_capacity(PASSWORD_CHARS);
    while password.len() < PASSWORD_CHARS {
        let mut bytes = [0; 2 * PASSWORD_CHARS];
        getrandom::fill(&mut bytes)?;
        let chars = bytes.iter().filter(|byte| **byte < fair);
        let chars = chars.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
        password.extend(chars.take(PASSWORD_CHARS - password.len()));
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_of_all_characters_alike() {
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..4000 {
            let password = random_password().expect("random bytes");
            assert_eq!(password.len(), PASSWORD_CHARS);
            password.chars().for_each(|char| *seen.entry(char).or_insert(0_u32) += 1);
        }
        assert_eq!(seen.len(), ALPHABET.len());
        let (least, most) = (seen.values().min().copied(), seen.values().max().copied());
        // 516 of each on average, with a deviation of 23.
        assert!(least > Some(350) && most < Some(700), "{least:?} {most:?}");
    }
}
