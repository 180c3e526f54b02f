//! nats-server's part: its configuration, made by helix-server, and the ports file by which it says that it listens.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use reqwest::Url;
use serde::Deserialize;

use super::state_dir::{StateDir, write_private};
use crate::error::{CliError, Result};

/// Address without credentials.
pub fn url(port: u16) -> String {
    format!("nats://{}:{port}", Ipv4Addr::LOCALHOST)
}

/// Address with the credentials of the observer.
pub fn observer_url(dir: &StateDir, port: u16) -> Result<String> {
    let path = dir.observer_password();
    let password = std::fs::read_to_string(&path)
        .map_err(|error| CliError::failed("cannot read a password").at(path.display()).because(error))?;
    Ok(format!("nats://observer:{}@{}:{port}", password.trim(), Ipv4Addr::LOCALHOST))
}

/// Lets helix-server write `nats.conf` from `server.toml`; without a port nats-server takes a free one.
pub async fn write_conf(dir: &StateDir, server: &Path, port: Option<u16>) -> Result<()> {
    let failed =
        |why: String| CliError::failed("cannot make the settings of nats-server").at(server.display()).because(why);
    let output = super::service::scrubbed(server)
        .arg("nats-config")
        .arg("--config")
        .arg(dir.server_toml())
        .arg("--store-dir")
        .arg(dir.nats())
        .arg(format!("--port={}", port.map_or(-1, i32::from)))
        .arg("--ports-file-dir")
        .arg(dir.nats())
        .output()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    write_private(&dir.nats_conf(), &output.stdout)
}

/// Waits for the ports file `<program>_<pid>.ports` of a nats-server that is started after this was made.
pub struct PortsFile {
    dir: PathBuf,
    events: EventStream<[u8; 1024]>,
}

impl PortsFile {
    /// Watches the directory, and removes the files of those that were killed.
    pub fn watch(dir: &Path) -> Result<Self> {
        let bad = |error: std::io::Error| {
            CliError::failed("cannot watch for nats-server's port").at(dir.display()).because(error)
        };
        for entry in std::fs::read_dir(dir).map_err(bad)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "ports") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let inotify = Inotify::init().map_err(bad)?;
        inotify.watches().add(dir, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO).map_err(bad)?;
        let events = inotify.into_event_stream([0; 1024]).map_err(bad)?;
        Ok(Self { dir: dir.to_owned(), events })
    }

    /// The port on which the process with this pid listens. Cancel safe: only the last event matters.
    pub async fn port(&mut self, pid: u32) -> u16 {
        let suffix = format!("_{pid}.ports");
        while let Some(event) = self.events.next().await {
            let Some(name) = event.ok().and_then(|event| event.name) else { continue };
            if !name.to_string_lossy().ends_with(&suffix) {
                continue;
            }
            if let Some(port) = std::fs::read(self.dir.join(&name)).ok().and_then(|bytes| client_port(&bytes)) {
                return port;
            }
        }
        // The stream ends with the runtime alone.
        std::future::pending().await
    }
}

fn client_port(bytes: &[u8]) -> Option<u16> {
    #[derive(Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let ports: Ports = serde_json::from_slice(bytes).ok()?;
    Url::parse(ports.nats.first()?).ok()?.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_file_is_understood() {
        assert_eq!(client_port(br#"{"nats":["nats://127.0.0.1:40123"]}"#), Some(40123));
        assert_eq!(client_port(b"{}"), None);
    }

    #[tokio::test]
    async fn the_right_process_is_waited_for() {
        let temp = tempfile::tempdir().expect("a directory");
        std::fs::write(temp.path().join("nats-server_1.ports"), "old").expect("written");
        let mut watch = PortsFile::watch(temp.path()).expect("watched");
        assert!(!temp.path().join("nats-server_1.ports").exists(), "the killed one's file is gone");
        for (pid, port) in [(21, 1000), (42, 2000)] {
            let text = format!(r#"{{"nats":["nats://127.0.0.1:{port}"]}}"#);
            std::fs::write(temp.path().join(format!("nats-server_{pid}.ports")), text).expect("written");
        }
        let port = tokio::time::timeout(std::time::Duration::from_secs(10), watch.port(42)).await;
        assert_eq!(port, Ok(2000));
    }
}
