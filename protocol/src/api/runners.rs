//! How a runner comes, changes and gets a new token: bodies below `/api/v1/runners`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::RunnerId;

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// `POST /api/v1/runners/enrol`, with an enrolment token as bearer. The runner makes its own token and sends only its hash,
/// so a repeat after a lost answer is the same request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct EnrolRunner {
    /// The id it wants.
    pub id: RunnerId,
    /// SHA-256 of its own token, 64 hex digits.
    pub token_hash: String,
}

/// Answer to an enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Enrolled {
    /// The id it has.
    pub id: RunnerId,
    /// Where its NATS is, unless the runner is configured with another address; several with commas between.
    pub nats_url: String,
    /// Certificates (PEM) of who signs those of NATS, where the machine's own are not meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats_ca: Option<String>,
}

/// `PATCH /api/v1/runners/{id}`: what an operator says about a runner. What is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct AmendRunner {
    /// Labels to set, and with `null` to remove. They win over those of the runner's own settings, which show again once they
    /// are removed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Whether it takes nothing new. Sessions that it has run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
}

/// `PUT /api/v1/runners/{id}/token`, from the runner, while a rotation is wanted of it. Twice the same body: with the
/// old token as bearer it announces the new one, from when on both are good; with the new one it proves to have it,
/// which ends the old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct RenewToken {
    /// SHA-256 of the new token, 64 hex digits.
    pub token_hash: String,
}
