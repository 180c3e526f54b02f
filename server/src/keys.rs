//! Secrets derived from the server key: session tokens, the callout's signing key.

/// Derived keys.
pub struct Keys {}
