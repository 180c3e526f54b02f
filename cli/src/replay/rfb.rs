//! What a display said on one connection: the handshake, then updates. Bytes in, pixels onto a picture.
//!
//! Bytes come in pieces of any length; what is no whole message or rectangle yet waits for the rest.

use helix_protocol::recording::SegmentStart;

use super::tight::Tight;
use super::{Picture, ReplayError};

/// Most bytes of a rectangle that wait for the rest of it.
const MAX_WAITING: usize = 256 << 20;
/// Longest side of a desktop.
const MAX_SIDE: usize = 16_384;
/// Most pixels of a desktop.
const MAX_PIXELS: usize = 64 << 20;
/// The handshake before ServerInit, and that without its name.
const HANDSHAKE: usize = 18;
const INIT: usize = 24;

/// One connection.
#[derive(Debug)]
pub(super) struct Stream {
    start: SegmentStart,
    unread: Vec<u8>,
    at: At,
    tight: Tight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Handshake,
    Message,
    /// Rectangles of an update that are still to come; none: until one says that it is the last.
    Rectangles(Option<u16>),
}

/// Reads from the front of what has come. None: the rest of it has not.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn i32(&mut self) -> Option<i32> {
        self.take(4).map(|bytes| i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

impl Stream {
    /// A connection that begins.
    pub(super) fn new(start: SegmentStart) -> Self {
        Self { start, unread: Vec::new(), at: At::Handshake, tight: Tight::default() }
    }

    /// Takes the next bytes; true where something was drawn.
    pub(super) fn take(&mut self, bytes: &[u8], picture: &mut Picture) -> Result<bool, ReplayError> {
        self.unread.extend_from_slice(bytes);
        if self.unread.len() > MAX_WAITING {
            return Err(ReplayError::Unexpected("a rectangle that is too large"));
        }
        let mut unread = std::mem::take(&mut self.unread);
        let (mut done, mut drawn) = (0, false);
        loop {
            let mut reader = Reader { bytes: &unread[done..], at: 0 };
            let stepped = self.step(&mut reader, picture, &mut drawn)?;
            if stepped.is_none() {
                break;
            }
            done += reader.at;
        }
        unread.drain(..done);
        self.unread = unread;
        Ok(drawn)
    }

    /// One message or rectangle. None where it is not whole yet; then nothing was done.
    fn step(
        &mut self,
        reader: &mut Reader<'_>,
        picture: &mut Picture,
        drawn: &mut bool,
    ) -> Result<Option<()>, ReplayError> {
        match self.at {
            At::Handshake => {
                let Some(init) = reader.take(HANDSHAKE + INIT) else { return Ok(None) };
                let length = &init[HANDSHAKE + INIT - 4..];
                let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
                let Some(_name) = reader.take(length) else { return Ok(None) };
                resize(picture, usize::from(self.start.width), usize::from(self.start.height))?;
                self.at = At::Message;
                Ok(Some(()))
            }
            At::Message => self.message(reader),
            At::Rectangles(Some(0)) => {
                self.at = At::Message;
                Ok(Some(()))
            }
            At::Rectangles(left) => {
                let Some(more) = self.rectangle(reader, picture, drawn)? else { return Ok(None) };
                self.at = if more { At::Rectangles(left.map(|left| left - 1)) } else { At::Message };
                Ok(Some(()))
            }
        }
    }

    fn message(&mut self, reader: &mut Reader<'_>) -> Result<Option<()>, ReplayError> {
        let passed = match reader.u8() {
            None => None,
            Some(0) => reader.take(1).and_then(|_| reader.u16()).map(|count| {
                self.at = At::Rectangles((count != 0xffff).then_some(count as u16));
            }),
            // Colours of a palette that we do not use.
            Some(1) => reader.take(3).and_then(|_| reader.u16()).and_then(|count| reader.take(6 * count)).map(drop),
            // A bell.
            Some(2) => Some(()),
            // A clipboard.
            Some(3) => reader
                .take(3)
                .and_then(|_| reader.i32())
                .and_then(|length| reader.take(length.unsigned_abs() as usize))
                .map(drop),
            Some(_) => return Err(ReplayError::Unexpected("a message that nobody asked for")),
        };
        Ok(passed)
    }

    /// None where it is not whole yet; false for the last of an update.
    fn rectangle(
        &mut self,
        reader: &mut Reader<'_>,
        picture: &mut Picture,
        drawn: &mut bool,
    ) -> Result<Option<bool>, ReplayError> {
        let mut head = || Some((reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?, reader.i32()?));
        let Some((x, y, width, height, encoding)) = head() else { return Ok(None) };
        let place = (x, y, width, height);
        if ![-223, -308, -224].contains(&encoding) && (x + width > MAX_SIDE || y + height > MAX_SIDE) {
            return Err(ReplayError::Unexpected("a rectangle outside of any desktop"));
        }
        match encoding {
            0 => {
                let Some(pixels) = reader.take(4 * width * height) else { return Ok(None) };
                let pixels: Vec<u8> = pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
                picture.put(place, &pixels);
            }
            1 => {
                let Some(from) = reader.u16().zip(reader.u16()) else { return Ok(None) };
                picture.copy(place, from);
            }
            7 => {
                let Some(()) = self.tight.rectangle(reader, place, picture)? else { return Ok(None) };
            }
            -223 => resize(picture, width, height)?,
            -308 => {
                let Some(screens) = reader.take(4).map(|head| usize::from(head[0])) else { return Ok(None) };
                let Some(_) = reader.take(16 * screens) else { return Ok(None) };
                resize(picture, width, height)?;
            }
            -224 => return Ok(Some(false)),
            _ => return Err(ReplayError::Unexpected("an encoding that nobody asked for")),
        }
        *drawn = true;
        Ok(Some(true))
    }
}

fn resize(picture: &mut Picture, width: usize, height: usize) -> Result<(), ReplayError> {
    if width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS {
        return Err(ReplayError::Unexpected("a size that no desktop has"));
    }
    picture.resize(width, height);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn handshake() -> Vec<u8> {
        let mut bytes = b"RFB 003.008\n\x01\x01\0\0\0\0".to_vec();
        bytes.extend([0, 4, 0, 2]);
        bytes.extend([0; 16]);
        bytes.extend([0, 0, 0, 1, b'x']);
        bytes
    }

    #[test]
    fn a_message_may_come_in_any_pieces() {
        let mut bytes = handshake();
        // A bell, a clipboard; then an update: a raw pixel, a copy of it, the last rectangle.
        bytes.extend([2, 3, 0, 0, 0, 0, 0, 0, 2, b'h', b'i']);
        bytes.extend([0, 0, 0xff, 0xff]);
        bytes.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 10, 20, 30, 0]);
        bytes.extend([0, 3, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x20]);
        for size in [1, 3, bytes.len()] {
            let (mut stream, mut picture) = (Stream::new(SegmentStart { width: 4, height: 2 }), Picture::default());
            for piece in bytes.chunks(size) {
                stream.take(piece, &mut picture).expect("read");
            }
            assert_eq!((picture.at(1, 0), picture.at(3, 1)), (Some([10, 20, 30]), Some([10, 20, 30])));
            assert_eq!((stream.at, stream.unread.len()), (At::Message, 0));
        }
    }

    proptest! {
        #[test]
        fn whatever_a_display_says_is_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (mut stream, mut picture) = (Stream::new(SegmentStart { width: 4, height: 2 }), Picture::default());
            let _ = stream.take(&handshake(), &mut picture);
            let _ = stream.take(&bytes, &mut picture);
        }

        #[test]
        fn whatever_is_in_a_rectangle_is_an_answer(control in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (mut stream, mut picture) = (Stream::new(SegmentStart { width: 64, height: 64 }), Picture::default());
            let _ = stream.take(&handshake(), &mut picture);
            let head = [0, 0, 0, 1, 0, 0, 0, 0, 0, 16, 0, 16, 0, 0, 0, 7, control];
            let _ = stream.take(&[&head[..], &bytes].concat(), &mut picture);
        }
    }
}
