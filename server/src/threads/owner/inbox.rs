//! What agents said and nobody has dealt with yet: in order, and no more than it must be.
//!
//! Of an entry only what it is now counts, so a newer snapshot takes the place of one that waits. It never passes a
//! frame of another kind: what ends a turn stays behind what the turn said. While the store is slow a flood of
//! snapshots costs one per entry; what cannot be joined fills the inbox, and then its sockets are not read.

use std::collections::{HashMap, VecDeque};

use async_nats::Subject;
use tokio::time::Instant;

use super::super::decide::words::{EntrySaid, Said, Text};
use super::super::decide::{CADENCE, PeerId};

/// Bytes of text that may wait before sockets are not read any more.
const ROOM: usize = 16 << 20;
/// The same in frames.
const FRAMES: usize = 4096;

/// A frame that waits.
#[derive(Debug)]
pub struct Frame {
    /// Who said it.
    pub from: PeerId,
    /// What.
    pub said: Said,
    /// When it came.
    pub at: Instant,
    /// Who waits to hear that it is stored.
    pub passed: Vec<Passed>,
}

/// What another server passed on.
#[derive(Debug)]
pub struct Passed {
    /// Where the answer goes.
    pub inbox: Subject,
    /// Who passed it on.
    pub from: String,
    /// Its place among what that one passes on.
    pub number: u64,
}

/// Frames that wait.
#[derive(Debug, Default)]
pub struct Inbox {
    frames: VecDeque<Frame>,
    /// Entries behind the last frame of another kind, by their place counted from the first frame ever.
    entries: HashMap<(Option<String>, String), u64>,
    taken: u64,
    bytes: usize,
}

impl Inbox {
    /// True while more may come.
    pub fn has_room(&self) -> bool {
        self.bytes < ROOM && self.frames.len() < FRAMES
    }

    /// True where nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes a frame in, or joins it with one that waits.
    pub fn push(&mut self, mut frame: Frame) {
        self.bytes += size(&frame.said);
        match &mut frame.said {
            Said::Entry(newer) => {
                let key = (newer.acp.clone(), newer.id.clone());
                let waiting = self.entries.get(&key).and_then(|place| place.checked_sub(self.taken));
                if let Some(former) = waiting.and_then(|index| self.frames.get_mut(usize::try_from(index).ok()?))
                    && let Said::Entry(entry) = &mut former.said
                    && entry.request == newer.request
                    && entry.role == newer.role
                {
                    let before = text_of(entry).len() + text_of(newer).len();
                    // What that says of a turn's end must not be lost with it.
                    let repeated = entry.text == newer.text && entry.tool == newer.tool;
                    let hurried = newer.tool.is_none() && frame.at.duration_since(former.at) < CADENCE;
                    if join(&mut entry.text, &mut newer.text) {
                        // The newer one says how the tool is.
                        entry.tool = newer.tool.take();
                        entry.flushed = repeated || hurried || newer.flushed;
                        former.at = frame.at;
                        self.bytes = (self.bytes + text_of(entry).len()).saturating_sub(before);
                        former.passed.append(&mut frame.passed);
                        return;
                    }
                }
                self.entries.insert(key, self.taken + self.frames.len() as u64);
            }
            Said::Malformed { count: more, .. } => {
                if let Some(former) = self.frames.back_mut()
                    && let Said::Malformed { count, .. } = &mut former.said
                {
                    *count += *more;
                    former.passed.append(&mut frame.passed);
                    return;
                }
                self.entries.clear();
            }
            _ => self.entries.clear(),
        }
        self.frames.push_back(frame);
    }

    /// The frame that has waited longest.
    pub fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.taken += 1;
        self.bytes = self.bytes.saturating_sub(size(&frame.said));
        if self.frames.is_empty() {
            self.entries.clear();
        }
        Some(frame)
    }
}

/// Makes of the former what both say together, where that can be said without knowing the entry.
fn join(former: &mut Text, newer: &mut Text) -> bool {
    match (&mut *former, newer) {
        (Text::From(_, kept) | Text::Append(kept), Text::Append(more)) => kept.push_str(more),
        (Text::From(from, kept), Text::From(at, text)) if *at > *from => {
            let stays = usize::try_from(*at - *from).ok().filter(|stays| kept.is_char_boundary(*stays));
            let Some(stays) = stays else { return false };
            kept.truncate(stays);
            kept.push_str(text);
        }
        (Text::Append(_), Text::From(at, _)) if *at > 0 => return false,
        (Text::From(..) | Text::Append(_), Text::From(at, text)) => *former = Text::From(*at, std::mem::take(text)),
    }
    true
}

fn text_of(entry: &EntrySaid) -> &str {
    match &entry.text {
        Text::From(_, text) | Text::Append(text) => text,
    }
}

fn size(said: &Said) -> usize {
    match said {
        Said::Entry(entry) => text_of(entry).len(),
        // Its size as JSON is not worth the counting; what is large is cut when it is stored.
        Said::Other { data, .. } => data.as_str().map_or(64, str::len),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
