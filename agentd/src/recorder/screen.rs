//! A display as the recorder reads it: an RFB client that only asks for pictures, and keeps every byte that it is told.
//!
//! The display belongs to a session and is not trusted: all that is believed of a message is how long it is, and nothing
//! is held of one but the piece that is read. The bytes go to a [`Tape`] as they come, in pieces.

use std::io;
use std::path::Path;
use std::time::Duration;

use helix_protocol::recording::chunk::MAX_PAYLOAD;
use helix_protocol::recording::{ENCODINGS, LOSSY, PIXEL_FORMAT, SegmentStart};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::gate::greet_display;

/// For a display to answer the handshake.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Once a message has begun, for its next piece.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// What a client that asks for no password is told before ServerInit.
const HANDSHAKE: [u8; 18] = *b"RFB 003.008\n\x01\x01\0\0\0\0";
/// Longest name of a display.
const MAX_NAME: usize = 4096;
/// Longest text of a clipboard.
const MAX_TEXT: u32 = 64 << 20;

const UPDATE: u8 = 0;
const COLOURS: u8 = 1;
const BELL: u8 = 2;
const TEXT: u8 = 3;

const RAW: i32 = 0;
const COPY: i32 = 1;
const TIGHT: i32 = 7;
const LAST_RECTANGLE: i32 = -224;
const SIZE: i32 = -223;
const EXTENDED_SIZE: i32 = -308;
/// An update that does not know how many rectangles it will have.
const UNTIL_LAST: u16 = 0xffff;

/// Where the bytes of a display go.
pub trait Tape {
    /// Takes the next piece, at most [`MAX_PAYLOAD`] bytes.
    fn put(&mut self, piece: &[u8]) -> io::Result<()>;
}

/// A connection to a display.
#[derive(Debug)]
pub struct Screen<T> {
    stream: BufReader<UnixStream>,
    tape: T,
    /// Read and not on the tape yet.
    piece: Vec<u8>,
    /// Bytes of the message that is read.
    bytes: usize,
    width: u16,
    height: u16,
    lossy: bool,
    /// Pixels have come.
    has_drawn: bool,
}

impl<T: Tape> Screen<T> {
    /// Connects; `begin` makes the tape of a segment of this size. Nothing is asked for yet.
    pub async fn connect(
        socket: &Path,
        lossy: bool,
        begin: impl FnOnce(SegmentStart) -> io::Result<T>,
    ) -> io::Result<Self> {
        let greeted = async {
            let mut stream = UnixStream::connect(socket).await?;
            greet_display(&mut stream).await?;
            // Others stay.
            stream.write_u8(1).await?;
            let mut stream = BufReader::new(stream);
            let mut init = vec![0; 24];
            stream.read_exact(&mut init).await?;
            let length = number(&init[20..24]) as usize;
            if length > MAX_NAME {
                return Err(unexpected("its name is too long"));
            }
            init.resize(24 + length, 0);
            stream.read_exact(&mut init[24..]).await?;
            let ask = stream.get_mut();
            ask.write_all(&[&[0; 4], &PIXEL_FORMAT[..]].concat()).await?;
            ask.write_all(&encodings(lossy)).await?;
            Ok((stream, init))
        };
        let greeted = tokio::time::timeout(GREETING_TIMEOUT, greeted).await;
        let (stream, init) = greeted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let [width, height] = [&init[..2], &init[2..4]].map(|bytes| number(bytes) as u16);
        let mut tape = begin(SegmentStart { width, height })?;
        tape.put(&[&HANDSHAKE[..], &init].concat())?;
        Ok(Self { stream, tape, piece: Vec::new(), bytes: 0, width, height, lossy, has_drawn: false })
    }

    /// Whether the next picture may be lossy.
    pub async fn set_lossy(&mut self, lossy: bool) -> io::Result<()> {
        if std::mem::replace(&mut self.lossy, lossy) == lossy {
            return Ok(());
        }
        self.stream.get_mut().write_all(&encodings(lossy)).await
    }

    /// Asks for what changed, or for all.
    pub async fn ask(&mut self, only_changes: bool) -> io::Result<()> {
        let [w1, w2] = self.width.to_be_bytes();
        let [h1, h2] = self.height.to_be_bytes();
        self.stream.get_mut().write_all(&[3, u8::from(only_changes), 0, 0, 0, 0, w1, w2, h1, h2]).await
    }

    /// Reads until there was an update; answers how many bytes came. The first one has the picture: displays answer the
    /// first request with their size alone, and say no more until they are asked again.
    pub async fn update(&mut self) -> io::Result<usize> {
        let mut bytes = 0;
        loop {
            // However long it takes: an idle display says nothing.
            let kind = self.stream.read_u8().await?;
            self.piece.push(kind);
            self.bytes = 1;
            let read = self.message(kind).await;
            // What has come is kept, also of a message that breaks off.
            self.cut()?;
            read?;
            bytes += self.bytes;
            if kind == UPDATE {
                if self.has_drawn {
                    return Ok(bytes);
                }
                // Of what was never sent everything has changed; a request for all is answered with the size each time.
                self.ask(true).await?;
            }
        }
    }

    async fn message(&mut self, kind: u8) -> io::Result<()> {
        match kind {
            UPDATE => self.rectangles().await,
            COLOURS => {
                self.skip(3).await?;
                let count = self.u16().await?;
                self.skip(6 * usize::from(count)).await
            }
            BELL => Ok(()),
            TEXT => {
                self.skip(3).await?;
                let length = self.i32().await?.unsigned_abs();
                if length > MAX_TEXT {
                    return Err(unexpected("its clipboard is too large"));
                }
                self.skip(length as usize).await
            }
            _ => Err(unexpected("a message that nobody asked for")),
        }
    }

    async fn rectangles(&mut self) -> io::Result<()> {
        self.skip(1).await?;
        let count = self.u16().await?;
        let mut left = u32::from(count);
        while count == UNTIL_LAST || left > 0 {
            left = left.saturating_sub(1);
            let _at = self.take(4).await?;
            let (width, height, encoding) = (self.u16().await?, self.u16().await?, self.i32().await?);
            let pixels = usize::from(width) * usize::from(height);
            self.has_drawn |= pixels > 0 && [RAW, COPY, TIGHT].contains(&encoding);
            match encoding {
                RAW => self.skip(4 * pixels).await?,
                COPY => self.skip(4).await?,
                TIGHT => self.tight(usize::from(width), usize::from(height)).await?,
                SIZE => (self.width, self.height) = (width, height),
                EXTENDED_SIZE => {
                    let screens = self.take(4).await?[0];
                    self.skip(16 * usize::from(screens)).await?;
                    (self.width, self.height) = (width, height);
                }
                LAST_RECTANGLE => break,
                _ => return Err(unexpected("an encoding that nobody asked for")),
            }
        }
        Ok(())
    }

    async fn tight(&mut self, width: usize, height: usize) -> io::Result<()> {
        let control = self.take(1).await?[0] >> 4;
        let length = match control {
            8 => return self.skip(3).await,
            9 => self.compact().await?,
            10.. => return Err(unexpected("a rectangle of no known kind")),
            _ => {
                let filter = if control & 4 == 0 { 0 } else { self.take(1).await?[0] };
                let raw = match filter {
                    0 | 2 => 3 * width * height,
                    1 => {
                        let colours = usize::from(self.take(1).await?[0]) + 1;
                        self.skip(3 * colours).await?;
                        if colours == 2 { width.div_ceil(8) * height } else { width * height }
                    }
                    _ => return Err(unexpected("a filter that is not known")),
                };
                // So little is not compressed.
                if raw < 12 { raw } else { self.compact().await? }
            }
        };
        self.skip(length).await
    }

    /// A length in one to three bytes.
    async fn compact(&mut self) -> io::Result<usize> {
        let mut length = 0;
        for shift in [0, 7, 14] {
            let byte = usize::from(self.take(1).await?[0]);
            length |= (if shift == 14 { byte } else { byte & 0x7f }) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(length)
    }

    async fn u16(&mut self) -> io::Result<u16> {
        self.take(2).await.map(|bytes| number(bytes) as u16)
    }

    async fn i32(&mut self) -> io::Result<i32> {
        self.take(4).await.map(|bytes| number(bytes).cast_signed())
    }

    /// The next few bytes.
    async fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        if self.piece.len() + count > MAX_PAYLOAD {
            self.cut()?;
        }
        let from = self.piece.len();
        self.piece.resize(from + count, 0);
        let read = tokio::time::timeout(PIECE_TIMEOUT, self.stream.read_exact(&mut self.piece[from..])).await;
        if let Err(error) = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            self.piece.truncate(from);
            return Err(error);
        }
        self.bytes += count;
        Ok(&self.piece[from..])
    }

    async fn skip(&mut self, mut count: usize) -> io::Result<()> {
        while count > 0 {
            if self.piece.len() == MAX_PAYLOAD {
                self.cut()?;
            }
            let now = count.min(MAX_PAYLOAD - self.piece.len());
            self.take(now).await?;
            count -= now;
        }
        Ok(())
    }

    /// Puts what was read on the tape.
    fn cut(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let put = self.tape.put(&self.piece);
        self.piece.clear();
        put
    }
}

/// SetEncodings.
fn encodings(lossy: bool) -> Vec<u8> {
    let named: Vec<i32> = ENCODINGS.into_iter().chain(lossy.then_some(LOSSY)).collect();
    let mut message = vec![2, 0];
    message.extend((named.len() as u16).to_be_bytes());
    message.extend(named.iter().flat_map(|encoding| encoding.to_be_bytes()));
    message
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the display says {what}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use proptest::prelude::*;
    use tokio::net::UnixListener;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Rc<RefCell<Vec<Vec<u8>>>>);

    impl Tape for Kept {
        fn put(&mut self, piece: &[u8]) -> io::Result<()> {
            self.0.borrow_mut().push(piece.to_vec());
            Ok(())
        }
    }

    const INIT: [u8; 25] = [1, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'x'];

    /// A display that has greeted, and was told what is asked for.
    async fn greet(listener: &UnixListener) -> UnixStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"RFB 003.008\n").await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        stream.write_all(&[1, 1]).await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        stream.write_all(&[0; 4]).await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        stream.write_all(&INIT).await.unwrap();
        stream.read_exact(&mut [0; 20 + 4 + 4 * ENCODINGS.len()]).await.unwrap();
        stream
    }

    /// What is kept of a display that greets, says this, and ends.
    fn kept(said: &[u8]) -> Vec<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sock");
            let listener = UnixListener::bind(&path).unwrap();
            let display = async {
                let mut stream = greet(&listener).await;
                // Whoever is sent away may not take all of it.
                let _ = stream.write_all(said).await;
            };
            let tape = Kept::default();
            let recorder = async {
                let begin = |start: SegmentStart| {
                    assert_eq!((start.width, start.height), (256, 64));
                    Ok(tape.clone())
                };
                let mut screen = Screen::connect(&path, false, begin).await.unwrap();
                while screen.update().await.is_ok() {}
            };
            tokio::join!(display, recorder);
            tape.0.take()
        })
    }

    #[test]
    fn all_that_a_display_says_is_kept_in_pieces() {
        // A bell, a clipboard, and an update of one raw rectangle of 256 by 128.
        let mut said = vec![2, 3, 0, 0, 0, 0, 0, 0, 1, b'c', 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 128, 0, 0, 0, 0];
        said.extend(vec![7; 4 * 256 * 128]);
        let pieces = kept(&said);
        let all = [&HANDSHAKE[..], &INIT, &said].concat();
        assert!(pieces.concat() == all, "{} of {} bytes", pieces.concat().len(), all.len());
        assert!(pieces.iter().all(|piece| piece.len() <= MAX_PAYLOAD));
    }

    #[tokio::test]
    async fn the_first_update_has_the_picture() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let display = async {
            let mut stream = greet(&listener).await;
            // The first request is answered with the size, the next with one raw pixel.
            let mut request = [0; 10];
            let answers: [(u8, &[u8]); 2] =
                [(0, &[1, 0, 0, 64, 255, 255, 254, 204, 0, 0, 0, 0]), (1, &[0, 1, 0, 1, 0, 0, 0, 0, 7, 7, 7, 7])];
            for (only_changes, answer) in answers {
                stream.read_exact(&mut request).await.unwrap();
                assert_eq!(request[..2], [3, only_changes]);
                stream.write_all(&[0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        };
        let recorder = async {
            let mut screen = Screen::connect(&path, false, |_| Ok(Kept::default())).await.unwrap();
            screen.ask(false).await.unwrap();
            assert_eq!(screen.update().await.unwrap(), 2 * (8 + 12));
        };
        tokio::join!(display, recorder);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_a_display_says_comes_to_an_end(said in prop::collection::vec(any::<u8>(), 0..200)) {
            let all = kept(&said).concat();
            let greeted = HANDSHAKE.len() + INIT.len();
            prop_assert!(said.starts_with(&all[greeted..]), "something was made up");
        }
    }
}
