//! The event feed: lifecycle events over a WebSocket, resumable by sequence.
//!
//! One task per watcher. It reads its next event only after the former was written, so a slow watcher falls behind
//! in the stream's own bounded buffer, is told the gap, and goes on.

use std::collections::HashMap;

use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use axum::response::Response;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use helix_protocol::event::{Event, FeedItem};
use helix_protocol::record::Scope;
use helix_protocol::{ErrorCode, SessionId};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Query, Upgrade};
use super::registry::Registry;
use super::streams::stop;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::events::FeedMessage;
use crate::relay::{End, GOODBYE, PING_EVERY, SILENCE};

/// Largest message from a watcher: it has nothing to say.
const MAX_MESSAGE: usize = 1024;
/// Sessions whose visibility one watcher remembers.
const REMEMBERED: usize = 10_000;

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Read, routes!(feed))
}

/// Where the feed begins.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FeedQuery {
    /// Last `sequence` already seen; 0 for all that are kept. Absent: only what happens from now on.
    after: Option<u64>,
}

/// Events that are gone: older than the stream keeps, or the watcher was too slow.
#[derive(Serialize)]
#[serde(tag = "type", rename = "gap")]
struct Gap {
    from: u64,
    to: u64,
}

/// WebSocket of text frames, each one event as JSON, or `{"type":"gap","from":…,"to":…}`. Who may see a session sees
/// its events; people also see runners'. Close code 1012 means: come back with `after`.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(FeedQuery),
    responses((status = 101, body = FeedItem, description = "Events follow, one JSON text frame each")))]
async fn feed(
    State(app): State<App>,
    principal: Principal,
    Query(query): Query<FeedQuery>,
    upgrade: Upgrade,
) -> Result<Response> {
    let events = app.events.subscribe(query.after).await?;
    let live = app.relay.track();
    Ok(upgrade.messages(MAX_MESSAGE).on_upgrade(async move |mut socket| {
        let mut watcher = Watcher { app: &app, principal: &principal, visible: HashMap::new() };
        let end = tokio::select! {
            end = watcher.run(&mut socket, events) => end,
            end = stop(&app, &principal.token_hash) => end,
        };
        // The watcher may be gone already: then there is nobody to tell.
        let _ = timeout(GOODBYE, socket.send(end.into())).await;
        drop(live);
    }))
}

struct Watcher<'a> {
    app: &'a App,
    principal: &'a Principal,
    visible: HashMap<SessionId, bool>,
}

impl Watcher<'_> {
    async fn run(&mut self, socket: &mut WebSocket, mut events: BoxStream<'static, FeedMessage>) -> End {
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Instant::now();
        loop {
            let frame = tokio::select! {
                message = events.next() => match message {
                    Some(message) => self.frame(message).await,
                    None => return End::Shutdown,
                },
                heard = socket.recv() => match heard {
                    Some(Ok(Message::Close(_))) | None => return End::Closed,
                    Some(Ok(_)) => { seen = Instant::now(); continue }
                    Some(Err(_)) => return End::Broken,
                },
                _ = ping.tick() => {
                    if seen.elapsed() > SILENCE {
                        return End::Broken;
                    }
                    Ok(Some(Message::Ping(bytes::Bytes::new())))
                }
            };
            match frame {
                Ok(Some(frame)) => {
                    // A watcher that takes nothing shows no life either.
                    if !matches!(timeout(SILENCE, socket.send(frame)).await, Ok(Ok(()))) {
                        return End::Broken;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    // Without an answer about visibility the feed would have a hole: end it, the watcher resumes.
                    tracing::warn!("event feed ended: {error}");
                    return End::Shutdown;
                }
            }
        }
    }

    async fn frame(&mut self, message: FeedMessage) -> Result<Option<Message>> {
        let no_text = "an event does not become text";
        let text = match message {
            FeedMessage::Item(told) if self.may_see(&told.item.event).await? => Utf8Bytes::try_from(told.text.clone())
                .map_err(|error| Error::new(ErrorCode::Internal, no_text).because(error))?,
            FeedMessage::Item(_) => return Ok(None),
            FeedMessage::Gap { from, to } => serde_json::to_string(&Gap { from, to })
                .map_err(|error| Error::new(ErrorCode::Internal, no_text).because(error))?
                .into(),
        };
        Ok(Some(Message::Text(text)))
    }

    async fn may_see(&mut self, event: &Event) -> Result<bool> {
        let session = match event {
            Event::Session { session, .. }
            | Event::SessionDeleted { session, .. }
            | Event::Control { session, .. }
            | Event::Recording { session, .. } => session,
            Event::Runner { .. } => return Ok(Need::Fleet.admits(&self.principal.scope)),
            Event::Audit { .. } => return Ok(Need::Operate.admits(&self.principal.scope)),
        };
        match &self.principal.scope {
            Scope::Admin | Scope::Operator | Scope::Viewer => Ok(true),
            Scope::Session(own) | Scope::Desktop(own) | Scope::View(own) => Ok(own == session),
            Scope::Runner(_) | Scope::Enrol(_) => Ok(false),
            Scope::User => self.may_see_as_user(session, matches!(event, Event::SessionDeleted { .. })).await,
        }
    }

    /// An event does not name the owner: the store does, once per session. Of a session deleted before its first
    /// event here, a user sees nothing.
    async fn may_see_as_user(&mut self, session: &SessionId, last: bool) -> Result<bool> {
        if last {
            return Ok(self.visible.remove(session).unwrap_or(false));
        }
        if let Some(visible) = self.visible.get(session) {
            return Ok(*visible);
        }
        let visible = match self.app.sessions.get(self.principal, session).await {
            Ok(_) => true,
            Err(error) if matches!(error.code, ErrorCode::SessionNotFound | ErrorCode::Forbidden) => false,
            Err(error) => return Err(error),
        };
        if self.visible.len() >= REMEMBERED {
            self.visible.clear();
        }
        self.visible.insert(session.clone(), visible);
        Ok(visible)
    }
}
