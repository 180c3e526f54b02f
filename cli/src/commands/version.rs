//! `helixctl version`.

use std::process::ExitCode;

use serde::Serialize;

use crate::error::Result;
use crate::ui::Ui;

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

/// Prints the version of this program.
pub fn run(ui: &Ui) -> Result<ExitCode> {
    let version = Version { version: env!("CARGO_PKG_VERSION") };
    ui.answer(&version, || ui.line(&format!("helixctl {}", version.version)))?;
    Ok(ExitCode::SUCCESS)
}
