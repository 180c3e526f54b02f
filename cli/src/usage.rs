//! clap's errors in the form of all others: what, where, why, next command.
//!
//! Only those that are about one argument. What else clap says (a missing argument with the usage line, help, the
//! version) stays as it is.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Error};

use crate::args::Cli;
use crate::error::{CliError, Kind};

/// The error in our form; None where clap's own form is better.
pub fn told(error: &Error, args: &[OsString]) -> Option<CliError> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) if !texts.is_empty() => Some(texts.join(", ")),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg)?;
    let value = text(ContextKind::InvalidValue).filter(|value| !value.is_empty());
    let possible = || text(ContextKind::ValidValue).map(|values| format!("possible values: {values}"));
    let (what, why) = match (error.kind(), value) {
        (ErrorKind::UnknownArgument, _) => (
            format!("unknown argument '{argument}'"),
            text(ContextKind::SuggestedArg).map_or_else(
                || "the command takes none of this name".to_owned(),
                |similar| format!("the command takes none of this name; a similar one is '{similar}'"),
            ),
        ),
        (ErrorKind::InvalidValue, None) => {
            (format!("no value for '{argument}'"), possible().unwrap_or_else(|| "it needs one".to_owned()))
        }
        (ErrorKind::InvalidValue, Some(value)) => (format!("invalid value '{value}' for '{argument}'"), possible()?),
        (ErrorKind::ValueValidation, Some(value)) => {
            let why = std::error::Error::source(error)?.to_string();
            (format!("invalid value '{value}' for '{argument}'"), why)
        }
        _ => return None,
    };
    let command = command(args);
    Some(CliError::new(Kind::Usage, what).at(&command).because(why).next(format!("{command} --help")))
}

/// The command that was meant, without its arguments: `helixctl session create`.
fn command(args: &[OsString]) -> String {
    let root = Cli::command();
    let mut command = &root;
    let mut name = root.get_name().to_owned();
    for arg in args.iter().skip(1) {
        if let Some(sub) = command.find_subcommand(arg) {
            command = sub;
            name = format!("{name} {}", sub.get_name());
        }
    }
    name
}
