//! A session's desktop over RDP.
//!
//! ```text
//! client ⇄ server, or a port of this runner ⇄ [`front`] ⇄ agentd's unix socket ⇄ unit `rdp` ([`unit`]) ⇄ xrdp
//!                                                                                          ⇅ libvnc, 127.0.0.1 in a network of its own
//!                          display ⇄ gate ([`crate::gate`]) ⇄ agentd's unix socket ⇄ unit `rdp`
//! ```
//!
//! xrdp turns RDP into RFB, once per client, and knows no more of the desktop than a VNC viewer does: what comes out of it
//! answers VNC authentication and goes through the filter and under the control lease, as everything else. It runs in the
//! session's unit `rdp`, started at the first use ([`crate::tools::host`]), as the session's user, in a network namespace
//! that nobody else is in ([`network`]). Where no such namespace can be had there is no RDP, and [`unavailable`] says why.

pub mod front;
mod network;
pub mod unit;
mod xrdp;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which end of a client's two connections to agentd: this is added to the number of the RDP stream for that of the VNC
/// viewer that comes out of it.
pub(crate) const BACK: u64 = 1;

/// Why this machine's sessions cannot be reached by RDP; none: they can. `program` is agentd, `path` where programs are
/// looked for; `own_network` where the supervisor gives the unit a network of its own.
pub fn unavailable(program: &Path, path: &OsStr, own_network: bool) -> Option<String> {
    if find(path, xrdp::PROGRAM).is_none() {
        return Some("xrdp is not installed; run packaging/setup.sh runtime".to_owned());
    }
    if own_network {
        return None;
    }
    // In a process of its own: a namespace is for all of a process.
    let tried = Command::new(program).args(["rdp", "--try"]).stdin(Stdio::null()).stdout(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().last().unwrap_or("it says nothing").trim_start_matches("error: ").to_owned();
            Some(format!("no network namespace can be had here ({said})"))
        }
        Err(error) => Some(format!("agentd cannot be run: {error}")),
    }
}

fn find(path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
