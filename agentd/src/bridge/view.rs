//! What a person sees on the desktop: the conversation as plain text in a terminal, and a line to type in.
//!
//! Output is gathered and written once per turn of the engine's loop. The line being typed stays at the bottom: it is
//! wiped before anything is written and drawn again after it. What an agent says loses its control characters; what a
//! command writes is shown byte for byte, since it is a terminal that the command wrote to.

mod line;

use std::io;

use rustix::termios::Winsize;

use self::line::Line;
pub use self::line::Typed;
use super::agent::Question;
use super::record::{End, Tool};
use super::terminal::{Bytes, Terminal};

/// Lines of a prompt that are shown.
const PROMPT_LINES: usize = 20;
/// Where the line being typed is wiped.
const WIPE: &str = "\r\x1b[K";

/// The transcript.
pub struct View {
    terminal: Terminal,
    out: Vec<u8>,
    line: Line,
    /// The line is on the screen.
    drawn: bool,
    /// Nothing was written since the last line end.
    fresh: bool,
    /// The turn whose bytes and keys go through.
    front: Option<String>,
    /// Entry that was written to last: turn, key, and its tool's status.
    last: Option<(String, u32, Option<Tool>)>,
    /// Turns that run.
    running: Vec<String>,
    /// Questions that are open.
    asking: usize,
    /// What prompts begin with.
    sign: char,
}

impl View {
    /// On this process's terminal.
    pub fn open(shell: bool) -> anyhow::Result<Self> {
        Ok(Self {
            terminal: Terminal::open()?,
            out: Vec::new(),
            line: Line::default(),
            drawn: false,
            fresh: true,
            front: None,
            last: None,
            running: Vec::new(),
            asking: 0,
            sign: if shell { '$' } else { '>' },
        })
    }

    /// Window size.
    pub fn size(&self) -> Option<Winsize> {
        self.terminal.size()
    }

    /// What a person typed; waits for ever where nobody can. Cancel-safe.
    pub async fn read(&mut self) -> io::Result<Bytes> {
        self.terminal.read().await
    }

    /// The turn that is in front.
    pub fn front(&self) -> Option<&str> {
        self.front.as_deref()
    }

    /// Takes keys for the line.
    pub fn typed(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let typed = self.line.feed(bytes);
        if !typed.is_empty() {
            self.wipe();
        }
        for typed in &typed {
            if let Typed::Line(line) = typed
                && self.is_idle()
                && !line.trim().is_empty()
            {
                let sign = self.sign;
                self.text(&format!("\x1b[1;34m{sign}\x1b[0m {}\n", plain(line)));
            }
        }
        self.drawn = false;
        typed
    }

    /// A turn begins.
    pub fn prompt(&mut self, request: &str, text: &str, shell: bool) {
        if shell && self.front.is_none() {
            self.front = Some(request.to_owned());
        }
        // What was typed here is on the screen.
        if self.line.take_echo(text) {
            self.running.push(request.to_owned());
            return;
        }
        self.new_line();
        for (number, line) in text.trim_end().lines().take(PROMPT_LINES).enumerate() {
            let sign = if number == 0 { self.sign } else { '>' };
            self.text(&format!("\x1b[1;34m{sign}\x1b[0m {}\n", plain(line)));
        }
        if !shell {
            self.text("\n");
        }
        self.running.push(request.to_owned());
    }

    /// Bytes of a command.
    pub fn raw(&mut self, request: &str, bytes: &[u8]) {
        if self.front.as_deref().is_none_or(|front| front == request) {
            self.wipe();
            self.out.extend_from_slice(bytes);
            self.fresh = bytes.last().map_or(self.fresh, |byte| *byte == b'\n');
        }
    }

    /// An entry changed. Those of commands are seen as bytes.
    pub fn change(&mut self, request: &str, key: u32, tool: Option<&Tool>, keep: usize, text: &str) {
        if self.front.as_deref() == Some(request) {
            return;
        }
        let here = self.last.as_ref().is_some_and(|(of, number, _)| of == request && *number == key);
        if let Some(tool) = tool {
            if here && self.last.as_ref().is_some_and(|(_, _, last)| last.as_ref() == Some(tool)) {
                return;
            }
            self.new_line();
            let status = if tool.status.is_empty() { String::new() } else { format!(" [{}]", plain(&tool.status)) };
            self.text(&format!("\x1b[36m*\x1b[0m {}\x1b[2m{status}\x1b[0m\n", plain(&tool.name)));
        } else {
            if !here || keep == 0 {
                self.new_line();
            }
            self.text(&plain(text));
        }
        self.last = Some((request.to_owned(), key, tool.cloned()));
    }

    /// The agent asks.
    pub fn question(&mut self, question: &Question) {
        self.new_line();
        self.text(&format!("\x1b[1;33m?\x1b[0m {}\n", plain(&question.message)));
        for (number, choice) in question.choices.iter().enumerate() {
            self.text(&format!("  {} {}\n", number + 1, plain(&choice.name)));
        }
        let hint = if question.choices.is_empty() { "an object in JSON, or n" } else { "a number, y or n" };
        self.text(&format!("\x1b[2m  answer here ({hint}), or wherever this conversation is open\x1b[0m\n"));
        self.asking += 1;
    }

    /// It has its answer.
    pub fn answered(&mut self, question: &Question, status: &str) {
        self.asking = 0;
        self.new_line();
        self.text(&format!("\x1b[2m  {}: {status}\x1b[0m\n", plain(&question.message)));
    }

    /// A turn is over.
    pub fn end(&mut self, request: &str, end: &End, exit_status: Option<i32>, shell: bool) {
        self.asking = 0;
        self.running.retain(|running| running != request);
        if self.front.as_deref() == Some(request) {
            self.front = None;
        }
        self.new_line();
        if shell {
            self.text("\x1b[0m\n");
        }
        match (end, exit_status) {
            (End::Failed { error } | End::NotStarted { error }, _) => {
                self.text(&format!("\x1b[31m[{}]\x1b[0m\n", plain(error)));
            }
            (End::Cancelled, Some(status)) => self.text(&format!("[cancelled, exit status {status}]\n")),
            (_, Some(status)) => self.text(&format!("[exit status {status}]\n")),
            (End::Cancelled, None) => self.text("[cancelled]\n"),
            (End::Interrupted, None) => self.text("[interrupted]\n"),
            (End::Completed, None) => {}
        }
        if !shell {
            self.text("\n");
        }
    }

    /// A word of the bridge's own.
    pub fn notice(&mut self, text: &str) {
        self.new_line();
        self.text(&format!("\x1b[2m[{}]\x1b[0m\n", plain(text.trim_end())));
    }

    /// Writes what was gathered.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        if (self.is_idle() || self.asking > 0) && !self.drawn && self.terminal.has_keys() {
            self.new_line();
            let line = format!("{WIPE}\x1b[1;34m{}\x1b[0m {}", self.sign, plain(self.line.text()));
            self.out.extend_from_slice(line.as_bytes());
            self.drawn = true;
        }
        if self.out.is_empty() {
            return Ok(());
        }
        let out = std::mem::take(&mut self.out);
        self.terminal.show(&out)
    }

    fn is_idle(&self) -> bool {
        self.front.is_none() && self.running.is_empty()
    }

    fn wipe(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.out.extend_from_slice(WIPE.as_bytes());
        }
    }

    fn new_line(&mut self) {
        self.wipe();
        self.last = None;
        if !self.fresh {
            self.text("\n");
        }
    }

    fn text(&mut self, text: &str) {
        self.wipe();
        self.out.extend_from_slice(text.replace('\n', "\r\n").as_bytes());
        if !text.is_empty() {
            self.fresh = text.ends_with('\n');
        }
    }
}

/// Without control characters but for line ends and tabs: a terminal obeys them.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}
