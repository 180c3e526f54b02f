//! WebSocket frames (RFC 6455) as the splice needs them: masked ones in, unmasked ones out, data as one stream.
//!
//! Pure. The handshake is axum's matter; there are no extensions, so every reserved bit is a fault.

/// Longest frame head written here.
pub const MAX_HEAD: usize = 4;
/// Most data bytes behind one head of [`MAX_HEAD`].
const MAX_DATA: usize = u16::MAX as usize;
/// Longest payload of a control frame.
const MAX_CONTROL: usize = 125;

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
/// Opcode of a ping.
pub const PING: u8 = 9;
/// Opcode of a pong.
pub const PONG: u8 = 10;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// In place of a length: 16 bits of it follow.
const LENGTH_16: u8 = 0x7e;
/// In place of a length: 64 bits of it follow.
const LENGTH_64: u8 = 0x7f;

/// Why a side's input ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// It sent a close frame.
    Closed,
    /// Text, or no WebSocket frame at all.
    Refused,
}

/// Where in a frame the input stands.
#[derive(Default)]
pub struct Inbound {
    head: Vec<u8>,
    payload: Option<Payload>,
}

struct Payload {
    opcode: u8,
    mask: [u8; 4],
    remaining: u64,
    /// Of a control frame, so far.
    control: Vec<u8>,
}

impl Inbound {
    /// Takes what was read into `buffer` behind [`MAX_HEAD`] free bytes, and returns the data in it as one binary
    /// frame, in place; empty where there was none. With a fault: the data before it. `on_ping` gets the payload
    /// that each ping wants back.
    pub fn take<'b>(
        &mut self,
        buffer: &'b mut [u8],
        mut on_ping: impl FnMut(&[u8]),
    ) -> Result<&'b [u8], (&'b [u8], Fault)> {
        let (mut at, mut data_end) = (MAX_HEAD, MAX_HEAD);
        let mut fault = None;
        while at < buffer.len() && fault.is_none() {
            let Some(payload) = &mut self.payload else {
                at += self.take_head(&buffer[at..]);
                match parse_head(&self.head) {
                    Head::Partial => {}
                    Head::Refused => fault = Some(Fault::Refused),
                    Head::Whole(payload) => {
                        self.head.clear();
                        self.payload = Some(payload);
                        // A control frame without payload has no bytes to come for.
                        fault = self.end_of_frame(&mut on_ping);
                    }
                }
                continue;
            };
            let length = (payload.remaining.min((buffer.len() - at) as u64)) as usize;
            unmask(&mut buffer[at..at + length], &mut payload.mask);
            if payload.opcode < CLOSE {
                buffer.copy_within(at..at + length, data_end);
                data_end += length;
            } else {
                payload.control.extend_from_slice(&buffer[at..at + length]);
            }
            at += length;
            payload.remaining -= length as u64;
            fault = self.end_of_frame(&mut on_ping);
        }
        let out = frame_in_place(buffer, data_end);
        match fault {
            None => Ok(out),
            Some(fault) => Err((out, fault)),
        }
    }

    /// Moves bytes of a head over, as many as it still needs; says how many.
    fn take_head(&mut self, bytes: &[u8]) -> usize {
        let wanted = head_length(&self.head);
        let mut taken = bytes.len().min(wanted - self.head.len());
        self.head.extend_from_slice(&bytes[..taken]);
        // The first two bytes tell the real length.
        let more = head_length(&self.head) - self.head.len();
        let rest = &bytes[taken..];
        let more = more.min(rest.len());
        self.head.extend_from_slice(&rest[..more]);
        taken += more;
        taken
    }

    fn end_of_frame(&mut self, on_ping: &mut impl FnMut(&[u8])) -> Option<Fault> {
        let payload = self.payload.take_if(|payload| payload.remaining == 0)?;
        match payload.opcode {
            PING => on_ping(&payload.control),
            CLOSE => return Some(Fault::Closed),
            _ => {}
        }
        None
    }
}

/// Bytes of the whole head, as far as `head` tells yet.
fn head_length(head: &[u8]) -> usize {
    match head.get(1).map(|byte| byte & !MASKED) {
        None => 2,
        Some(LENGTH_16) => 2 + 2 + 4,
        Some(LENGTH_64) => 2 + 8 + 4,
        Some(_) => 2 + 4,
    }
}

enum Head {
    Partial,
    Refused,
    Whole(Payload),
}

fn parse_head(head: &[u8]) -> Head {
    let [first, second, rest @ ..] = head else { return Head::Partial };
    let (opcode, known_bits) = (first & 0x0f, first & 0x70 == 0);
    let control = opcode >= CLOSE;
    let fits = !control || (first & FINAL != 0 && usize::from(second & !MASKED) <= MAX_CONTROL);
    // A client masks every frame.
    let expected = matches!(opcode, CONTINUATION | BINARY | CLOSE | PING | PONG) && second & MASKED != 0;
    if !(known_bits && fits && expected) {
        return Head::Refused;
    }
    let length = match second & !MASKED {
        LENGTH_16 => rest.split_first_chunk().map(|(length, mask)| (u64::from(u16::from_be_bytes(*length)), mask)),
        LENGTH_64 => rest.split_first_chunk().map(|(length, mask)| (u64::from_be_bytes(*length), mask)),
        length => Some((u64::from(length), rest)),
    };
    match length.and_then(|(remaining, mask)| Some((remaining, <[u8; 4]>::try_from(mask).ok()?))) {
        Some((remaining, mask)) => Head::Whole(Payload { opcode, mask, remaining, control: Vec::new() }),
        None => Head::Partial,
    }
}

/// XORs `bytes` and turns the mask to where the next byte stands.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        let plain = wide ^ u64::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
        word.copy_from_slice(&plain.to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    mask.rotate_left(bytes.len() % 4);
}

/// The data at `buffer[MAX_HEAD..end]` as one frame: its head goes into the free bytes before it.
fn frame_in_place(buffer: &mut [u8], end: usize) -> &[u8] {
    let length = end - MAX_HEAD;
    debug_assert!(length <= MAX_DATA, "one read is smaller");
    match length {
        0 => &[],
        1..=MAX_CONTROL => {
            buffer[2..4].copy_from_slice(&[FINAL | BINARY, length as u8]);
            &buffer[2..end]
        }
        _ => {
            let [high, low] = (length as u16).to_be_bytes();
            buffer[..4].copy_from_slice(&[FINAL | BINARY, LENGTH_16, high, low]);
            &buffer[..end]
        }
    }
}

/// A control frame. Its payload is cut to what one may hold.
pub fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(MAX_CONTROL)];
    let mut frame = Vec::with_capacity(2 + payload.len());
    frame.extend_from_slice(&[FINAL | opcode, payload.len() as u8]);
    frame.extend_from_slice(payload);
    frame
}

/// A close frame.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    control(CLOSE, &[&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client sends it.
    fn masked(opcode: u8, payload: &[u8], mask: [u8; 4], last: bool) -> Vec<u8> {
        let mut frame = vec![if last { FINAL | opcode } else { opcode }];
        match payload.len() {
            length @ 0..=125 => frame.push(MASKED | length as u8),
            length @ 126..=0xffff => {
                frame.push(MASKED | LENGTH_16);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(MASKED | LENGTH_64);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// What came out of `input`, read in pieces: data, pings, and how it ended.
    fn run(input: &[u8], piece: usize) -> (Vec<u8>, Vec<Vec<u8>>, Option<Fault>) {
        let (mut inbound, mut data, mut pings) = (Inbound::default(), Vec::new(), Vec::new());
        for piece in input.chunks(piece) {
            let mut buffer = [&[0; MAX_HEAD][..], piece].concat();
            let taken = inbound.take(&mut buffer, |ping| pings.push(ping.to_vec()));
            let (out, fault) = match taken {
                Ok(out) => (out, None),
                Err((out, fault)) => (out, Some(fault)),
            };
            data.extend_from_slice(payload_of(out));
            if fault.is_some() {
                return (data, pings, fault);
            }
        }
        (data, pings, None)
    }

    /// The payload of one unmasked binary frame.
    fn payload_of(frame: &[u8]) -> &[u8] {
        match frame {
            [] => &[],
            [0x82, LENGTH_16, high, low, payload @ ..] => {
                assert_eq!(usize::from(u16::from_be_bytes([*high, *low])), payload.len());
                payload
            }
            [0x82, length, payload @ ..] => {
                assert_eq!(usize::from(*length), payload.len());
                payload
            }
            other => panic!("not a binary frame: {:?}", &other[..other.len().min(8)]),
        }
    }

    proptest! {
        #[test]
        fn data_survives_any_cutting(
            frames in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..400), any::<[u8; 4]>(), any::<bool>(), any::<bool>()), 1..8),
            piece in 1..700_usize,
        ) {
            let (mut input, mut expected, mut pings) = (Vec::new(), Vec::new(), Vec::new());
            for (payload, mask, last, ping) in &frames {
                let opcode = if *last { BINARY } else { CONTINUATION };
                input.extend(masked(opcode, payload, *mask, *last));
                expected.extend_from_slice(payload);
                if *ping {
                    let payload = &payload[..payload.len().min(MAX_CONTROL)];
                    input.extend(masked(PING, payload, *mask, true));
                    pings.push(payload.to_vec());
                }
            }
            prop_assert_eq!(run(&input, piece), (expected, pings, None));
        }

        #[test]
        fn noise_never_panics(input in proptest::collection::vec(any::<u8>(), 0..300), piece in 1..64_usize) {
            run(&input, piece);
        }
    }

    #[test]
    fn a_frame_longer_than_a_read_passes_in_pieces() {
        let payload: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let (data, _, fault) = run(&masked(BINARY, &payload, [1, 2, 3, 4], true), 50_000);
        assert_eq!((data == payload, fault), (true, None));
    }

    #[test]
    fn data_before_the_end_is_kept() {
        let mut input = masked(BINARY, b"last words", [9, 8, 7, 6], true);
        input.extend(masked(CLOSE, &1000_u16.to_be_bytes(), [1; 4], true));
        assert_eq!(run(&input, 1000), (b"last words".to_vec(), vec![], Some(Fault::Closed)));
    }

    #[test]
    fn what_no_client_may_send_is_refused() {
        let text = masked(1, b"text", [1; 4], true);
        let reserved = [0xc2, 0x80, 0, 0, 0, 0].to_vec();
        let unmasked = [0x82, 1, 0, 0, 0, 0].to_vec();
        let long_ping = [0x89, MASKED | LENGTH_16, 0, 126].to_vec();
        let cut_ping = masked(PING, b"", [1; 4], false);
        for input in [text, reserved, unmasked, long_ping, cut_ping] {
            assert_eq!(run(&input, 1000).2, Some(Fault::Refused), "{input:?}");
        }
    }
}
