//! agentd: the runner daemon. Runs sessions as its supervisor's units and reports what it sees; dials out only.
//!
//! [`link`] talks to the servers and decides nothing → [`ledger`] keeps the last desired state on disk →
//! [`reconciler`] compares it with what runs → one [`session`] task each, whose [`supervisor`] starts units →
//! reports go back through [`link`] until acknowledged. Bytes of a desktop go through [`dial`], an agent's own through [`forward`]. [`daemon`] puts the
//! parts together.

pub mod bridge;
pub mod cgroup;
pub mod config;
pub mod daemon;
pub mod dial;
pub mod display;
pub mod drain;
pub mod fence;
pub mod file_events;
pub mod forward;
pub mod guest;
pub mod health;
pub mod hold;
pub mod inventory;
pub mod kinds;
pub mod ledger;
pub mod link;
pub mod notice;
pub mod reconciler;
pub mod reload;
pub mod session;
pub mod state_lock;
pub mod supervisor;
pub mod telemetry;
pub mod usage;
