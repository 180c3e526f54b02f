//! Bearer tokens and one-use tickets: made here, stored as hashes, revoked here ([`issued`]).

mod issued;

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::control::Viewer;
use helix_protocol::ids::secret_hash;
use helix_protocol::link::Stream;
use helix_protocol::record::{Enrolment, Scope, SessionRecord, TicketRecord, TokenRecord};
use helix_protocol::session::Desired;
use helix_protocol::{Epoch, ErrorCode, SessionId};
use jiff::Timestamp;

use crate::auth::Principal;
use crate::bus::schema::TICKET_TTL;
use crate::config::Secrets;
use crate::error::{Error, Result};
use crate::keys::{Keys, SESSION_TOKEN_PREFIX, random_secret, same_secret, session_of_token, token_epoch};
use crate::sessions::view::has_ended;
use crate::store::{Lookup, Store, Versioned};

/// Names a derived session token where others are named by their hash: it has no record of its own.
const DERIVED_PREFIX: &str = "session.";

/// Tokens over the store. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    keys: Arc<Keys>,
    admin: String,
    enrolment: Option<String>,
}

/// A freshly made secret. It is nowhere else.
pub struct Issued {
    /// The secret.
    pub secret: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Tokens {
    /// Tokens over a store, with the two that are configured.
    pub fn new(store: Store, keys: Arc<Keys>, secrets: &Secrets) -> Self {
        let (admin, enrolment) = (secrets.admin_token.clone(), secrets.enrolment_token.clone());
        Self { inner: Arc::new(Inner { store, keys, admin, enrolment }) }
    }

    /// Who the bearer is. `TokenInvalid` when unknown, expired or revoked. Knows, in this order: the configured
    /// admin and enrolment tokens (constant-time), derived session tokens, stored tokens.
    pub async fn verify(&self, secret: &str) -> Result<Principal> {
        let configured =
            |name: &str, scope| Principal { name: name.to_owned(), scope, token_hash: secret_hash(secret) };
        if same_secret(secret, &self.inner.admin) {
            return Ok(configured("admin", Scope::Admin));
        }
        if self.inner.enrolment.as_deref().is_some_and(|enrolment| same_secret(secret, enrolment)) {
            return Ok(configured("enrolment", Scope::Enrol(Enrolment { runner: None, reusable: true })));
        }
        if secret.starts_with(SESSION_TOKEN_PREFIX) {
            return self.verify_session(secret).await;
        }
        let hash = secret_hash(secret);
        let record = self.stored(&hash).await?;
        if let Some(end) = record.expires_at.filter(|_| is_over(&record)) {
            let detail = format!("the bearer token {:?} expired at {end}; get a new one", record.name);
            return Err(Error::new(ErrorCode::TokenInvalid, detail));
        }
        if let Scope::Desktop(session) | Scope::View(session) = &record.scope {
            self.check_desktop(session, record.created_at).await?;
        }
        Ok(Principal { name: record.name.clone(), scope: record.scope.clone(), token_hash: hash })
    }

    /// Who has the configured or stored token with this hash, as far as this replica knows.
    pub fn bearer(&self, token_hash: &str) -> Option<Principal> {
        let (name, scope) = if secret_hash(&self.inner.admin) == token_hash {
            ("admin".to_owned(), Scope::Admin)
        } else {
            let record = self.inner.store.tokens.view().get(token_hash)?.value;
            if is_over(&record) {
                return None;
            }
            (record.name.clone(), record.scope.clone())
        };
        Some(Principal { name, scope, token_hash: token_hash.to_owned() })
    }

    async fn verify_session(&self, secret: &str) -> Result<Principal> {
        let session = session_of_token(secret).ok_or_else(invalid)?;
        let is_its = |of: &Desktop| self.inner.keys.is_session_token(secret, &session, of.epoch());
        let of = match self.known_desktop(&session) {
            Some(of) if is_its(&of) => Some(of),
            // Another replica may have made or assigned it a moment ago.
            _ => self.stored_desktop(&session).await?,
        };
        let of = of.ok_or_else(invalid)?;
        if !is_its(&of) || self.session_ended(&of) {
            return Err(invalid());
        }
        let token_hash = derived_name(&session, of.epoch());
        Ok(Principal { name: format!("session {session}"), scope: Scope::Session(session), token_hash })
    }

    /// A desktop's token is for the session that there was when it was made, not for a later one of the same id.
    async fn check_desktop(&self, session: &SessionId, issued_at: Timestamp) -> Result<()> {
        let sessions = &self.inner.store.sessions;
        let was_there = |record: &SessionRecord| record.created_at <= issued_at;
        let record = match sessions.view().get(session.as_str()) {
            Some(entry) if was_there(&entry.value) => return Ok(()),
            // Another replica may have made it, or made it anew, a moment ago.
            _ => sessions.get(session.as_str()).await?.found(),
        };
        let valid = match record {
            Some(entry) => was_there(&entry.value),
            None => !sessions.view().read().was_deleted(session.as_str()) && self.runs_unclaimed(session),
        };
        if valid { Ok(()) } else { Err(invalid()) }
    }

    fn runs_unclaimed(&self, session: &SessionId) -> bool {
        let observed = self.inner.store.observed.view().read();
        observed.iter().any(|(_, entry)| entry.value.session == *session && entry.value.unclaimed.is_some())
    }

    fn session_ended(&self, of: &Desktop) -> bool {
        of.is_stopped() || has_ended(&of.record, &self.inner.store.observed.view().read())
    }

    /// A session and its desktop, from the view.
    fn known_desktop(&self, session: &SessionId) -> Option<Desktop> {
        let view = self.inner.store.sessions.view();
        let own = view.get(session.as_str())?.value;
        let record = match &own.desktop_of {
            Some(desktop) => view.get(desktop.as_str())?.value,
            None => Arc::clone(&own),
        };
        Some(Desktop { own, record })
    }

    /// The same from the store.
    async fn stored_desktop(&self, session: &SessionId) -> Result<Option<Desktop>> {
        let sessions = &self.inner.store.sessions;
        let Some(own) = sessions.get(session.as_str()).await?.found().map(|entry| entry.value) else { return Ok(None) };
        let record = match &own.desktop_of {
            Some(desktop) => sessions.get(desktop.as_str()).await?.found().map(|entry| entry.value),
            None => Some(Arc::clone(&own)),
        };
        Ok(record.map(|record| Desktop { own, record }))
    }

    async fn stored(&self, hash: &str) -> Result<Arc<TokenRecord>> {
        if let Some(entry) = self.inner.store.tokens.view().get(hash) {
            return Ok(entry.value);
        }
        // Another replica may have issued it a moment ago.
        match self.inner.store.tokens.get(hash).await? {
            Lookup::Found(entry) => Ok(entry.value),
            Lookup::Deleted(_) => {
                let detail = "the bearer token was revoked, or its runner removed; get a new one";
                Err(Error::new(ErrorCode::TokenInvalid, detail))
            }
            Lookup::Absent => Err(invalid()),
        }
    }

    /// Makes and stores a token.
    pub async fn issue(&self, name: &str, scope: Scope, ttl: Duration) -> Result<Issued> {
        let issued = fresh(ttl)?;
        let record = TokenRecord {
            name: name.to_owned(),
            scope,
            created_at: Timestamp::now(),
            expires_at: Some(issued.expires_at),
            used_by: None,
        };
        self.inner.store.tokens.create(&secret_hash(&issued.secret), &record).await?;
        Ok(issued)
    }

    /// Makes a one-use ticket for a session's stream, 60 s; `origin` is that of the page that asks.
    pub async fn issue_ticket(
        &self,
        by: &Principal,
        session: &SessionId,
        stream: Stream,
        viewer: Viewer,
        origin: Option<String>,
    ) -> Result<Issued> {
        let issued = fresh(TICKET_TTL)?;
        let record = TicketRecord {
            session: session.clone(),
            stream,
            viewer,
            origin,
            token_hash: by.token_hash.clone(),
            expires_at: issued.expires_at,
        };
        self.inner.store.tickets.create(&secret_hash(&issued.secret), &record).await?;
        Ok(issued)
    }

    /// A ticket that nobody has consumed yet, as far as this replica knows: good for nothing until
    /// [`Tokens::consume_ticket`] has said so.
    pub async fn ticket(&self, secret: &str) -> Result<Versioned<TicketRecord>> {
        let Lookup::Found(entry) = self.inner.store.tickets.get(&secret_hash(secret)).await? else {
            return Err(ticket_invalid());
        };
        if entry.value.expires_at <= Timestamp::now() { Err(ticket_invalid()) } else { Ok(entry) }
    }

    /// Consumes a ticket: the first caller on any replica gets it, everybody else `TicketInvalid`. Takes a sync of the
    /// store's disk.
    pub async fn consume_ticket(&self, secret: &str, ticket: &Versioned<TicketRecord>) -> Result<()> {
        match self.inner.store.tickets.delete(&secret_hash(secret), ticket.revision).await {
            Ok(_) => Ok(()),
            Err(err) if err.code == ErrorCode::Conflict => Err(ticket_invalid()),
            Err(err) => Err(err),
        }
    }

    /// Completes when the token with this hash is revoked or expires: what it opened must close.
    pub async fn revoked(&self, token_hash: &str) {
        let store = &self.inner.store;
        if let Some((session, epoch)) = parse_derived(token_hash) {
            return self.session_over(&session, epoch).await;
        }
        let configured = |secret: &str| secret_hash(secret) == token_hash;
        if configured(&self.inner.admin) || self.inner.enrolment.as_deref().is_some_and(configured) {
            return std::future::pending().await;
        }
        let mut changes = store.tokens.view().changes();
        loop {
            changes.borrow_and_update();
            let entry = store.tokens.view().get(token_hash);
            let Some(Versioned { value: record, .. }) = entry else {
                // The view may be a moment behind the replica that issued the token; while the store cannot be
                // asked, what is open stays open.
                match store.tokens.catch_up().await {
                    Ok(()) if store.tokens.view().get(token_hash).is_none() => return,
                    Ok(()) => continue,
                    Err(_) => {
                        if changes.changed().await.is_err() {
                            return;
                        }
                        continue;
                    }
                }
            };
            let expiry = async {
                match record.expires_at {
                    Some(end) => tokio::time::sleep(until(end)).await,
                    None => std::future::pending().await,
                }
            };
            // Both arms are cancel safe: a watch and a timer.
            tokio::select! {
                news = changes.changed() => if news.is_err() { return },
                () = expiry => return,
            }
        }
    }

    async fn session_over(&self, session: &SessionId, epoch: Epoch) {
        let store = &self.inner.store;
        let (mut records, mut reports) = (store.sessions.view().changes(), store.observed.view().changes());
        loop {
            records.borrow_and_update();
            reports.borrow_and_update();
            let of = self.known_desktop(session);
            if of.is_none_or(|of| of.epoch() != epoch || self.session_ended(&of)) {
                return;
            }
            let changed = tokio::select! {
                changed = records.changed() => changed,
                changed = reports.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

fn fresh(ttl: Duration) -> Result<Issued> {
    let secret = random_secret()
        .map_err(|err| Error::new(ErrorCode::Internal, "the system gives no random bytes").because(err))?;
    let expires_at = Timestamp::now()
        .checked_add(ttl)
        .map_err(|err| Error::new(ErrorCode::InvalidRequest, "the life of the token is too long").because(err))?;
    Ok(Issued { secret, expires_at })
}

fn until(end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
}

fn is_over(record: &TokenRecord) -> bool {
    record.expires_at.is_some_and(|end| end <= Timestamp::now())
}

/// A session and the one whose desktop it has: the same, unless it is another name of it.
struct Desktop {
    own: Arc<SessionRecord>,
    record: Arc<SessionRecord>,
}

impl Desktop {
    /// Epoch of the session's token: it is valid as long as the desktop's assignment.
    fn epoch(&self) -> Epoch {
        token_epoch(self.record.epoch, self.record.assignment.is_some())
    }

    /// True where the session is a name of the desktop that was stopped.
    fn is_stopped(&self) -> bool {
        self.own.desktop_of.is_some() && self.own.desired == Desired::Stopped
    }
}

fn derived_name(session: &SessionId, epoch: Epoch) -> String {
    format!("{DERIVED_PREFIX}{session}.{epoch}")
}

fn parse_derived(name: &str) -> Option<(SessionId, Epoch)> {
    let (session, epoch) = name.strip_prefix(DERIVED_PREFIX)?.split_once('.')?;
    Some((SessionId::parse(session).ok()?, Epoch(epoch.parse().ok()?)))
}

fn invalid() -> Error {
    Error::new(ErrorCode::TokenInvalid, "the bearer token is unknown, expired or revoked; get a new one")
}

fn ticket_invalid() -> Error {
    Error::new(ErrorCode::TicketInvalid, "the ticket is unknown, used or expired; ask for a new one")
}
