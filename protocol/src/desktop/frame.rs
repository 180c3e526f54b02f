//! One binary frame of a desktop stream: four bytes with the length of the head (big-endian), the head in JSON, the
//! payload.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest head: a text for the clipboard, every byte of it escaped.
pub const MAX_HEAD_BYTES: usize = 8 << 20;
/// Most bytes of one piece of a payload.
pub const PIECE_BYTES: usize = 512 * 1024;
/// Largest frame.
pub const MAX_FRAME_BYTES: usize = 4 + MAX_HEAD_BYTES + PIECE_BYTES;

const LENGTH_BYTES: usize = 4;

/// A frame that is none.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Shorter than its head.
    #[error("the frame ends before its head does")]
    Short,
    /// The head is not what is expected here.
    #[error("the head of the frame: {0}")]
    Head(#[from] serde_json::Error),
}

/// Head and payload as one frame, with room for the payload where it is written later.
pub fn encode(head: &impl Serialize, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut frame = Vec::with_capacity(256 + payload.len());
    frame.extend([0; LENGTH_BYTES]);
    serde_json::to_writer(&mut frame, head)?;
    let length = u32::try_from(frame.len() - LENGTH_BYTES).map_err(|_| FrameError::Short)?;
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// The head, and where the payload begins.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<(T, usize), FrameError> {
    let (length, rest) = frame.split_first_chunk::<LENGTH_BYTES>().ok_or(FrameError::Short)?;
    let length = u32::from_be_bytes(*length) as usize;
    let head = rest.get(..length).ok_or(FrameError::Short)?;
    Ok((serde_json::from_slice(head)?, LENGTH_BYTES + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_head_and_its_payload() {
        let frame = encode(&[1, 2], b"pixels").expect("a frame");
        assert_eq!(frame, b"\0\0\0\x05[1,2]pixels");
        let (head, at) = decode::<Vec<u8>>(&frame).expect("a head");
        assert_eq!((head.as_slice(), &frame[at..]), ([1, 2].as_slice(), b"pixels".as_slice()));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bad in [&b""[..], b"\0\0\0", b"\0\0\0\x05[1,2", b"\xff\xff\xff\xff[1]", b"\0\0\0\x01x"] {
            assert!(decode::<Vec<u8>>(bad).is_err(), "{bad:?}");
        }
    }
}
