//! A conversation on the process's streams: [`Flow`] says what to write, this writes it.

use super::flow::{Flow, Out};
use super::text::{Cleaner, one_line, printable};
use super::{Ui, terminal_columns};
use crate::error::Result;
use crate::transcript::How;

/// Where a conversation is shown.
#[derive(Debug)]
pub struct Screen {
    ui: Ui,
    flow: Flow,
    cleaner: Cleaner,
    /// Everything is data.
    all_data: bool,
    reader_left: bool,
}

impl Screen {
    /// On the process's streams; with `--json` no text is shown, as the answer is one object at the end.
    pub fn new(ui: &Ui) -> Self {
        let flow = Flow::new(ui.stdout_tty, ui.stderr_tty);
        Self { ui: ui.clone(), flow, cleaner: Cleaner::default(), all_data: false, reader_left: false }
    }

    /// On standard output alone: what is told beside the answers is data, too.
    pub fn of_data(ui: &Ui) -> Self {
        Self { flow: Flow::on_one_stream(ui.stdout_tty), all_data: true, ..Self::new(ui) }
    }

    /// Nobody reads standard output any more.
    pub fn reader_left(&self) -> bool {
        self.reader_left
    }

    /// A piece of an entry's text: data.
    pub fn text(&mut self, entry: &str, how: How, text: &str) -> Result<()> {
        if self.ui.json {
            return Ok(());
        }
        let text = if self.ui.stdout_tty { self.cleaner.clean(text) } else { text.to_owned() };
        let out = self.flow.text(entry, how == How::Anew, &text);
        self.write(out)
    }

    /// A tool began, or is in another state; silent with `--quiet`.
    pub fn tool(&mut self, entry: &str, line: &str) -> Result<()> {
        if self.ui.quiet && !self.all_data {
            return Ok(());
        }
        let terminal = if self.all_data { self.ui.stdout_tty } else { self.ui.stderr_tty };
        let line = if terminal { one_line(line, terminal_columns()) } else { line.replace('\n', " ") };
        let out = self.flow.tool(entry, &line);
        self.write(out)
    }

    /// What happens beside the answer; silent with `--quiet`.
    pub fn note(&mut self, text: &str) -> Result<()> {
        if self.ui.quiet && !self.all_data { Ok(()) } else { self.say(text) }
    }

    /// What somebody should know or do.
    pub fn say(&mut self, text: &str) -> Result<()> {
        let out = self.flow.line(text);
        self.write(out)
    }

    /// Asks for a line; once until it is entered.
    pub fn ask(&mut self, prompt: &str) -> Result<()> {
        let out = self.flow.ask(prompt);
        self.write(out)
    }

    /// A person ended a line with the Return key.
    pub fn entered(&mut self) {
        self.flow.entered();
    }

    /// A person pressed Ctrl-C.
    pub fn struck(&mut self) -> Result<()> {
        let out = self.flow.struck();
        self.write(out)
    }

    /// The answer is over.
    pub fn end(&mut self) -> Result<()> {
        self.cleaner = Cleaner::default();
        let out = self.flow.end();
        self.write(out)
    }

    /// Nothing more is said: what follows on a terminal, a shell's prompt, begins on a line of its own.
    pub fn leave(&mut self) -> Result<()> {
        self.end()?;
        let out = self.flow.leave();
        self.write(out)
    }

    fn write(&mut self, outs: Vec<Out>) -> Result<()> {
        for out in outs {
            // A reader that went away does not end the turn.
            match out {
                Out::Data(text) => self.reader_left |= !self.ui.write(text.as_bytes())?,
                Out::Note(text) if self.all_data => {
                    let text = if self.ui.stdout_tty { printable(&text) } else { text };
                    self.reader_left |= !self.ui.write(text.as_bytes())?;
                }
                Out::Control(text) if self.all_data => self.reader_left |= !self.ui.write(text.as_bytes())?,
                Out::Note(text) if self.ui.stderr_tty => self.ui.write_stderr(&printable(&text)),
                Out::Note(text) | Out::Control(text) => self.ui.write_stderr(&text),
            }
        }
        Ok(())
    }
}
