//! The line that a person types: a few keys of a terminal in raw mode.

/// What a person did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// A whole line.
    Line(String),
    /// Ctrl-C on an empty line.
    Interrupt,
}

/// The line so far.
#[derive(Debug, Default)]
pub struct Line {
    text: String,
    /// Bytes of a character that is not whole yet.
    partial: Vec<u8>,
    /// Inside an escape sequence, which is passed over.
    escape: Option<u8>,
    /// Lines that were given out and are on the screen.
    echoed: Vec<String>,
}

impl Line {
    /// As typed so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True once for a line that was typed here.
    pub fn take_echo(&mut self, text: &str) -> bool {
        let place = self.echoed.iter().position(|line| line == text);
        place.is_some_and(|place| !self.echoed.remove(place).is_empty())
    }

    /// Takes keys.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut typed = Vec::new();
        for byte in bytes {
            match (self.escape, byte) {
                // ESC [ … letter, ESC O letter, ESC key.
                (Some(0x1b), b'[' | b'O') => self.escape = Some(*byte),
                (Some(b'['), 0x20..=0x3f) => {}
                (Some(_), _) => self.escape = None,
                (None, 0x1b) => self.escape = Some(0x1b),
                (None, b'\r' | b'\n') => {
                    let line = std::mem::take(&mut self.text);
                    self.partial.clear();
                    if self.echoed.len() < 16 {
                        self.echoed.push(line.clone());
                    }
                    typed.push(Typed::Line(line));
                }
                (None, 0x03) if self.text.is_empty() => typed.push(Typed::Interrupt),
                // Ctrl-C, Ctrl-U.
                (None, 0x03 | 0x15) => self.text.clear(),
                (None, 0x08 | 0x7f) => drop(self.text.pop()),
                // Ctrl-W.
                (None, 0x17) => {
                    let kept = self.text.trim_end().rfind(' ').map_or(0, |place| place + 1);
                    self.text.truncate(kept);
                }
                (None, b'\t' | 0x20..) => self.push(*byte),
                (None, _) => {}
            }
        }
        typed
    }

    fn push(&mut self, byte: u8) {
        self.partial.push(byte);
        match std::str::from_utf8(&self.partial) {
            Ok(text) => {
                self.text.push_str(text);
                self.partial.clear();
            }
            Err(error) if error.error_len().is_some() => self.partial.clear(),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_edited_as_they_are_typed() {
        let mut line = Line::default();
        assert_eq!(line.feed(b"ab\x7fc"), []);
        assert_eq!(line.text(), "ac");
        assert_eq!(line.feed("é\x1b[A one two\x17\r".as_bytes()), [Typed::Line("acé one ".into())]);
        assert_eq!(line.feed(b"x\x03"), []);
        assert_eq!(line.feed(b"\x03"), [Typed::Interrupt]);
        assert!(line.take_echo("acé one ") && !line.take_echo("acé one "));
    }
}
