//! A program on the display that tells what it hears, by x11rb's own connection: another eye than agentd's.

use std::fmt;
use std::os::unix::net::UnixStream;

use x11rb::connection::Connection as _;
use x11rb::protocol::Event;
use x11rb::protocol::randr::ConnectionExt as _;
use x11rb::protocol::xproto::{
    AtomEnum, ConnectionExt as _, CreateWindowAux, EventMask, ImageFormat, KEY_PRESS_EVENT, PropMode, WindowClass,
};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::rust_connection::{DefaultStream, RustConnection};
use x11rb::wrapper::ConnectionExt as _;
use xkeysym::Keysym;

pub struct Client {
    x: RustConnection,
    root: u32,
    window: u32,
}

/// A key or a button.
pub enum Heard {
    Key(bool, u32),
    Button(bool, u8),
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = |down: &bool| if *down { '+' } else { '-' };
        match self {
            Self::Key(down, sym) => {
                let name = Keysym::new(*sym).name().map(|name| name.replacen("XK_", "", 1));
                let name = name.unwrap_or_else(|| format!("U{:04X}", sym & 0x00ff_ffff));
                write!(f, "{}{name}", sign(down))
            }
            Self::Button(down, number) => write!(f, "{}{number}", sign(down)),
        }
    }
}

impl Client {
    pub fn open(number: u32, authority: &[u8]) -> Self {
        let cookie = authority[authority.len() - 16..].to_vec();
        let socket = UnixStream::connect(format!("/tmp/.X11-unix/X{number}")).expect("connected");
        let (stream, _) = DefaultStream::from_unix_stream(socket).expect("a stream");
        let x = RustConnection::connect_to_stream_with_auth_info(stream, 0, b"MIT-MAGIC-COOKIE-1".to_vec(), cookie)
            .expect("let in");
        let root = x.setup().roots[0].root;
        let window = x.generate_id().expect("an id");
        let aux = CreateWindowAux::new().event_mask(
            EventMask::KEY_PRESS | EventMask::KEY_RELEASE | EventMask::BUTTON_PRESS | EventMask::BUTTON_RELEASE,
        );
        x.create_window(0, window, root, 50, 50, 200, 100, 0, WindowClass::INPUT_OUTPUT, 0, &aux).expect("sent");
        x.change_property8(PropMode::REPLACE, window, AtomEnum::WM_NAME, AtomEnum::STRING, b"recorder").expect("sent");
        x.change_property8(PropMode::REPLACE, window, AtomEnum::WM_CLASS, AtomEnum::STRING, b"recorder\0Recorder\0")
            .expect("sent");
        Self { x, root, window }
    }

    pub fn show(&self) {
        self.x.map_window(self.window).expect("sent");
        self.x.sync().expect("answered");
    }

    /// What has come since the last time, each key as the map means it now.
    pub fn heard(&mut self) -> Vec<Heard> {
        self.x.sync().expect("answered");
        let map = self.keyboard_map();
        let (first, columns) = (self.x.setup().min_keycode, map.1);
        let sym = |code: u8| map.0[usize::from(code - first) * columns];
        let mut heard = Vec::new();
        while let Some(event) = self.x.poll_for_event().expect("alive") {
            match event {
                Event::KeyPress(event) => heard.push(Heard::Key(true, sym(event.detail))),
                Event::KeyRelease(event) => heard.push(Heard::Key(false, sym(event.detail))),
                Event::ButtonPress(event) => heard.push(Heard::Button(true, event.detail)),
                Event::ButtonRelease(event) => heard.push(Heard::Button(false, event.detail)),
                _ => {}
            }
        }
        heard
    }

    /// What each key means, however many meanings the map has room for.
    pub fn meanings(&self) -> Vec<Vec<u32>> {
        let (map, columns) = self.keyboard_map();
        let meant = |row: &[u32]| row.iter().copied().filter(|sym| *sym != 0).collect();
        map.chunks(columns).map(meant).collect()
    }

    /// What the keys mean, and how many meanings each has.
    fn keyboard_map(&self) -> (Vec<u32>, usize) {
        let (first, last) = (self.x.setup().min_keycode, self.x.setup().max_keycode);
        let map = self.x.get_keyboard_mapping(first, last - first + 1).expect("sent").reply().expect("a map");
        (map.keysyms, usize::from(map.keysyms_per_keycode))
    }

    pub fn keys_down(&self) -> u32 {
        let keys = self.x.query_keymap().expect("sent").reply().expect("keys").keys;
        keys.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Presses a key.
    pub fn press(&self, code: u8) {
        self.x.xtest_fake_input(KEY_PRESS_EVENT, code, x11rb::CURRENT_TIME, self.root, 0, 0, 0).expect("sent");
        self.x.sync().expect("answered");
    }

    fn atom(&self, name: &[u8]) -> u32 {
        self.x.intern_atom(false, name).expect("sent").reply().expect("an atom").atom
    }

    /// Says that the window, with a class and a title of that length, is all that there is, very often.
    pub fn crowd(&self, length: usize) {
        let (class, title) = ([b"recorder\0".to_vec(), vec![b'c'; length]].concat(), vec![b't'; length]);
        let set = |name: AtomEnum, text: &[u8]| {
            self.x.change_property8(PropMode::REPLACE, self.window, name, AtomEnum::STRING, text).expect("sent");
        };
        set(AtomEnum::WM_CLASS, &class);
        set(AtomEnum::WM_NAME, &title);
        let (list, ids) = (self.atom(b"_NET_CLIENT_LIST"), [self.window; 4096]);
        self.x.change_property32(PropMode::REPLACE, self.root, list, AtomEnum::WINDOW, &ids).expect("sent");
        self.x.sync().expect("answered");
    }

    /// Wants the clipboard's text at the root window.
    pub fn paste_at_root(&self) {
        let (clipboard, text) = (self.atom(b"CLIPBOARD"), self.atom(b"UTF8_STRING"));
        self.x.convert_selection(self.root, clipboard, text, text, x11rb::CURRENT_TIME).expect("sent");
        self.x.sync().expect("answered");
    }

    /// Owns the clipboard and answers nobody.
    pub fn own_clipboard(&self) {
        let clipboard = self.atom(b"CLIPBOARD");
        self.x.set_selection_owner(self.window, clipboard, x11rb::CURRENT_TIME).expect("sent");
        self.x.sync().expect("answered");
    }

    /// Every pixel: blue, green, red, nothing.
    pub fn screen(&self) -> Vec<u8> {
        let size = self.x.get_geometry(self.root).expect("sent").reply().expect("a size");
        let image = self.x.get_image(ImageFormat::Z_PIXMAP, self.root, 0, 0, size.width, size.height, !0);
        image.expect("sent").reply().expect("an image").data
    }

    pub fn modes_made_by_us(&self) -> usize {
        let resources = self.x.randr_get_screen_resources_current(self.root).expect("sent").reply().expect("modes");
        let mut names = resources.names.as_slice();
        let modes = resources.modes.iter().map(|mode| {
            let (name, rest) = names.split_at(usize::from(mode.name_len));
            names = rest;
            name
        });
        modes.filter(|name| name.starts_with(b"helix-")).count()
    }
}
