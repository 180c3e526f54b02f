//! Two WebSockets joined: the bytes of binary frames both ways, until either side, the token or the process ends.
//!
//! One task, one `poll`, no queue and no buffer while idle: what one read brings is unmasked in place, put behind
//! one frame head and written to the other side at once; only what that side does not take yet is kept, and until it
//! is gone nothing more is read. So a slow viewer slows its own runner socket by TCP and nothing else, and costs at
//! most one [`READ`]. Frame limits of the input do not matter: RFB is a stream, its frames are cut as they come.
//!
//! A side that shows no life for [`SILENCE`] is ended: its network died, or it has stopped reading.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::End;
use super::frame::{self, Fault, Inbound, MAX_HEAD};

/// Between pings to each side.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(20);
/// No frame read from a side and no data taken by it for this long: it is gone.
pub(crate) const SILENCE: Duration = Duration::from_mins(1);
/// How long the closing may take.
pub(crate) const GOODBYE: Duration = Duration::from_secs(1);
/// Most bytes of one read.
const READ: usize = 60 * 1024;
/// Reads of one direction before the other has its turn: a key press does not wait for a film.
const TURN: usize = 8;

/// A socket's bytes, either way.
pub trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// Carries bytes until a side ends or `stop` completes, then closes both. Says why it ended.
pub async fn splice(viewer: impl Io, runner: impl Io, stop: impl Future<Output = End>) -> End {
    let (mut viewer, mut runner) = (Side::new(viewer), Side::new(runner));
    let mut stop = pin!(stop);
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = stop.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        while ping.poll_tick(cx).is_ready() {
            if viewer.seen.elapsed().max(runner.seen.elapsed()) > SILENCE {
                return Poll::Ready(End::Broken);
            }
            viewer.ping = true;
            runner.ping = true;
        }
        if let Poll::Ready(end) = carry(cx, &mut runner, &mut viewer) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = carry(cx, &mut viewer, &mut runner) {
            return Poll::Ready(end);
        }
        // Pongs that the second direction owes to the side that the first one wrote to.
        match viewer.poll_settle(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(End::Broken),
            _ => Poll::Pending,
        }
    })
    .await;
    tokio::join!(viewer.close(end), runner.close(end));
    end
}

/// One direction, as far as it goes now.
#[expect(clippy::large_stack_arrays, reason = "lives for one poll, so that no viewer has a buffer of its own")]
fn carry(cx: &mut Context<'_>, from: &mut Side<impl Io>, to: &mut Side<impl Io>) -> Poll<End> {
    for _ in 0..TURN {
        if ready!(to.poll_settle(cx)).is_err() {
            return Poll::Ready(End::Broken);
        }
        let mut space = [const { MaybeUninit::uninit() }; MAX_HEAD + READ];
        let mut read = ReadBuf::uninit(&mut space);
        read.put_slice(&[0; MAX_HEAD]);
        match ready!(Pin::new(&mut from.io).poll_read(cx, &mut read)) {
            Ok(()) if read.filled().len() > MAX_HEAD => {}
            Ok(()) | Err(_) => return Poll::Ready(End::Broken),
        }
        from.seen = Instant::now();
        let taken = from.inbound.take(read.filled_mut(), |ping| from.pong = Some(ping.into()));
        let (out, over) = match taken {
            Ok(out) => (out, None),
            Err((out, Fault::Closed)) => (out, Some(End::Closed)),
            Err((out, Fault::Refused)) => (out, Some(End::Unexpected)),
        };
        // What came before the end still goes out.
        if to.write(cx, out).is_err() {
            return Poll::Ready(End::Broken);
        }
        if let Some(end) = over {
            return Poll::Ready(end);
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// One of the two sockets.
struct Side<S> {
    io: S,
    inbound: Inbound,
    /// What the socket has not taken yet; never more than one read.
    rest: Vec<u8>,
    /// Whether `rest` is data: taking it is a sign of life, while a ping also goes into a dead peer's buffer.
    rest_is_data: bool,
    /// The newest ping not answered yet: older ones need no answer of their own.
    pong: Option<Box<[u8]>>,
    /// A ping is due.
    ping: bool,
    /// Written since the last flush.
    dirty: bool,
    /// When it last sent a frame or took data.
    seen: Instant,
}

impl<S: Io> Side<S> {
    fn new(io: S) -> Self {
        Self {
            io,
            inbound: Inbound::default(),
            rest: Vec::new(),
            rest_is_data: false,
            pong: None,
            ping: false,
            dirty: false,
            seen: Instant::now(),
        }
    }

    /// Writes what the socket takes and keeps the rest. Only called when nothing is kept.
    fn write(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, bytes) {
                Poll::Ready(written) => {
                    bytes = &bytes[some(written?)?..];
                    self.dirty = true;
                    self.seen = Instant::now();
                }
                Poll::Pending => {
                    self.rest = bytes.to_vec();
                    self.rest_is_data = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Ready when nothing is kept and nothing is owed.
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            while !self.rest.is_empty() {
                let written = some(ready!(Pin::new(&mut self.io).poll_write(cx, &self.rest))?)?;
                self.rest.drain(..written);
                self.dirty = true;
                if self.rest_is_data {
                    self.seen = Instant::now();
                }
            }
            // Freed, not only emptied: most sides are idle.
            self.rest = Vec::new();
            self.rest_is_data = false;
            if let Some(payload) = self.pong.take() {
                self.rest = frame::control(frame::PONG, &payload);
            } else if std::mem::take(&mut self.ping) {
                self.rest = frame::control(frame::PING, &[]);
            } else {
                break;
            }
        }
        if self.dirty {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Says goodbye, as far as the peer still listens, and waits a moment for it to leave by itself: closing on
    /// bytes that it has just sent would reset the connection, and the close frame could be lost with it.
    async fn close(mut self, end: End) {
        let (code, reason) = end.code_and_reason();
        let goodbye = async {
            self.io.write_all(&std::mem::take(&mut self.rest)).await?;
            self.io.write_all(&frame::close(code, reason)).await?;
            self.io.shutdown().await?;
            let mut ignored = [0; 512];
            while self.io.read(&mut ignored).await? > 0 {}
            std::io::Result::Ok(())
        };
        // The peer may be gone already: then there is nobody to tell.
        let _ = timeout(GOODBYE, goodbye).await;
    }
}

/// A socket that takes nothing is closed.
fn some(written: usize) -> std::io::Result<usize> {
    if written == 0 { Err(std::io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}

#[cfg(test)]
mod tests;
