//! `session cp`: files and directories to a session's workspace and back.
//!
//! A directory goes file by file. A transfer that breaks is gone on with where it stood, at once and by the next call
//! of the same command: what has come is kept beside the copy, or in the session, until all of it is there.

mod down;
mod up;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use helix_protocol::SessionId;
use serde::Serialize;

use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::ui::Ui;

/// Tries of one file in a row without a byte of progress.
const TRIES: u32 = 5;
/// Between two tries; twice as long each time.
const PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `session cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "One of the two is SESSION:PATH, a path in the session's workspace; a name of this machine that \
    has a colon is written ./NAME. A destination that is a directory, or ends with /, gets the source's name in it."
)]
pub struct CpArgs {
    /// File or directory to copy: PATH, or SESSION:PATH
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where to: SESSION:PATH, or PATH
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Here(PathBuf),
    There(SessionId, String),
}

/// What was copied.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Copied {
    files: u64,
    bytes: u64,
}

fn side(text: &str) -> Result<Side> {
    let Some((session, path)) = text.split_once(':').filter(|(session, _)| !session.contains('/')) else {
        return Ok(Side::Here(PathBuf::from(text)));
    };
    let id = SessionId::parse(session).map_err(|error| {
        CliError::new(Kind::Usage, "cannot copy").at(text).because(error).next("a file of this machine: ./NAME")
    })?;
    Ok(Side::There(id, if path.is_empty() { ".".to_owned() } else { path.to_owned() }))
}

/// Copies.
pub async fn run(client: &Client, args: CpArgs, ui: &Ui) -> Result<()> {
    let copied = match (side(&args.source)?, side(&args.destination)?) {
        (Side::Here(source), Side::There(id, destination)) => up::copy(client, &source, &id, &destination, ui).await?,
        (Side::There(id, source), Side::Here(destination)) => {
            down::copy(client, &id, &source, &destination, ui).await?
        }
        (Side::Here(_), Side::Here(_)) | (Side::There(..), Side::There(..)) => {
            return Err(CliError::new(Kind::Usage, "cannot copy")
                .because("one of the two is in a session, the other one here")
                .next("helixctl session cp FILE SESSION:PATH, or SESSION:PATH FILE"));
        }
    };
    ui.answer(&copied, || {
        let files = if copied.files == 1 { "file" } else { "files" };
        ui.note(&format!("{} {files}, {} bytes", copied.files, copied.bytes));
        Ok(())
    })
}

/// Repeats what breaks with its line, as long as each try gets further or not too often.
struct Patience {
    tries: u32,
    reached: u64,
}

impl Patience {
    fn new() -> Self {
        Self { tries: 0, reached: 0 }
    }

    /// Waits before the next try, which begins at `reached`; or answers the error that is not worth one.
    async fn again(&mut self, error: CliError, reached: u64) -> Result<()> {
        let is_worth_it = error.kind == Kind::Unreachable || error.kind == Kind::TimedOut;
        if reached > self.reached {
            (self.tries, self.reached) = (0, reached);
        }
        self.tries += 1;
        if !is_worth_it || self.tries >= TRIES {
            return Err(error);
        }
        tokio::time::sleep(PAUSE * (1 << self.tries)).await;
        Ok(())
    }
}

/// `directory/name`, in a session.
fn joined(directory: &str, name: &str) -> String {
    match directory.trim_end_matches('/') {
        "." => name.to_owned(),
        "" if directory.is_empty() => name.to_owned(),
        trimmed => format!("{trimmed}/{name}"),
    }
}

fn local(what: &str, path: &std::path::Path, error: &std::io::Error) -> CliError {
    CliError::failed(what).at(path.display()).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_session_only_before_the_first_slash() {
        let here = |text: &str| Ok(Side::Here(PathBuf::from(text)));
        let there = |id: &str, path: &str| Ok(Side::There(SessionId::parse(id).expect("an id"), path.to_owned()));
        assert_eq!(side("file"), here("file"));
        assert_eq!(side("./a:b"), here("./a:b"));
        assert_eq!(side("/tmp/x:y"), here("/tmp/x:y"));
        assert_eq!(side("demo:src/x"), there("demo", "src/x"));
        assert_eq!(side("demo:/workspace/x"), there("demo", "/workspace/x"));
        assert_eq!(side("demo:"), there("demo", "."));
        assert_eq!(side("a.b:c").expect_err("no id").kind, Kind::Usage);
    }

    #[test]
    fn paths_are_joined_with_one_slash() {
        for (directory, joined_path) in [(".", "f"), ("d", "d/f"), ("d/", "d/f"), ("/workspace/", "/workspace/f")] {
            assert_eq!(joined(directory, "f"), joined_path, "{directory}");
        }
    }
}
