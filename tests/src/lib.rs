//! Harness of the end-to-end tests: real programs, real NATS, real X and VNC, a real browser.
//!
//! [`cluster`] starts one NATS, servers and runners as processes in a directory of its own and proves at the end that
//! nothing of them is left; [`up`] does the same around `helixctl up`. Everything waits for an event or polls with a
//! deadline ([`eventually`]); nothing sleeps blindly, and nothing is skipped: a missing prerequisite fails the test.

pub mod agents;
pub mod archive;
pub mod browser;
pub mod certificates;
pub mod chaos;
pub mod cluster;
pub mod eventually;
pub mod http;
pub mod leftovers;
pub mod nats;
pub mod own_display;
pub mod packages;
pub mod parts;
pub mod ports;
pub mod process;
pub mod programs;
pub mod random;
pub mod rfb;
pub mod routes;
pub mod runner;
pub mod server;
pub mod tls_proxy;
pub mod up;
pub mod x;
pub mod zed_peer;

pub use cluster::Cluster;
pub use eventually::eventually;
pub use http::Api;

use std::path::PathBuf;
use std::sync::Once;

/// What every test needs once per process: the TLS provider.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Only a second call fails, and the provider is the same then.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// The checkout's top directory.
pub fn repository() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}
