//! `packaging/package.sh` on the programs under test.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::run;
use crate::{programs, repository};

/// Packing takes seconds; on a loaded machine a minute.
const PATIENCE: Duration = Duration::from_mins(5);

/// Runs the packer with these arguments, after the directory of our programs and the least of compression.
pub async fn pack(args: &[&str]) -> Result<Output> {
    let agentd = programs::ours("agentd")?;
    let bin = agentd.parent().and_then(Path::to_str).context("a folder of programs")?;
    let all: Vec<_> = ["--bin-dir", bin, "--level", "0"].into_iter().chain(args.iter().copied()).collect();
    run(&repository().join("packaging/package.sh"), &all, &[], PATIENCE).await
}

/// All packages of one version, in this directory.
pub async fn packages(out: &Path, version: &str) -> Result<Packages> {
    let output = pack(&["--out", out.to_str().context("path is not UTF-8")?, "--version", version]).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "packaging/package.sh: {}\n{said}", output.status);
    Ok(Packages { dir: out.to_owned() })
}

/// Where the packages of one version are.
#[derive(Debug, Clone)]
pub struct Packages {
    /// The directory.
    pub dir: PathBuf,
}

impl Packages {
    /// The file of this beginning and end.
    pub fn file(&self, begin: &str, end: &str) -> Result<PathBuf> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(begin) && name.ends_with(end)) {
                return Ok(entry.path());
            }
        }
        anyhow::bail!("no {begin}…{end} in {}", self.dir.display())
    }

    /// Debian's package of this name.
    pub fn deb(&self, name: &str) -> Result<PathBuf> {
        self.file(&format!("{name}_"), ".deb")
    }
}
