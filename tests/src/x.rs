//! What the X server of a session really shows: its root window, read over its own socket with the session's cookie.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{ConfigureWindowAux, ConnectionExt, CreateGCAux, ImageFormat, SubwindowMode};
use x11rb::rust_connection::{DefaultStream, RustConnection};

use crate::rfb::Frame;

/// Environment of a process of this machine.
pub fn environment(pid: u32) -> Result<BTreeMap<String, String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).with_context(|| format!("environment of {pid}"))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.split('\0').filter_map(|entry| entry.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect())
}

/// The whole screen of a session, as the X server has it. Blocking: call it from `spawn_blocking`.
pub fn screen(view: &SessionView) -> Result<Frame> {
    let (number, authority) = display(view)?;
    screen_of(number, &authority)
}

/// Paints the whole screen of a session in one colour, 0x00RRGGBB, over whatever is there. Blocking.
pub fn fill(view: &SessionView, colour: u32) -> Result<()> {
    paint(view, |_, _| colour)
}

/// The same with a colour for each place. Blocking.
pub fn paint(view: &SessionView, colour: impl Fn(u32, u32) -> u32) -> Result<()> {
    /// Rows of one request, which has 256 KiB at most.
    const ROWS: u16 = 16;
    let (number, authority) = display(view)?;
    let connection = connect(number, &authority)?;
    let screen = &connection.setup().roots[0];
    let (root, depth, width, height) =
        (screen.root, screen.root_depth, screen.width_in_pixels, screen.height_in_pixels);
    let context = connection.generate_id()?;
    connection.create_gc(context, root, &CreateGCAux::new().subwindow_mode(SubwindowMode::INCLUDE_INFERIORS))?;
    for top in (0..height).step_by(usize::from(ROWS)) {
        let rows = ROWS.min(height - top);
        let places = (top..top + rows).flat_map(|y| (0..width).map(move |x| (u32::from(x), u32::from(y))));
        let pixels: Vec<u8> = places.flat_map(|(x, y)| colour(x, y).to_le_bytes()).collect();
        let (y, format) = (i16::try_from(top)?, ImageFormat::Z_PIXMAP);
        connection.put_image(format, root, context, width, rows, 0, y, 0, depth, &pixels)?.check()?;
    }
    Ok(())
}

/// Number of a session's display, and the content of its Xauthority file.
fn display(view: &SessionView) -> Result<(u32, Vec<u8>)> {
    let environment = environment(view.pid.context("the session has no process")?)?;
    let number = view.display.as_ref().context("the session has no display")?.number;
    let authority = environment.get("XAUTHORITY").context("XAUTHORITY is not set in the session")?;
    Ok((number, std::fs::read(authority)?))
}

fn connect(number: u32, authority: &[u8]) -> Result<RustConnection> {
    let cookie = cookie(authority)?;
    let socket = UnixStream::connect(format!("/tmp/.X11-unix/X{number}"))?;
    let (stream, _) = DefaultStream::from_unix_stream(socket)?;
    Ok(RustConnection::connect_to_stream_with_auth_info(stream, 0, b"MIT-MAGIC-COOKIE-1".to_vec(), cookie)?)
}

/// The whole screen of display `number`, with the content of its Xauthority file. Blocking.
pub fn screen_of(number: u32, authority: &[u8]) -> Result<Frame> {
    let connection = connect(number, authority)?;
    let screen = &connection.setup().roots[0];
    let (root, width, height) = (screen.root, screen.width_in_pixels, screen.height_in_pixels);
    let image = connection.get_image(ImageFormat::Z_PIXMAP, root, 0, 0, width, height, !0)?.reply()?;
    let (width, height) = (usize::from(width), usize::from(height));
    ensure!(image.data.len() == width * height * 4, "{} bytes for {width}x{height}", image.data.len());
    let pixel = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
    Ok(Frame { width, height, pixels: image.data.chunks_exact(4).map(pixel).collect() })
}

/// Gives every window on display `number` this size, as somebody who drags their corners. Blocking.
pub fn resize_windows(number: u32, authority: &[u8], width: u32, height: u32) -> Result<()> {
    let connection = connect(number, authority)?;
    let root = connection.setup().roots[0].root;
    for window in connection.query_tree(root)?.reply()?.children {
        connection.configure_window(window, &ConfigureWindowAux::new().width(width).height(height))?.check()?;
    }
    Ok(())
}

/// The cookie of the first record of an Xauthority file.
fn cookie(file: &[u8]) -> Result<Vec<u8>> {
    // family, then address, number, name and data, each a big-endian length and as many bytes.
    let mut rest = file.get(2..).context("empty Xauthority")?;
    let mut field = Vec::new();
    for _ in 0..4 {
        let length = usize::from(u16::from_be_bytes([*rest.first().context("short")?, *rest.get(1).context("short")?]));
        field = rest.get(2..2 + length).context("Xauthority ends early")?.to_vec();
        rest = &rest[2 + length..];
    }
    Ok(field)
}

#[cfg(test)]
mod tests {
    use anyhow::{Result, ensure};

    use crate::own_display::OwnDisplay;
    use crate::rfb::Rfb;

    /// The two eyes of the desktop tests must see the same on a display without Helix in between.
    #[tokio::test]
    async fn x_and_rfb_see_the_same_picture() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let display = OwnDisplay::start(dir.path(), "640x480").await?;
        let mut rfb = Rfb::unix(&display.socket).await?;
        let seen = rfb.full_frame().await?.clone();
        let real = display.screen().await?;
        ensure!((seen.width, seen.height) == (640, 480), "{seen:?}");
        ensure!(real.differs(&seen) == 0, "{} pixels differ", real.differs(&seen));
        display.end().await
    }
}
