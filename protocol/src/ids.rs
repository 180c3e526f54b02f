//! Identifiers and counters. An id that exists is valid: parsing is the only way to make one.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest id in characters.
pub const MAX_ID_CHARS: usize = 64;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: use 1 to {MAX_ID_CHARS} characters of A-Z a-z 0-9 _ -")]
pub struct IdError {
    /// Which id was meant, for people: "session id".
    pub what: &'static str,
    /// The text as given, cut to 80 characters.
    pub text: String,
}

fn check(what: &'static str, text: &str) -> Result<(), IdError> {
    let ok = (1..=MAX_ID_CHARS).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if ok {
        return Ok(());
    }
    Err(IdError { what, text: text.chars().take(80).collect() })
}

/// OpenAPI schema of a type that is a text on the wire.
macro_rules! string_schema {
    ($name:ident) => {
        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                <String as utoipa::PartialSchema>::schema()
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
        }
    };
}
pub(crate) use string_schema;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        crate::ids::string_schema!($name);

        impl $name {
            /// Checks `text` and makes it an id.
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check($what, &text)?;
                Ok(Self(text))
            }

            /// The id as text: safe in a subject, a URL path and a file name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// One user workload with its display.
    SessionId,
    "session id"
);
id!(
    /// A machine (or one of several agentd on it) that runs sessions.
    RunnerId,
    "runner id"
);
id!(
    /// A place from which somebody drives a desktop: a tab of a browser, a viewer, a script. Chosen by whoever sits there.
    Seat,
    "seat"
);
id!(
    /// A password that lets native viewers into a session's desktop.
    GrantId,
    "grant id"
);
id!(
    /// A named spec of agents kept ready.
    PoolName,
    "pool name"
);
id!(
    /// The recipe of what runs in a session: the stem of its TOML file.
    KindName,
    "kind"
);

id!(
    /// One conversation of a session: `thr_…`, ours and stable; the agent's own id of it is another matter.
    ThreadId,
    "thread id"
);
id!(
    /// One prompt and what came of it: `int_…`. On the sync socket it is the `request_id`, in document 000 the
    /// `helix_interaction_id`.
    TurnId,
    "turn id"
);
id!(
    /// A piece of work with one agent instance and many threads: the documents' `spec_task_id` and `instance_id`.
    SpecTaskId,
    "spec task id"
);

id!(
    /// What was recorded of one life of one session: `rec_…`.
    RecordingId,
    "recording id"
);

impl RecordingId {
    /// Of a session's life under one assignment.
    pub fn of(session: &SessionId, epoch: Epoch) -> Self {
        Self(format!("rec_{}_{epoch}", session.unit_key()))
    }
}

impl SessionId {
    /// Unit key: the first 16 hex digits of SHA-256(session id). Names units, slices and directories, so that
    /// neither length nor characters of the id matter there.
    pub fn unit_key(&self) -> String {
        hex(&Sha256::digest(self.0.as_bytes())[..8])
    }
}

impl RunnerId {
    /// The id for a machine's host name: dots become dashes, anything else that is not allowed is refused.
    pub fn from_hostname(prefix: &str, hostname: &str) -> Result<Self, IdError> {
        Self::parse(format!("{prefix}{}", hostname.replace('.', "-")))
    }
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 of a secret as 64 hex digits: what the store keeps instead of the secret.
pub fn secret_hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct $name(pub u64);

        impl $name {
            /// The next value.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Fence of a session's assignments: begins at the milliseconds of its creation and grows with each assignment.
    /// What a runner says with an old epoch never counts.
    Epoch
);
counter!(
    /// Counter of a session's spec changes.
    Generation
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_a_subject_or_path_cannot_carry() {
        for bad in ["", "a.b", "a/b", "a b", "ä", "*", ">", "../x", &"x".repeat(65)] {
            assert!(SessionId::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "session_123", "A-9", &"x".repeat(64)] {
            assert!(SessionId::parse(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn a_dotted_hostname_becomes_a_runner_id() {
        let id = RunnerId::from_hostname("external-zed-", "dev.example.org");
        assert_eq!(id.map(String::from), Ok("external-zed-dev-example-org".to_owned()));
    }

    #[test]
    fn the_unit_key_is_stable() {
        let id = SessionId::parse("session_123").expect("valid id");
        assert_eq!(id.unit_key().len(), 16);
        assert_eq!(id.unit_key(), id.clone().unit_key());
    }
}
