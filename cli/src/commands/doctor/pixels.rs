//! What a screen shows: read from the X server whenever it changes, and compared with the picture of the GPUI probe.
//!
//! One thread ([`watch`]) owns the connection and sends what it sees through a channel. It ends with the display or
//! with the receiver.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc::Sender;
use x11rb::connection::Connection as _;
use x11rb::protocol::Event;
use x11rb::protocol::damage::{ConnectionExt as _, ReportLevel};
use x11rb::protocol::xproto::{
    AtomEnum, ChangeWindowAttributesAux, ClientMessageEvent, ConnectionExt as _, CreateWindowAux, EventMask,
    ImageFormat, WindowClass,
};
use x11rb::rust_connection::{DefaultStream, RustConnection};

/// Colours of the rectangles that fill the probe's window, by rows: `packaging/gpui-probe` has the same four.
const COLOURS: [u32; 4] = [0x00c8_3232, 0x0032_c832, 0x0032_32c8, 0x00c8_c832];
/// What a channel of a pixel may be off by: blending rounds.
const TOLERANCE: u32 = 4;
/// What is darker counts as black.
const DARK: u32 = 0x10;
/// Pixels of letters in the first rectangle; there are some thousand.
const LETTERS: usize = 200;
/// Before a question to the window manager is repeated: in its event loop it answers within a millisecond.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// What is seen on the display.
#[derive(Debug)]
pub enum Sight {
    /// The window manager rules and answers.
    Manager,
    /// The screen as it is now.
    Picture(Picture),
    /// The display cannot be looked at any more.
    Lost(String),
}

/// A whole screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    /// 0x00RRGGBB.
    pixels: Vec<u32>,
}

/// How a picture compares with the probe's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the probe's.
    Right,
    /// Its rectangles, without letters.
    NoLetters,
    /// Nothing is to be seen.
    Black,
    /// Something else: a colour from each rectangle.
    Other([u32; 4]),
}

impl Picture {
    /// Compares.
    pub fn verdict(&self) -> Verdict {
        let (width, height) = (self.width, self.pixels.len() / self.width.max(1));
        let at = |x: usize, y: usize| self.pixels.get(y * width + x).copied().unwrap_or_default();
        let mut seen = [0; 4];
        let (mut right, mut black) = (true, true);
        for (number, colour) in COLOURS.into_iter().enumerate() {
            let (left, top) = (number % 2 * width / 2, number / 2 * height / 2);
            // Around the letters in the middle.
            for (x, y) in [(4, 1), (1, 4), (4, 7), (7, 1)] {
                let pixel = at(left + width * x / 16, top + height * y / 16);
                right &= near(pixel, colour);
                black &= channels(pixel).iter().all(|channel| *channel < DARK);
                seen[number] = pixel;
            }
        }
        let is_letter = |pixel: u32| channels(pixel).iter().all(|channel| *channel > 0x90);
        let letters = (0..height / 2).flat_map(|y| (0..width / 2).map(move |x| (x, y)));
        let letters = letters.filter(|(x, y)| is_letter(at(*x, *y))).count();
        match (right, black) {
            (true, _) if letters >= LETTERS => Verdict::Right,
            (true, _) => Verdict::NoLetters,
            (_, true) => Verdict::Black,
            _ => Verdict::Other(seen),
        }
    }
}

fn channels(pixel: u32) -> [u32; 3] {
    [pixel >> 16 & 0xff, pixel >> 8 & 0xff, pixel & 0xff]
}

fn near(pixel: u32, colour: u32) -> bool {
    channels(pixel).into_iter().zip(channels(colour)).all(|(one, other)| one.abs_diff(other) <= TOLERANCE)
}

/// Looks at display `number` in a thread until it ends or nobody listens.
pub fn watch(number: u32, cookie: Vec<u8>, sights: Sender<Sight>) {
    std::thread::spawn(move || {
        if let Err(error) = look(number, cookie, &sights) {
            let lost = format!("the display cannot be looked at: {error}");
            // Nobody listens any more, at worst.
            let _ = sights.blocking_send(Sight::Lost(lost));
        }
    });
}

fn look(number: u32, cookie: Vec<u8>, sights: &Sender<Sight>) -> Result<(), Box<dyn std::error::Error>> {
    let socket = UnixStream::connect(format!("/tmp/.X11-unix/X{number}"))?;
    let (stream, _) = DefaultStream::from_unix_stream(socket)?;
    let x = RustConnection::connect_to_stream_with_auth_info(stream, 0, b"MIT-MAGIC-COOKIE-1".to_vec(), cookie)?;
    let screen = x.setup().roots.first().ok_or("it has no screen")?;
    let (root, width, height) = (screen.root, screen.width_in_pixels, screen.height_in_pixels);
    wait_for_manager(&x, root)?;
    if sights.blocking_send(Sight::Manager).is_err() {
        return Ok(());
    }
    x.damage_query_version(1, 1)?.reply()?;
    let damage = x.generate_id()?;
    x.damage_create(damage, root, ReportLevel::NON_EMPTY)?;
    loop {
        // First, so that what changes while we look is told again.
        x.damage_subtract(damage, x11rb::NONE, x11rb::NONE)?;
        let image = x.get_image(ImageFormat::Z_PIXMAP, root, 0, 0, width, height, !0)?.reply()?;
        let pixel = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
        let picture = Picture { width: width.into(), pixels: image.data.chunks_exact(4).map(pixel).collect() };
        if sights.blocking_send(Sight::Picture(picture)).is_err() {
            return Ok(());
        }
        while !matches!(x.wait_for_event()?, Event::DamageNotify(_)) {}
    }
}

/// Waits until the window manager answers a message, as agentd does: its property on root comes before its event loop.
fn wait_for_manager(x: &RustConnection, root: u32) -> Result<(), Box<dyn std::error::Error>> {
    let atom = |name: &[u8]| Ok::<_, Box<dyn std::error::Error>>(x.intern_atom(false, name)?.reply()?.atom);
    let (check, extents) = (atom(b"_NET_SUPPORTING_WM_CHECK")?, atom(b"_NET_FRAME_EXTENTS")?);
    let question = atom(b"_NET_REQUEST_FRAME_EXTENTS")?;
    let changes = EventMask::PROPERTY_CHANGE;
    x.change_window_attributes(root, &ChangeWindowAttributesAux::new().event_mask(changes))?;
    while x.get_property(false, root, check, AtomEnum::ANY, 0, 1)?.reply()?.value_len == 0 {
        while !matches!(x.wait_for_event()?, Event::PropertyNotify(event) if event.atom == check) {}
    }
    let window = x.generate_id()?;
    let aux = CreateWindowAux::new().event_mask(changes);
    x.create_window(0, window, root, 0, 0, 1, 1, 0, WindowClass::INPUT_OUTPUT, 0, &aux)?;
    loop {
        let ask = ClientMessageEvent::new(32, window, question, [0_u32; 5]);
        x.send_event(false, root, EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY, ask)?;
        x.flush()?;
        let asked = Instant::now();
        while let Some(event) = event_until(x, asked + ASK_AGAIN)? {
            if matches!(event, Event::PropertyNotify(event) if (event.window, event.atom) == (window, extents)) {
                x.destroy_window(window)?;
                return Ok(());
            }
        }
    }
}

/// The next event, or None when it is late.
fn event_until(x: &RustConnection, deadline: Instant) -> Result<Option<Event>, Box<dyn std::error::Error>> {
    loop {
        if let Some(event) = x.poll_for_event()? {
            return Ok(Some(event));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        poll(&mut [PollFd::new(&x.stream().as_fd(), PollFlags::IN)], Some(&Timespec::try_from(left)?))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (320, 200);

    fn picture(colours: [u32; 4], letters: bool) -> Picture {
        let (width, height) = SIZE;
        let pixels = (0..width * height).map(|number| {
            let (x, y) = (number % width, number / width);
            let is_letter = (60..100).contains(&x) && (45..55).contains(&y);
            if letters && is_letter { 0x00ff_ffff } else { colours[y / (height / 2) * 2 + x / (width / 2)] }
        });
        Picture { width, pixels: pixels.collect() }
    }

    #[test]
    fn pictures_are_judged_by_colours_and_letters() {
        assert_eq!(picture(COLOURS, true).verdict(), Verdict::Right);
        assert_eq!(picture(COLOURS.map(|colour| colour + 0x0002_0103), true).verdict(), Verdict::Right);
        assert_eq!(picture(COLOURS, false).verdict(), Verdict::NoLetters);
        assert_eq!(picture([0; 4], false).verdict(), Verdict::Black);
        assert_eq!(picture([0x0006_0606; 4], true).verdict(), Verdict::Black);
        let [first, second, third, fourth] = COLOURS;
        let exchanged = [second, first, third, fourth];
        assert_eq!(picture(exchanged, true).verdict(), Verdict::Other(exchanged));
        let grey = [0x0040_4040; 4];
        assert_eq!(picture(grey, false).verdict(), Verdict::Other(grey));
        assert_eq!(Picture { width: 0, pixels: Vec::new() }.verdict(), Verdict::Black);
    }
}
