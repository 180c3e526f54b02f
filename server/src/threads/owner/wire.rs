//! What servers ask the owner of a session's sync socket: core requests on `sync.<session>`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::threads::decide::words::Said;

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// An agent said this on a socket at another server.
    Frame {
        /// What.
        said: Box<Said>,
        /// Whose: an owner that lives once, unlike its server.
        from: String,
        /// Its place among what that one passes on: a repeat has the same.
        number: u64,
    },
    /// To be sent to the agent as it is: `type` and `data`.
    Command(Value),
    /// This server has a newer socket: look at the lease.
    Taken(String),
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Stored, or sent.
    Done,
    /// No socket is here, or it takes nothing.
    NoSocket,
    /// This server is not the owner.
    NotMine,
}
