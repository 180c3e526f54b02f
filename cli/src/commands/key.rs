//! `helixctl key new`: the key that signs what `provision` installs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;

use crate::error::Result;
use crate::provision::signing::SigningKey;
use crate::settings::process_env;
use crate::ui::Ui;

/// Make the key that signs what `provision` installs
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key; machines take what it signs, and nothing else, once they were provisioned with it
    New {
        /// Its file; FILE.pub is made beside it [default: ~/.config/helix/provision.key]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// What `key new` prints with `--json`.
#[derive(Serialize)]
struct Made {
    file: String,
    public: String,
    fingerprint: String,
}

/// Runs one key command.
pub fn run(command: KeyCommand, ui: &Ui) -> Result<ExitCode> {
    let KeyCommand::New { out } = command;
    let path = out.map_or_else(|| SigningKey::default_path(&process_env), Ok)?;
    let key = SigningKey::create(&path)?;
    let made = Made { file: path.display().to_string(), public: key.public(), fingerprint: key.fingerprint() };
    ui.answer(&made, || ui.line(&made.file))?;
    if !ui.json {
        ui.note(&format!("{}; keep it safe: who has it can install agentd on your machines", made.fingerprint));
    }
    Ok(ExitCode::SUCCESS)
}
