//! `helixctl image new`: a recipe to begin with.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::error::{CliError, Kind, Result};
use crate::images::recipe;
use crate::ui::Ui;

/// Arguments of `image new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// Name of the image
    name: String,
    /// Recipe that it goes on from
    #[arg(long, default_value = "base", value_name = "NAME|FILE")]
    parent: String,
    /// Its file [default: images/NAME.toml]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Made {
    file: String,
}

/// Runs `image new`.
pub fn run(args: &NewArgs, ui: &Ui) -> Result<ExitCode> {
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from("images").join(format!("{}.toml", args.name)));
    let text = template(&args.name, &args.parent);
    // A name that is none, or a parent that cannot be read, is told before a file is there.
    recipe::read(&text, &path.display())?;
    recipe::find(&args.parent, path.parent())?;
    let write = || -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::File::options().write(true).create_new(true).open(&path)?.write_all(text.as_bytes())
    };
    write().map_err(|error| {
        CliError::new(Kind::Failed, "cannot write the recipe")
            .at(path.display())
            .because(error)
            .next("name a file that is not there yet: --out FILE")
    })?;
    let made = Made { file: super::shown(&path) };
    ui.answer(&made, || ui.line(&made.file))?;
    ui.note(&format!("next: helixctl image build {}", made.file));
    Ok(ExitCode::SUCCESS)
}

fn template(name: &str, parent: &str) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    format!(
        "# What sessions of this image have. Every key: docs/images.md\n\n\
         name = {}\ndescription = \"\"\nparent = {}\npackages = []\n\n\
         # [[files]]\n# path = \"/etc/motd\"\n# content = \"hello\\n\"\n\n\
         # [[commands]]\n# run = \"sh $INPUTS/setup.sh\"\n# inputs = [\"setup.sh\"]\n",
        quoted(name),
        quoted(parent)
    )
}
