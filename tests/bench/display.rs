//! Stand-in for `Xtigervnc` in the relay benchmark: this program under that name, first in PATH.
//!
//! It becomes the real server for the window manager and the terminal, but a child of it answers on the RFB socket, from
//! memory: a whole raw frame for every request and one pixel for every key. So the benchmark measures the relay and
//! not an X server, whose frame rate is capped.

use std::io::{Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};

/// Size of the frame that it serves.
pub const WIDTH: u16 = 1920;
/// Size of the frame that it serves.
pub const HEIGHT: u16 = 1080;
/// Bytes of one raw frame, header included.
pub const FRAME_BYTES: usize = 16 + WIDTH as usize * HEIGHT as usize * 4;

/// Argument of the process that answers on the RFB socket.
const SERVE: &str = "serve-frames";

/// Becomes the real server, or answers on the socket that was handed over.
pub fn run() -> Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == SERVE) {
        let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        for viewer in listener.incoming() {
            let viewer = viewer?;
            std::thread::spawn(move || serve(viewer));
        }
        return Ok(());
    }
    let at = args.iter().position(|arg| arg == "-rfbunixpath").context("no -rfbunixpath")? + 1;
    let socket = args.get(at).context("no path after -rfbunixpath")?.clone();
    args[at] = format!("{socket}.x");
    let _ = std::fs::remove_file(&socket);
    // agentd checks that the display's own process listens: it does, and only then becomes the X server.
    let listener = UnixListener::bind(&socket).with_context(|| format!("cannot bind {socket}"))?;
    Command::new(std::env::current_exe()?).arg0("Xtigervnc").arg(SERVE).stdin(OwnedFd::from(listener)).spawn()?;
    Err(Command::new("/usr/bin/Xtigervnc").args(args).exec()).context("cannot become /usr/bin/Xtigervnc")
}

/// The server side of RFB 3.8 with security type None, as far as the benchmark's viewer goes.
fn serve(mut viewer: UnixStream) -> std::io::Result<()> {
    viewer.write_all(b"RFB 003.008\n")?;
    read::<12>(&mut viewer)?;
    viewer.write_all(&[1, 1])?;
    read::<1>(&mut viewer)?;
    viewer.write_all(&[0; 4])?;
    read::<1>(&mut viewer)?;
    let mut init = Vec::new();
    init.extend(WIDTH.to_be_bytes());
    init.extend(HEIGHT.to_be_bytes());
    init.extend([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
    init.extend(5u32.to_be_bytes());
    init.extend(b"bench");
    viewer.write_all(&init)?;

    let frame = update(WIDTH, HEIGHT);
    let pixel = update(1, 1);
    loop {
        match read::<1>(&mut viewer)?[0] {
            0 => drop(read::<19>(&mut viewer)?),
            2 => {
                let head = read::<3>(&mut viewer)?;
                let mut encodings = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]])) * 4];
                viewer.read_exact(&mut encodings)?;
            }
            3 => {
                read::<9>(&mut viewer)?;
                viewer.write_all(&frame)?;
            }
            4 => {
                read::<7>(&mut viewer)?;
                viewer.write_all(&pixel)?;
            }
            other => return Err(std::io::Error::other(format!("unexpected message {other}"))),
        }
    }
}

/// A FramebufferUpdate of one raw rectangle.
fn update(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 0];
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend(0i32.to_be_bytes());
    bytes.resize(16 + usize::from(width) * usize::from(height) * 4, 0x5a);
    bytes
}

fn read<const N: usize>(from: &mut UnixStream) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
