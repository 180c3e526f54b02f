//! Recordings as pictures: takes the records of one recording in order and draws what its desktop showed.
//!
//! [`Player`] follows the segments, [`rfb`] reads what a display said, [`tight`] unpacks it, all onto one [`Picture`]. No
//! I/O. What is read was said by a session's display and is not trusted: sizes are bounded, a fault is an error.

mod picture;
mod rfb;
mod tight;

use helix_protocol::recording::chunk::{self, ChunkError, Record, RecordKind};

pub use self::picture::Picture;
use self::rfb::Stream;

/// Why a recording cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A record is not what it should be.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The display said something that it was not asked for.
    #[error("the display said {0}")]
    Unexpected(&'static str),
    /// Compressed pixels cannot be unpacked.
    #[error("pixels of the display cannot be unpacked: {0}")]
    Packed(String),
}

/// Shows a recording.
#[derive(Debug, Default)]
pub struct Player {
    stream: Option<Stream>,
    picture: Picture,
}

impl Player {
    /// Takes the next record. True where the picture may be another one now.
    pub fn take(&mut self, record: &Record<'_>) -> Result<bool, ReplayError> {
        match record.kind {
            RecordKind::Segment => {
                // The former picture stays until the first of the new connection is whole.
                self.stream = Some(Stream::new(chunk::json(record)?));
                Ok(false)
            }
            RecordKind::Display => {
                let Some(stream) = &mut self.stream else { return Ok(false) };
                stream.take(record.payload, &mut self.picture)
            }
            RecordKind::Start | RecordKind::Event | RecordKind::End => Ok(false),
        }
    }

    /// What the desktop shows now.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }
}
