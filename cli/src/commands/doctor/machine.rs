//! The programs that every session needs, and the bus.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::checks::Check;
use crate::settings::process_env;
use crate::up::{preflight, programs};

/// Settings of a runner that is a service.
const RUNNER_SETTINGS: &str = "/etc/helix/agentd.toml";
/// Where X servers put their sockets; without root they cannot make it.
const X_SOCKETS: &str = "/tmp/.X11-unix";
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Programs of a desktop.
pub fn desktop() -> Check {
    let names: Vec<_> = preflight::DESKTOP.iter().map(|(program, _)| *program).filter(|name| *name != "git").collect();
    let has = |name: &str| name == "git" || programs::in_path(name).is_some();
    match preflight::check_desktop(&has) {
        Err(error) => Check::failed("desktop", error),
        Ok(()) if !Path::new(X_SOCKETS).is_dir() => {
            Check::fail("desktop", format!("{X_SOCKETS} does not exist: X servers have no place for their sockets"))
                .next("packaging/setup.sh runtime")
        }
        Ok(()) => Check::ok("desktop", names.join(", ")),
    }
}

/// What fills workspaces.
pub async fn git() -> Check {
    let next = "packaging/setup.sh runtime, or: apt-get install -y git";
    let Some(program) = programs::in_path("git") else {
        return Check::fail("git", "not in PATH: sessions cannot have a project").next(next);
    };
    match answer(Command::new(&program).arg("--version")).await {
        Ok(said) => Check::ok("git", said.trim().trim_start_matches("git version ").to_owned()),
        Err(why) => Check::fail("git", format!("{} {why}", program.display())).next(next),
    }
}

/// What serves RDP clients; sessions run without it.
pub fn rdp() -> Check {
    match programs::in_path("xrdp") {
        Some(program) => Check::ok("rdp", program.display().to_string()),
        None => Check::warn("rdp", "no xrdp in PATH: sessions cannot be reached by RDP clients")
            .next("packaging/setup.sh runtime"),
    }
}

/// The bus of a one-machine Helix.
pub async fn nats() -> Check {
    let program = match programs::nats_server(&process_env) {
        Ok(program) => program,
        Err(error) => return Check::failed("nats-server", error),
    };
    match tokio::time::timeout(ANSWER_WITHIN, preflight::check_nats(&program)).await {
        Ok(Ok(version)) => Check::ok("nats-server", format!("{version} ({})", program.display())),
        Ok(Err(error)) => Check::failed("nats-server", error),
        Err(_) => Check::fail("nats-server", format!("{} does not tell its version", program.display()))
            .next("packaging/setup.sh runtime, or set NATS_SERVER=/path/to/nats-server (2.11 or newer)"),
    }
}

/// Settings of the runner that is a service on this machine; none where there is no such runner, empty where this user
/// may not read them.
pub fn runner_settings() -> Option<toml::Table> {
    let file = Path::new(RUNNER_SETTINGS);
    let text = file.exists().then(|| std::fs::read_to_string(file).unwrap_or_default());
    text.map(|text| text.parse().unwrap_or_default())
}

/// Whether sessions see home directories, as agentd decides by its backend: those of `helixctl up` do, those of a
/// service are other users'.
pub fn sees_homes(settings: Option<&toml::Table>) -> bool {
    settings.is_none_or(|settings| settings.get("backend").and_then(toml::Value::as_str) == Some("process"))
}

/// Standard output of a command that ends well, in time.
pub async fn answer(command: &mut Command) -> Result<String, String> {
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(ANSWER_WITHIN, command.output()).await {
        Ok(output) => output.map_err(|error| format!("cannot be run: {error}"))?,
        Err(_) => return Err(format!("does not answer within {} s", ANSWER_WITHIN.as_secs())),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ends with {}: {}", output.status, said.trim().lines().last().unwrap_or_default()))
}
