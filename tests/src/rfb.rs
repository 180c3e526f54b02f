//! A small RFB client: security None, 32-bit pixels, Raw rectangles, keys. Over a unix socket or a WebSocket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::http::Socket;

/// Nothing of the protocol may take longer.
const PATIENCE: Duration = Duration::from_secs(20);
const ENCODING_RAW: i32 = 0;
/// Keeps the pointer out of the picture: the server sends it apart.
const ENCODING_CURSOR: i32 = -239;

const KEY_RETURN: u32 = 0xff0d;
const KEY_SHIFT: u32 = 0xffe1;
/// What has to be typed with Shift. Xtigervnc does without, X0tigervnc presses the key and no other.
const SHIFTED: &str = "~!@#$%^&*()_+{}|:\"<>?";

/// A whole picture: 0x00RRGGBB, row by row.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// All pixels.
    pub pixels: Vec<u32>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame {}x{}, {} colours", self.width, self.height, self.colours())
    }
}

impl Frame {
    /// The picture of a PNG file in colour.
    pub fn of_png(file: &Path) -> Result<Self> {
        let mut decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(file)?));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info()?;
        let mut bytes = vec![0; reader.output_buffer_size().context("a huge picture")?];
        let info = reader.next_frame(&mut bytes)?;
        let pixels = bytes[..info.buffer_size()].chunks_exact(info.color_type.samples());
        let pixels = pixels.map(|pixel| u32::from_be_bytes([0, pixel[0], pixel[1], pixel[2]])).collect();
        Ok(Self { width: info.width as usize, height: info.height as usize, pixels })
    }

    /// Number of pixels that differ; everything when the sizes do.
    pub fn differs(&self, other: &Self) -> usize {
        if (self.width, self.height) != (other.width, other.height) {
            return self.pixels.len().max(other.pixels.len());
        }
        self.pixels.iter().zip(&other.pixels).filter(|(one, two)| one != two).count()
    }

    /// Number of pixels that differ by more than `most` in some colour: for lossy encodings.
    pub fn differs_visibly(&self, other: &Self, most: u8) -> usize {
        if (self.width, self.height) != (other.width, other.height) {
            return self.pixels.len().max(other.pixels.len());
        }
        let far = |one: u32, two: u32| {
            one.to_be_bytes().into_iter().zip(two.to_be_bytes()).any(|(one, two)| one.abs_diff(two) > most)
        };
        self.pixels.iter().zip(&other.pixels).filter(|(one, two)| far(**one, **two)).count()
    }

    /// Number of different colours: 1 is an empty screen.
    pub fn colours(&self) -> usize {
        self.pixels.iter().collect::<std::collections::BTreeSet<_>>().len()
    }
}

enum Pipe {
    Unix(UnixStream),
    Tcp(TcpStream),
    Web { socket: Box<Socket>, buffer: BytesMut },
}

/// A connection to a desktop.
pub struct Rfb {
    pipe: Pipe,
    /// The picture as far as received.
    pub frame: Frame,
    /// The desktop's name.
    pub name: String,
    /// What was copied on the desktop last, as far as it was told.
    pub copied: Option<String>,
}

impl Pipe {
    async fn read(&mut self, length: usize) -> Result<Vec<u8>> {
        timeout(PATIENCE, self.read_patiently(length)).await.context("the RFB server fell silent")?
    }

    async fn read_patiently(&mut self, length: usize) -> Result<Vec<u8>> {
        match self {
            Self::Unix(stream) => {
                let mut bytes = vec![0; length];
                stream.read_exact(&mut bytes).await?;
                Ok(bytes)
            }
            Self::Tcp(stream) => {
                let mut bytes = vec![0; length];
                stream.read_exact(&mut bytes).await?;
                Ok(bytes)
            }
            Self::Web { socket, buffer } => {
                while buffer.len() < length {
                    match socket.next().await.context("the WebSocket ended")?? {
                        Message::Binary(bytes) => buffer.extend_from_slice(&bytes),
                        Message::Ping(_) | Message::Pong(_) => {}
                        other => bail!("not a binary message: {other:?}"),
                    }
                }
                Ok(buffer.split_to(length).to_vec())
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(bytes).await?,
            Self::Tcp(stream) => stream.write_all(bytes).await?,
            Self::Web { socket, .. } => socket.send(Message::Binary(bytes.to_vec().into())).await?,
        }
        Ok(())
    }
}

impl Rfb {
    /// Connects to the display's own socket.
    pub async fn unix(path: &Path) -> Result<Self> {
        Self::handshake(Pipe::Unix(UnixStream::connect(path).await?), None).await
    }

    /// Speaks over a connection to a port that asks for a password.
    pub async fn with_password(stream: TcpStream, password: &str) -> Result<Self> {
        Self::handshake(Pipe::Tcp(stream), Some(password)).await
    }

    /// Speaks over a WebSocket that was opened with a ticket.
    pub async fn over(socket: Socket) -> Result<Self> {
        Self::handshake(Pipe::Web { socket: Box::new(socket), buffer: BytesMut::new() }, None).await
    }

    /// Connects to a ticket's address.
    pub async fn ticket(url: &str) -> Result<Self> {
        // As browsers do it: a key does not wait for the acknowledgement of the one before.
        let (socket, _) = tokio_tungstenite::connect_async_with_config(url, None, true).await?;
        Self::over(socket).await
    }

    async fn handshake(mut pipe: Pipe, password: Option<&str>) -> Result<Self> {
        let banner = pipe.read(12).await?;
        ensure!(banner == b"RFB 003.008\n", "banner {:?}", String::from_utf8_lossy(&banner));
        pipe.write(&banner).await?;
        let count = pipe.read(1).await?[0];
        ensure!(count > 0, "the RFB server refuses the connection");
        let types = pipe.read(usize::from(count)).await?;
        let wanted = if password.is_some() { 2 } else { 1 };
        ensure!(types.contains(&wanted), "security type {wanted} is not offered: {types:?}");
        pipe.write(&[wanted]).await?;
        if let Some(password) = password {
            let challenge = pipe.read(16).await?;
            pipe.write(&helix_agentd::gate::vnc_answer(password, &challenge.as_slice().try_into()?)).await?;
        }
        let result = pipe.read(4).await?;
        ensure!(result == [0; 4], "security result {result:?}");
        pipe.write(&[1]).await?; // shared

        let head = pipe.read(24).await?;
        let mut head = head.as_slice();
        let (width, height) = (usize::from(head.get_u16()), usize::from(head.get_u16()));
        head.advance(16);
        let name_length = head.get_u32() as usize;
        let name = String::from_utf8_lossy(&pipe.read(name_length).await?).into_owned();

        // SetPixelFormat: 32 bits, depth 24, little-endian, true colour, 8 bits each at 16, 8, 0.
        let mut setup = vec![0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        setup.extend([2, 0, 0, 2]);
        setup.extend(ENCODING_RAW.to_be_bytes());
        setup.extend(ENCODING_CURSOR.to_be_bytes());
        // TigerVNC draws the pointer into the picture of a client that has not put it there itself.
        setup.extend([5, 0]);
        setup.extend((width as u16 / 2).to_be_bytes());
        setup.extend((height as u16 / 2).to_be_bytes());
        pipe.write(&setup).await?;
        Ok(Self { pipe, frame: Frame { width, height, pixels: vec![0; width * height] }, name, copied: None })
    }

    /// The whole picture as it is now.
    pub async fn full_frame(&mut self) -> Result<&Frame> {
        self.request(false).await?;
        let area = self.frame.width * self.frame.height;
        let mut seen = 0;
        while seen < area {
            match self.update().await? {
                // Only a cursor: that answered the request.
                0 => self.request(false).await?,
                pixels => seen += pixels,
            }
        }
        Ok(&self.frame)
    }

    /// Waits until something changes, and takes it into the picture.
    pub async fn change(&mut self) -> Result<()> {
        loop {
            self.request(true).await?;
            // An update without pixels (a cursor) answers the request: the server is silent until it is asked again.
            if self.update().await? > 0 {
                return Ok(());
            }
        }
    }

    /// Asks for what changes and waits until the connection is closed, whatever comes before.
    pub async fn ended(&mut self) {
        let mut asked = self.request(true).await;
        while asked.is_ok() {
            let mut first = [0; 1024];
            let open = match &mut self.pipe {
                Pipe::Unix(stream) => stream.read(&mut first).await.is_ok_and(|count| count > 0),
                Pipe::Tcp(stream) => stream.read(&mut first).await.is_ok_and(|count| count > 0),
                Pipe::Web { socket, .. } => {
                    matches!(socket.next().await, Some(Ok(message)) if !message.is_close())
                }
            };
            if !open {
                return;
            }
            asked = self.request(true).await;
        }
    }

    /// Asks for the whole picture so often, and takes nothing of it.
    pub async fn ask_and_take_nothing(&mut self, times: usize) -> Result<()> {
        for _ in 0..times {
            // Once nobody reads at the other end either, it is as slow as it can be.
            if timeout(Duration::from_millis(200), self.request(false)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Presses and releases a key.
    pub async fn key(&mut self, keysym: u32) -> Result<()> {
        self.press(keysym, true).await?;
        self.press(keysym, false).await
    }

    async fn press(&mut self, keysym: u32, down: bool) -> Result<()> {
        let mut event = vec![4, u8::from(down), 0, 0];
        event.extend(keysym.to_be_bytes());
        self.pipe.write(&event).await
    }

    /// Types Latin text as a person on an American keyboard does; a line end is Return.
    pub async fn type_text(&mut self, text: &str) -> Result<()> {
        for character in text.chars() {
            let shifted = character.is_ascii_uppercase() || SHIFTED.contains(character);
            if shifted {
                self.press(KEY_SHIFT, true).await?;
            }
            self.key(if character == '\n' { KEY_RETURN } else { u32::from(character) }).await?;
            if shifted {
                self.press(KEY_SHIFT, false).await?;
            }
        }
        Ok(())
    }

    /// Puts text into the desktop's clipboard.
    pub async fn paste(&mut self, text: &str) -> Result<()> {
        let mut message = vec![6, 0, 0, 0];
        message.extend(u32::try_from(text.len())?.to_be_bytes());
        message.extend(text.as_bytes());
        self.pipe.write(&message).await
    }

    async fn request(&mut self, incremental: bool) -> Result<()> {
        let (width, height) = (u16::try_from(self.frame.width)?, u16::try_from(self.frame.height)?);
        let mut request = vec![3, u8::from(incremental), 0, 0, 0, 0];
        request.extend(width.to_be_bytes());
        request.extend(height.to_be_bytes());
        self.pipe.write(&request).await
    }

    /// One server message; answers how many pixels it brought.
    async fn update(&mut self) -> Result<usize> {
        match self.pipe.read(1).await?[0] {
            0 => {}
            1 => {
                let head = self.pipe.read(5).await?;
                let colours = usize::from(u16::from_be_bytes([head[3], head[4]]));
                self.pipe.read(colours * 6).await?;
                return Ok(0);
            }
            2 => return Ok(0),
            3 => {
                let head = self.pipe.read(7).await?;
                let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
                let text = self.pipe.read(length).await?;
                self.copied = Some(text.into_iter().map(char::from).collect());
                return Ok(0);
            }
            other => bail!("unknown RFB message {other}"),
        }
        let head = self.pipe.read(3).await?;
        let rectangles = u16::from_be_bytes([head[1], head[2]]);
        let mut pixels = 0;
        for _ in 0..rectangles {
            pixels += self.rectangle().await?;
        }
        Ok(pixels)
    }

    async fn rectangle(&mut self) -> Result<usize> {
        let head = self.pipe.read(12).await?;
        let mut head = head.as_slice();
        let mut number = || usize::from(head.get_u16());
        let (x, y, width, height) = (number(), number(), number(), number());
        match head.get_i32() {
            ENCODING_RAW => {}
            ENCODING_CURSOR => {
                self.pipe.read(width * height * 4 + width.div_ceil(8) * height).await?;
                return Ok(0);
            }
            other => bail!("unasked encoding {other}"),
        }
        ensure!(x + width <= self.frame.width && y + height <= self.frame.height, "rectangle outside of the picture");
        let bytes = self.pipe.read(width * height * 4).await?;
        for (row, line) in bytes.chunks_exact((width * 4).max(1)).enumerate() {
            for (column, mut pixel) in line.chunks_exact(4).enumerate() {
                self.frame.pixels[(y + row) * self.frame.width + x + column] = pixel.get_u32_le() & 0x00ff_ffff;
            }
        }
        Ok(width * height)
    }
}
