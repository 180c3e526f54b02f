//! Who is calling and what they may do. Deny by default: every route names what it needs.
//!
//! Two steps: a route's [`Need`] says which scopes come in at all (`http::guard`), then the rules ask the
//! [`Principal`] about the session at hand.

use axum::extract::FromRequestParts;
use helix_protocol::record::Scope;
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use http::request::Parts;

use crate::error::Error;

/// What a route needs. Each variant names the scopes that come in; there is no default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: health, pages and their assets, the API document.
    Public,
    /// A one-use ticket instead of a bearer; the route consumes it.
    Ticket,
    /// Any bearer.
    Any,
    /// The documents' runner line, which is gone: people, or any token as query `access_token`, as that runner
    /// sends it.
    Superseded,
    /// Lists of the fleet: people.
    Fleet,
    /// One session: who may see it, itself included.
    Read,
    /// Makes, changes or ends sessions.
    Change,
    /// Changes the fleet itself.
    Operate,
    /// A session's desktop: who may drive it.
    Drive,
    /// A session's desktop: who may look at it.
    Watch,
    /// A session's own line to the server, or somebody in its place.
    Agent,
    /// A runner's own line.
    Runner,
    /// Exchanges itself for a runner's token.
    Enrol,
    /// Images: people, and runners.
    Images,
    /// One runner: people, and itself.
    Member,
    /// The end of one runner: who changes the fleet, and itself.
    Leave,
}

impl Need {
    /// Whether a bearer of this scope comes in.
    pub fn admits(self, scope: &Scope) -> bool {
        use Scope::{Admin, Desktop, Enrol, Operator, Runner, Session, User, View, Viewer};
        match self {
            Self::Public | Self::Any => true,
            // A bearer is no ticket.
            Self::Ticket => false,
            Self::Fleet | Self::Superseded => matches!(scope, Admin | Operator | User | Viewer),
            Self::Read | Self::Watch => {
                matches!(scope, Admin | Operator | User | Viewer | Session(_) | Desktop(_) | View(_))
            }
            Self::Change => matches!(scope, Admin | Operator | User),
            Self::Operate => matches!(scope, Admin | Operator),
            Self::Drive => matches!(scope, Admin | Operator | User | Session(_) | Desktop(_)),
            Self::Agent => matches!(scope, Admin | Operator | User | Session(_)),
            Self::Runner => matches!(scope, Runner(_)),
            Self::Enrol => matches!(scope, Admin | Enrol(_)),
            Self::Images | Self::Member => matches!(scope, Admin | Operator | User | Viewer | Runner(_)),
            Self::Leave => matches!(scope, Admin | Operator | Runner(_)),
        }
    }

    /// For people: which tokens the route takes.
    pub fn words(self) -> &'static str {
        match self {
            Self::Public => "no token",
            Self::Ticket => "a one-use ticket",
            Self::Any => "any token",
            Self::Fleet => "a token of scope admin, operator, user or viewer",
            Self::Superseded => "a token of scope admin, operator, user or viewer, or any as query `access_token`",
            Self::Read => "a token of scope admin, operator, user, viewer, or of the session itself",
            Self::Change => "a token of scope admin, operator or user",
            Self::Operate => "a token of scope admin or operator",
            Self::Drive => "a token of scope admin, operator, user, or of the session or its desktop",
            Self::Watch => "a token of scope admin, operator, user, viewer, or of the session or its desktop",
            Self::Agent => "a token of scope admin, operator, user, or of the session itself",
            Self::Runner => "a runner's own token",
            Self::Enrol => "an enrolment token",
            Self::Images => "a token of scope admin, operator, user or viewer, or a runner's own",
            Self::Member => "a token of scope admin, operator, user or viewer, or the runner's own",
            Self::Leave => "a token of scope admin or operator, or the runner's own",
        }
    }
}

/// Characters of [`Principal::digest`].
const DIGEST_CHARS: usize = 16;

/// A scope as one word, as `whoami` shows it.
pub fn scope_word(scope: &Scope) -> &'static str {
    match scope {
        Scope::Admin => "admin",
        Scope::Operator => "operator",
        Scope::User => "user",
        Scope::Viewer => "viewer",
        Scope::Runner(_) => "runner",
        Scope::Session(_) => "session",
        Scope::Desktop(_) => "desktop",
        Scope::View(_) => "view",
        Scope::Enrol(_) => "enrol",
    }
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Name of the token; owner of what it makes.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// Hash of the token, to close what it opened when it is revoked.
    pub token_hash: String,
}

impl Principal {
    /// May read this session.
    pub fn may_see(&self, session: &SessionId, owner: &str) -> bool {
        match &self.scope {
            Scope::Admin | Scope::Operator | Scope::Viewer => true,
            Scope::User => self.name == owner,
            Scope::Session(own) | Scope::Desktop(own) | Scope::View(own) => own == session,
            Scope::Runner(_) | Scope::Enrol(_) => false,
        }
    }

    /// May change or end this session.
    pub fn may_change(&self, _session: &SessionId, owner: &str) -> bool {
        match &self.scope {
            Scope::Admin | Scope::Operator => true,
            Scope::User => self.name == owner,
            Scope::Viewer
            | Scope::Session(_)
            | Scope::Desktop(_)
            | Scope::View(_)
            | Scope::Runner(_)
            | Scope::Enrol(_) => false,
        }
    }

    /// May look at this session's desktop and drive it.
    pub fn may_drive(&self, session: &SessionId, owner: &str) -> bool {
        match &self.scope {
            Scope::Session(own) | Scope::Desktop(own) => own == session,
            _ => self.may_change(session, owner),
        }
    }

    /// May be told this session's own token.
    pub fn may_know_session_token(&self, owner: &str) -> bool {
        matches!(self.scope, Scope::Admin) || self.name == owner
    }

    /// Tells this token from others of the same name, and says nothing about it.
    pub fn digest(&self) -> String {
        digest(&self.token_hash)
    }

    /// The one session that this token is for.
    pub fn session(&self) -> Option<&SessionId> {
        match &self.scope {
            Scope::Session(own) | Scope::Desktop(own) | Scope::View(own) => Some(own),
            _ => None,
        }
    }

    /// The runner whose own token this is.
    pub fn runner(&self) -> Option<&RunnerId> {
        match &self.scope {
            Scope::Runner(id) => Some(id),
            _ => None,
        }
    }
}

/// Tells a token from all others by its hash, and says nothing about either.
pub fn digest(token_hash: &str) -> String {
    helix_protocol::ids::secret_hash(token_hash).chars().take(DIGEST_CHARS).collect()
}

/// The guard puts it there. Without a guard there is none, and the handler is not reached.
impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Error> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Error::new(ErrorCode::Internal, "a handler that needs a principal is reached without the guard")
        })
    }
}

#[cfg(test)]
mod tests {
    use helix_protocol::record::Enrolment;

    use super::*;

    fn scopes() -> Vec<Scope> {
        let session = SessionId::parse("s").expect("valid id");
        let runner = RunnerId::parse("r").expect("valid id");
        vec![
            Scope::Admin,
            Scope::Operator,
            Scope::User,
            Scope::Viewer,
            Scope::Runner(runner.clone()),
            Scope::Session(session.clone()),
            Scope::Desktop(session.clone()),
            Scope::View(session),
            Scope::Enrol(Enrolment { runner: Some(runner), reusable: false }),
        ]
    }

    #[test]
    fn each_need_admits_what_its_words_say() {
        let admitted =
            |need: Need| -> Vec<&str> { scopes().iter().filter(|scope| need.admits(scope)).map(scope_word).collect() };
        assert_eq!(admitted(Need::Ticket), [""; 0]);
        assert_eq!(admitted(Need::Any).len(), scopes().len());
        for need in [Need::Fleet, Need::Superseded] {
            assert_eq!(admitted(need), ["admin", "operator", "user", "viewer"]);
        }
        for need in [Need::Read, Need::Watch] {
            assert_eq!(admitted(need), ["admin", "operator", "user", "viewer", "session", "desktop", "view"]);
        }
        assert_eq!(admitted(Need::Change), ["admin", "operator", "user"]);
        assert_eq!(admitted(Need::Operate), ["admin", "operator"]);
        assert_eq!(admitted(Need::Drive), ["admin", "operator", "user", "session", "desktop"]);
        assert_eq!(admitted(Need::Agent), ["admin", "operator", "user", "session"]);
        assert_eq!(admitted(Need::Runner), ["runner"]);
        assert_eq!(admitted(Need::Enrol), ["admin", "enrol"]);
        for need in [Need::Images, Need::Member] {
            assert_eq!(admitted(need), ["admin", "operator", "user", "viewer", "runner"]);
        }
        assert_eq!(admitted(Need::Leave), ["admin", "operator", "runner"]);
    }

    #[test]
    fn a_desktop_link_reaches_one_desktop_and_nothing_else() {
        let [own, other] = ["own", "other"].map(|id| SessionId::parse(id).expect("valid id"));
        let principal =
            Principal { name: "link".to_owned(), scope: Scope::Desktop(own.clone()), token_hash: String::new() };
        assert!(principal.may_see(&own, "ann") && principal.may_drive(&own, "ann"));
        assert!(!principal.may_change(&own, "ann") && !principal.may_know_session_token("ann"));
        assert!(!principal.may_see(&other, "ann") && !principal.may_drive(&other, "ann"));
    }
}
