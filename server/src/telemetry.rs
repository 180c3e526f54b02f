//! Logs to stderr and journald.
