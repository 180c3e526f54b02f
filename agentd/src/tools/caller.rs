//! The other end of a program's stream: what it says, how much of its input was taken, and the end that it is told.
//!
//! One task reads its frames, so that a caller who takes no output is heard all the same, and is seen to leave.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use helix_protocol::tools::{Exit, FrameKind};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::frames;

/// Frames that were read and not yet looked at.
const FRAMES_WAITING: usize = 4;
/// For a caller that was told the end to stop sending.
const NOTICE: Duration = Duration::from_secs(10);

/// Frames as they come; the channel ends with the stream.
pub(super) type Frames = mpsc::Receiver<(FrameKind, Vec<u8>)>;

/// Reads frames until what comes second is dropped.
pub(super) fn incoming(mut reader: OwnedReadHalf) -> (Frames, Reading) {
    let (sender, receiver) = mpsc::channel(FRAMES_WAITING);
    let task = tokio::task::spawn_local(async move {
        loop {
            let mut payload = Vec::new();
            let Ok(Some(kind)) = frames::read(&mut reader, &mut payload).await else { return };
            if sender.send((kind, payload)).await.is_err() {
                return;
            }
        }
    });
    (receiver, Reading(task.abort_handle()))
}

/// The task that reads; it ends with this.
pub(super) struct Reading(AbortHandle);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells how the program has ended, and that nothing follows.
pub(super) async fn tell_end(writer: &mut OwnedWriteHalf, incoming: &mut Frames, exit: &Exit) -> io::Result<()> {
    frames::write_json(writer, FrameKind::End, exit).await?;
    writer.shutdown().await?;
    // Input may still be under way: whoever is cut off while it sends might not hear the end.
    let _ = tokio::time::timeout(NOTICE, async { while incoming.recv().await.is_some() {} }).await;
    Ok(())
}

/// Bytes of input that the program has taken and the caller does not know of.
#[derive(Default)]
pub(super) struct Taken {
    bytes: Cell<u32>,
    news: Notify,
}

impl Taken {
    pub(super) fn add(&self, count: usize) {
        self.bytes.set(self.bytes.get() + u32::try_from(count).unwrap_or(u32::MAX));
        self.news.notify_one();
    }

    /// Cancel safe.
    pub(super) async fn some(&self) -> [u8; 4] {
        loop {
            if self.bytes.get() > 0 {
                return self.bytes.take().to_be_bytes();
            }
            self.news.notified().await;
        }
    }
}
