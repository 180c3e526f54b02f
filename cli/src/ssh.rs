//! SSH as helixctl speaks it to machines: provisioning, `doctor HOST` and the commands of `runner` that go to a machine.
//!
//! [`Ssh`] is what all connections of a command share: ssh's own settings, how strict to be, whom to ask. [`config`] makes a
//! [`Way`] of a machine's name (`ssh -G`: users, ports, keys, jump hosts); [`connection`] goes it, hop by hop, each host's
//! key proved by [`known_hosts`]. On a connection there is one root [`shell`] for many short commands, a [`program`] with
//! our own streams, or an [`upload`] by SFTP. [`prompts`] asks a person what only a person knows.
//!
//! Each connection is a task of russh's and ends when it is dropped, with every channel on it.

pub mod config;
pub mod connection;
mod known_hosts;
pub mod program;
pub mod prompts;
pub mod shell;
pub mod upload;

use std::path::PathBuf;

pub use self::config::Way;
pub use self::connection::{Connection, LOST};
use self::prompts::Prompts;
pub use self::shell::{Answer, LATE, Shell, quote};
use crate::error::Result;
use crate::inventory::Machine;
use crate::settings::process_env;

/// What is the same for every connection of a command.
#[derive(Debug, Clone)]
pub struct Ssh {
    /// File of ssh's settings instead of the user's.
    pub config: Option<PathBuf>,
    /// Pins the key of a host that nothing is known of.
    pub accept_new: bool,
    /// Asks for passphrases and passwords.
    pub prompts: Prompts,
}

impl Ssh {
    /// The way to a machine, as ssh's settings say.
    pub async fn way(&self, machine: &Machine) -> Result<Way> {
        config::way(machine, self.config.as_deref(), process_env).await
    }

    /// Connects and logs in.
    pub async fn connect(&self, way: &Way) -> Result<Connection> {
        Connection::open(way, self).await
    }

    /// A root shell on a connection.
    pub async fn shell(&self, connection: &Connection) -> Result<Shell> {
        Shell::open(connection, &self.prompts).await
    }
}
