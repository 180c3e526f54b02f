//! A session's files, commands and terminals: what a server and the session's unit `tools` say to each other on a
//! stream of [`Stream::Tools`](crate::link::Stream::Tools), and the same words as the API has them.
//!
//! A stream is bytes and carries frames both ways: a kind (one byte), the length of what follows (four, big endian),
//! then that. The server begins with one [`Request`]; the first answer is JSON of the type that the request names, or a
//! [`Failure`], behind which nothing comes. Bytes of files and programs travel as they are, in frames of
//! at most [`MAX_DATA`], and are held back by the stream itself. What is typed into a program is the exception: a
//! server sends no more than [`INPUT_WINDOW`] bytes ahead of what [`FrameKind::Taken`] has told, so that a signal, or
//! the end of the stream, never waits behind bytes that a program does not read.

mod files;
mod programs;

use serde::{Deserialize, Serialize};

pub use self::files::{ByteRange, FileEntry, FileKind, FileList, ReadHead, UploadState, WriteRequest};
pub use self::programs::{
    Command, CommandResult, Control, ExecRequest, Exit, Notice, RunCommand, STDERR, STDOUT, Started, TerminalList,
    TerminalSize, TerminalView,
};
use crate::error::ErrorCode;

/// Bytes of a frame's head.
pub const HEAD_BYTES: usize = 5;
/// Most bytes of files or programs in one frame.
pub const MAX_DATA: usize = 64 * 1024;
/// Most bytes of JSON in one frame: an environment, or a page of a large directory.
pub const MAX_JSON: usize = 8 * 1024 * 1024;
/// Bytes of a program's input that may be under way.
pub const INPUT_WINDOW: u32 = 256 * 1024;
/// Streams of one session at once.
pub const MAX_STREAMS: usize = 32;
/// Commands of one session at once that go on without a caller.
pub const MAX_DETACHED: usize = 32;
/// Terminals of one session at once.
pub const MAX_TERMINALS: usize = 16;
/// What is kept of a terminal's output, for whoever comes later.
pub const SCROLLBACK_BYTES: usize = 256 * 1024;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Server: a [`Request`].
    Request = 1,
    /// Tools: the first answer; JSON of the type that the request names.
    Answer = 2,
    /// Either: bytes of a file, of a program's standard input or output, of a terminal.
    Data = 3,
    /// Tools: bytes of a program's standard error.
    ErrorData = 4,
    /// Server: there is no more data. Tools: the same; with a program, its [`Exit`].
    End = 5,
    /// Server: a [`Control`].
    Control = 6,
    /// Tools: a [`Failure`]; nothing follows.
    Failed = 7,
    /// Tools: so many bytes of input were taken by the program (four bytes, big endian).
    Taken = 8,
}

impl FrameKind {
    const ALL: [Self; 8] =
        [Self::Request, Self::Answer, Self::Data, Self::ErrorData, Self::End, Self::Control, Self::Failed, Self::Taken];

    /// Bytes of programs and files, rather than JSON.
    pub fn is_data(self) -> bool {
        matches!(self, Self::Data | Self::ErrorData)
    }
}

/// A frame's head. None for what is no frame.
pub fn parse_head(head: [u8; HEAD_BYTES]) -> Option<(FrameKind, usize)> {
    let [kind, length @ ..] = head;
    let kind = FrameKind::ALL.into_iter().find(|known| *known as u8 == kind)?;
    let length = u32::from_be_bytes(length) as usize;
    let most = if kind.is_data() { MAX_DATA } else { MAX_JSON };
    (length <= most).then_some((kind, length))
}

/// The head of a frame of this many bytes; there are never more than [`MAX_JSON`].
pub fn head(kind: FrameKind, length: usize) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [kind as u8, a, b, c, d]
}

/// What a server wants. Paths are inside the workspace: relative to it, or absolute as programs in the session see it,
/// or below `/workspace`, as the documents write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// From agentd: make a checkpoint of the workspace. What follows is between the two.
    Checkpoint {},
    /// From agentd, before anything else uses the workspace: fill it with a checkpoint.
    Restore {
        /// Its manifest.
        manifest: crate::image::Digest,
    },
    /// Answered by a [`FileEntry`].
    Stat {
        /// Which.
        path: String,
    },
    /// Answered by a [`FileList`].
    List {
        /// A directory.
        path: String,
        /// Only what comes behind this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        /// Most entries.
        limit: u32,
    },
    /// Answered by a [`ReadHead`], then data, then the end.
    Read {
        /// A file.
        path: String,
        /// Which part of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        range: Option<ByteRange>,
        /// The part only where the file still is the one with this tag, all of it otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_range: Option<String>,
    },
    /// Data and the end follow; answered by a [`FileEntry`] when the file is in its place.
    Write(WriteRequest),
    /// Answered by an [`UploadState`].
    Upload {
        /// Where the file will be.
        path: String,
        /// As the writer calls it.
        upload: String,
    },
    /// Answered by [`Done`].
    Delete {
        /// A file, a link or a directory.
        path: String,
        /// A directory with everything in it.
        recursive: bool,
    },
    /// Answered by [`Started`], then data both ways, then the end with an [`Exit`].
    Exec(ExecRequest),
    /// Answered by a [`TerminalView`], then data both ways; the end with an [`Exit`] when its shell has ended.
    Terminal {
        /// Which; made where it does not exist.
        name: String,
        /// Its size from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<TerminalSize>,
    },
    /// Answered by a [`TerminalList`].
    Terminals {},
    /// Answered by [`Done`].
    EndTerminal {
        /// Which.
        name: String,
    },
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Failure {
    /// Stable code.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
}

impl Failure {
    /// A failure.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// It is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// True for what can be the name of a terminal or of an upload: 1 to 64 letters, digits, `_` and `-`.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written() {
        for kind in FrameKind::ALL {
            assert_eq!(parse_head(head(kind, 70)), Some((kind, 70)));
            assert_eq!(parse_head(head(kind, MAX_JSON + 1)), None, "{kind:?}");
        }
        assert_eq!(parse_head(head(FrameKind::Data, MAX_DATA + 1)), None);
        assert_eq!(parse_head([0, 0, 0, 0, 0]), None);
        assert_eq!(parse_head([9, 0, 0, 0, 0]), None);
    }

    #[test]
    fn requests_are_read_as_they_are_written() {
        let exec = ExecRequest {
            command: Command::Line("ls".to_owned()),
            terminal: Some(TerminalSize::DEFAULT),
            ..ExecRequest::default()
        };
        for request in [
            Request::Exec(exec),
            Request::Terminals {},
            Request::Read { path: "a".to_owned(), range: Some(ByteRange::Between(1, 2)), if_range: None },
        ] {
            let text = serde_json::to_string(&request).expect("JSON");
            assert_eq!(serde_json::from_str::<Request>(&text).expect(&text), request);
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        for name in ["a", "main", "x_Y-9", &"n".repeat(64)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "a/b", "ä", &"n".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
