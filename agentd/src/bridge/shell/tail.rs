//! The end of a command's output, bounded.

use helix_protocol::session::OUTPUT_TAIL_BYTES;

/// After the command's end no more than this is taken: what it left running could write for ever.
const FLOOD_BYTES: u64 = 1024 * 1024;

/// Keeps the last [`OUTPUT_TAIL_BYTES`] of what is pushed.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    total: u64,
    drained: u64,
}

impl Tail {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * OUTPUT_TAIL_BYTES {
            self.bytes.drain(..self.bytes.len() - OUTPUT_TAIL_BYTES);
        }
    }

    /// True once this has been asked while more than [`FLOOD_BYTES`] came: to be asked only when draining.
    pub(super) fn is_flooded(&mut self) -> bool {
        if self.drained == 0 {
            self.drained = self.total;
        }
        self.total - self.drained > FLOOD_BYTES
    }

    /// As text with plain line ends, and whether it is not all.
    pub(super) fn into_text(self) -> (String, bool) {
        let start = self.bytes.len().saturating_sub(OUTPUT_TAIL_BYTES);
        let mut kept = &self.bytes[start..];
        let mut truncated = self.total > kept.len() as u64;
        if truncated {
            // A character that was cut in two is left out.
            let cut = kept.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
            kept = &kept[cut..];
        }
        let mut text = String::from_utf8_lossy(kept).replace("\r\n", "\n");
        if text.len() > OUTPUT_TAIL_BYTES {
            // Each byte that is not UTF-8 became three.
            let cut = text.ceil_char_boundary(text.len() - OUTPUT_TAIL_BYTES);
            text.drain(..cut);
            truncated = true;
        }
        (text, truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(chunks: &[&[u8]]) -> (String, bool) {
        let mut tail = Tail::default();
        for chunk in chunks {
            tail.push(chunk);
        }
        tail.into_text()
    }

    #[test]
    fn a_short_output_is_whole() {
        assert_eq!(tail(&[b"a\r\n", b"b\r\n"]), ("a\nb\n".to_owned(), false));
        assert_eq!(tail(&[b"\xff"]), ("\u{fffd}".to_owned(), false));
    }

    #[test]
    fn a_long_output_keeps_its_end_within_the_limit() {
        let line = "0123456789ä\r\n".as_bytes();
        let (text, truncated) = tail(&vec![line; 10_000]);
        assert!(truncated && text.ends_with("0123456789ä\n") && !text.contains('\u{fffd}'));
        assert!(text.len() <= OUTPUT_TAIL_BYTES);
        let (text, truncated) = tail(&[&[0xff; OUTPUT_TAIL_BYTES]]);
        assert!(truncated && text.len() <= OUTPUT_TAIL_BYTES && text.chars().all(|c| c == '\u{fffd}'));
    }
}
