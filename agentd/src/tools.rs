//! A session's files, commands and terminals, for people and programs that reach it through a server.
//!
//! ```text
//! server ⇄ WebSocket that agentd dialled ([`crate::dial`]) ⇄ agentd's unix socket ([`host`]) ⇄ unit `tools` ([`unit`])
//! ```
//!
//! The unit is a process of the session, started at the first use and run by the session's user: everything that is done
//! to files, and every program that is started, is done there, and agentd copies bytes. It connects out: agentd
//! listens in a directory of its own, believes nobody but the unit's main process, tells it over one connection the
//! numbers of the streams that are wanted, and gets one more connection for each. When the unit dies it is started
//! again at the next use; when agentd dies the unit comes again by itself, with its terminals.

mod caller;
pub(crate) mod checkpoint;
mod exec;
mod failure;
mod files;
pub(crate) mod frames;
pub mod host;
mod program;
mod ring;
mod terminals;
mod tty;
pub mod unit;

/// What a connection of the unit's is for, as its first eight bytes (big endian) say: the number of a stream, or this for
/// the one over which agentd says the numbers of the streams that it wants, in as many bytes each.
pub(crate) const CONTROL: u64 = 0;
