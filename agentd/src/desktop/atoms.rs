//! Names that X gives numbers to.

use x11rb::protocol::xproto::{Atom, InternAtomRequest};

use super::connection::Connection;
use super::{DesktopError, Result};

macro_rules! atoms {
    ($($field:ident = $name:literal,)*) => {
        /// The numbers of this display.
        #[derive(Debug, Clone, Copy)]
        pub(super) struct Atoms {
            $(pub $field: Atom,)*
        }

        impl Atoms {
            /// Asks for all of them at once.
            pub async fn intern(x: &Connection) -> Result<Self> {
                let names: &[&str] = &[$($name),*];
                let ask = |name: &'static str| x.ask(InternAtomRequest { only_if_exists: false, name: name.as_bytes().into() });
                let replies = futures::future::try_join_all(names.iter().map(|name| ask(name))).await?;
                let mut replies = replies.into_iter().map(|reply| reply.atom);
                let mut next = || replies.next().ok_or_else(|| DesktopError::Protocol("too few atoms".to_owned()));
                Ok(Self { $($field: next()?,)* })
            }
        }
    };
}

atoms! {
    clipboard = "CLIPBOARD",
    targets = "TARGETS",
    utf8_string = "UTF8_STRING",
    text = "TEXT",
    text_plain = "text/plain",
    text_plain_utf8 = "text/plain;charset=utf-8",
    incr = "INCR",
    own_property = "HELIX_SELECTION",
    kept = "HELIX_LEFT_DOWN",
    client_list = "_NET_CLIENT_LIST",
    active_window = "_NET_ACTIVE_WINDOW",
    close_window = "_NET_CLOSE_WINDOW",
    wm_name = "_NET_WM_NAME",
    wm_pid = "_NET_WM_PID",
    wm_state = "_NET_WM_STATE",
    maximised_horizontally = "_NET_WM_STATE_MAXIMIZED_HORZ",
    maximised_vertically = "_NET_WM_STATE_MAXIMIZED_VERT",
    fullscreen = "_NET_WM_STATE_FULLSCREEN",
}
