//! Where the programs are: ours beside this one, then in PATH; nats-server where `packaging/setup.sh` puts it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::{CliError, Result};
use crate::settings::{Env, xdg};

/// A program in PATH.
pub fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| is_program(path))
}

/// One of our own programs.
pub fn own(name: &str) -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    beside.clone().filter(|path| is_program(path)).or_else(|| in_path(name)).ok_or_else(|| {
        CliError::failed(format!("cannot find {name}"))
            .at(beside.unwrap_or_default().display())
            .because("it is neither beside helixctl nor in PATH")
            .next("make build, or install the package that helixctl came from")
    })
}

/// nats-server: `NATS_SERVER`, then the one that set-up brought, then PATH.
pub fn nats_server(env: Env<'_>) -> Result<PathBuf> {
    let missing = |place: String, why: &str| {
        CliError::failed("cannot find nats-server")
            .at(place)
            .because(why)
            .next("packaging/setup.sh runtime, or set NATS_SERVER=/path/to/nats-server (2.11 or newer)")
    };
    if let Some(path) = env("NATS_SERVER").map(PathBuf::from) {
        let found = is_program(&path);
        return if found { Ok(path) } else { Err(missing(path.display().to_string(), "NATS_SERVER names no program")) };
    }
    let brought = xdg(env, "XDG_DATA_HOME", ".local/share")?.join("helix/bin/nats-server");
    if is_program(&brought) {
        return Ok(brought);
    }
    in_path("nats-server")
        .ok_or_else(|| missing(brought.display().to_string(), "there is none, and PATH has none either"))
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
