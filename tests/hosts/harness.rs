//! Real hosts to test against: whole Debian systems with systemd, on a network of their own.
//!
//! ```ignore
//! use crate::harness::{Boot, Case, Suite, lab, start_all};
//!
//! pub fn cases() -> Vec<Case> {
//!     vec![
//!         Case::always("two_hosts_talk", two_hosts_talk),   // `make test` and `make test-hosts`
//!         Case::thorough("guests_talk", guests_talk),       // `make test-hosts`
//!     ]
//! }
//!
//! async fn two_hosts_talk() -> anyhow::Result<()> {
//!     let [mut one, other] = start_all([Boot::container(), Boot::container().suite(Suite::Trixie)]).await?;
//!     one.put(&programs::ours("helix-agentd")?, "/usr/local/bin/helix-agentd", 0o755).await?;
//!     one.run_ok(&format!("ping -c 1 {}", other.address)).await?;     // as root; run_as("ops", …) as the operator
//!     one.cut(&other)?; one.mend(&other)?;                            // a pair; partition() and heal(): from all
//!     one.kill().await?; one.boot().await?;                           // power cut, and again with the same disk
//!     one.reboot().await?;                                            // in good order
//!     one.stop().await                                                // dropping does the same, without the proof
//! }
//! ```
//!
//! The test process itself lives in the lab: whatever it starts or listens with on [`lab::SERVER`] (or 0.0.0.0) is what
//! hosts reach, and [`Host::address`] is reached by any client. There is no way out of the lab, hence no name service.
//! [`janitor`] says how everything ends, [`root`] what hosts boot from, [`container`] and [`guest`] what each kind is
//! good for. `cargo test -p helix-tests --test hosts -- NAME` runs one case, `-- --list` names all.

pub mod boot;
pub mod case;
pub mod cgroup;
pub mod container;
pub mod guest;
pub mod host;
pub mod janitor;
pub mod lab;
pub mod root;
pub mod ssh;

pub use boot::{Boot, Kind, start_all};
pub use case::{Case, run};
pub use cgroup::Cgroup;
pub use host::Host;
pub use root::{Suite, cache};

use std::io::Write;

/// A line for the person watching.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "hosts: {line}");
}
