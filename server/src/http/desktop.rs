//! A session's desktop as an API: pictures, input, windows, clipboard, size.
//!
//! Tasks: one per picture on its way, which ends when it is sent or has not been taken in time.
//!
//! Handlers decode, authorise and hand on; what is possible on a screen is decided where the screen is, by the runner.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream;
use helix_protocol::control::{Role, Viewer};
use helix_protocol::desktop::{
    Clipboard, CursorView, DisplaySize, DisplayView, ImageFormat, Input, InputDone, Region, Reply, Request, Screenshot,
    Wait, Waited, WindowAction, WindowList, WindowView,
};
use helix_protocol::{ErrorCode, Seat, SessionId};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Body, Id, Path, Query};
use super::pointer;
use super::registry::Registry;
use super::streams::{forbidden, online_runner, require_desktop};
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::desktop::{Answered, Place};
use crate::error::{Error, Result};

/// Size of a picture, which a raw one does not tell itself.
const WIDTH: HeaderName = HeaderName::from_static("x-helix-width");
const HEIGHT: HeaderName = HeaderName::from_static("x-helix-height");
/// For a picture to be taken, however slowly.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// From which seat a call comes.
const SEAT: HeaderName = HeaderName::from_static("x-helix-seat");

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Read, routes!(screenshot))
        .add(Need::Drive, routes!(input))
        .add(Need::Read, routes!(windows))
        .add(Need::Drive, routes!(window))
        .add(Need::Drive, routes!(clipboard))
        .add(Need::Drive, routes!(set_clipboard))
        .add(Need::Read, routes!(display))
        .add(Need::Drive, routes!(set_display))
        .add(Need::Read, routes!(cursor))
        .add(Need::Read, routes!(wait))
}

/// What a caller must be allowed to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    See,
    Drive,
}

/// Asks the session's desktop, if the caller may.
async fn ask(app: &App, by: &Caller, id: &SessionId, may: May, request: Request) -> Result<Answered> {
    let Caller { principal, seat } = by;
    let at = app.sessions.find(principal, id).await?;
    if may == May::Drive && !principal.may_drive(id, &at.view.owner) {
        return Err(forbidden(principal, "drive this session's desktop"));
    }
    require_desktop(&at.view)?;
    let runner = online_runner(app, &at.view).await?;
    let place = Place { runner, session: at.desktop, epoch: at.view.epoch };
    let role = if may == May::Drive { Role::Control } else { Role::View };
    let viewer =
        Viewer { by: principal.name.clone(), token: principal.digest(), seat: seat.clone(), role, password: None };
    app.desktops.call(&place, viewer, request).await
}

/// Who asks, and from which seat: who holds the control types from there alone.
struct Caller {
    principal: Principal,
    seat: Option<Seat>,
}

impl FromRequestParts<App> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let principal = Principal::from_request_parts(parts, app).await?;
        let invalid = |why: String| Error::new(ErrorCode::InvalidRequest, format!("header {}: {why}", SEAT.as_str()));
        let seat = match parts.headers.get(SEAT).map(HeaderValue::to_str) {
            None => None,
            Some(Ok(text)) => Some(Seat::parse(text).map_err(|error| invalid(error.to_string()))?),
            Some(Err(error)) => return Err(invalid(error.to_string())),
        };
        Ok(Self { principal, seat })
    }
}

/// The reply that this call has, of all there are.
macro_rules! expect {
    ($answered:expr, $kind:ident) => {
        match $answered.reply {
            Reply::$kind(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    };
}

fn unexpected(reply: &Reply) -> Error {
    Error::new(ErrorCode::Internal, format!("a runner answers a call with {reply:?}"))
}

/// Which picture.
#[derive(Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ScreenshotQuery {
    /// `png` where absent, `jpeg`, `webp` (without loss) or `raw` (rows of red, green, blue, 255).
    #[param(inline)]
    format: ImageFormat,
    /// Only this part of the screen: `x,y,width,height` in pixels.
    region: Option<String>,
    /// 0.1 to 1, 1 where absent: each side is that much of the original.
    scale: f64,
    /// Of a JPEG: 1 to 100, 80 where absent.
    quality: u8,
    /// `false`: without the pointer.
    cursor: bool,
}

impl Default for ScreenshotQuery {
    fn default() -> Self {
        Self { format: ImageFormat::Png, region: None, scale: 1.0, quality: 80, cursor: true }
    }
}

impl ScreenshotQuery {
    fn wanted(&self, headers: &HeaderMap) -> Result<Screenshot> {
        let invalid = |fault: String| Error::new(ErrorCode::InvalidRequest, format!("the query: region: {fault}"));
        let region = self.region.as_deref().map(str::parse::<Region>).transpose().map_err(invalid)?;
        if !self.scale.is_finite() {
            // JSON has no such number, so the runner could not be asked.
            return Err(Error::new(ErrorCode::InvalidRequest, "the query: scale: write 0.1 to 1"));
        }
        let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let known = known.flat_map(|list| list.split(',')).map(|tag| tag.trim().trim_start_matches("W/").to_owned());
        let Self { format, scale, quality, cursor, .. } = *self;
        Ok(Screenshot { format, region, scale, quality, cursor, known: known.take(MAX_TAGS).collect() })
    }
}

/// Most tags of `If-None-Match` that are looked at.
const MAX_TAGS: usize = 16;

/// A picture of the screen. Its `ETag` stays the same while nothing is drawn and the pointer rests: with
/// `If-None-Match` the answer is then 304, and no picture is taken. `x-helix-width` and `x-helix-height` tell its size.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/screenshot", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id"), ScreenshotQuery),
    responses(
        (status = 200, description = "The picture", content_type = "image/png", body = Vec<u8>),
        (status = 304, description = "The picture with that tag is still the one")))]
async fn screenshot(
    State(app): State<App>,
    by: Caller,
    Id(id): Id<SessionId>,
    headers: HeaderMap,
    Query(query): Query<ScreenshotQuery>,
) -> Result<Response> {
    let wanted = query.wanted(&headers)?;
    let answered = ask(&app, &by, &id, May::See, Request::Screenshot(wanted)).await?;
    let tag = |etag: &str| {
        HeaderValue::from_str(etag)
            .map_err(|error| Error::new(ErrorCode::Internal, "a runner's tag is no header").because(error))
    };
    let fresh = [(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"))];
    match &answered.reply {
        Reply::NotModified { etag } => {
            Ok((StatusCode::NOT_MODIFIED, fresh, [(header::ETAG, tag(etag)?)]).into_response())
        }
        Reply::Picture(picture) => {
            let head = [
                (header::CONTENT_TYPE, HeaderValue::from_static(query.format.media_type())),
                (header::ETAG, tag(&picture.etag)?),
                (header::CONTENT_LENGTH, answered.bytes.into()),
                (WIDTH, picture.width.into()),
                (HEIGHT, picture.height.into()),
            ];
            Ok((fresh, head, body(answered.bytes, answered.pieces, answered.turn)).into_response())
        }
        other => Err(unexpected(other)),
    }
}

/// The pieces as they come. One that breaks off ends the connection, as the length was told. `turn` is dropped with the
/// last of them.
fn body(bytes: u64, mut pieces: mpsc::UnboundedReceiver<Bytes>, turn: impl Send + 'static) -> axum::body::Body {
    let (sender, taken) = mpsc::channel(1);
    // A task, as nobody asks for the next piece while the socket is full.
    let pass = async move {
        let _turn = turn;
        while let Some(piece) = pieces.recv().await {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(tokio::time::timeout(BODY_TIMEOUT, pass));
    let pieces = stream::unfold((taken, bytes), |(mut taken, left)| async move {
        if left == 0 {
            return None;
        }
        match taken.recv().await {
            Some(piece) => {
                let left = left.saturating_sub(piece.len() as u64);
                Some((Ok(piece), (taken, left)))
            }
            None => Some((Err(std::io::Error::other("the picture broke off, or was not taken in time")), (taken, 0))),
        }
    });
    axum::body::Body::from_stream(pieces)
}

/// Keys and pointer. All actions are checked before the first is done: a fault is 400, names its action, and nothing
/// is done. Input of one session is done in the order in which it arrives.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/input", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), request_body = Input,
    responses((status = 200, body = InputDone)))]
async fn input(
    State(app): State<App>,
    by: Caller,
    Id(id): Id<SessionId>,
    Body(input): Body<Input>,
) -> Result<Json<InputDone>> {
    let pointed = input.pointer();
    let answered = ask(&app, &by, &id, May::Drive, Request::Input(input)).await?;
    if let Some(place) = pointed {
        pointer::tell(&app, &by.principal, &id, place).await;
    }
    expect!(answered, Input).map(Json)
}

/// The windows that the window manager lists, the oldest first.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/windows", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = WindowList)))]
async fn windows(State(app): State<App>, by: Caller, Id(id): Id<SessionId>) -> Result<Json<WindowList>> {
    let answered = ask(&app, &by, &id, May::See, Request::Windows {}).await?;
    expect!(answered, Windows).map(Json)
}

/// Which window, and what is done to it.
#[derive(Deserialize)]
struct WindowPath {
    window: String,
    action: WindowAction,
}

/// Does something to a window and waits for the effect: `focus`, `maximise`, `restore` or `close`. Answers the window
/// as it is then, or 204 once it is closed.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/windows/{window}/{action}", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id"),
        ("window" = String, Path, description = "Its id, decimal or with 0x"),
        ("action" = inline(WindowAction), Path, description = "What is done")),
    responses((status = 200, body = WindowView), (status = 204, description = "Closed")))]
async fn window(
    State(app): State<App>,
    by: Caller,
    Id(id): Id<SessionId>,
    Path(path): Path<WindowPath>,
) -> Result<Response> {
    let WindowPath { window, action } = path;
    let number = match window.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => window.parse(),
    };
    let window = number.map_err(|_| {
        let window: String = window.chars().take(40).collect();
        Error::new(ErrorCode::InvalidRequest, format!("the path: {window:?} is no window; GET …/windows lists them"))
    })?;
    let answered = ask(&app, &by, &id, May::Drive, Request::Window { window, action }).await?;
    match answered.reply {
        Reply::Window(view) => Ok(Json(view).into_response()),
        Reply::Ok {} => Ok(StatusCode::NO_CONTENT.into_response()),
        other => Err(unexpected(&other)),
    }
}

/// The text in the clipboard.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/clipboard", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = Clipboard)))]
async fn clipboard(State(app): State<App>, by: Caller, Id(id): Id<SessionId>) -> Result<Json<Clipboard>> {
    let answered = ask(&app, &by, &id, May::Drive, Request::GetClipboard {}).await?;
    expect!(answered, Clipboard).map(Json)
}

/// Puts a text into the clipboard, and into the selection that the middle button pastes.
#[utoipa::path(put, path = "/api/v1/sessions/{id}/clipboard", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), request_body = Clipboard,
    responses((status = 204, description = "It is there")))]
async fn set_clipboard(
    State(app): State<App>,
    by: Caller,
    Id(id): Id<SessionId>,
    Body(clipboard): Body<Clipboard>,
) -> Result<StatusCode> {
    ask(&app, &by, &id, May::Drive, Request::SetClipboard(clipboard)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The size of the screen.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/display", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = DisplayView)))]
async fn display(State(app): State<App>, by: Caller, Id(id): Id<SessionId>) -> Result<Json<DisplayView>> {
    let answered = ask(&app, &by, &id, May::See, Request::GetDisplay {}).await?;
    expect!(answered, Display).map(Json)
}

/// Gives the screen another size.
#[utoipa::path(put, path = "/api/v1/sessions/{id}/display", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), request_body = DisplaySize,
    responses((status = 200, body = DisplayView)))]
async fn set_display(
    State(app): State<App>,
    by: Caller,
    Id(id): Id<SessionId>,
    Body(size): Body<DisplaySize>,
) -> Result<Json<DisplayView>> {
    let answered = ask(&app, &by, &id, May::Drive, Request::SetDisplay(size)).await?;
    expect!(answered, Display).map(Json)
}

/// Where the pointer is.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/cursor", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), responses((status = 200, body = CursorView)))]
async fn cursor(State(app): State<App>, by: Caller, Id(id): Id<SessionId>) -> Result<Json<CursorView>> {
    let answered = ask(&app, &by, &id, May::See, Request::Cursor {}).await?;
    expect!(answered, Cursor).map(Json)
}

/// Waits until pixels change, or until none has changed for a while. That the time is up before is an answer, too.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/wait", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")), request_body = Wait,
    responses((status = 200, body = Waited)))]
async fn wait(
    State(app): State<App>,
    by: Caller,
    Id(id): Id<SessionId>,
    Body(wait): Body<Wait>,
) -> Result<Json<Waited>> {
    let answered = ask(&app, &by, &id, May::See, Request::Wait(wait)).await?;
    expect!(answered, Waited).map(Json)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::StreamExt as _;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_picture_that_nobody_takes_leaves_the_memory_in_time() {
        let turns = Arc::new(Semaphore::new(1));
        let (sender, pieces) = mpsc::unbounded_channel();
        for piece in ["one", "two", "six"] {
            sender.send(Bytes::from(piece)).expect("taken");
        }
        let turn = turns.clone().try_acquire_owned().expect("free");
        let mut body = body(12, pieces, turn).into_data_stream();
        assert_eq!(body.next().await.expect("a piece").expect("whole"), "one");
        tokio::time::sleep(BODY_TIMEOUT / 2).await;
        assert_eq!(turns.available_permits(), 0);
        tokio::time::sleep(BODY_TIMEOUT).await;
        assert!(turns.available_permits() == 1 && sender.is_closed(), "it is kept");
        assert_eq!(body.next().await.expect("what was on its way").expect("whole"), "two");
        assert!(body.next().await.expect("told").is_err(), "a part is no picture");
    }
}
