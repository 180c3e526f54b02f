//! Conversations from the command line: `helixctl` against a real server. The agent is the bridge's own one of kind
//! `command`, for which a prompt is a shell command; where one must ask, hang or be lost, the peer that plays Zed.
//!
//! What a pipe gets on standard output is the answer and nothing else; what became of the turn is the exit code.

mod agents;
mod chat;
mod program;
mod prompt;
mod run;
mod secrets;
mod spec_tasks;

pub use program::Program;
