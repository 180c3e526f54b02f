//! The desktop as an API: what a server asks of the runner that has a session's display, and what it answers.
//!
//! The words go over a WebSocket of [`Stream::Desktop`](crate::link::Stream), which the runner dials once per session.
//! Each of its binary frames is a [`frame`]: a head in JSON and a payload. The server sends [`Call`]s; several may be
//! under way at once. The runner answers each by its id with a [`Answer`]; what an answer has to carry (pixels)
//! follows in pieces, so that neither side holds up another call for long.

mod actions;
pub mod frame;

use serde::{Deserialize, Serialize};

use crate::control::Viewer;
use crate::error::ErrorCode;

pub use actions::{Action, Button, Input, MAX_ACTIONS, MAX_TEXT_BYTES, MAX_WAIT_MS};

/// Longest text of the clipboard, either way, in bytes.
pub const MAX_CLIPBOARD_BYTES: usize = 1 << 20;
/// Calls of one session that may be under way at once.
pub const MAX_CALLS: usize = 32;
/// Of these, pictures.
pub const MAX_PICTURES: usize = 8;
/// Longest time that a `wait` may ask for, in milliseconds.
pub const MAX_WAIT_TIMEOUT_MS: u64 = 60_000;
/// Longest time that any call may take on the runner, in seconds.
pub const CALL_SECONDS: u64 = 75;

/// Head of a frame to the runner: what is asked, and by whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the server, never twice on one stream.
    pub id: u64,
    /// Who asks.
    pub by: Viewer,
    /// What.
    pub request: Request,
}

/// What is asked of a desktop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// A picture.
    Screenshot(Screenshot),
    /// Keys and pointer.
    Input(Input),
    /// The windows that the window manager lists.
    Windows {},
    /// Something done to one of them.
    Window {
        /// Its id.
        window: u32,
        /// What.
        action: WindowAction,
    },
    /// The text of the clipboard.
    GetClipboard {},
    /// Another text for it.
    SetClipboard(Clipboard),
    /// The size of the screen.
    GetDisplay {},
    /// Another size.
    SetDisplay(DisplaySize),
    /// Where the pointer is.
    Cursor {},
    /// Until pixels change, or have settled.
    Wait(Wait),
    /// The caller of that call has left: nothing more is done for it.
    Cancel {
        /// Its id.
        call: u64,
    },
}

/// Head of a frame from the runner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Of which call.
    pub id: u64,
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a call went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Done. The payload is the first piece of `bytes` in all.
    Done {
        /// What came of it.
        reply: Reply,
        /// Bytes of all pieces together.
        #[serde(default)]
        bytes: u64,
    },
    /// The payload is the next piece.
    More {},
    /// Not done, or not to its end.
    Refused {
        /// Stable code.
        code: ErrorCode,
        /// For people.
        detail: String,
    },
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// The picture is the payload.
    Picture(Picture),
    /// The caller has that very picture.
    NotModified {
        /// Its tag.
        etag: String,
    },
    /// Actions were done.
    Input(InputDone),
    /// The windows.
    Windows(WindowList),
    /// One window as it is now.
    Window(WindowView),
    /// A text.
    Clipboard(Clipboard),
    /// The screen.
    Display(DisplayView),
    /// The pointer.
    Cursor(CursorView),
    /// What was waited for.
    Waited(Waited),
    /// Nothing to say.
    Ok {},
}

/// Which picture is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Screenshot {
    /// How it is encoded.
    pub format: ImageFormat,
    /// Only this part of the screen.
    pub region: Option<Region>,
    /// 0.1 to 1: each side is that much of the original.
    pub scale: f64,
    /// Of a JPEG, 1 to 100.
    pub quality: u8,
    /// With the pointer in it.
    pub cursor: bool,
    /// Tags of pictures that the caller has.
    pub known: Vec<String>,
}

/// A picture that follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// Changes when the screen, the pointer or the wish changes.
    pub etag: String,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

/// How a picture is encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ImageFormat {
    /// Without loss.
    #[default]
    Png,
    /// Smallest and fastest.
    Jpeg,
    /// Without loss.
    Webp,
    /// Rows from the top, four bytes each pixel: red, green, blue, 255.
    Raw,
}

impl ImageFormat {
    /// Media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
            Self::Raw => "application/octet-stream",
        }
    }
}

/// A part of the screen, in pixels; written `x,y,width,height`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Region {
    /// Left edge.
    pub x: u16,
    /// Upper edge.
    pub y: u16,
    /// At least 1.
    pub width: u16,
    /// At least 1.
    pub height: u16,
}

impl std::str::FromStr for Region {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u16>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[x, y, width, height]) if width > 0 && height > 0 => Ok(Self { x, y, width, height }),
            _ => Err(format!("{text:?} is no region: write x,y,width,height in pixels, for example 0,0,640,480")),
        }
    }
}

impl std::fmt::Display for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { x, y, width, height } = self;
        write!(f, "{x},{y},{width},{height}")
    }
}

/// Answer of `input`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InputDone {
    /// Actions done: all of them.
    pub done: usize,
}

/// Where a call has left the pointer, as `GET /api/v1/sessions/{id}/pointer` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pointed {
    /// From the left edge, in pixels.
    pub x: i64,
    /// From the upper edge, in pixels.
    pub y: i64,
    /// Name of the caller's token.
    pub by: String,
    /// The caller is the session itself: its agent.
    pub is_agent: bool,
}

/// The windows of a desktop, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WindowList {
    /// Each window that the window manager lists.
    pub windows: Vec<WindowView>,
}

/// A window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WindowView {
    /// Id of it while it exists.
    pub id: u32,
    /// As its program says.
    pub title: String,
    /// Class of its program (`WM_CLASS`).
    pub class: String,
    /// Process that it says it belongs to.
    pub pid: Option<u32>,
    /// Left edge on the screen, in pixels.
    pub x: i32,
    /// Upper edge on the screen, in pixels.
    pub y: i32,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Keys go to it.
    pub active: bool,
    /// As large as the screen.
    pub maximised: bool,
}

/// What can be done to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum WindowAction {
    /// Keys go to it, and it is in front.
    Focus,
    /// As large as the screen.
    Maximise,
    /// As large as it was before.
    Restore,
    /// Asked to close, as by its button.
    Close,
}

impl WindowAction {
    /// Every action.
    pub const ALL: [Self; 4] = [Self::Focus, Self::Maximise, Self::Restore, Self::Close];

    /// The word in paths and commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Focus => "focus",
            Self::Maximise => "maximise",
            Self::Restore => "restore",
            Self::Close => "close",
        }
    }
}

/// The text of the clipboard.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Clipboard {
    /// At most 1 MiB; empty where nobody has put a text there.
    pub text: String,
}

impl std::fmt::Debug for Clipboard {
    /// Without the text: people put passwords there.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clipboard({} bytes)", self.text.len())
    }
}

/// A size that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DisplaySize {
    /// 64 to 8192 pixels.
    pub width: u32,
    /// 64 to 8192 pixels.
    pub height: u32,
}

/// The screen as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DisplayView {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Bits of a pixel that carry colour.
    pub depth: u8,
}

/// Where the pointer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CursorView {
    /// From the left edge, in pixels.
    pub x: i32,
    /// From the upper edge, in pixels.
    pub y: i32,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Wait {
    /// Change or rest.
    #[serde(rename = "for")]
    pub goal: WaitFor,
    /// Only what happens in this part of the screen.
    #[serde(default)]
    pub region: Option<Region>,
    /// Longest wait, 10 s where absent, at most 60 s.
    #[serde(default = "ten_seconds")]
    pub timeout_ms: u64,
    /// For `settle`: nothing has changed for so long, 500 ms where absent.
    #[serde(default = "half_a_second")]
    pub quiet_ms: u64,
}

fn ten_seconds() -> u64 {
    10_000
}

fn half_a_second() -> u64 {
    500
}

/// Change or rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum WaitFor {
    /// A pixel differs from what it was when the call came.
    Change,
    /// No pixel has changed for a while.
    Settle,
}

/// Answer of `wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Waited {
    /// A pixel changed since the call came.
    pub changed: bool,
    /// What was waited for has come; false when the time was up before.
    pub reached: bool,
    /// Time waited, in milliseconds.
    pub waited_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Role;

    #[test]
    fn regions_are_four_numbers() {
        let region: Region = "1,2, 30,40".parse().expect("a region");
        assert_eq!(region.to_string(), "1,2,30,40");
        for bad in ["", "1,2,3", "1,2,0,4", "1,2,3,-4", "1,2,3,4,5", "a,b,c,d", "1,2,3,70000"] {
            assert!(bad.parse::<Region>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_words_on_the_wire() {
        let by = Viewer { by: "ci".to_owned(), token: "t".to_owned(), seat: None, role: Role::Control, password: None };
        let call = Call { id: 1, by, request: Request::Window { window: 7, action: WindowAction::Focus } };
        insta::assert_json_snapshot!(call, @r#"
        {
          "id": 1,
          "by": {
            "by": "ci",
            "token": "t",
            "role": "control"
          },
          "request": {
            "type": "window",
            "window": 7,
            "action": "focus"
          }
        }
        "#);
        let outcome = Outcome::Done { reply: Reply::Cursor(CursorView { x: 1, y: 2 }), bytes: 0 };
        insta::assert_json_snapshot!(Answer { id: 1, outcome }, @r#"
        {
          "id": 1,
          "outcome": "done",
          "reply": {
            "type": "cursor",
            "x": 1,
            "y": 2
          },
          "bytes": 0
        }
        "#);
    }

    #[test]
    fn a_wait_has_its_times_where_none_are_given() {
        let wait: Wait = serde_json::from_str(r#"{"for": "settle"}"#).expect("a wait");
        assert_eq!((wait.goal, wait.timeout_ms, wait.quiet_ms), (WaitFor::Settle, 10_000, 500));
        assert!(serde_json::from_str::<Wait>(r#"{"for": "settle", "foo": 1}"#).is_err());
    }

    #[test]
    fn a_clipboard_is_not_logged() {
        let clipboard = Clipboard { text: "secret".to_owned() };
        assert!(!format!("{clipboard:?}").contains("secret"));
    }
}
