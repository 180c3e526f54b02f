//! Pure: what a line of a chat means, and when it may be taken.

use helix_protocol::ThreadId;

/// What `/help` prints.
pub const HELP: &str = "\
A line is a prompt; while the agent works it waits for its turn. While the agent asks, a line is the answer.
  /interrupt TEXT  end the running turn and say this instead
  /new [TEXT]      begin a new thread
  /threads         list the threads
  /thread ID       go on in another thread
  /decline         answer no to the agent's question
  /cancel          take the agent's question away
  /help            this
  /quit            leave; what runs goes on
Ctrl-C cancels the running turn; a second one within 2 s, or Ctrl-D, leaves. //TEXT says a line that begins with /.";

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Something to say: a prompt, or an answer to a question.
    Say(String),
    /// A prompt that ends the running turn.
    Interrupt(String),
    /// A new thread, with its first prompt if one is given.
    New(Option<String>),
    /// List the threads.
    Threads,
    /// Go on in this thread.
    Thread(ThreadId),
    /// No to the agent's question.
    Decline,
    /// Take the agent's question away.
    Cancel,
    /// Say what can be said.
    Help,
    /// Leave.
    Quit,
    /// Not understood; why.
    Wrong(String),
}

impl Line {
    /// What was meant.
    pub fn parse(line: &str) -> Self {
        let trimmed = line.trim();
        if let Some(text) = trimmed.strip_prefix("//") {
            return Self::Say(format!("/{text}"));
        }
        if !trimmed.starts_with('/') {
            return Self::Say(line.trim_end().to_owned());
        }
        let (word, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
        let rest = rest.trim();
        let bare = |line: Self| {
            if rest.is_empty() { line } else { Self::Wrong(format!("{word} takes nothing behind it")) }
        };
        match word {
            "/interrupt" if rest.is_empty() => Self::Wrong("write what to say instead: /interrupt TEXT".to_owned()),
            "/interrupt" => Self::Interrupt(rest.to_owned()),
            "/new" => Self::New((!rest.is_empty()).then(|| rest.to_owned())),
            "/threads" => bare(Self::Threads),
            "/thread" => match ThreadId::parse(rest) {
                Ok(thread) => Self::Thread(thread),
                Err(error) => Self::Wrong(format!("{error}; /threads lists them")),
            },
            "/decline" => bare(Self::Decline),
            "/cancel" => bare(Self::Cancel),
            "/help" | "/?" => bare(Self::Help),
            "/quit" | "/exit" => bare(Self::Quit),
            _ => Self::Wrong(format!("{word} is no command; /help lists them, //TEXT says a line that begins with /")),
        }
    }

    /// True when it may be taken now. A person's line always may. Lines of a pipe come faster than answers: each waits
    /// for the end of the turn before it, or for the question that it answers; only an interrupt does not.
    pub fn may_be_taken(&self, person: bool, works: bool, asks: bool) -> bool {
        match self {
            Self::Interrupt(_) | Self::Help | Self::Wrong(_) | Self::Threads => true,
            Self::Say(_) | Self::Decline | Self::Cancel => person || asks || !works,
            Self::New(_) | Self::Thread(_) | Self::Quit => person || !works,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_what_they_say() {
        let say = |text: &str| Line::Say(text.to_owned());
        let table = [
            ("Fix it ", say("Fix it")),
            ("  indented", say("  indented")),
            ("//etc/passwd is what?", say("/etc/passwd is what?")),
            ("/interrupt  no, wait ", Line::Interrupt("no, wait".to_owned())),
            ("/new", Line::New(None)),
            ("/new try again", Line::New(Some("try again".to_owned()))),
            (" /threads", Line::Threads),
            ("/thread thr_1", Line::Thread(ThreadId::parse("thr_1").expect("valid id"))),
            ("/decline", Line::Decline),
            ("/cancel", Line::Cancel),
            ("/?", Line::Help),
            ("/quit", Line::Quit),
        ];
        for (line, expected) in table {
            assert_eq!(Line::parse(line), expected, "{line:?}");
        }
        for wrong in ["/interrupt", "/quit now", "/thread a b", "/thread", "/etc/passwd"] {
            assert!(matches!(Line::parse(wrong), Line::Wrong(_)), "{wrong}");
        }
    }

    #[test]
    fn lines_of_a_pipe_wait_for_what_is_before_them() {
        // Idle, working, asking.
        let when = |line: &str| {
            let line = Line::parse(line);
            [(false, false), (true, false), (true, true)].map(|(works, asks)| line.may_be_taken(false, works, asks))
        };
        assert_eq!(when("text"), [true, false, true]);
        assert_eq!(when("/decline"), [true, false, true]);
        assert_eq!(when("/new"), [true, false, false]);
        assert_eq!(when("/quit"), [true, false, false]);
        assert_eq!(when("/interrupt text"), [true; 3]);
        assert!(Line::parse("text").may_be_taken(true, true, false));
    }
}
