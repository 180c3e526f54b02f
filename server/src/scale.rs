//! Scale hooks: a program or a webhook of the operator's is told what room is missing and which runners could go, so that
//! it adds and removes machines. Helix itself does neither.
//!
//! One task of the leader (`reconciler/scale.rs`) looks at what waits and what idles, and asks [`plan`] (pure) whether
//! that is worth a call. A call is written to `helix_leases/scale` first, revision-checked: of two leaders one makes it,
//! and a leader that died in between leaves it to the next, which makes the same call again ([`hook`] makes it). So each
//! is made at least once, with a key that says that it is the same, and a number that only grows.

pub mod hook;
pub mod plan;

use std::time::Duration;

use helix_protocol::scale::{ScaleRecord, ScaleStatus};
use helix_protocol::subject;

use crate::store::Store;

/// Settings of `[scale]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleConfig {
    /// Who is told.
    pub hook: Hook,
    /// A session that waits for so long is told.
    pub after: Duration,
    /// A runner without a session for so long is told.
    pub shrink_after: Duration,
    /// Between two calls, at least.
    pub pause: Duration,
    /// Longest that a call may take.
    pub timeout: Duration,
}

/// Who is told.
#[derive(Clone, PartialEq, Eq)]
pub enum Hook {
    /// A program and its arguments.
    Command(Vec<String>),
    /// A server.
    Webhook {
        /// Where.
        url: String,
        /// Signs what it is told.
        secret: String,
    },
}

/// Not the secret; and arguments may hold some.
impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command(argv) => f.debug_tuple("Command").field(&argv.first()).finish(),
            Self::Webhook { url, secret: _ } => f.debug_struct("Webhook").field("url", url).finish_non_exhaustive(),
        }
    }
}

/// How the hook does, for people.
pub fn status(store: &Store) -> ScaleStatus {
    let entry = store.leases.view().get(subject::SCALE_KEY);
    let Some(ScaleRecord { call, done, failures, error, not_before }) =
        entry.and_then(|entry| entry.value.scale.clone()).map(|record| *record)
    else {
        return ScaleStatus::default();
    };
    ScaleStatus {
        number: call.number,
        at: Some(call.at),
        done,
        failures,
        retry_at: (!done && failures > 0).then_some(not_before),
        error,
        wanted: call.wanted,
    }
}
