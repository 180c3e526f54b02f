//! What a display tells by itself, as far as somebody here listens.

use x11rb::protocol::xproto::{
    Atom, CONFIGURE_NOTIFY_EVENT, ConfigureNotifyEvent, DESTROY_NOTIFY_EVENT, MAPPING_NOTIFY_EVENT,
    PROPERTY_NOTIFY_EVENT, Property, PropertyNotifyEvent, SELECTION_CLEAR_EVENT, SELECTION_NOTIFY_EVENT,
    SELECTION_REQUEST_EVENT, SelectionClearEvent, SelectionNotifyEvent, SelectionRequestEvent, UNMAP_NOTIFY_EVENT,
    Window,
};
use x11rb::x11_utils::TryParse as _;

/// Marks an event that another client sent.
const SENT: u8 = 0x80;

/// Something happened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// A property was set or removed.
    Property { window: Window, atom: Atom, deleted: bool },
    /// Somebody wants what is in a selection of ours.
    SelectionRequest(SelectionRequestEvent),
    /// A selection is not ours any more.
    SelectionClear { owner: Window, selection: Atom },
    /// What we wanted of a selection is there; `property` is 0 where it is not.
    SelectionNotify { requestor: Window, property: Atom },
    /// A window is gone, or not shown any more.
    WindowGone,
    /// A window, or the screen, has another size.
    Size { window: Window, width: u16, height: u16 },
    /// Keys mean something else.
    Mapping,
}

impl Event {
    /// The event in a packet; None for what nobody here listens to.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        Some(match packet[0] {
            PROPERTY_NOTIFY_EVENT => {
                let (event, _) = PropertyNotifyEvent::try_parse(packet).ok()?;
                Self::Property { window: event.window, atom: event.atom, deleted: event.state == Property::DELETE }
            }
            SELECTION_REQUEST_EVENT => Self::SelectionRequest(SelectionRequestEvent::try_parse(packet).ok()?.0),
            SELECTION_CLEAR_EVENT => {
                let (event, _) = SelectionClearEvent::try_parse(packet).ok()?;
                Self::SelectionClear { owner: event.owner, selection: event.selection }
            }
            DESTROY_NOTIFY_EVENT | UNMAP_NOTIFY_EVENT => Self::WindowGone,
            CONFIGURE_NOTIFY_EVENT => {
                let (event, _) = ConfigureNotifyEvent::try_parse(packet).ok()?;
                Self::Size { window: event.window, width: event.width, height: event.height }
            }
            MAPPING_NOTIFY_EVENT => Self::Mapping,
            // The owner of a selection sends this one itself; every other must be the display's own word.
            kind if kind & !SENT == SELECTION_NOTIFY_EVENT => {
                let (event, _) = SelectionNotifyEvent::try_parse(packet).ok()?;
                Self::SelectionNotify { requestor: event.requestor, property: event.property }
            }
            _ => return None,
        })
    }
}
