//! Which key of the display's keyboard types what, and characters that the keyboard lacks.
//!
//! A character without a key gets one of the *spare* keys, which mean nothing on the keyboard. It keeps it: a program
//! reads the keyboard's map when it handles the news of a change, which may be after the key was pressed, and must
//! still find there what was meant. So the spare that has rested longest is given another meaning, and not before
//! the program has read it ([`super::reader`]); all of them are given back when the desktop is not driven any more. A
//! spare key means one character beyond ASCII, with and without Shift, as no key of a keyboard does: that is how an
//! agentd that comes after a killed one knows them again.

use std::collections::HashMap;

use tokio::sync::broadcast;
use tokio::time::Instant;
use x11rb::NONE;
use x11rb::protocol::xproto::{ChangeKeyboardMappingRequest, GetKeyboardMappingRequest, Keycode};
use xkeysym::key;

use super::connection::Connection;
use super::event::Event;
use super::keys::Sym;
use super::{DesktopError, Result, reader};

/// Meanings that a spare key is given: without and with Shift, in both groups.
const COLUMNS: usize = 4;

/// A key to press.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub code: Keycode,
    /// With Shift.
    pub shifted: bool,
}

#[derive(Debug, Clone, Copy)]
struct Spare {
    code: Keycode,
    /// 0 while it means nothing.
    sym: Sym,
    pressed: Instant,
}

/// The display's keyboard.
pub(super) struct Keyboard {
    keys: HashMap<Sym, Key>,
    spares: Vec<Spare>,
    /// What was pressed before this has been read.
    read: Instant,
    events: broadcast::Receiver<Event>,
}

impl Keyboard {
    pub async fn new(x: &Connection) -> Result<Self> {
        let mut keyboard = Self { keys: HashMap::new(), spares: Vec::new(), read: Instant::now(), events: x.events() };
        keyboard.refill(x).await?;
        Ok(keyboard)
    }

    /// Reads the map again if somebody has changed it, or may have.
    pub async fn refresh(&mut self, x: &Connection) -> Result<()> {
        let mut stale = false;
        loop {
            match self.events.try_recv() {
                Ok(Event::Mapping) | Err(broadcast::error::TryRecvError::Lagged(_)) => stale = true,
                Ok(_) => {}
                Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => break,
            }
        }
        if stale { self.refill(x).await } else { Ok(()) }
    }

    async fn refill(&mut self, x: &Connection) -> Result<()> {
        let (first, last) = (x.setup.min_keycode, x.setup.max_keycode);
        let request = GetKeyboardMappingRequest { first_keycode: first, count: (last - first).saturating_add(1) };
        let map = x.ask(request).await?;
        let columns = usize::from(map.keysyms_per_keycode).max(1);
        let known: HashMap<Keycode, Instant> = self.spares.iter().map(|spare| (spare.code, spare.pressed)).collect();
        (self.keys, self.spares) = meanings(first, columns, &map.keysyms, &known);
        Ok(())
    }

    /// The key that types this; a spare one is made to, where there is no other.
    pub async fn key(&mut self, x: &Connection, sym: Sym) -> Result<Key> {
        if let Some(key) = self.keys.get(&sym) {
            return Ok(*key);
        }
        if let Some(spare) = self.spares.iter_mut().find(|spare| spare.sym == sym) {
            spare.pressed = Instant::now();
            return Ok(Key { code: spare.code, shifted: false });
        }
        let longest = |(_, spare): &(usize, &Spare)| (spare.sym != 0, spare.pressed);
        let (place, longest) = self.spares.iter().enumerate().min_by_key(longest).ok_or_else(|| {
            DesktopError::Unsupported(
                "its keyboard has no key for a character of the text, and none to spare".to_owned(),
            )
        })?;
        if longest.sym != 0 && longest.pressed >= self.read {
            let now = Instant::now();
            reader::has_read(x).await?;
            self.read = now;
        }
        let code = longest.code;
        x.tell(mapping(code, sym)).await?;
        self.spares[place] = Spare { code, sym, pressed: Instant::now() };
        Ok(Key { code, shifted: false })
    }

    /// The key that is Shift.
    pub fn shift(&self) -> Option<Keycode> {
        self.keys.get(&key::Shift_L).map(|key| key.code)
    }

    /// Gives the spare keys back, as far as the connection still takes it.
    pub fn restore(&self, x: &Connection) {
        for spare in self.spares.iter().filter(|spare| spare.sym != 0) {
            x.tell_last(mapping(spare.code, NONE));
        }
    }
}

fn mapping(code: Keycode, sym: Sym) -> ChangeKeyboardMappingRequest<'static> {
    ChangeKeyboardMappingRequest {
        keycode_count: 1,
        first_keycode: code,
        keysyms_per_keycode: COLUMNS as u8,
        keysyms: vec![sym; COLUMNS].into(),
    }
}

/// A character beyond ASCII, and no key that does something: BackSpace means the same with Shift, too.
fn is_foreign(sym: Sym) -> bool {
    (0xa0..0xfd00).contains(&sym) || (0x0100_0000..0x0111_0000).contains(&sym)
}

/// Which key types what, and the keys that are to spare.
fn meanings(
    first: Keycode,
    columns: usize,
    map: &[Sym],
    known: &HashMap<Keycode, Instant>,
) -> (HashMap<Sym, Key>, Vec<Spare>) {
    let (mut keys, mut spares) = (HashMap::new(), Vec::new());
    for (code, row) in (first..=Keycode::MAX).zip(map.chunks(columns)) {
        let plain = row[0];
        let with_shift = row.get(1).copied().unwrap_or(NONE);
        let nothing = row.iter().all(|sym| *sym == NONE);
        let one_thing = plain == with_shift && row.iter().all(|sym| [NONE, plain].contains(sym));
        if nothing || one_thing && is_foreign(plain) {
            let pressed = known.get(&code).copied().unwrap_or_else(Instant::now);
            spares.push(Spare { code, sym: plain, pressed });
            continue;
        }
        for (sym, shifted) in [(plain, false), (with_shift, true)] {
            if sym != NONE {
                let key = Key { code, shifted };
                // The plain key, and of several the first: numbers of the keypad come after those of the main field.
                keys.entry(sym).and_modify(|former: &mut Key| {
                    if former.shifted && !shifted {
                        *former = key;
                    }
                });
                keys.entry(sym).or_insert(key);
            }
        }
    }
    (keys, spares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_tells_keys_and_spares() {
        // a A, 1 !, nothing, é é é é (ours), Return, ! alone, BackSpace whatever is held.
        let rows = [
            [0x61, 0x41, 0, 0],
            [0x31, 0x21, 0, 0],
            [0; 4],
            [0xe9; 4],
            [0xff0d, 0, 0, 0],
            [0x21, 0, 0, 0],
            [0xff08; 4],
        ];
        let (keys, spares) = meanings(10, 4, rows.as_flattened(), &HashMap::new());
        assert_eq!(keys[&0xff08], Key { code: 16, shifted: false });
        assert_eq!(keys[&0x61], Key { code: 10, shifted: false });
        assert_eq!(keys[&0x41], Key { code: 10, shifted: true });
        assert_eq!(keys[&0xff0d], Key { code: 14, shifted: false });
        assert_eq!(keys[&0x21], Key { code: 15, shifted: false }, "without Shift where there is such a key");
        let spares: Vec<_> = spares.iter().map(|spare| (spare.code, spare.sym)).collect();
        assert_eq!(spares, [(12, 0), (13, 0xe9)]);
    }
}
