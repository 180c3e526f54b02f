//! Windows as the window manager tells them (EWMH), and what it is asked to do with them.
//!
//! A window manager does what it likes, when it likes: an action is done when its effect is seen, and `wait_timeout` where
//! that does not come in time.
//!
//! Any program can write what is read here, however much: windows are counted once and up to a bound, texts are cut.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use helix_protocol::desktop::{WindowAction, WindowList, WindowView};
use tokio::sync::broadcast::error::RecvError;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ChangeWindowAttributesAux, ChangeWindowAttributesRequest, ClientMessageEvent, EventMask,
    GetGeometryRequest, GetPropertyReply, GetPropertyRequest, SendEventRequest, TranslateCoordinatesRequest, Window,
};

use super::event::Event;
use super::{Desktop, DesktopError, Result};

/// For a window manager, or a program that is asked to close, to do what it is asked.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Most windows that are told, the oldest first.
const MAX_WINDOWS: usize = 256;
/// Of these, asked about at once.
const WINDOWS_AT_ONCE: usize = 16;
/// Most 32-bit words of a list.
const MAX_WORDS: u32 = 1024;
/// Longest title and longest class that are told, in characters: none is longer than four bytes, one word.
const MAX_TITLE: usize = 1000;
const MAX_CLASS: usize = 200;
/// Whom EWMH's messages come from: a pager, which a window manager obeys.
const FROM_PAGER: u32 = 2;
const STATE_REMOVE: u32 = 0;
const STATE_ADD: u32 = 1;

impl Desktop {
    /// Every window that the window manager lists.
    pub(super) async fn windows(&self) -> Result<WindowList> {
        let (ids, active) = (self.listed().await?, self.active().await?);
        let mut windows = Vec::with_capacity(ids.len());
        for ids in ids.chunks(WINDOWS_AT_ONCE) {
            for view in join_all(ids.iter().map(|id| self.window(*id, active))).await {
                match view {
                    Ok(view) => windows.push(view),
                    // Gone since it was listed.
                    Err(DesktopError::X(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(WindowList { windows })
    }

    /// The windows that the window manager lists, each once.
    async fn listed(&self) -> Result<Vec<Window>> {
        let ids = self.numbers(self.root(), self.atoms.client_list).await?;
        let mut known = HashSet::new();
        Ok(ids.into_iter().filter(|id| known.insert(*id)).take(MAX_WINDOWS).collect())
    }

    /// Does it, and waits for the effect. The window as it is then; None when it is gone.
    pub(super) async fn act_on(&self, id: Window, action: WindowAction) -> Result<Option<WindowView>> {
        if !self.listed().await?.contains(&id) {
            return Err(DesktopError::NoWindow(id));
        }
        let mut events = self.x.events();
        let mask = EventMask::PROPERTY_CHANGE | EventMask::STRUCTURE_NOTIFY;
        let follow = ChangeWindowAttributesAux::new().event_mask(mask);
        self.x.tell(ChangeWindowAttributesRequest { window: id, value_list: Cow::Owned(follow) }).await?;
        let atoms = &*self.atoms;
        let maximise = |verb| [verb, atoms.maximised_horizontally, atoms.maximised_vertically, FROM_PAGER, 0];
        let (kind, data) = match action {
            WindowAction::Focus => (atoms.active_window, [FROM_PAGER, 0, 0, 0, 0]),
            WindowAction::Maximise => (atoms.wm_state, maximise(STATE_ADD)),
            WindowAction::Restore => (atoms.wm_state, maximise(STATE_REMOVE)),
            WindowAction::Close => (atoms.close_window, [0, FROM_PAGER, 0, 0, 0]),
        };
        let message = ClientMessageEvent::new(32, id, kind, data);
        self.x
            .tell(SendEventRequest {
                propagate: false,
                destination: self.root(),
                event_mask: EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY,
                event: Cow::Owned(message.into()),
            })
            .await?;
        let effect = async {
            loop {
                if let Some(seen) = self.effect(id, action).await? {
                    return Ok(seen);
                }
                // What has changed since the last look: any property, or the window itself.
                loop {
                    match events.recv().await {
                        Ok(Event::Property { .. } | Event::WindowGone | Event::Size { .. })
                        | Err(RecvError::Lagged(_)) => break,
                        Ok(_) => {}
                        Err(RecvError::Closed) => return Err(DesktopError::gone()),
                    }
                }
            }
        };
        tokio::select! {
            () = self.x.ended().cancelled() => Err(DesktopError::gone()),
            seen = tokio::time::timeout(EFFECT_TIMEOUT, effect) => seen.map_err(|_| {
                let (verb, seconds) = (action.as_str(), EFFECT_TIMEOUT.as_secs());
                DesktopError::Late(format!("window {id} was asked to {verb}, and nothing came of it within {seconds} s"))
            })?,
        }
    }

    /// None: not yet. The inner None: the window is gone, as it was asked to be.
    async fn effect(&self, id: Window, action: WindowAction) -> Result<Option<Option<WindowView>>> {
        let listed = self.listed().await?.contains(&id);
        if action == WindowAction::Close {
            return Ok((!listed).then_some(None));
        }
        let view = match self.window(id, self.active().await?).await {
            Ok(view) if listed => view,
            Ok(_) | Err(DesktopError::X(_)) => return Err(DesktopError::NoWindow(id)),
            Err(error) => return Err(error),
        };
        let there = match action {
            WindowAction::Focus => view.active,
            WindowAction::Maximise => view.maximised,
            WindowAction::Restore | WindowAction::Close => !view.maximised,
        };
        Ok(there.then_some(Some(view)))
    }

    async fn active(&self) -> Result<Option<Window>> {
        Ok(self.numbers(self.root(), self.atoms.active_window).await?.first().copied())
    }

    async fn window(&self, id: Window, active: Option<Window>) -> Result<WindowView> {
        let atoms = &*self.atoms;
        let whole = GetGeometryRequest { drawable: id };
        let corner = TranslateCoordinatesRequest { src_window: id, dst_window: self.root(), src_x: 0, src_y: 0 };
        let (name, old_name, class, pid, state, geometry, corner) = tokio::try_join!(
            self.property(id, atoms.wm_name, MAX_TITLE as u32),
            self.property(id, AtomEnum::WM_NAME.into(), MAX_TITLE as u32),
            self.property(id, AtomEnum::WM_CLASS.into(), 2 * MAX_CLASS as u32),
            self.numbers(id, atoms.wm_pid),
            self.numbers(id, atoms.wm_state),
            self.x.ask(whole),
            self.x.ask(corner),
        )?;
        let title =
            if name.value.is_empty() { latin1(&old_name.value) } else { String::from_utf8_lossy(&name.value).into() };
        // Instance and class, each with a zero byte behind it.
        let class = class.value.split(|byte| *byte == 0).nth(1).map(latin1).unwrap_or_default();
        let has = |atom: Atom| state.contains(&atom);
        Ok(WindowView {
            id,
            title: title.chars().take(MAX_TITLE).collect(),
            class: class.chars().take(MAX_CLASS).collect(),
            pid: pid.first().copied(),
            x: corner.dst_x.into(),
            y: corner.dst_y.into(),
            width: geometry.width.into(),
            height: geometry.height.into(),
            active: active == Some(id),
            maximised: has(atoms.fullscreen) || has(atoms.maximised_horizontally) && has(atoms.maximised_vertically),
        })
    }

    async fn property(&self, window: Window, property: Atom, most_words: u32) -> Result<GetPropertyReply> {
        let request = GetPropertyRequest {
            delete: false,
            window,
            property,
            type_: AtomEnum::ANY.into(),
            long_offset: 0,
            long_length: most_words,
        };
        self.x.ask(request).await
    }

    async fn numbers(&self, window: Window, property: Atom) -> Result<Vec<u32>> {
        let reply = self.property(window, property, MAX_WORDS).await?;
        Ok(reply.value32().map(Iterator::collect).unwrap_or_default())
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
