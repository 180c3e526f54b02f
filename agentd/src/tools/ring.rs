//! The last output of a terminal: pure. Whoever looks at it has a place in the whole output, counted from its
//! beginning, and reads on from there; one who falls behind what is kept begins anew.

use std::collections::VecDeque;

use helix_protocol::tools::SCROLLBACK_BYTES;

/// Within this many bytes of what is kept first, a line's end is looked for, to begin behind it.
const SEARCHED: usize = 8 * 1024;
/// Clears a terminal, its modes and its colours (RIS): what follows is all that it shows.
const RESET: &[u8] = b"\x1bc";

/// The output.
#[derive(Debug, Default)]
pub(super) struct Ring {
    kept: VecDeque<u8>,
    /// Bytes that were written in all.
    written: u64,
}

impl Ring {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(SCROLLBACK_BYTES)..];
        let excess = (self.kept.len() + bytes.len()).saturating_sub(SCROLLBACK_BYTES);
        self.kept.drain(..excess);
        self.kept.extend(bytes);
    }

    /// Where whoever comes now begins: with everything, or at the beginning of a line, or at least of a character.
    pub(super) fn beginning(&self) -> u64 {
        let lost = self.written - self.kept.len() as u64;
        if lost == 0 {
            return 0;
        }
        let line = self.kept.iter().take(SEARCHED).position(|byte| *byte == b'\n').map(|at| at + 1);
        let character = || self.kept.iter().position(|byte| byte & 0xc0 != 0x80).unwrap_or(0);
        lost + line.unwrap_or_else(character) as u64
    }

    /// What comes at `place`, at most `most` bytes, and the place behind it. Nothing where nothing has come.
    pub(super) fn after(&self, place: u64, most: usize) -> (Vec<u8>, u64) {
        let lost = self.written - self.kept.len() as u64;
        let (mut bytes, place) = if place < lost { (RESET.to_vec(), self.beginning()) } else { (Vec::new(), place) };
        let skipped = usize::try_from(place - lost).unwrap_or(usize::MAX).min(self.kept.len());
        let count = most.min(self.kept.len() - skipped);
        bytes.extend(self.kept.range(skipped..skipped + count));
        (bytes, place + count as u64)
    }

    /// Where the output ends now.
    pub(super) fn end(&self) -> u64 {
        self.written
    }
}

/// Old output without the questions in it: a terminal that sees it again would answer them again, into the shell.
pub(super) fn without_questions(bytes: &[u8]) -> Vec<u8> {
    let mut told = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = question_length(&bytes[at..]);
        if length == 0 {
            told.push(bytes[at]);
        }
        at += length.max(1);
    }
    told
}

/// Of "what are you" (DA, `ESC [ … c`) and "how are you" (DSR, `ESC [ … n`) at the beginning; 0 for anything else.
fn question_length(bytes: &[u8]) -> usize {
    let Some(rest) = bytes.strip_prefix(b"\x1b[") else { return 0 };
    let parameters = rest.iter().take_while(|byte| (0x30..=0x3f).contains(*byte)).count();
    match rest.get(parameters) {
        Some(b'c' | b'n') => 2 + parameters + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything from `place` on, in small pieces.
    fn all(ring: &Ring, mut place: u64) -> Vec<u8> {
        let mut seen = Vec::new();
        loop {
            let (bytes, next) = ring.after(place, 1000);
            if bytes.is_empty() {
                return seen;
            }
            seen.extend(bytes);
            place = next;
        }
    }

    #[test]
    fn little_output_is_kept_whole() {
        let mut ring = Ring::default();
        assert_eq!(all(&ring, ring.beginning()), b"");
        ring.push("début\n".as_bytes());
        ring.push(b"fin");
        assert_eq!(all(&ring, ring.beginning()), "début\nfin".as_bytes());
        assert_eq!(all(&ring, ring.end()), b"");
    }

    #[test]
    fn of_much_output_the_last_lines_are_kept_from_the_beginning_of_one() {
        let mut ring = Ring::default();
        for number in 0..100_000 {
            ring.push(format!("line {number}\r\n").as_bytes());
        }
        let text = String::from_utf8(all(&ring, ring.beginning())).expect("text");
        assert!(text.starts_with("line ") && text.ends_with("line 99999\r\n"), "{:?}", &text[..20]);
        assert!(text.len() <= SCROLLBACK_BYTES && text.len() > SCROLLBACK_BYTES - 100);
    }

    #[test]
    fn without_lines_no_character_is_cut() {
        let mut ring = Ring::default();
        ring.push("é".repeat(SCROLLBACK_BYTES / 2 + 7).as_bytes());
        ring.push(b"x");
        assert!(String::from_utf8(all(&ring, ring.beginning())).is_ok());
    }

    #[test]
    fn who_falls_behind_begins_anew_on_an_empty_screen() {
        let mut ring = Ring::default();
        ring.push(b"first\n");
        let place = ring.end();
        ring.push(&b"0123456789\n".repeat(SCROLLBACK_BYTES / 8));
        let (bytes, _) = ring.after(place, 14);
        assert_eq!(bytes, b"\x1bc0123456789\n012");
    }

    #[test]
    fn questions_are_not_asked_again() {
        let shown = b"\x1b[31mred\x1b[0m\x1b[c\x1b[>c\x1b[6n\x1b[?1;2h\x1b[ncan\x1b";
        assert_eq!(without_questions(shown), b"\x1b[31mred\x1b[0m\x1b[?1;2hcan\x1b");
    }
}
