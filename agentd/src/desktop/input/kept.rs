//! What is left down on purpose, over several calls.
//!
//! It is noted in a property of the root window, so that an agentd that comes after a killed one releases that, and
//! nothing that somebody else, such as a viewer, holds down.

use std::borrow::Cow;
use std::sync::Arc;

use x11rb::protocol::xproto::{Atom, AtomEnum, ChangePropertyRequest, GetPropertyRequest, PropMode, Window};

use super::super::Result;
use super::super::connection::Connection;
use super::{Pressed, event};

/// Keys and buttons that stay down.
pub(super) struct Kept {
    x: Arc<Connection>,
    root: Window,
    /// Where it is noted.
    note: Atom,
    /// Each with the epoch of the lease under which it was pressed.
    down: Vec<(Pressed, u64)>,
}

impl Kept {
    pub fn new(x: Arc<Connection>, root: Window, note: Atom) -> Self {
        Self { x, root, note, down: Vec::new() }
    }

    /// Releases what an agentd that was killed has left down. Only for who is alone in driving the display.
    pub async fn recover(&self) -> Result<()> {
        let request = GetPropertyRequest {
            delete: true,
            window: self.root,
            property: self.note,
            type_: AtomEnum::INTEGER.into(),
            long_offset: 0,
            // Every key and every button.
            long_length: 256,
        };
        for what in self.x.ask(request).await?.value.chunks_exact(2).filter_map(Pressed::noted) {
            self.x.tell(event(self.root, what, false)).await?;
        }
        Ok(())
    }

    /// Presses it and leaves it so.
    pub async fn press(&mut self, what: Pressed, epoch: u64) -> Result<()> {
        // Before it is sent: a release of what is not pressed does no harm.
        if let Some((_, since)) = self.down.iter_mut().find(|(down, _)| *down == what) {
            *since = epoch;
        } else {
            self.down.push((what, epoch));
            self.x.tell(self.noted()).await?;
        }
        self.x.tell(event(self.root, what, true)).await
    }

    /// Releases it, whether or not it was left down.
    pub async fn release(&mut self, what: Pressed) -> Result<()> {
        self.x.tell(event(self.root, what, false)).await?;
        self.down.retain(|(down, _)| *down != what);
        self.x.tell(self.noted()).await
    }

    /// Releases what was not pressed under this lease; all of it where there is none.
    pub fn release_all_but(&mut self, epoch: Option<u64>) {
        let before = self.down.len();
        for (what, _) in self.down.extract_if(.., |(_, since)| Some(*since) != epoch) {
            self.x.tell_last(event(self.root, what, false));
        }
        if self.down.len() < before {
            self.x.tell_last(self.noted());
        }
    }

    fn noted(&self) -> ChangePropertyRequest<'static> {
        let data: Vec<u8> = self.down.iter().flat_map(|(what, _)| what.note()).collect();
        ChangePropertyRequest {
            mode: PropMode::REPLACE,
            window: self.root,
            property: self.note,
            type_: AtomEnum::INTEGER.into(),
            format: 8,
            data_len: data.len() as u32,
            data: Cow::Owned(data),
        }
    }
}

impl Pressed {
    /// As it is noted on the display.
    fn note(self) -> [u8; 2] {
        match self {
            Self::Key(code) => [b'k', code],
            Self::Button(button) => [b'b', button],
        }
    }

    fn noted(note: &[u8]) -> Option<Self> {
        match *note {
            [b'k', code] => Some(Self::Key(code)),
            [b'b', button] => Some(Self::Button(button)),
            _ => None,
        }
    }
}
