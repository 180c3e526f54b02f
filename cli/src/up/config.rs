//! Settings that `up` writes for helix-server and agentd. Written anew at every start; secrets are named by file.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::state_dir::{StateDir, write_private};
use crate::error::{CliError, Result};

/// Memory that a session is reckoned with.
const SESSION_BYTES: u64 = 512 << 20;
/// Slots of a machine with little memory.
const FEWEST_SLOTS: u32 = 8;
/// agentd refuses to start with more.
pub const MOST_SLOTS: u32 = 1000;
/// Name of the one runner.
const RUNNER_ID: &str = "local";
const HEADER: &str =
    "# Written by `helixctl up` at every start; changes are lost. See packaging/*.env.example for names.\n";

#[derive(Serialize)]
struct ServerToml {
    listen: SocketAddr,
    key_file: PathBuf,
    admin_token_file: PathBuf,
    enrolment_token_file: PathBuf,
    nats: ServerNats,
}

#[derive(Serialize)]
struct ServerNats {
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    user: &'static str,
    password_file: PathBuf,
    observer_password_file: PathBuf,
}

#[derive(Serialize)]
struct AgentdToml {
    api_host: String,
    api_token_file: PathBuf,
    runner_id: &'static str,
    backend: &'static str,
    concurrency: u32,
    workspace_dir: PathBuf,
    state_dir: PathBuf,
    nats_url: String,
    health_port: u16,
    on_exit: &'static str,
    /// Whose images it takes: the public half of this user's own key. Read for each image, so that a key may be made later.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_signers: Option<PathBuf>,
}

/// Base URL of the server that listens there.
pub fn base_url(listen: SocketAddr) -> String {
    format!("http://{listen}")
}

/// Writes `server.toml`; without a NATS address as long as none is known.
pub fn write_server(dir: &StateDir, listen: SocketAddr, nats_port: Option<u16>) -> Result<()> {
    let settings = ServerToml {
        listen,
        key_file: dir.server_key(),
        admin_token_file: dir.admin_token(),
        enrolment_token_file: dir.runner_token(),
        nats: ServerNats {
            url: nats_port.map(super::nats::url),
            user: "server",
            password_file: dir.nats_password(),
            observer_password_file: dir.observer_password(),
        },
    };
    write(&dir.server_toml(), &settings)
}

/// Writes `agentd.toml`; `image_signers` says whose images its sessions may run in.
pub fn write_agentd(
    dir: &StateDir,
    listen: SocketAddr,
    nats_port: u16,
    slots: u32,
    image_signers: Option<PathBuf>,
) -> Result<()> {
    let settings = AgentdToml {
        api_host: base_url(listen),
        api_token_file: dir.runner_token(),
        runner_id: RUNNER_ID,
        // Also for root on a machine with systemd: everything of one-machine mode ends with it.
        backend: "process",
        concurrency: slots,
        workspace_dir: dir.workspaces(),
        state_dir: dir.agentd(),
        nats_url: super::nats::url(nats_port),
        health_port: 3030,
        on_exit: "stop",
        image_signers,
    };
    write(&dir.agentd_toml(), &settings)
}

fn write<T: Serialize>(path: &std::path::Path, settings: &T) -> Result<()> {
    let text = toml::to_string(settings)
        .map_err(|error| CliError::failed("cannot encode settings").at(path.display()).because(error))?;
    write_private(path, format!("{HEADER}{text}").as_bytes())
}

/// Sessions at once that this machine's memory carries.
pub fn slots_by_memory() -> u32 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    // In a container the limit counts; "max" means that there is none.
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    slots_for(machine.into_iter().chain(limit).min().unwrap_or(0))
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

fn slots_for(bytes: u64) -> u32 {
    u32::try_from(bytes / SESSION_BYTES).unwrap_or(u32::MAX).clamp(FEWEST_SLOTS, MOST_SLOTS)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn slots_follow_memory() {
        assert_eq!(slots_for(0), 8);
        assert_eq!(slots_for(24 << 30), 48);
        assert_eq!([slots_for(2 << 40), slots_for(u64::MAX)], [MOST_SLOTS; 2]);
        assert_eq!(mem_total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
        assert!(slots_by_memory() >= 8);
    }

    #[test]
    fn settings_name_files_and_hold_no_secret() {
        let temp = tempfile::tempdir_in("/tmp").expect("a directory");
        let dir = StateDir::new(temp.path()).expect("a path").create().expect("created");
        let listen = "127.0.0.1:8080".parse().expect("an address");
        write_server(&dir, listen, Some(4222)).expect("written");
        write_agentd(&dir, listen, 4222, 8, Some("/home/me/.config/helix/provision.key.pub".into())).expect("written");
        let read = |path: &Path| {
            let text = std::fs::read_to_string(path).expect("a file");
            text.replace(&dir.root().display().to_string(), "STATE")
        };
        insta::assert_snapshot!(read(&dir.server_toml()), @r#"
        # Written by `helixctl up` at every start; changes are lost. See packaging/*.env.example for names.
        listen = "127.0.0.1:8080"
        key_file = "STATE/server.key"
        admin_token_file = "STATE/admin.token"
        enrolment_token_file = "STATE/runner.token"

        [nats]
        url = "nats://127.0.0.1:4222"
        user = "server"
        password_file = "STATE/nats.password"
        observer_password_file = "STATE/observer.password"
        "#);
        insta::assert_snapshot!(read(&dir.agentd_toml()), @r#"
        # Written by `helixctl up` at every start; changes are lost. See packaging/*.env.example for names.
        api_host = "http://127.0.0.1:8080"
        api_token_file = "STATE/runner.token"
        runner_id = "local"
        backend = "process"
        concurrency = 8
        workspace_dir = "STATE/workspaces"
        state_dir = "STATE/agentd"
        nats_url = "nats://127.0.0.1:4222"
        health_port = 3030
        on_exit = "stop"
        image_signers = "/home/me/.config/helix/provision.key.pub"
        "#);
    }
}
