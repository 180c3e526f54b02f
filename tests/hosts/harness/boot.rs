//! What to start, and starting it.

use anyhow::{Result, anyhow};
use futures::future::try_join_all;

use super::host::{Host, Seat};
use super::lab;
use super::root::Suite;

/// What a host is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// systemd-nspawn: quick, and on the machine's kernel.
    Container,
    /// User-mode Linux: slow, with a kernel and cgroup version 2 of its own.
    Guest,
}

/// A host to be started.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    kind: Kind,
    suite: Suite,
    bare: bool,
    memory: u32,
    kernel: &'static str,
}

impl Boot {
    /// A container of Debian 12.
    pub const fn container() -> Self {
        Self { kind: Kind::Container, suite: Suite::Bookworm, bare: false, memory: 0, kernel: "" }
    }

    /// A guest of Debian 12 with 512 MiB.
    pub const fn guest() -> Self {
        Self { kind: Kind::Guest, suite: Suite::Bookworm, bare: false, memory: 512, kernel: "" }
    }

    /// Another release of Debian.
    pub const fn suite(self, suite: Suite) -> Self {
        Self { suite, ..self }
    }

    /// With nothing of a desktop: what that needs comes by apt.
    pub const fn bare(self) -> Self {
        Self { bare: true, ..self }
    }

    /// Another size, in MiB. A container has the machine's memory.
    pub const fn memory(self, mebibytes: u32) -> Self {
        Self { memory: mebibytes, ..self }
    }

    /// With one more word for the kernel of a guest.
    pub const fn kernel(self, word: &'static str) -> Self {
        Self { kernel: word, ..self }
    }

    /// Starts it, and waits until its systemd says `running`: all units are up, and none has failed.
    pub async fn start(self) -> Result<Host> {
        let (number, address) = lab::next_seat()?;
        let name = format!("h{number}");
        let root = self.suite.root(self.bare)?;
        let dir = lab::dir().join("hosts").join(&name);
        let cgroup = lab::cgroup()?.host(&name);
        let mut host = Host::furnish(
            self.kind,
            Seat { name, address, root, dir, memory: self.memory, kernel: self.kernel, cgroup },
        )?;
        host.boot().await?;
        Ok(host)
    }
}

/// Starts hosts at once.
pub async fn start_all<const N: usize>(boots: [Boot; N]) -> Result<[Host; N]> {
    let hosts = try_join_all(boots.map(Boot::start)).await?;
    hosts.try_into().map_err(|_| anyhow!("as many hosts as were asked for"))
}
