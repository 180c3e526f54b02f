//! Conversations, from both ends: a peer that plays the real Zed by the contract (`helix_tests::zed_peer`), which fails
//! on any frame of ours that is extra, missing or out of order; and the API with its feed, which must tell what the
//! peer produced. Real server, real NATS; no runner, for a session of any kind takes a sync socket.
//!
//! [`scenarios`] plays what today's dialect can say, [`both`] what the seed's can say too, each in both; [`bad_input`],
//! [`resend`], [`silence`] and [`replicas`] are about what goes wrong. What one dialect cannot say is noted there.

mod bad_input;
mod both;
mod replay;
mod replicas;
mod resend;
mod scenarios;
mod silence;
mod spec_tasks;
pub mod stage;

pub use replay::Replay;
