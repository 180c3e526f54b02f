//! Where the programs under test are: beside the test executable's target directory, as cargo built them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// A program of this workspace: `$HELIX_BIN_DIR/<name>`, else `target/<profile>/<name>`.
pub fn ours(name: &str) -> Result<PathBuf> {
    let dir = if let Some(dir) = std::env::var_os("HELIX_BIN_DIR") {
        PathBuf::from(dir)
    } else {
        let mut dir = std::env::current_exe().context("where is this test executable?")?;
        dir.pop();
        if dir.ends_with("deps") {
            dir.pop();
        }
        dir
    };
    let program = dir.join(name);
    if !program.is_file() {
        bail!("{} does not exist: build it first (cargo build --workspace, or make test)", program.display());
    }
    Ok(program)
}

/// A program of the machine.
pub fn installed(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is not in PATH: run packaging/setup.sh"))
}

/// nats-server, searched as `helixctl up` does.
pub fn nats_server() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("NATS_SERVER") {
        return Ok(PathBuf::from(path));
    }
    brought("nats-server").map_or_else(|| installed("nats-server"), Ok)
}

/// The browser: `$HELIX_CHROMIUM`, else the distribution's, else the one that `packaging/setup.sh` brought from npm.
pub fn chromium() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HELIX_CHROMIUM") {
        return Ok(PathBuf::from(path));
    }
    ["chromium", "google-chrome"]
        .iter()
        .find_map(|name| installed(name).ok())
        .or_else(|| brought("chromium"))
        .context("no Chromium in PATH: run packaging/setup.sh test, or set HELIX_CHROMIUM")
}

/// Debian 12's own Vulkan driver, with which Zed is black: `packaging/setup.sh test` puts it beside the system's.
pub fn old_vulkan_icd() -> Result<PathBuf> {
    let name = format!("helix/test/mesa-22/lvp_icd.{}.json", std::env::consts::ARCH);
    let icd = data().map(|data| data.join(name)).filter(|path| path.is_file());
    icd.context("Debian 12's Mesa is not there: run packaging/setup.sh test")
}

/// Directory of the Python package vncdotool, a VNC client for scripts: for PYTHONPATH of Debian's own Python.
pub fn vncdotool() -> Result<PathBuf> {
    let dir = data().map(|data| data.join("helix/test/vncdotool-1.2.0"));
    dir.filter(|dir| dir.join("vncdotool").is_dir()).context("vncdotool is not there: run packaging/setup.sh test")
}

/// What `packaging/setup.sh` put beside the system's own programs.
fn brought(name: &str) -> Option<PathBuf> {
    Some(data()?.join("helix/bin").join(name)).filter(|path| path.is_file())
}

/// This user's data directory.
pub fn data() -> Option<PathBuf> {
    std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".local/share"))
    })
}

/// A program of Ansible, which `packaging/setup.sh ansible` brought.
pub fn ansible(name: &str) -> Result<PathBuf> {
    let program = data().map(|data| data.join("helix/test/ansible/bin").join(name)).filter(|path| path.is_file());
    program.context("Ansible is not there: run packaging/setup.sh ansible")
}
