//! agentd: the runner daemon. Runs sessions as its supervisor's units and reports what it sees; dials out only.
//!
//! [`link`] talks to the servers and decides nothing → [`ledger`] keeps the last desired state on disk →
//! [`reconciler`] compares it with what runs → one [`session`] task each, whose [`supervisor`] starts units →
//! reports go back through [`link`] until acknowledged. Bytes of a desktop go through [`dial`], [`viewers`] and the [`gate`], an agent's own through [`forward`]; [`recorder`] keeps what is shown. [`daemon`] puts the
//! parts together.

pub mod beneath;
pub mod bridge;
pub mod cgroup;
pub mod checkpoint;
pub mod condition;
pub mod config;
pub mod daemon;
pub mod desktop;
pub mod dial;
pub mod direct;
pub mod display;
pub mod drain;
pub mod fence;
pub mod file_events;
pub mod forward;
pub mod gate;
pub mod guest;
pub mod health;
pub mod hold;
pub mod images;
pub mod inventory;
pub mod kinds;
pub mod ledger;
pub mod leftovers;
pub mod link;
pub mod notice;
pub mod outbound;
pub mod rdp;
pub mod reconciler;
pub mod recorder;
pub mod reload;
pub mod session;
pub mod state_lock;
pub mod supervisor;
pub mod telemetry;
pub mod tools;
pub mod usage;
pub mod viewers;
pub mod xvfb;
