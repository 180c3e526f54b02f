//! Tells whoever started us how it goes (systemd, or `helixctl up`).
//!
//! A thread of its own sends: the socket blocks when its reader is stuck, and a stuck reader must not hold up
//! heartbeats. What does not fit into the short queue is dropped; the next status says more anyway.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sd_notify::NotifyState;

/// Notices that may wait for a slow reader.
const QUEUE: usize = 8;

static SENDER: OnceLock<Option<SyncSender<Notice>>> = OnceLock::new();

/// What is told.
#[derive(Debug)]
pub enum Notice {
    /// Registered with a server.
    Ready,
    /// About to end.
    Stopping,
    /// The reconcile loop turns.
    Watchdog,
    /// One line for people.
    Status(String),
}

/// Tells it, if there is somebody to tell. Never blocks.
pub fn notify(notice: Notice) {
    let sender = SENDER.get_or_init(|| {
        std::env::var_os("NOTIFY_SOCKET")?;
        let (sender, notices) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("notify".to_owned()).spawn(move || send(&notices));
        thread.ok().map(|_| sender)
    });
    if let Some(sender) = sender
        && sender.try_send(notice).is_err()
    {
        tracing::debug!("the service manager does not read; a notice is dropped");
    }
}

fn send(notices: &Receiver<Notice>) {
    while let Ok(notice) = notices.recv() {
        let state = match &notice {
            Notice::Ready => NotifyState::Ready,
            Notice::Stopping => NotifyState::Stopping,
            Notice::Watchdog => NotifyState::Watchdog,
            Notice::Status(text) => NotifyState::Status(text),
        };
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::debug!(%error, "cannot notify the service manager");
        }
    }
}
