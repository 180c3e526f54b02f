//! Recordings of desktops, on the runner: what is spooled by whom, and how it gets to the server.
//!
//! ```text
//! display ──vnc.sock──► unit `recorder` ([`unit`]: [`screen`] reads, [`spool`] writes) ──► spool ──► [`upload`] ──HTTPS──► server
//! gates, calls, sessions ──► [`notes`] ──agentd's socket──► unit `recorder`
//! ```
//!
//! The unit is a viewer like any other, that types nothing; it needs agentd for nothing but what others type. It runs
//! as a user of its own where sessions have users: nobody who works on a desktop may change what is recorded of it.
//! Spools are in agentd's state directory, one for each recording ([`shelf`]), and outlive their sessions until the
//! server has them.

pub mod notes;
pub mod pace;
pub mod screen;
pub mod shelf;
pub mod spool;
pub mod unit;
pub mod upload;
