//! The one error of the server's rules; `http` maps it to a problem document, `link` to a refusal.

use helix_protocol::ErrorCode;

/// A request that was not done. `code` is for programs, `detail` for people: what, where, why, next step.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Error {
    /// Stable code; fixes the HTTP status.
    pub code: ErrorCode,
    /// This occurrence.
    pub detail: String,
    /// What failed beneath, for the log only.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a cause beneath.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), source: None }
    }

    /// The same, with what failed beneath.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// Result of the server's rules.
pub type Result<T, E = Error> = std::result::Result<T, E>;
