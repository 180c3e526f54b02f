//! End-to-end tests against real programs. Each test has a cluster of its own, in a directory of its own, and ends
//! with the proof that nothing of it is left (`Cluster::shutdown`). `make test` builds the programs first.

mod acp;
mod browser;
mod browser_threads;
mod bus;
mod chaos;
mod cli;
mod cli_conversations;
mod conversation_chaos;
mod conversations;
mod dependencies;
mod desktop;
mod documents;
mod faults;
mod gpui;
mod health;
mod hostile;
mod queue;
mod refusals;
mod replicas;
mod routes;
mod sessions;
mod units;
mod updown;
