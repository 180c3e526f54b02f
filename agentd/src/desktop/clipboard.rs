//! The clipboard: X's selections, in which whoever has copied something gives it to whoever asks.
//!
//! Task: while a text of ours is in the clipboard, one that gives it out ([`serve`]). It holds the clipboard and with it
//! the connection, as long as somebody may paste; the desktop itself, with what it holds down, is not kept for it. It
//! ends when another program copies something or the display ends.

mod serve;

use std::borrow::Cow;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use helix_protocol::desktop::{Clipboard as Text, MAX_CLIPBOARD_BYTES};
use tokio::sync::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ConvertSelectionRequest, CreateWindowAux, CreateWindowRequest, DeletePropertyRequest, EventMask,
    GetPropertyReply, GetPropertyRequest, GetSelectionOwnerRequest, SetSelectionOwnerRequest, Window, WindowClass,
};

use super::atoms::Atoms;
use super::connection::{Connection, MAX_REPLY_BYTES};
use super::event::Event;
use super::{DesktopError, Result};

/// For the owner of the clipboard to give it, or the next piece of it.
const OWNER_TIMEOUT: Duration = Duration::from_secs(2);

/// The clipboard of one display.
pub(super) struct Clipboard {
    x: Arc<Connection>,
    /// Ours, never shown: it asks and owns.
    window: Window,
    atoms: Arc<Atoms>,
    /// What we give out; some while the task runs.
    own: StdMutex<Option<Arc<str>>>,
    /// Held while the clipboard becomes ours, and while it is found out whether it still is.
    owning: Mutex<()>,
    /// One question at a time: its answer comes to a property of our window.
    asking: Mutex<()>,
}

impl Clipboard {
    pub async fn new(x: Arc<Connection>, atoms: Arc<Atoms>) -> Result<Self> {
        let window = x.new_id();
        let create = CreateWindowRequest {
            depth: 0,
            wid: window,
            parent: x.root(),
            x: -1,
            y: -1,
            width: 1,
            height: 1,
            border_width: 0,
            class: WindowClass::INPUT_ONLY,
            visual: 0,
            value_list: Cow::Owned(CreateWindowAux::new().event_mask(EventMask::PROPERTY_CHANGE)),
        };
        x.tell(create).await?;
        let (own, owning, asking) = (StdMutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { x, window, atoms, own, owning, asking })
    }

    fn own(&self) -> Option<Arc<str>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The other text, or none, in the place of the one that is returned.
    fn replace_own(&self, text: Option<Arc<str>>) -> Option<Arc<str>> {
        std::mem::replace(&mut *self.own.lock().unwrap_or_else(PoisonError::into_inner), text)
    }

    async fn owner(&self) -> Result<Window> {
        Ok(self.x.ask(GetSelectionOwnerRequest { selection: self.atoms.clipboard }).await?.owner)
    }

    /// Puts a text there, in the place of whatever it is. Cancel safe: what becomes ours is given out.
    pub async fn set(self: &Arc<Self>, text: String) -> Result<()> {
        if text.len() > MAX_CLIPBOARD_BYTES {
            return Err(DesktopError::Invalid(format!("text: at most {MAX_CLIPBOARD_BYTES} bytes")));
        }
        let owning = self.owning.lock().await;
        let events = self.x.events();
        if self.replace_own(Some(text.into())).is_none() {
            tokio::spawn(serve::run(self.clone(), events));
        }
        for selection in [self.atoms.clipboard, AtomEnum::PRIMARY.into()] {
            let ours = SetSelectionOwnerRequest { owner: self.window, selection, time: x11rb::CURRENT_TIME };
            self.x.tell(ours).await?;
        }
        drop(owning);
        if self.owner().await? == self.window {
            return Ok(());
        }
        Err(DesktopError::Clipboard("another program took it at the same time".to_owned()))
    }

    /// The display has said that the clipboard is not ours any more. If it was not made ours again since, nothing is given
    /// out any more, and the answer is true.
    async fn let_go_if_lost(&self) -> Result<bool> {
        let _owning = self.owning.lock().await;
        let lost = self.owner().await? != self.window;
        if lost {
            self.replace_own(None);
        }
        Ok(lost)
    }

    /// The text that is there; an empty one where there is none.
    pub async fn get(&self) -> Result<Text> {
        let _asking = self.asking.lock().await;
        let owner = self.owner().await?;
        if owner == self.window
            && let Some(own) = self.own()
        {
            return Ok(Text { text: own.to_string() });
        }
        if owner == x11rb::NONE {
            return Ok(Text { text: String::new() });
        }
        // Programs of the old times know Latin-1 only.
        if let Some(bytes) = self.convert(self.atoms.utf8_string).await? {
            return Ok(Text { text: String::from_utf8_lossy(&bytes).into_owned() });
        }
        let bytes = self.convert(AtomEnum::STRING.into()).await?.unwrap_or_default();
        Ok(Text { text: bytes.into_iter().map(char::from).collect() })
    }

    /// What the owner gives as that type; None where it has no such thing.
    async fn convert(&self, target: Atom) -> Result<Option<Vec<u8>>> {
        let x = &self.x;
        let property = self.atoms.own_property;
        let mut events = x.events();
        x.tell(DeletePropertyRequest { window: self.window, property }).await?;
        let time = x11rb::CURRENT_TIME;
        let (requestor, selection) = (self.window, self.atoms.clipboard);
        x.tell(ConvertSelectionRequest { requestor, selection, target, property, time }).await?;
        let given = self.next(&mut events, |event| match event {
            Event::SelectionNotify { requestor, property } if *requestor == self.window => Some(*property),
            _ => None,
        });
        if given.await? == x11rb::NONE {
            return Ok(None);
        }
        let first = self.take(property).await?;
        if first.type_ != self.atoms.incr {
            return checked(first.value).map(Some);
        }
        // In pieces: taking one asks for the next, an empty one is the end.
        let mut whole = Vec::new();
        loop {
            self.next(&mut events, |event| match event {
                Event::Property { window, atom, deleted: false } if (*window, *atom) == (self.window, property) => {
                    Some(())
                }
                _ => None,
            })
            .await?;
            let piece = self.take(property).await?;
            if piece.value.is_empty() {
                return Ok(Some(whole));
            }
            whole.extend(piece.value);
            whole = checked(whole)?;
        }
    }

    /// Waits for an event.
    async fn next<T>(&self, events: &mut Receiver<Event>, pick: impl Fn(&Event) -> Option<T>) -> Result<T> {
        let wait = async {
            loop {
                match events.recv().await {
                    Ok(event) => {
                        if let Some(found) = pick(&event) {
                            return Ok(found);
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Err(DesktopError::gone()),
                }
            }
        };
        tokio::select! {
            () = self.x.ended().cancelled() => Err(DesktopError::gone()),
            waited = tokio::time::timeout(OWNER_TIMEOUT, wait) => waited.map_err(|_| {
                let seconds = OWNER_TIMEOUT.as_secs();
                DesktopError::Clipboard(format!("the program that owns it did not give it within {seconds} s"))
            })?,
        }
    }

    /// Reads and removes a property of our window.
    async fn take(&self, property: Atom) -> Result<GetPropertyReply> {
        let request = GetPropertyRequest {
            delete: true,
            window: self.window,
            property,
            type_: AtomEnum::ANY.into(),
            long_offset: 0,
            // One word more than is taken, so that it is seen.
            long_length: (MAX_CLIPBOARD_BYTES / 4 + 1) as u32,
        };
        self.x.ask_for(request, MAX_CLIPBOARD_BYTES + MAX_REPLY_BYTES).await
    }
}

fn checked(bytes: Vec<u8>) -> Result<Vec<u8>> {
    if bytes.len() <= MAX_CLIPBOARD_BYTES {
        return Ok(bytes);
    }
    Err(DesktopError::Clipboard(format!("it holds more than {MAX_CLIPBOARD_BYTES} bytes")))
}
