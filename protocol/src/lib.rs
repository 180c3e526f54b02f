//! The words that Helix's programs say to each other: serde types only, no I/O, no runtime.
//!
//! Everything on a wire or in the store has its type here and nowhere else: HTTP bodies ([`api`], and the
//! documents' older shapes in [`external_agents`]), records in JetStream ([`record`]), the runner's link
//! ([`link`]), the desktop as an API ([`desktop`]), the agents' sync socket ([`sync`]) and the log of their conversations ([`thread`]), files, commands and terminals ([`tools`]), recordings ([`recording`]), viewers that a runner tells of ([`viewer`]), the names of every subject, stream and bucket ([`subject`]) and stable error codes ([`error`]).
//! Deployables depend on this crate and never on each other.

pub mod api;
pub mod assignment;
pub mod audit;
pub mod checkpoint;
pub mod control;
pub mod desktop;
pub mod error;
pub mod event;
pub mod external_agents;
pub mod grant;
pub mod ids;
pub mod image;
pub mod link;
pub mod pool;
pub mod reap;
pub mod record;
pub mod recording;
pub mod resources;
pub mod runner;
pub mod scale;
pub mod session;
pub mod subject;
pub mod sync;
pub mod thread;
pub mod time_limit;
pub mod tools;
pub mod viewer;

pub use error::ErrorCode;
pub use ids::{
    Epoch, Generation, GrantId, IdError, KindName, PoolName, RecordingId, RunnerId, Seat, SessionId, SpecTaskId,
    ThreadId, TurnId,
};
