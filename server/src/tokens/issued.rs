//! Tokens that people make, list and revoke: those that enrol runners, and those of people.
//!
//! Those of runners, sessions and links are not among them: they come and go with what they are for. An operator's word
//! reaches as far as the fleet, so it makes and revokes enrolment tokens; people are the admin's alone.

use std::time::Duration;

use helix_protocol::ErrorCode;
use helix_protocol::api::tokens::{CreateToken, NewToken, TokenScope, TokenView};
use helix_protocol::ids::secret_hash;
use helix_protocol::record::{Enrolment, Scope, TokenRecord};
use jiff::Timestamp;

use super::{Tokens, fresh};
use crate::auth::{Principal, digest};
use crate::error::{Error, Result};

/// Life of an enrolment token for one use that nobody said anything about.
const ONCE_TTL: Duration = Duration::from_mins(15);
/// The longest one.
const LONGEST_ONCE_TTL: Duration = Duration::from_hours(24);
/// The same of all others.
const TTL: Duration = Duration::from_hours(30 * 24);
const LONGEST_TTL: Duration = Duration::from_hours(366 * 24);
/// How long a token that has ended can still be told from one that never was.
const REMEMBERED: Duration = Duration::from_hours(7 * 24);
const MAX_NAME_CHARS: usize = 64;
/// Names of the configured tokens, and of what the server does by itself.
const RESERVED: [&str; 3] = ["admin", "enrolment", "helix"];

impl Tokens {
    /// Makes a token. Its secret is nowhere but in the answer.
    pub async fn create(&self, by: &Principal, request: CreateToken) -> Result<NewToken> {
        let CreateToken { scope: kind, name, runner, reusable, ttl_seconds } = request;
        require_manages(by, kind)?;
        let enrols = kind == TokenScope::Enrol;
        if !enrols && (runner.is_some() || reusable) {
            return Err(invalid("runner, reusable: only a token of scope enrol has these"));
        }
        if reusable && runner.is_some() {
            return Err(invalid("reusable: one runner enrols once; leave out `runner` or `reusable`"));
        }
        let name = match (name, &runner) {
            (Some(name), _) => checked_name(name)?,
            // With a space: nobody can name theirs so.
            (None, Some(runner)) => format!("join {runner}"),
            (None, None) if enrols => "enrolment of runners".to_owned(),
            (None, None) => return Err(invalid("name: whose token is it? What is made with it is theirs")),
        };
        let once = enrols && !reusable;
        let (usual, longest) = if once { (ONCE_TTL, LONGEST_ONCE_TTL) } else { (TTL, LONGEST_TTL) };
        let ttl = ttl_seconds.map_or(usual, Duration::from_secs);
        if ttl.is_zero() || ttl > longest {
            let hint = if once { "; with `reusable` it may be longer" } else { "" };
            return Err(invalid(format!("ttl_seconds: must be from 1 to {}{hint}", longest.as_secs())));
        }
        let scope = match kind {
            TokenScope::Enrol => Scope::Enrol(Enrolment { runner, reusable }),
            TokenScope::Operator => Scope::Operator,
            TokenScope::User => Scope::User,
            TokenScope::Viewer => Scope::Viewer,
        };
        let issued = fresh(ttl)?;
        let record = TokenRecord {
            name,
            scope,
            created_at: Timestamp::now(),
            expires_at: Some(issued.expires_at),
            used_by: None,
        };
        let hash = secret_hash(&issued.secret);
        self.inner.store.tokens.create(&hash, &record).await?;
        let about = view(&hash, &record).ok_or_else(|| Error::new(ErrorCode::Internal, "a token without a scope"))?;
        tracing::info!(token.id = about.id, by = by.name, scope = ?about.scope, "token made");
        Ok(NewToken { token: issued.secret, about })
    }

    /// Those that `by` may revoke, the newest first.
    pub async fn list(&self, by: &Principal) -> Result<Vec<TokenView>> {
        self.inner.store.tokens.catch_up().await?;
        let mut tokens: Vec<_> = {
            let records = self.inner.store.tokens.view().read();
            let shown = records.iter().filter_map(|(hash, entry)| view(hash, &entry.value));
            shown.filter(|token| manages(by, token.scope)).collect()
        };
        tokens.sort_by_key(|token| std::cmp::Reverse(token.created_at));
        Ok(tokens)
    }

    /// Ends a token at once: what it opened closes.
    pub async fn revoke(&self, by: &Principal, id: &str) -> Result<()> {
        self.inner.store.tokens.catch_up().await?;
        let found = {
            let records = self.inner.store.tokens.view().read();
            let found = records.iter().find(|(hash, entry)| {
                view(hash, &entry.value).is_some_and(|token| token.id == id && manages(by, token.scope))
            });
            found.map(|(hash, entry)| (hash.to_owned(), entry.revision))
        };
        let (hash, revision) = found.ok_or_else(|| {
            Error::new(ErrorCode::TokenNotFound, format!("there is no token {id}; helixctl token list names all"))
        })?;
        self.inner.store.tokens.delete(&hash, revision).await?;
        tracing::info!(token.id = id, by = by.name, "token revoked");
        Ok(())
    }

    /// Removes what is left of tokens that ended long ago. For the leader.
    pub async fn forget_ended(&self) -> Result<()> {
        let now = Timestamp::now();
        let is_old = |record: &TokenRecord| {
            let ended = record.expires_at.map(|end| Duration::try_from(now.duration_since(end)));
            matches!(ended, Some(Ok(since)) if since > REMEMBERED)
        };
        let old: Vec<_> = {
            let records = self.inner.store.tokens.view().read();
            let old = records.iter().filter(|(_, entry)| is_old(&entry.value));
            old.map(|(hash, entry)| (hash.to_owned(), entry.revision)).collect()
        };
        for (hash, revision) in old {
            match self.inner.store.tokens.delete(&hash, revision).await {
                // Somebody else was faster.
                Err(err) if err.code == ErrorCode::Conflict => {}
                done => _ = done?,
            }
        }
        Ok(())
    }
}

/// None for one that is not made by people.
fn view(hash: &str, record: &TokenRecord) -> Option<TokenView> {
    let (scope, enrolment) = match &record.scope {
        Scope::Enrol(enrolment) => (TokenScope::Enrol, Some(enrolment)),
        Scope::Operator => (TokenScope::Operator, None),
        Scope::User => (TokenScope::User, None),
        Scope::Viewer => (TokenScope::Viewer, None),
        Scope::Admin | Scope::Runner(_) | Scope::Session(_) | Scope::Desktop(_) | Scope::View(_) => return None,
    };
    Some(TokenView {
        id: digest(hash),
        name: record.name.clone(),
        scope,
        runner: enrolment.and_then(|enrolment| enrolment.runner.clone()),
        reusable: enrolment.is_none_or(|enrolment| enrolment.reusable),
        used: record.used_by.is_some(),
        created_at: record.created_at,
        expires_at: record.expires_at,
    })
}

fn manages(by: &Principal, scope: TokenScope) -> bool {
    match by.scope {
        Scope::Admin => true,
        Scope::Operator => scope == TokenScope::Enrol,
        _ => false,
    }
}

fn require_manages(by: &Principal, scope: TokenScope) -> Result<()> {
    if manages(by, scope) {
        return Ok(());
    }
    let detail = format!("token {:?} may make enrolment tokens; tokens of people are the admin's to make", by.name);
    Err(Error::new(ErrorCode::Forbidden, detail))
}

/// What is made with a token belongs to its name, so it must not be that of anybody else.
fn checked_name(name: String) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if !(1..=MAX_NAME_CHARS).contains(&name.len()) || !name.chars().all(plain) {
        return Err(invalid(format!("name: 1 to {MAX_NAME_CHARS} characters of A-Z a-z 0-9 . _ @ -")));
    }
    if RESERVED.contains(&name.as_str()) {
        return Err(invalid(format!("name: {name:?} is the server's own; take another")));
    }
    Ok(name)
}

fn invalid(detail: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidRequest, detail)
}
