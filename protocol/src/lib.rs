//! The words that Helix's programs say to each other: serde types only, no I/O, no runtime.
//!
//! Everything on a wire or in the store has its type here and nowhere else: HTTP bodies ([`api`], and the
//! documents' older shapes in [`external_agents`]), records in JetStream ([`record`]), the runner's link
//! ([`link`]), the agents' sync socket ([`sync`]) and the log of their conversations ([`thread`]), the names of every subject, stream and bucket ([`subject`]) and stable error codes ([`error`]).
//! Deployables depend on this crate and never on each other.

pub mod api;
pub mod assignment;
pub mod error;
pub mod event;
pub mod external_agents;
pub mod ids;
pub mod link;
pub mod record;
pub mod resources;
pub mod runner;
pub mod session;
pub mod subject;
pub mod sync;
pub mod thread;

pub use error::ErrorCode;
pub use ids::{Epoch, Generation, IdError, KindName, PoolName, RunnerId, SessionId, SpecTaskId, ThreadId, TurnId};
