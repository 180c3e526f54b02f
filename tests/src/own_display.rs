//! An X display of the test's own, for viewers to show something on.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::programs;
use crate::rfb::Frame;

/// A running display; it ends when this is dropped.
pub struct OwnDisplay {
    server: Child,
    /// Its number.
    pub number: u32,
    /// Its Xauthority file.
    pub authority: PathBuf,
    /// Its RFB socket.
    pub socket: PathBuf,
}

impl OwnDisplay {
    /// Starts one of this size, `640x480`, with its files in `dir`.
    pub async fn start(dir: &Path, geometry: &str) -> Result<Self> {
        // FamilyWild, no address, no number, MIT-MAGIC-COOKIE-1, 16 bytes.
        let mut cookie = vec![0xff, 0xff, 0, 0, 0, 0, 0, 18];
        cookie.extend(b"MIT-MAGIC-COOKIE-1");
        cookie.extend([0, 16]);
        cookie.extend([7; 16]);
        let authority = dir.join("Xauthority");
        std::fs::write(&authority, &cookie)?;
        let socket = dir.join("vnc.sock");
        let mut server = Command::new(programs::installed("Xtigervnc")?)
            .args(["-displayfd", "1", "-geometry", geometry, "-depth", "24", "-nolisten", "tcp", "-noreset"])
            .args(["-rfbport", "-1", "-SecurityTypes", "None", "-extension", "GLX", "-auth"])
            .arg(&authority)
            .arg("-rfbunixpath")
            .arg(&socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(server.stdout.take().context("no stdout")?).lines();
        let number = lines.next_line().await?.context("no display")?.trim().parse()?;
        Ok(Self { server, number, authority, socket })
    }

    /// What programs need to find it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let authority = self.authority.to_string_lossy().into_owned();
        vec![("DISPLAY".to_owned(), format!(":{}", self.number)), ("XAUTHORITY".to_owned(), authority)]
    }

    /// Its screen now.
    pub async fn screen(&self) -> Result<Frame> {
        let (number, authority) = (self.number, std::fs::read(&self.authority)?);
        tokio::task::spawn_blocking(move || crate::x::screen_of(number, &authority)).await?
    }

    /// Gives the windows on it another size.
    pub async fn resize_windows(&self, width: u32, height: u32) -> Result<()> {
        let (number, authority) = (self.number, std::fs::read(&self.authority)?);
        tokio::task::spawn_blocking(move || crate::x::resize_windows(number, &authority, width, height)).await?
    }

    /// Ends it; asked to, it removes its sockets.
    pub async fn end(mut self) -> Result<()> {
        crate::process::signal_pid(self.server.id().context("it ended")?, rustix::process::Signal::TERM)?;
        self.server.wait().await?;
        Ok(())
    }
}
