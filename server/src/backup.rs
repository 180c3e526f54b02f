//! `helix-server backup` and `restore`: all that JetStream keeps of a fleet, in one file, and back.
//!
//! They talk to NATS as the servers do, with what server.toml says, and need no server. Each stream is copied by
//! JetStream's own snapshots, so that sequence numbers, times and TTLs stay what they were; [`archive`] is the file.
//! A snapshot is of one moment; the streams' moments differ by what copying takes, in the order of
//! [`schema::names`](crate::bus::schema::names): what refers to something is copied before it, as a server that dies
//! leaves it.
//!
//! [`save`] writes beside the file and gives it its name when it is whole and on disk. [`restore`] reads the whole file
//! before it changes anything, and keeps servers away by a mark ([`restoring`](crate::bus::restoring)) until it is done:
//! killed at any point, the same command begins again, and until it ends no server takes the store for a fleet.
//! No task is spawned; a failure ends the command, and what it says is a [`Fault`].

pub mod archive;
mod fault;
mod restore;
mod save;
mod snapshot;

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectOptions};
use serde::Serialize;

pub use self::fault::{Fault, Kind};
pub use self::restore::restore;
pub use self::save::save;

use crate::bus::{connect, schema};
use crate::config::ServerConfig;

/// How long NATS may take to be there.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for one answer of JetStream. Making and removing streams of a cluster takes seconds on a loaded machine.
const ANSWER: Duration = Duration::from_secs(30);

/// What was copied.
#[derive(Debug, Serialize)]
pub struct Done {
    /// The backup.
    pub file: String,
    /// When it was made.
    pub created_at: String,
    /// SHA-256 over it.
    pub digest: String,
    /// Its streams.
    pub streams: Vec<StreamDone>,
    /// Bytes of the file.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// One stream of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamDone {
    /// Its name.
    pub name: String,
    /// Messages in it: records, events, chunks.
    pub messages: u64,
    /// Bytes of its snapshot, compressed.
    pub bytes: u64,
}

/// Says what happens, to people.
pub type Say<'a> = &'a mut dyn FnMut(&str);

async fn connected(config: &ServerConfig, name: &str) -> Result<(Client, Context), Fault> {
    let options = || -> ConnectOptions { connect::options(config, name).request_timeout(Some(ANSWER)) };
    let client = connect::within(config, options, CONNECT_PATIENCE).await.map_err(|err| {
        Fault::new(Kind::Unreachable, "cannot reach NATS").at(&config.nats.url).because(format!("{err:#}"))
    })?;
    let jetstream = ContextBuilder::new().timeout(ANSWER).build(client.clone());
    Ok((client, jetstream))
}

/// Streams whose content is kept.
fn kept() -> impl Iterator<Item = String> {
    schema::names().into_iter().filter(|name| !schema::is_fleeting(name))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
