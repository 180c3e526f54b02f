//! One entry of a thread: its text as it grows, or what is left of a text that was let go.

use helix_protocol::TurnId;
use helix_protocol::thread::{Role, ToolCall};
use sha2::{Digest as _, Sha256};

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The agent's id.
    pub id: String,
    /// Its turn.
    pub turn: Option<TurnId>,
    /// Who speaks.
    pub role: Role,
    /// Use of a tool.
    pub tool: Option<ToolCall>,
    /// Bytes of the text.
    pub length: u64,
    /// The text, where kept.
    pub text: Option<String>,
    /// SHA-256 of the text, once it was let go.
    pub digest: Option<[u8; 32]>,
}

impl Entry {
    /// Puts this text behind as many bytes as stay.
    pub(super) fn write(&mut self, offset: u64, text: &str) {
        self.length = offset + text.len() as u64;
        self.digest = None;
        match &mut self.text {
            Some(kept) => {
                // What is written fits; a cut inside a character could only come from another program's hand.
                let cut = kept.floor_char_boundary(usize::try_from(offset).unwrap_or(usize::MAX).min(kept.len()));
                kept.truncate(cut);
                kept.push_str(text);
            }
            None if offset == 0 => self.text = Some(text.to_owned()),
            // Its beginning was let go.
            None => {}
        }
    }

    /// Keeps length and digest alone.
    pub(super) fn let_go(&mut self) {
        if let Some(text) = self.text.take() {
            self.digest = Some(Sha256::digest(text.as_bytes()).into());
        }
    }

    /// Whether its text is this one, as far as is known.
    pub fn is(&self, text: &str) -> bool {
        match (&self.text, self.digest) {
            (Some(kept), _) => kept == text,
            (None, Some(digest)) => {
                self.length == text.len() as u64 && digest == <[u8; 32]>::from(Sha256::digest(text.as_bytes()))
            }
            (None, None) => false,
        }
    }

    /// What must be written for its text to become this one: bytes that stay, and what follows them.
    pub fn change_to<'a>(&self, text: &'a str) -> (u64, &'a str) {
        let kept = self.text.as_deref().unwrap_or_default();
        let same = kept.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let same = text.floor_char_boundary(same);
        (same as u64, &text[same..])
    }
}
