//! Auth callout: which NATS connections come in, and what they may do.
