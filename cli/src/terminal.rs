//! The terminal that helixctl runs in, while a program elsewhere has its keys: nothing is shown, edited or made a signal
//! here. It is as before when [`Raw`] is dropped, whatever ends the command.

use helix_protocol::tools::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::{CliError, Result};

/// Raw mode of standard input's terminal.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// From now on.
    pub fn begin() -> Result<Self> {
        let failed = |error: rustix::io::Errno| {
            CliError::failed("cannot use the terminal").at("standard input").because(std::io::Error::from(error))
        };
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // What was typed behind the end is kept, for the shell that comes back.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Size of the terminal that standard input is, where it is one.
pub fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(std::io::stdin()).ok()?;
    let size = TerminalSize { cols: size.ws_col.min(1000), rows: size.ws_row.min(1000) };
    size.is_valid().then_some(size)
}
