//! The feed of a session's conversation: a WebSocket where the client asks for one, else server-sent events.
//!
//! One task per WebSocket; a stream of server-sent events is the body of its answer and is pulled by its connection.
//! Both end when the token ends, the server leaves, or the session is removed: what is said under its id later may not
//! be the watcher's to see. A client that takes nothing is told the gap and let go (see `threads::feed`).

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{FutureExt as _, Stream, StreamExt as _};
use helix_protocol::thread::ThreadFeedItem;
use helix_protocol::{ErrorCode, SessionId, ThreadId};
use http::{HeaderMap, header};
use serde::Deserialize;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Id, Query, Upgrade};
use super::registry::Registry;
use super::streams::stop;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::relay::{End, GOODBYE, PING_EVERY, SILENCE};
use crate::sessions::Found;
use crate::threads::feed::{FeedMessage, Gap, Mark, Watcher, name_of};

/// Largest message from a watcher: it has nothing to say.
const MAX_MESSAGE: usize = 1024;
/// Close code of a client that takes nothing: it may come back with `after`.
const TOO_SLOW: (u16, &str) = (1013, "too slow: come back with `after`");
/// How long such a client has to read its last frames.
const LAST_FRAMES: Duration = Duration::from_secs(30);
/// Between two signs of life where nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Read, routes!(events))
}

/// Where the feed begins.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// Last `sequence` already seen; 0 for everything. Absent: `Last-Event-ID`, else only what happens from now on.
    after: Option<u64>,
    /// Only this thread.
    thread: Option<ThreadId>,
}

/// Everything that happens in a session's conversation. As a WebSocket: text frames, each one event as JSON, or
/// `{"type":"gap","from":…,"to":…}`; close code 1012 or 1013 means: come back with `after`. Otherwise server-sent
/// events with the sequence as `id` and the event's type as `event`.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/events", tag = "threads",
    params(("id" = SessionId, Path, description = "Session id"), EventsQuery),
    responses((status = 101, body = ThreadFeedItem, description = "Events follow, one JSON text frame each"),
        (status = 200, body = ThreadFeedItem, content_type = "text/event-stream",
            description = "Events follow, each with its sequence as `id`")))]
async fn events(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    let after = query.after.map_or_else(|| last_event_id(&headers), |after| Ok(Some(after)))?;
    let at = app.sessions.find(&principal, &id).await?;
    let watcher = app.threads.watch(&at, query.thread, after).await?;
    let live = app.relay.track();
    if !asks_for_websocket(&headers) {
        return Ok(server_sent(app, principal, at, watcher, live));
    }
    Ok(upgrade?.messages(MAX_MESSAGE).on_upgrade(async move |mut socket| {
        let goodbye = tokio::select! {
            goodbye = tell(&mut socket, watcher) => goodbye,
            end = over(&app, &principal, &at) => Goodbye::End(end),
        };
        // The watcher may be gone already: then there is nobody to tell.
        let _ = match goodbye {
            Goodbye::End(end) => timeout(GOODBYE, socket.send(end.into())).await.map(drop),
            Goodbye::TooSlow(gap) => timeout(LAST_FRAMES, let_go(&mut socket, gap)).await,
        };
        drop(live);
    }))
}

fn asks_for_websocket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|wanted| wanted.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The sequence that a browser saw last, as it says when it comes back.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(text) = headers.get("last-event-id") else { return Ok(None) };
    let sequence = text.to_str().ok().and_then(|text| text.trim().parse().ok());
    let detail = "header Last-Event-ID is not a sequence that this feed gave";
    sequence.map(Some).ok_or_else(|| Error::new(ErrorCode::InvalidRequest, detail))
}

/// Completes when the feed must end whatever its client does.
async fn over(app: &App, principal: &Principal, at: &Found) -> End {
    tokio::select! {
        end = stop(app, &principal.token_hash) => end,
        () = app.sessions.removed(at) => End::Closed,
    }
}

enum Goodbye {
    End(End),
    TooSlow(Gap),
}

async fn tell(socket: &mut WebSocket, mut watcher: Watcher) -> Goodbye {
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Instant::now();
    loop {
        let frame = tokio::select! {
            message = watcher.next() => match message.as_ref().map(text_of) {
                Some(Ok(text)) => Message::Text(text.into()),
                Some(Err(error)) => {
                    tracing::error!("an event does not become JSON: {error}");
                    return Goodbye::End(End::Shutdown);
                }
                None => return Goodbye::End(End::Shutdown),
            },
            heard = socket.recv() => match heard {
                Some(Ok(Message::Close(_))) | None => return Goodbye::End(End::Closed),
                Some(Ok(_)) => { seen = Instant::now(); continue }
                Some(Err(_)) => return Goodbye::End(End::Broken),
            },
            _ = ping.tick() => {
                if seen.elapsed() > SILENCE {
                    return Goodbye::End(End::Broken);
                }
                Message::Ping(bytes::Bytes::new())
            }
        };
        let mark = watcher.mark();
        let sent = tokio::select! {
            sent = timeout(SILENCE, socket.send(frame)) => sent,
            () = watcher.overrun(mark) => return Goodbye::TooSlow(watcher.gap()),
        };
        // A watcher that takes nothing shows no life either.
        if !matches!(sent, Ok(Ok(()))) {
            return Goodbye::End(End::Broken);
        }
    }
}

/// What was being sent goes first: it is in the socket's buffer.
async fn let_go(socket: &mut WebSocket, gap: Gap) {
    let (code, reason) = TOO_SLOW;
    if let Ok(text) = serde_json::to_string(&gap)
        && socket.send(Message::Text(text.into())).await.is_ok()
    {
        let _ = socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
        // Until the client has it: a connection that is closed on unread bytes is reset.
        while let Some(Ok(_)) = socket.recv().await {}
    }
}

fn text_of(message: &FeedMessage) -> serde_json::Result<String> {
    match message {
        FeedMessage::Item(item) => serde_json::to_string(&**item),
        FeedMessage::Gap(gap) => serde_json::to_string(gap),
    }
}

fn server_sent(app: App, principal: Principal, at: Found, watcher: Watcher, live: TaskTrackerToken) -> Response {
    let over = async move {
        over(&app, &principal, &at).await;
    };
    let body = Pulled { watcher, given: None, _live: live }.stream().take_until(over.boxed());
    Sse::new(body).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// A watcher whose connection asks for the next event when it has room.
struct Pulled {
    watcher: Watcher,
    /// When it was given something last.
    given: Option<Mark>,
    _live: TaskTrackerToken,
}

impl Pulled {
    fn stream(self) -> impl Stream<Item = std::result::Result<Event, Infallible>> {
        futures::stream::unfold(Some(self), async |pulled| {
            let mut pulled = pulled?;
            if pulled.given.is_some_and(|given| pulled.watcher.is_overrun(given)) {
                let gap = FeedMessage::Gap(pulled.watcher.gap());
                return Some((Ok(event_of(&gap)?), None));
            }
            let event = event_of(&pulled.watcher.next().await?)?;
            pulled.given = Some(pulled.watcher.mark());
            Some((Ok(event), Some(pulled)))
        })
    }
}

fn event_of(message: &FeedMessage) -> Option<Event> {
    let event = match message {
        FeedMessage::Item(item) => Event::default().event(name_of(&item.record.event)).id(item.sequence.to_string()),
        FeedMessage::Gap(_) => Event::default().event("gap"),
    };
    match text_of(message) {
        Ok(text) => Some(event.data(text)),
        Err(error) => {
            tracing::error!("an event does not become JSON: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_browser_comes_back_where_it_was() {
        let headers = |text| HeaderMap::from_iter([(http::HeaderName::from_static("last-event-id"), text)]);
        assert_eq!(last_event_id(&HeaderMap::new()).expect("none"), None);
        assert_eq!(last_event_id(&headers(HeaderValue::from_static("42"))).expect("a sequence"), Some(42));
        for bad in ["", "x", "-1", "18446744073709551616"] {
            assert!(last_event_id(&headers(HeaderValue::from_static(bad))).is_err(), "{bad}");
        }
    }
}
