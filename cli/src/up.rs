//! One-machine mode: nats-server, helix-server and agentd in one state directory, without root.
//!
//! [`supervise`] runs one task per child, in order: nats-server (ready: its ports file), helix-server and agentd (ready:
//! `READY=1` on a notify socket). A child that dies is started again with a growing pause. The supervisor ends its
//! children in the reverse order on a signal. Nothing is its child in a way that matters: [`record`] and the children's
//! own command lines ([`leftovers`]) let a later `up` or `down` find them after a `kill -9` of the supervisor, which is
//! noticed by the free [`lock`].

pub mod config;
pub mod detach;
pub mod leftovers;
pub mod lock;
pub mod nats;
pub mod notify;
pub mod preflight;
pub mod process;
pub mod programs;
pub mod record;
pub mod service;
pub mod state_dir;
pub mod supervise;
