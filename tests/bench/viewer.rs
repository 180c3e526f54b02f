//! A viewer that counts: RFB over a WebSocket, raw encoding, no decoding.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// A connected viewer.
pub struct Viewer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Bytes received and not yet consumed.
    pending: usize,
    head: Vec<u8>,
    /// Width and height of the desktop.
    pub size: (u16, u16),
    /// From the call of [`Viewer::connect`] to the display's first twelve bytes, its RFB version.
    pub first_bytes: Duration,
}

impl Viewer {
    /// Connects and goes through the handshake up to ServerInit.
    pub async fn connect(url: &str) -> Result<Self> {
        let begun = Instant::now();
        let mut request = url.into_client_request()?;
        // websockify wants a sub-protocol named; Helix ignores it.
        request.headers_mut().insert("sec-websocket-protocol", "binary".parse()?);
        // As browsers do it: no small frame waits for the acknowledgement of the one before.
        let (socket, _) = tokio_tungstenite::connect_async_with_config(request, None, true).await?;
        let mut viewer = Self { socket, pending: 0, head: Vec::new(), size: (0, 0), first_bytes: Duration::ZERO };
        ensure!(viewer.take(12).await?.starts_with(b"RFB "), "not RFB");
        viewer.first_bytes = begun.elapsed();
        viewer.send(b"RFB 003.008\n").await?;
        let kinds = viewer.take(1).await?[0];
        let kinds = viewer.take(usize::from(kinds)).await?;
        ensure!(kinds.contains(&1), "security type None is not offered");
        viewer.send(&[1]).await?;
        ensure!(viewer.take(4).await? == [0; 4], "refused");
        viewer.send(&[1]).await?;
        let init = viewer.take(24).await?;
        let name = u32::from_be_bytes([init[20], init[21], init[22], init[23]]);
        viewer.take(name as usize).await?;
        viewer.size = (u16::from_be_bytes([init[0], init[1]]), u16::from_be_bytes([init[2], init[3]]));
        // Raw encoding only.
        viewer.send(&[2, 0, 0, 1, 0, 0, 0, 0]).await?;
        Ok(viewer)
    }

    /// Asks for the whole screen and reads until all of its pixels are here.
    pub async fn frame(&mut self) -> Result<usize> {
        self.request(false).await?;
        let pixels = usize::from(self.size.0) * usize::from(self.size.1);
        let (mut seen, mut bytes) = (0, 0);
        while seen < pixels {
            let (area, length) = self.update().await?;
            seen += area;
            bytes += length;
        }
        Ok(bytes)
    }

    /// Presses and releases a key; returns when an update with new pixels is here.
    pub async fn key_echo(&mut self, keysym: u32, ask: bool) -> Result<()> {
        if ask {
            self.request(true).await?;
        }
        let mut message = [4, 1, 0, 0, 0, 0, 0, 0];
        message[4..].copy_from_slice(&keysym.to_be_bytes());
        self.send(&message).await?;
        self.update().await?;
        message[1] = 0;
        self.send(&message).await?;
        if !ask {
            // The stand-in answers the release, too.
            self.update().await?;
        }
        Ok(())
    }

    async fn request(&mut self, incremental: bool) -> Result<()> {
        let (width, height) = (self.size.0.to_be_bytes(), self.size.1.to_be_bytes());
        self.send(&[3, u8::from(incremental), 0, 0, 0, 0, width[0], width[1], height[0], height[1]]).await
    }

    /// Reads one FramebufferUpdate: pixels and bytes of it.
    async fn update(&mut self) -> Result<(usize, usize)> {
        loop {
            match self.take(1).await?[0] {
                0 => break,
                2 => {}
                3 => {
                    let head = self.take(7).await?;
                    self.skip(u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize).await?;
                }
                other => bail!("unexpected message {other}"),
            }
        }
        let head = self.take(3).await?;
        let (mut area, mut bytes) = (0, 4);
        for _ in 0..u16::from_be_bytes([head[1], head[2]]) {
            let rectangle = self.take(12).await?;
            let side = |at: usize| usize::from(u16::from_be_bytes([rectangle[at], rectangle[at + 1]]));
            ensure!(rectangle[8..] == [0; 4], "not raw");
            let pixels = side(4) * side(6);
            self.skip(pixels * 4).await?;
            area += pixels;
            bytes += 12 + pixels * 4;
        }
        Ok((area, bytes))
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.socket.send(Message::binary(bytes.to_vec())).await?)
    }

    async fn fill(&mut self) -> Result<bytes::Bytes> {
        loop {
            match self.socket.next().await.context("closed")?? {
                Message::Binary(bytes) => return Ok(bytes),
                Message::Close(frame) => bail!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// The next `count` bytes.
    async fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.head.len() - self.pending < count {
            let more = self.fill().await?;
            self.head.drain(..self.pending);
            self.pending = 0;
            self.head.extend_from_slice(&more);
        }
        let bytes = self.head[self.pending..self.pending + count].to_vec();
        self.pending += count;
        Ok(bytes)
    }

    /// Drops the next `count` bytes without copying them together.
    async fn skip(&mut self, mut count: usize) -> Result<()> {
        let buffered = (self.head.len() - self.pending).min(count);
        self.pending += buffered;
        count -= buffered;
        while count > 0 {
            let more = self.fill().await?;
            if more.len() > count {
                self.head = more.into();
                self.pending = count;
                return Ok(());
            }
            count -= more.len();
        }
        Ok(())
    }
}
