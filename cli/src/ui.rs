//! The only file that prints: data on standard output, everything else on standard error.
//!
//! Text that came from a session (logs, causes, labels) may hold terminal escape sequences, so every text is stripped
//! of control characters on its way to a terminal. A reader that went away (`| head`) is not an error.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::Table;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

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

    /// A line of data.
    pub fn line(&self, text: &str) -> Result<()> {
        self.stream_line(text).map(|_| ())
    }

    /// Bytes of data as they are: a completion script.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        self.write(bytes).map(|_| ())
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
        // Nobody is left to be told when standard error is gone.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
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

fn json_text<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| CliError::failed("cannot encode the answer as JSON").because(error))
}

/// The text without colours, and with a mark for every other control character but line ends and tabs.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' if rest.as_str().starts_with('[') => {
                // A control sequence: parameters, then one letter.
                rest.next();
                rest.by_ref().find(|c| matches!(c, '@'..='~'));
            }
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

/// Columns aligned with spaces, no blanks at line ends.
fn plain_table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|cell| cell.to_uppercase()).collect();
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A time span for people: `830 ms`, `4.2 s`, `3 min`, `5 h`, `2 d`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..=119 => format!("{:.1} s", duration.as_secs_f64()),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long ago `then` was.
pub fn age(then: jiff::Timestamp) -> String {
    let past = jiff::Timestamp::now().duration_since(then);
    span(Duration::try_from(past).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_tables_align_with_spaces() {
        let rows = vec![
            vec!["session_1".to_owned(), "Ready".to_owned(), String::new()],
            vec!["a".to_owned(), "Pending".to_owned(), "waits".to_owned()],
        ];
        insta::assert_snapshot!(plain_table(&["id", "phase", "cause"], &rows), @r"
        ID         PHASE    CAUSE
        session_1  Ready
        a          Pending  waits
        ");
    }

    #[test]
    fn escape_sequences_do_not_reach_a_terminal() {
        assert_eq!(printable("a\x1b[1;31mred\x1b[m\x07\tb\nc\x1b]0;title"), "ared\u{fffd}\tb\nc\u{fffd}]0;title");
        assert_eq!(printable("cut off\x1b[31"), "cut off");
    }

    #[test]
    fn spans_read_well() {
        let words: Vec<_> =
            [12, 1_500, 65_000, 180_000, 7_200_000, 172_800_000].map(|ms| span(Duration::from_millis(ms))).into();
        assert_eq!(words, ["12 ms", "1.5 s", "65.0 s", "3 min", "2 h", "2 d"]);
    }
}
