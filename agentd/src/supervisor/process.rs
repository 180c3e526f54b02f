//! Process backend.
