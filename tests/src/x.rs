//! What the X server of a session really shows: its root window, read over its own socket with the session's cookie.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::SessionView;
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{ConnectionExt, ImageFormat};
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
    let environment = environment(view.pid.context("the session has no process")?)?;
    let number = view.display.as_ref().context("the session has no display")?.number;
    let authority = environment.get("XAUTHORITY").context("XAUTHORITY is not set in the session")?;
    screen_of(number, &std::fs::read(authority)?)
}

/// The whole screen of display `number`, with the content of its Xauthority file. Blocking.
pub fn screen_of(number: u32, authority: &[u8]) -> Result<Frame> {
    let cookie = cookie(authority)?;
    let socket = UnixStream::connect(format!("/tmp/.X11-unix/X{number}"))?;
    let (stream, _) = DefaultStream::from_unix_stream(socket)?;
    let connection =
        RustConnection::connect_to_stream_with_auth_info(stream, 0, b"MIT-MAGIC-COOKIE-1".to_vec(), cookie)?;
    let screen = &connection.setup().roots[0];
    let (root, width, height) = (screen.root, screen.width_in_pixels, screen.height_in_pixels);
    let image = connection.get_image(ImageFormat::Z_PIXMAP, root, 0, 0, width, height, !0)?.reply()?;
    let (width, height) = (usize::from(width), usize::from(height));
    ensure!(image.data.len() == width * height * 4, "{} bytes for {width}x{height}", image.data.len());
    let pixel = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
    Ok(Frame { width, height, pixels: image.data.chunks_exact(4).map(pixel).collect() })
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
    use std::process::Stdio;

    use anyhow::{Context, Result, ensure};
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::screen_of;
    use crate::programs;
    use crate::rfb::Rfb;

    /// The two eyes of the desktop tests must see the same on a display without Helix in between.
    #[tokio::test]
    async fn x_and_rfb_see_the_same_picture() -> Result<()> {
        let dir = tempfile::tempdir()?;
        // FamilyWild, no address, no number, MIT-MAGIC-COOKIE-1, 16 bytes.
        let mut authority = vec![0xff, 0xff, 0, 0, 0, 0, 0, 18];
        authority.extend(b"MIT-MAGIC-COOKIE-1");
        authority.extend([0, 16]);
        authority.extend([7; 16]);
        let file = dir.path().join("Xauthority");
        std::fs::write(&file, &authority)?;
        let socket = dir.path().join("vnc.sock");
        let mut server = tokio::process::Command::new(programs::installed("Xtigervnc")?)
            .args(["-displayfd", "1", "-geometry", "640x480", "-depth", "24", "-nolisten", "tcp", "-noreset"])
            .args(["-rfbport", "-1", "-SecurityTypes", "None", "-extension", "GLX", "-auth"])
            .arg(&file)
            .arg("-rfbunixpath")
            .arg(&socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(server.stdout.take().context("no stdout")?).lines();
        let number = lines.next_line().await?.context("no display")?.trim().parse()?;
        let mut rfb = Rfb::unix(&socket).await?;
        let seen = rfb.full_frame().await?.clone();
        let real = tokio::task::spawn_blocking(move || screen_of(number, &authority)).await??;
        ensure!((seen.width, seen.height) == (640, 480), "{seen:?}");
        ensure!(real.differs(&seen) == 0, "{} pixels differ", real.differs(&seen));
        // Asked to end, it removes its sockets.
        crate::process::signal_pid(server.id().context("it ended")?, rustix::process::Signal::TERM)?;
        server.wait().await?;
        Ok(())
    }
}
