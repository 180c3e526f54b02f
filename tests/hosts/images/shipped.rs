//! Images of recipes that ship with the project, built as anybody would: of the machine's own mirror, before the lab begins.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use helix_tests::programs;

use super::stage::run;
use crate::harness::{cache, say};

/// Where they are: `store`, and `key` that signs them.
pub fn place() -> Result<PathBuf> {
    Ok(cache()?.join("shipped"))
}

/// Builds one, with its parents; what has not changed since the last run is there.
pub fn build(name: &str) -> Result<()> {
    let dir = place()?;
    std::fs::create_dir_all(&dir)?;
    let (store, key) = (dir.join("store"), dir.join("key"));
    if !key.exists() {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "shipped", "-f"]).arg(&key))?;
    }
    say(&format!("building image {name}, once: some minutes"));
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../images/{name}.toml"));
    let mut helixctl = Command::new(programs::ours("helixctl")?);
    helixctl.args(["image", "build", "--json"]).arg(recipe).arg("--cache-dir").arg(&store).arg("--key").arg(&key);
    run(&mut helixctl).map(drop)
}
