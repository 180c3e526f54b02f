//! The only file that prints: data on standard output, everything else on standard error.
//!
//! Text that came from a session (logs, causes, labels) may hold terminal escape sequences, so every text is stripped
//! of control characters on its way to a terminal. A reader that went away (`| head`) is not an error.

mod flow;
mod hosts;
mod screen;
mod text;
mod transfer;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::Table;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

pub use self::hosts::{HostLine, Hosts};
pub use self::screen::Screen;
use self::text::printable;
pub use self::text::{age, plain_table, span};
pub use self::transfer::Transfer;
use crate::error::{CliError, Result};

/// Where output goes and how it looks.
#[derive(Debug, Clone)]
pub struct Ui {
    /// One compact JSON object instead of text for people.
    pub json: bool,
    quiet: bool,
    stdout_tty: bool,
    stderr_tty: bool,
}

impl Ui {
    /// Looks at the process's standard streams.
    pub fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, stdout_tty: std::io::stdout().is_terminal(), stderr_tty: std::io::stderr().is_terminal() }
    }

    /// A command's answer: one compact JSON object with `--json`, else what `human` prints.
    pub fn answer<T: Serialize>(&self, value: &T, human: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.json { self.json(value) } else { human() }
    }

    /// One compact JSON object on one line of standard output.
    pub fn json<T: Serialize>(&self, value: &T) -> Result<()> {
        self.stream_json(value).map(|_| ())
    }

    /// The same as one of many lines; false when nobody reads them any more.
    pub fn stream_json<T: Serialize>(&self, value: &T) -> Result<bool> {
        self.write(format!("{}\n", json_text(value)?).as_bytes())
    }

    /// A line of data, one of many; false when nobody reads them any more.
    pub fn stream_line(&self, text: &str) -> Result<bool> {
        let text = if self.stdout_tty { printable(text) } else { text.to_owned() };
        self.write(format!("{text}\n").as_bytes())
    }

    /// Begins a new picture: an empty terminal, or an empty line where it is none. False when nobody reads any more.
    pub fn clear(&self) -> Result<bool> {
        if self.stdout_tty { self.write(b"\x1b[H\x1b[2J\x1b[3J") } else { self.stream_line("") }
    }

    /// A line of data.
    pub fn line(&self, text: &str) -> Result<()> {
        self.stream_line(text).map(|_| ())
    }

    /// Bytes of data as they are: a completion script.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        self.write(bytes).map(|_| ())
    }

    /// Bytes of a program's own output as they are; false when nobody reads them any more.
    pub fn stream_raw(&self, bytes: &[u8]) -> Result<bool> {
        self.write(bytes)
    }

    /// Bytes of a program's own errors as they are; false when nobody reads them any more.
    pub fn stream_raw_errors(&self, bytes: &[u8]) -> bool {
        std::io::stderr().lock().write_all(bytes).is_ok()
    }

    /// False when the reader went away.
    #[expect(clippy::unused_self, reason = "printing goes through a Ui alone")]
    fn write(&self, bytes: &[u8]) -> Result<bool> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(CliError::failed("cannot write the answer").at("standard output").because(error)),
        }
    }

    /// Rows of data: a table on a terminal, columns aligned with spaces elsewhere.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) -> Result<()> {
        if self.stdout_tty {
            let mut table = Table::new();
            table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
            table.set_header(head.to_vec());
            for row in rows {
                table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
            }
            return self.raw(format!("{}\n", table.trim_fmt()).as_bytes());
        }
        self.raw(plain_table(head, rows).as_bytes())
    }

    /// What happens, for people; silent with `--quiet`.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.stderr(text);
        }
    }

    /// What someone should know although the command goes on.
    pub fn warn(&self, text: &str) {
        self.stderr(&format!("warning: {text}"));
    }

    /// Why the command did not succeed.
    pub fn error(&self, error: &CliError) {
        self.stderr(&error.to_string());
    }

    fn stderr(&self, text: &str) {
        let text = if self.stderr_tty { printable(text) } else { text.to_owned() };
        self.write_stderr(&format!("{text}\n"));
    }

    #[expect(clippy::unused_self, reason = "printing goes through a Ui alone")]
    fn write_stderr(&self, text: &str) {
        // Nobody is left to be told when standard error is gone.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Bytes on their way: a bar on a terminal, nothing elsewhere.
    pub fn transfer(&self, total: u64) -> Transfer {
        Transfer::new(self.stderr_tty && !self.quiet && !self.json, total)
    }

    /// A line for each of many hosts.
    pub fn hosts(&self) -> Hosts {
        Hosts::new(self, self.stderr_tty && !self.quiet && !self.json)
    }

    /// Something that takes a while: a spinner on a terminal, lines elsewhere.
    pub fn progress(&self) -> Progress {
        let bar = (self.stderr_tty && !self.quiet).then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                .unwrap_or_else(|_invalid| ProgressStyle::default_spinner());
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Progress { ui: self.clone(), bar }
    }
}

/// Shows what is being waited for. Gone from the terminal when dropped.
#[derive(Debug)]
pub struct Progress {
    ui: Ui,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// What goes on now; seen on a terminal only.
    pub fn now(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(text));
        }
    }

    /// What is done: a line that stays.
    pub fn done(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(printable(text)),
            None => self.ui.note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Columns of the terminal that standard error is.
fn terminal_columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80)
}

fn json_text<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| CliError::failed("cannot encode the answer as JSON").because(error))
}
