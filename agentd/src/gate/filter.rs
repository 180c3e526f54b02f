//! What a viewer sends, message by message (RFC 6143, 7.5, and the extensions that our displays and viewers speak).
//!
//! Everything that changes the desktop (keys, pointer, clipboard, size) passes only while its sender may type; what
//! only asks for pictures always passes; what would end the display never does. In the place of a size that may not be asked
//! for, one passes that the display refuses, since somebody may wait for an answer. Pure: bytes in, bytes out. A message
//! may come in any number of pieces; all that is kept of one is its head.
//!
//! Two extensions would change how long messages are once the display has agreed to them, which is not seen here. They
//! are taken out of the list of encodings that the viewer offers.

use std::collections::BTreeMap;

const SET_PIXEL_FORMAT: u8 = 0;
const SET_ENCODINGS: u8 = 2;
const UPDATE_REQUEST: u8 = 3;
const KEY: u8 = 4;
const POINTER: u8 = 5;
const CUT_TEXT: u8 = 6;
const CONTINUOUS_UPDATES: u8 = 150;
const FENCE: u8 = 248;
/// Shuts down or restarts the machine of the display.
const XVP: u8 = 250;
const SET_DESKTOP_SIZE: u8 = 251;
/// A size without a screen, which no display takes; it answers that. A viewer that asks for a size may wait for the answer,
/// whoever gives it: xrdp shows nothing of the desktop until then.
const NO_SIZE: [u8; 8] = [SET_DESKTOP_SIZE, 0, 0, 0, 0, 0, 0, 0];
const QEMU: u8 = 255;
const QEMU_KEY: u8 = 0;

/// Extended mouse buttons: a pointer message gets a byte more.
const EXTENDED_BUTTONS: i32 = -316;
/// GII: messages of its own, of any length.
const GII: i32 = -305;

/// Most encodings that a viewer may name; those that exist are some fifty.
const MAX_ENCODINGS: usize = 1024;
/// Longest clipboard text.
const MAX_CUT_TEXT: u32 = 10 << 20;
/// Longest payload of a fence.
const MAX_FENCE: u8 = 64;
/// Keys that are noted as down; nobody has more fingers.
const MAX_KEYS: usize = 64;

/// Actions of an extended clipboard message, and the formats that are told beside them.
const CAPS: u32 = 1 << 24;
const REQUEST: u32 = 1 << 25;
const PEEK: u32 = 1 << 26;
const NOTIFY: u32 = 1 << 27;
const PROVIDE: u32 = 1 << 28;
const ACTIONS: u32 = 0xff << 24;
const FORMATS: u32 = 0xffff;

/// Why a viewer is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message that no viewer of ours sends.
    #[error("message type {0} is not known here")]
    Unknown(u8),
    /// A message that is longer than anybody needs.
    #[error("a message of type {0} is too long")]
    TooLong(u8),
    /// The clipboard's extension with another length than its flags have: a display would read on in what is left.
    #[error("a clipboard message whose length is not that of its flags")]
    CutText,
    /// What it was about to say has half reached the display, and is not its to say any more.
    #[error("somebody else took the control in the middle of a message")]
    Midway,
}

/// What passed, for who records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// A key.
    Key {
        /// X's symbol of it.
        keysym: u32,
        /// Pressed, or released.
        down: bool,
    },
    /// The pointer.
    Pointer {
        /// From the left.
        x: u16,
        /// From the top.
        y: u16,
        /// One bit per button that is down.
        buttons: u8,
    },
    /// A clipboard was offered.
    Clipboard {
        /// Bytes of the message.
        bytes: u32,
    },
    /// Another size was asked for.
    Resize {
        /// In pixels.
        width: u16,
        /// In pixels.
        height: u16,
    },
}

/// Reads one viewer's bytes.
#[derive(Debug, Default)]
pub struct Filter {
    has_begun: bool,
    /// Of the message that is being read, until it is known what it is.
    head: Vec<u8>,
    /// Bytes of its rest, and whether they pass.
    rest: (usize, bool),
    /// Keys that the display believes to be down, by kind, symbol and code, each with the message that releases it.
    keys: BTreeMap<(u8, u64), Vec<u8>>,
    /// The last pointer message that passed.
    pointer: [u8; 6],
    /// What passed, where somebody records it: taken after each piece, so there are never many.
    typed: Option<Vec<Typed>>,
}

/// What is known of a message by its head.
enum Known {
    /// So many bytes say more.
    Needs(usize),
    /// All of it is `bytes` long.
    Whole { bytes: usize, class: Class },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Asks for pictures.
    Asks,
    /// Changes the desktop.
    Types,
    /// Is nobody's business.
    Never,
}

impl Filter {
    /// One that keeps what passes for [`Filter::typed`].
    pub fn recorded() -> Self {
        Self { typed: Some(Vec::new()), ..Self::default() }
    }

    /// What passed since the last call.
    pub fn typed(&mut self) -> Vec<Typed> {
        self.typed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes what came; what passes goes behind `out`. After an error the viewer is closed.
    pub fn take(&mut self, mut bytes: &[u8], may_type: bool, out: &mut Vec<u8>) -> Result<(), Fault> {
        if !self.has_begun && !bytes.is_empty() {
            // ClientInit: nobody is alone at a desktop, whatever he asks for.
            self.has_begun = true;
            out.push(1);
            bytes = &bytes[1..];
        }
        while !bytes.is_empty() {
            let (left, pass) = self.rest;
            if left > 0 {
                let (now, later) = bytes.split_at(left.min(bytes.len()));
                if pass {
                    out.extend_from_slice(now);
                }
                self.rest.0 -= now.len();
                bytes = later;
                continue;
            }
            match known(&self.head)? {
                Known::Needs(count) => {
                    let (now, later) = bytes.split_at((count - self.head.len()).min(bytes.len()));
                    self.head.extend_from_slice(now);
                    bytes = later;
                }
                Known::Whole { .. } => {}
            }
            self.settle(may_type, out)?;
        }
        Ok(())
    }

    /// Decides on the message whose head is there.
    fn settle(&mut self, may_type: bool, out: &mut Vec<u8>) -> Result<(), Fault> {
        let Known::Whole { bytes, class } = known(&self.head)? else { return Ok(()) };
        let head = std::mem::take(&mut self.head);
        let pass = match class {
            Class::Asks => true,
            Class::Types => may_type,
            Class::Never => false,
        };
        self.rest = (bytes - head.len(), pass);
        if !pass {
            if head[0] == SET_DESKTOP_SIZE {
                out.extend(NO_SIZE);
            }
            return Ok(());
        }
        if let Some(typed) = self.typed.as_mut().filter(|_| class == Class::Types) {
            typed.extend(typed_by(&head, bytes));
        }
        match head[0] {
            SET_ENCODINGS => out.extend(known_encodings(&head)),
            KEY | QEMU => {
                if self.note_key(&head) {
                    out.extend(&head);
                }
            }
            POINTER => {
                self.pointer.copy_from_slice(&head);
                out.extend(&head);
            }
            _ => out.extend(&head),
        }
        Ok(())
    }

    /// False for one key more than anybody holds down: it would not be known how to release it.
    fn note_key(&mut self, message: &[u8]) -> bool {
        let (kind, mut release) = (message[0], message.to_vec());
        // A display tells keys of the second kind apart by their code.
        let (down, key) = if kind == KEY {
            (message[1] != 0, u64::from(number(&message[4..8])))
        } else {
            let (symbol, code) = (number(&message[4..8]), number(&message[8..12]));
            (number(&message[2..4]) != 0, u64::from(symbol) << 32 | u64::from(code))
        };
        let key = (kind, key);
        if !down {
            self.keys.remove(&key);
            return true;
        }
        if self.keys.len() >= MAX_KEYS && !self.keys.contains_key(&key) {
            return false;
        }
        release[1..4].fill(0);
        self.keys.insert(key, release);
        true
    }

    /// Somebody else types from now on: what this viewer holds down is let go. An error where it is in the middle of a
    /// message: whatever goes to the display then would be taken for its rest.
    pub fn let_go(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if let (1.., true) = self.rest {
            return Err(Fault::Midway);
        }
        out.extend(std::mem::take(&mut self.keys).into_values().flatten());
        if self.pointer[1] != 0 {
            self.pointer[1] = 0;
            out.extend(self.pointer);
        }
        Ok(())
    }
}

/// What a message does, by its head and its length.
fn typed_by(head: &[u8], bytes: usize) -> Option<Typed> {
    let short = |at: usize| number(&head[at..at + 2]) as u16;
    Some(match head[0] {
        KEY => Typed::Key { keysym: number(&head[4..8]), down: head[1] != 0 },
        QEMU => Typed::Key { keysym: number(&head[4..8]), down: short(2) != 0 },
        POINTER => Typed::Pointer { x: short(2), y: short(4), buttons: head[1] },
        CUT_TEXT => Typed::Clipboard { bytes: bytes as u32 },
        SET_DESKTOP_SIZE => Typed::Resize { width: short(2), height: short(4) },
        _ => return None,
    })
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// What a message is, by as much of it as there is.
fn known(head: &[u8]) -> Result<Known, Fault> {
    use Class::{Asks, Never, Types};
    let Some(&kind) = head.first() else { return Ok(Known::Needs(1)) };
    // A message that is wholly needed before it is decided on.
    let all =
        |bytes: usize, class| if head.len() < bytes { Known::Needs(bytes) } else { Known::Whole { bytes, class } };
    let long = |bytes: usize, class| Known::Whole { bytes, class };
    let needs = |bytes: usize| (head.len() < bytes).then_some(Known::Needs(bytes));
    Ok(match kind {
        SET_PIXEL_FORMAT => long(20, Asks),
        SET_ENCODINGS => match needs(4) {
            Some(needs) => needs,
            None => match usize::try_from(number(&head[2..4])) {
                Ok(count) if count <= MAX_ENCODINGS => all(4 + 4 * count, Asks),
                _ => return Err(Fault::TooLong(kind)),
            },
        },
        UPDATE_REQUEST | CONTINUOUS_UPDATES => long(10, Asks),
        KEY => all(8, Types),
        POINTER => all(6, Types),
        CUT_TEXT => match needs(8) {
            Some(needs) => needs,
            None => cut_text(head)?,
        },
        FENCE => match needs(9) {
            Some(needs) => needs,
            None if head[8] <= MAX_FENCE => long(9 + usize::from(head[8]), Asks),
            None => return Err(Fault::TooLong(kind)),
        },
        XVP => all(4, Never),
        // In one piece: a display that finds less than its head misreads it.
        SET_DESKTOP_SIZE => needs(8).unwrap_or_else(|| all(8 + 16 * usize::from(head[6]), Types)),
        QEMU => match needs(2) {
            Some(needs) => needs,
            None if head[1] == QEMU_KEY => all(12, Types),
            None => return Err(Fault::Unknown(kind)),
        },
        _ => return Err(Fault::Unknown(kind)),
    })
}

/// Text for the clipboard, or with a negative length the extended form: flags first. A display reads of that what its
/// flags say, whatever the length is, so only messages pass whose length is that.
fn cut_text(head: &[u8]) -> Result<Known, Fault> {
    let length = number(&head[4..8]).cast_signed();
    let bytes = length.unsigned_abs();
    if bytes > MAX_CUT_TEXT {
        return Err(Fault::TooLong(CUT_TEXT));
    }
    let whole = 8 + bytes as usize;
    if length >= 0 {
        return Ok(Known::Whole { bytes: whole, class: Class::Types });
    }
    let flags = match head.get(8..12) {
        Some(flags) => number(flags),
        None if bytes < 4 => return Err(Fault::CutText),
        None => return Ok(Known::Needs(12)),
    };
    let (class, expected) = match flags & ACTIONS {
        // Others may be named as well: they are what it can do.
        actions if actions & CAPS != 0 => (Class::Asks, Some(4 + 4 * (flags & FORMATS).count_ones())),
        REQUEST | PEEK => (Class::Asks, Some(4)),
        NOTIFY => (Class::Types, Some(4)),
        PROVIDE => (Class::Types, None),
        _ => return Err(Fault::CutText),
    };
    if expected.is_some_and(|expected| expected != bytes) {
        return Err(Fault::CutText);
    }
    Ok(Known::Whole { bytes: whole, class })
}

/// The message without the encodings that would change how long others are.
fn known_encodings(message: &[u8]) -> Vec<u8> {
    let fits = |encoding: &&[u8]| ![EXTENDED_BUTTONS, GII].contains(&number(encoding).cast_signed());
    let encodings: Vec<&[u8]> = message[4..].chunks_exact(4).filter(fits).collect();
    let mut fitting = message[..2].to_vec();
    fitting.extend((encodings.len() as u16).to_be_bytes());
    fitting.extend(encodings.concat());
    fitting
}

#[cfg(test)]
mod tests;
