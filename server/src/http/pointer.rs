//! Where calls move the pointer of a session's desktop, told to whoever looks at it.
//!
//! One task per watcher. A call that has moved the pointer is told to all servers by a core message: nothing is stored,
//! and a lost one is made up for by the next. A watcher that takes nothing is left; what waits for it is bounded by the
//! bus's client, which drops what is too much.

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use helix_protocol::desktop::Pointed;
use helix_protocol::record::Scope;
use helix_protocol::{SessionId, subject};
use tokio::time::timeout;
use utoipa_axum::routes;

use super::extract::{Id, Upgrade};
use super::registry::Registry;
use super::streams::stop;
use super::tools::pings;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::bus::unavailable;
use crate::error::Result;
use crate::relay::{End, GOODBYE, SILENCE};

/// Largest message from a watcher: it has nothing to say.
const MAX_MESSAGE: usize = 1024;

pub(super) fn routes(registry: Registry) -> Registry {
    registry.add(Need::Watch, routes!(pointer))
}

/// Tells where a call has left the pointer.
pub(super) async fn tell(app: &App, by: &Principal, id: &SessionId, [x, y]: [i64; 2]) {
    // The call was done on that session's desktop: it is there, unless it has just been removed.
    let Ok(at) = app.sessions.find(by, id).await else { return };
    let pointed = Pointed { x, y, by: by.name.clone(), is_agent: matches!(by.scope, Scope::Session(_)) };
    app.bus.publish(subject::pointer(&at.desktop), &pointed).await;
}

/// WebSocket of text frames: each time that a call has moved the pointer, where it is now and whose call it was. What
/// viewers do with their own pointers is not told. It ends with the session, also where another one of its id is made.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/pointer", tag = "desktop",
    params(("id" = SessionId, Path, description = "Session id")),
    responses((status = 101, body = Pointed, description = "One JSON text frame each")))]
async fn pointer(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    upgrade: Result<Upgrade>,
) -> Result<Response> {
    let at = app.sessions.find(&principal, &id).await?;
    let upgrade = upgrade?;
    let told = app.bus.client().subscribe(subject::pointer(&at.desktop)).await.map_err(unavailable)?;
    let live = app.relay.track();
    Ok(upgrade.messages(MAX_MESSAGE).on_upgrade(async move |mut socket| {
        let end = tokio::select! {
            end = watch(&mut socket, told) => end,
            end = stop(&app, &principal.token_hash) => end,
            // What calls do on a later desktop of its id may not be the watcher's to see.
            () = app.sessions.removed(&at) => End::Closed,
        };
        // The watcher may be gone already: then there is nobody to tell.
        let _ = timeout(GOODBYE, socket.send(end.into())).await;
        drop(live);
    }))
}

async fn watch(socket: &mut WebSocket, mut told: async_nats::Subscriber) -> End {
    let mut ping = pings();
    loop {
        // All three arms are cancel safe: streams and a timer.
        let message = tokio::select! {
            message = told.next() => match message.map(|message| String::from_utf8(message.payload.into())) {
                Some(Ok(text)) => Message::Text(text.into()),
                Some(Err(_)) => continue,
                None => return End::Shutdown,
            },
            heard = socket.recv() => match heard {
                Some(Ok(Message::Close(_))) | None => return End::Closed,
                Some(Ok(_)) => continue,
                Some(Err(_)) => return End::Broken,
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        if !matches!(timeout(SILENCE, socket.send(message)).await, Ok(Ok(()))) {
            return End::Broken;
        }
    }
}
