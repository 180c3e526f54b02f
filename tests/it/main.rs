//! End-to-end tests against real programs. Each test has a cluster of its own, in a directory of its own, and ends
//! with the proof that nothing of it is left (`Cluster::shutdown`). `make test` builds the programs first.

mod acp;
mod audit;
mod browser;
mod browser_desktop;
mod browser_replay;
mod browser_threads;
mod browser_tools;
mod bus;
mod chaos;
mod cli;
mod cli_conversations;
mod conversation_chaos;
mod conversations;
mod credentials;
mod dependencies;
mod desktop;
mod desktop_api;
mod desktop_soak;
mod direct;
mod documents;
mod faults;
mod gate;
mod gpui;
mod health;
mod hostile;
mod queue;
mod rdp;
mod recording;
mod refusals;
mod replicas;
mod routes;
mod sessions;
mod tools;
mod units;
mod updown;
