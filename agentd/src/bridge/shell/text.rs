//! What a command wrote, as plain text that grows: without escape sequences, with plain line ends, bounded.
//!
//! A line that is written anew after a carriage return, as progress bars do, takes the place of the former one. Above
//! [`HEAD_BYTES`] nothing more is told until the end, when the last [`TAIL_BYTES`] follow.

/// Most bytes at the beginning.
const HEAD_BYTES: usize = 4 * 1024 * 1024 - TAIL_BYTES;
/// Most bytes at the end, once it is too long.
const TAIL_BYTES: usize = 64 * 1024;
const TRUNCATED: &str = "\n… output truncated\n";

/// A change of the text: bytes that stay (`usize::MAX` = all), and what follows them.
#[derive(Debug, PartialEq, Eq)]
pub struct Edit {
    /// Bytes of the former text that stay.
    pub keep: usize,
    /// What follows them.
    pub text: String,
}

/// The text so far.
#[derive(Debug, Default)]
pub struct Text {
    /// Bytes that were told.
    length: usize,
    /// Where the line begins that is being written.
    line: usize,
    /// What is told next.
    new: String,
    /// `new` replaces the text from here.
    keep: Option<usize>,
    /// A carriage return was written, and nothing since.
    returned: bool,
    sequence: Sequence,
    partial: Vec<u8>,
    /// The end, once it is too long.
    tail: Option<String>,
}

/// Inside what a terminal would not show.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    /// After ESC.
    Escape,
    /// `ESC [`: up to a letter.
    Control,
    /// `ESC ]` and the like: up to BEL or ESC `\`.
    String,
    /// ESC inside such a string.
    StringEscape,
    /// `ESC (`: one more.
    Charset,
}

impl Text {
    /// Takes bytes; answers what changed.
    pub fn push(&mut self, bytes: &[u8]) -> Edit {
        let mut bytes = bytes;
        let joined;
        if !self.partial.is_empty() {
            joined = [std::mem::take(&mut self.partial).as_slice(), bytes].concat();
            bytes = &joined;
        }
        for chunk in bytes.utf8_chunks() {
            chunk.valid().chars().for_each(|c| self.push_char(c));
            let invalid = chunk.invalid();
            let at_end = std::ptr::eq(invalid.as_ptr_range().end, bytes.as_ptr_range().end);
            if invalid.is_empty() {
            } else if at_end && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none()) {
                self.partial = invalid.to_vec();
            } else {
                self.push_char(char::REPLACEMENT_CHARACTER);
            }
        }
        self.take()
    }

    /// What is left to tell.
    pub fn finish(mut self) -> Edit {
        if !self.partial.is_empty() {
            self.push_char(char::REPLACEMENT_CHARACTER);
        }
        if let Some(tail) = self.tail.take() {
            let cut = tail.ceil_char_boundary(tail.len().saturating_sub(TAIL_BYTES));
            let text = if cut > 0 { format!("{TRUNCATED}{}", &tail[cut..]) } else { tail };
            return Edit { keep: usize::MAX, text };
        }
        self.take()
    }

    fn take(&mut self) -> Edit {
        let text = std::mem::take(&mut self.new);
        let keep = self.keep.take().unwrap_or(usize::MAX);
        self.length = keep.min(self.length) + text.len();
        Edit { keep, text }
    }

    fn push_char(&mut self, c: char) {
        self.sequence = match (self.sequence, c) {
            (Sequence::None | Sequence::Control | Sequence::Escape, '\x1b') => Sequence::Escape,
            (Sequence::None, _) => return self.show(c),
            (Sequence::Escape, '[') | (Sequence::Control, '\x20'..='\x3f') => Sequence::Control,
            (Sequence::Escape, '(' | ')' | '*' | '+' | '#' | '%' | ' ') => Sequence::Charset,
            (Sequence::String, '\x1b') => Sequence::StringEscape,
            (Sequence::String, '\x07') | (Sequence::StringEscape, '\\') => Sequence::None,
            (Sequence::String | Sequence::StringEscape, _) | (Sequence::Escape, ']' | 'P' | 'X' | '^' | '_') => {
                Sequence::String
            }
            (Sequence::Escape | Sequence::Control | Sequence::Charset, _) => Sequence::None,
        };
    }

    fn show(&mut self, c: char) {
        match c {
            '\r' => self.returned = true,
            '\n' => {
                self.returned = false;
                self.put('\n');
                self.line = self.end();
            }
            '\t' => self.begin_anew('\t'),
            c if c.is_control() => {}
            c => self.begin_anew(c),
        }
    }

    fn begin_anew(&mut self, c: char) {
        if std::mem::take(&mut self.returned) && self.tail.is_none() {
            let told = self.length.min(self.keep.unwrap_or(self.length));
            if self.line < told {
                self.keep = Some(self.line);
                self.new.clear();
            } else {
                self.new.truncate(self.line - told);
            }
        }
        self.put(c);
    }

    fn end(&self) -> usize {
        self.length.min(self.keep.unwrap_or(self.length)) + self.new.len()
    }

    fn put(&mut self, c: char) {
        if let Some(tail) = &mut self.tail {
            tail.push(c);
            if tail.len() > 4 * TAIL_BYTES {
                // Leaves more than TAIL_BYTES, so that it shows at the end that it is not all.
                let cut = tail.ceil_char_boundary(tail.len() - 2 * TAIL_BYTES);
                tail.drain(..cut);
            }
        } else if self.end() + c.len_utf8() > HEAD_BYTES {
            self.tail = Some(c.to_string());
        } else {
            self.new.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(chunks: &[&[u8]]) -> String {
        let (mut text, mut whole) = (Text::default(), String::new());
        let mut apply = |edit: Edit| {
            whole.truncate(edit.keep.min(whole.len()));
            whole.push_str(&edit.text);
        };
        for chunk in chunks {
            apply(text.push(chunk));
        }
        apply(text.finish());
        whole
    }

    #[test]
    fn escapes_and_line_ends_are_taken_away() {
        assert_eq!(text(&[b"\x1b[1;32mgre", b"en\x1b[0m\r", b"\nnext\r\n"]), "green\nnext\n");
        assert_eq!(text(&[b"\x1b]0;title\x07a\x1b]8;;u\x1b\\b\x1b(Bc\x07"]), "abc");
        assert_eq!(text(&["ä".as_bytes(), &[0xc3], &[0xa9], b"\xff\xc3"]), "äé\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_line_that_is_written_anew_takes_the_place_of_the_former() {
        assert_eq!(text(&[b"a\n10%\r20%", b"\r30%", b"\r\ndone"]), "a\n30%\ndone");
        assert_eq!(text(&[b"10%", b"\r20%\r30%\n", b"x\r"]), "30%\nx");
    }

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        let line = "0123456789 ä\r\n".as_bytes();
        let chunk = line.repeat(1000);
        let chunks = vec![chunk.as_slice(); 600];
        let whole = text(&chunks);
        assert!(whole.len() <= HEAD_BYTES + TAIL_BYTES + TRUNCATED.len(), "{}", whole.len());
        assert!(whole.starts_with("0123456789 ä\n") && whole.ends_with("0123456789 ä\n") && whole.contains(TRUNCATED));
        let exact = "x".repeat(HEAD_BYTES + 10);
        assert_eq!(text(&[exact.as_bytes()]), exact);
    }
}
