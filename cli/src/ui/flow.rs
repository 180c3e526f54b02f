//! How an answer that streams and what is told beside it come onto one or two streams. Pure: it says what to write.
//!
//! Text is data and goes to standard output as it is, a blank line between two entries. Everything else is a line on
//! standard error. Where both are the same terminal, a line that is begun is ended first; that line end is for the
//! eye alone and no data. A tool's line is changed in place while nothing but other tools' lines stands below it.

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// To standard output.
    Data(String),
    /// To standard error.
    Note(String),
    /// To the terminal that standard error is: with control characters of our own, any text in it cleaned.
    Control(String),
}

/// Where the streams are.
#[derive(Debug, Default)]
pub struct Flow {
    /// Standard output and standard error are terminals.
    one_screen: bool,
    /// Standard error is a terminal.
    in_place: bool,
    /// Standard output is inside a line.
    data_open: bool,
    /// An input prompt stands on standard error.
    asks: bool,
    last_text: Option<String>,
    /// Tools whose lines are the last ones on the terminal: entry and line.
    tools: Vec<(String, String)>,
}

impl Flow {
    /// At the beginning of a line.
    pub fn new(stdout_tty: bool, stderr_tty: bool) -> Self {
        Self { one_screen: stdout_tty && stderr_tty, in_place: stderr_tty, ..Self::default() }
    }

    /// Everything goes to standard output.
    pub fn on_one_stream(stdout_tty: bool) -> Self {
        Self { one_screen: true, in_place: stdout_tty, ..Self::default() }
    }

    /// A piece of an entry's text: behind the former one, or on a line of its own where that cannot be.
    pub fn text(&mut self, entry: &str, anew: bool, text: &str) -> Vec<Out> {
        let mut out = Vec::new();
        if self.one_screen {
            self.end_question(&mut out);
            self.tools.clear();
        }
        let former = self.last_text.replace(entry.to_owned());
        let mut data = String::new();
        match former {
            Some(former) if former != entry => {
                self.end_data(&mut data);
                data.push('\n');
            }
            Some(_) if anew => self.end_data(&mut data),
            _ => {}
        }
        data.push_str(text);
        if !text.is_empty() {
            self.data_open = !text.ends_with('\n');
        }
        out.push(Out::Data(data));
        out
    }

    /// A tool began, or is in another state.
    pub fn tool(&mut self, entry: &str, line: &str) -> Vec<Out> {
        if !self.in_place {
            return vec![Out::Note(format!("{line}\n"))];
        }
        if let Some(place) = self.tools.iter().position(|(tool, _)| tool == entry) {
            let up = self.tools.len() - place;
            line.clone_into(&mut self.tools[place].1);
            return vec![Out::Control(format!("\x1b[{up}A\r\x1b[2K{line}\x1b[{up}B\r"))];
        }
        let mut out = Vec::new();
        self.begin_line(&mut out);
        out.push(Out::Note(format!("{line}\n")));
        self.tools.push((entry.to_owned(), line.to_owned()));
        out
    }

    /// A line beside the answer.
    pub fn line(&mut self, line: &str) -> Vec<Out> {
        let mut out = Vec::new();
        self.begin_line(&mut out);
        self.tools.clear();
        out.push(Out::Note(format!("{line}\n")));
        out
    }

    /// Asks for input: the cursor stays behind it.
    pub fn ask(&mut self, prompt: &str) -> Vec<Out> {
        if self.asks {
            return Vec::new();
        }
        let mut out = Vec::new();
        self.begin_line(&mut out);
        self.tools.clear();
        self.asks = true;
        out.push(Out::Note(prompt.to_owned()));
        out
    }

    /// A person ended a line with the Return key.
    pub fn entered(&mut self) {
        self.asks = false;
        self.tools.clear();
        if self.one_screen {
            self.data_open = false;
        }
    }

    /// A person pressed Ctrl-C: the terminal shows that wherever the cursor was.
    pub fn struck(&mut self) -> Vec<Out> {
        self.entered();
        vec![Out::Note("\n".to_owned())]
    }

    /// The answer is over: what follows is another one.
    pub fn end(&mut self) -> Vec<Out> {
        let mut data = String::new();
        self.end_data(&mut data);
        self.last_text = None;
        if data.is_empty() { Vec::new() } else { vec![Out::Data(data)] }
    }

    /// Nothing more is said.
    pub fn leave(&mut self) -> Vec<Out> {
        let mut out = Vec::new();
        self.begin_line(&mut out);
        out
    }

    /// The terminal's cursor is at the beginning of a line.
    fn begin_line(&mut self, out: &mut Vec<Out>) {
        self.end_question(out);
        if self.one_screen && self.data_open {
            out.push(Out::Data("\n".to_owned()));
            self.data_open = false;
        }
    }

    fn end_question(&mut self, out: &mut Vec<Out>) {
        if std::mem::take(&mut self.asks) {
            out.push(Out::Note("\n".to_owned()));
        }
    }

    fn end_data(&mut self, data: &mut String) {
        if std::mem::take(&mut self.data_open) {
            data.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal, or a pipe and a file, get.
    fn written(outs: Vec<Vec<Out>>) -> (String, String) {
        let (mut data, mut notes) = (String::new(), String::new());
        for out in outs.into_iter().flatten() {
            match out {
                Out::Data(text) => data.push_str(&text),
                Out::Note(text) | Out::Control(text) => notes.push_str(&text),
            }
        }
        (data, notes)
    }

    fn all(outs: Vec<Vec<Out>>) -> String {
        let text = |out| match out {
            Out::Data(text) | Out::Note(text) | Out::Control(text) => text,
        };
        outs.into_iter().flatten().map(text).collect()
    }

    fn a_turn(flow: &mut Flow) -> Vec<Vec<Out>> {
        vec![
            flow.line("running"),
            flow.text("1", false, "I lo"),
            flow.text("1", false, "ok."),
            flow.tool("2", "Read: Pending"),
            flow.tool("3", "Grep: Pending"),
            flow.tool("2", "Read: Completed"),
            flow.text("1", false, " More"),
            flow.text("4", false, "Fine.\n"),
            flow.text("4", true, "Good."),
            flow.end(),
            flow.line("completed"),
        ]
    }

    #[test]
    fn a_pipe_gets_the_answer_and_nothing_else() {
        let (data, notes) = written(a_turn(&mut Flow::new(false, false)));
        assert_eq!(data, "I look. More\n\nFine.\nGood.\n");
        assert_eq!(notes, "running\nRead: Pending\nGrep: Pending\nRead: Completed\ncompleted\n");
    }

    #[test]
    fn on_a_terminal_nothing_stands_in_the_middle_of_a_line() {
        let mut flow = Flow::new(true, true);
        assert_eq!(
            all(a_turn(&mut flow)),
            "running\nI look.\nRead: Pending\nGrep: Pending\n\x1b[2A\r\x1b[2KRead: Completed\x1b[2B\r More\n\nFine.\n\
             Good.\ncompleted\n"
        );
        // A tool whose line is not among the last ones gets a new one.
        assert_eq!(all(vec![flow.tool("2", "Read: Failed")]), "Read: Failed\n");
    }

    #[test]
    fn a_question_for_input_is_left_behind_when_something_comes() {
        let mut flow = Flow::new(true, true);
        let asked = [flow.ask("> "), flow.ask("> "), flow.text("1", false, "said"), flow.ask("> ")];
        assert_eq!(all(asked.into()), "> \nsaid\n> ");
        flow.entered();
        assert_eq!(all(vec![flow.line("queued"), flow.end()]), "queued\n");
        assert_eq!(all(vec![flow.leave(), flow.ask("> "), flow.leave(), flow.leave()]), "> \n");
    }

    #[test]
    fn data_in_a_file_is_complete_while_the_rest_is_on_a_terminal() {
        let mut flow = Flow::new(false, true);
        let outs = vec![flow.text("1", false, "a"), flow.line("note"), flow.text("1", false, "b"), flow.end()];
        assert_eq!(written(outs), ("ab\n".to_owned(), "note\n".to_owned()));
    }
}
