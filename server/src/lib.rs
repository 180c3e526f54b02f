//! helix-server: the control plane. Keeps no state of its own; NATS JetStream is the only store and the only bus.
//!
//! The way of a request: [`http`] decodes and authorises → [`sessions`], [`runners`], [`tokens`] hold the rules →
//! [`store`] writes a durable record, revision-checked → the leader's [`reconciler`] sees it and acts → [`bus`]
//! nudges the runner, whose requests [`link`] answers → [`events`] tells watchers. Bytes of a desktop pass through
//! [`relay`], calls on it through [`desktop`], and touch none of this.

pub mod app;
pub mod audit;
pub mod auth;
pub mod backup;
pub mod bus;
pub mod callout;
pub mod checkpoints;
pub mod clock;
pub mod config;
pub mod desktop;
pub mod error;
pub mod events;
pub mod http;
pub mod images;
pub mod keys;
pub mod link;
pub mod nats_config;
pub mod pools;
pub mod reaper;
pub mod reconciler;
pub mod recordings;
pub mod relay;
pub mod runners;
pub mod scale;
pub mod scheduler;
pub mod secrets;
pub mod sessions;
pub mod spec_tasks;
pub mod store;
pub mod telemetry;
pub mod threads;
pub mod tokens;
pub mod uses;
