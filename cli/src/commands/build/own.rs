//! Helix's own programs and packages, from a source tree.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::{Made, OwnArgs, log, run_logged};
use crate::error::{CliError, Kind, Result};
use crate::images::artifacts;
use crate::images::cache::{Cache, cannot};
use crate::ui::HostLine;

/// What can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// agentd.
    Agentd,
    /// helix-server.
    Server,
    /// The packages of all programs.
    Packages,
}

impl Own {
    /// As people name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agentd => "agentd",
            Self::Server => "server",
            Self::Packages => "packages",
        }
    }
}

/// Builds it.
pub async fn build_own(own: Own, cache: &Cache, args: &OwnArgs, line: &HostLine) -> Result<Made> {
    let source = source_tree(args.source.as_deref())?;
    let log = log(cache, own.name());
    std::fs::write(&log, "").map_err(|error| cannot(&log, &error))?;
    line.step(&format!("building from {}", source.display()));
    let from = source.display().to_string();
    let made = if own == Own::Packages {
        let mut make = Command::new("make");
        make.arg("package").current_dir(&source);
        run_logged(make, "the packages cannot be built", &log, line).await?;
        Made { name: "packages".to_owned(), files: packages_said(&log), digest: None, notes: Vec::new() }
    } else {
        let (crate_name, program) =
            if own == Own::Agentd { ("helix-agentd", "agentd") } else { ("helix-server", "helix-server") };
        let target = cache.part("targets").join("helix");
        let mut cargo = Command::new("cargo");
        cargo
            .args(["build", "--release", "--locked", "-p", crate_name, "--target-dir"])
            .arg(&target)
            .current_dir(&source);
        run_logged(cargo, &format!("{program} cannot be built"), &log, line).await?;
        let kept = artifacts::keep(cache, own.name(), &target.join("release").join(program), from, Vec::new())?;
        let file = artifacts::program(cache, own.name())?.display().to_string();
        Made { name: own.name().to_owned(), files: vec![file], digest: Some(kept.digest), notes: kept.notes }
    };
    line.end("built");
    Ok(made)
}

fn source_tree(named: Option<&Path>) -> Result<PathBuf> {
    let dir = named.unwrap_or(Path::new("."));
    let dir = std::path::absolute(dir).map_err(|error| cannot(dir, &error))?;
    if dir.join("packaging/package.sh").is_file() && dir.join("agentd/Cargo.toml").is_file() {
        return Ok(dir);
    }
    Err(CliError::new(Kind::Usage, "this is no source tree of Helix")
        .at(dir.display())
        .because("agentd/ and packaging/ are not in it")
        .next("helixctl build … --source DIR"))
}

/// `make package` says where its files are.
fn packages_said(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let is_package = |line: &&str| [".deb", ".rpm", ".tar.zst"].iter().any(|ending| line.trim().ends_with(ending));
    text.lines().filter(is_package).map(|line| line.split_whitespace().last().unwrap_or_default().to_owned()).collect()
}
