//! `agentd acp-bridge` against a sync server of the tests' own, in raw JSON and the contract's words: shell commands,
//! an ACP agent that does what its prompts say, and a bridge that is killed at every step.
#![allow(clippy::unwrap_used)] // a test may panic

mod acp;
mod harness;
mod kills;
mod life;
mod offers;
mod person;
mod shell;
