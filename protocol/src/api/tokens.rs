//! Tokens that people make: bodies of `/api/v1/tokens`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::RunnerId;

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub enum TokenScope {
    /// Enrols runners.
    Enrol,
    /// A person: every session and runner; no tokens of people.
    Operator,
    /// A person: own sessions.
    User,
    /// A person: sees every session, changes nothing.
    Viewer,
}

/// `POST /api/v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CreateToken {
    /// What it is for. Only the admin makes tokens of people.
    pub scope: TokenScope,
    /// Of a person: who it is, the owner of what is made with it; needed. Otherwise words for the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of scope `enrol`: the one id under which it enrols; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<RunnerId>,
    /// Of scope `enrol`: any number of runners, until it ends or is revoked. Without it: one, once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reusable: bool,
    /// Life in seconds. Where absent: 15 minutes for one that is used once (at most a day), 30 days for all others (at
    /// most a year).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct TokenView {
    /// Names it; says nothing about the secret.
    pub id: String,
    /// Who it is, or words for the list.
    pub name: String,
    /// What it is for.
    pub scope: TokenScope,
    /// The one runner that enrols with it; `null`: any.
    pub runner: Option<RunnerId>,
    /// Good for more than one enrolment.
    pub reusable: bool,
    /// Was for one enrolment, and that is done.
    pub used: bool,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When it ends.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}

/// A fresh token. Its secret is told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct NewToken {
    /// The secret: the bearer.
    pub token: String,
    /// All else.
    #[serde(flatten)]
    pub about: TokenView,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("about", &self.about).finish_non_exhaustive()
    }
}

/// `GET /api/v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct TokenList {
    /// The newest first. Those of runners, sessions and links are not among them.
    pub tokens: Vec<TokenView>,
}
