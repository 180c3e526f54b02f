//! Tells whoever started us how it goes (systemd, or `helixctl up`).
//!
//! A thread of its own sends: the socket blocks when its reader is stuck, and a stuck reader must not hold up
//! heartbeats. What does not fit into the short queue is dropped; the next status says more anyway.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use helix_protocol::runner::REGISTERED_NOTICE;
use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::link::LinkStatus;
use crate::link::reports::Reports;

/// How long a notice that must be out may take.
const OUT_WITHIN: Duration = Duration::from_secs(1);
/// Notices that may wait for a slow reader.
const QUEUE: usize = 8;

static SENDER: OnceLock<Option<SyncSender<Told>>> = OnceLock::new();

/// A notice, and whom to tell when it is out.
type Told = (Notice, Option<SyncSender<()>>);

/// What is told.
#[derive(Debug)]
pub enum Notice {
    /// Every known session is taken over and looked after. Needs no server.
    Ready,
    /// Registered with a server.
    Registered,
    /// About to execute itself anew; Ready follows.
    Reloading,
    /// About to end.
    Stopping,
    /// The reconcile loop turns.
    Watchdog,
    /// One line for people.
    Status(String),
}

/// Tells it, if there is somebody to tell. Never blocks.
pub fn notify(notice: Notice) {
    tell(notice, None);
}

/// The same, and waits until it is out: for the last words before an exec.
pub fn notify_and_wait(notice: Notice) {
    let (sender, out) = sync_channel(1);
    tell(notice, Some(sender));
    // Nobody listens, or the reader is stuck: nothing to wait for.
    let _ = out.recv_timeout(OUT_WITHIN);
}

fn tell(notice: Notice, out: Option<SyncSender<()>>) {
    let sender = SENDER.get_or_init(|| {
        std::env::var_os("NOTIFY_SOCKET")?;
        let (sender, notices) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("notify".to_owned()).spawn(move || send(&notices));
        thread.ok().map(|_| sender)
    });
    if let Some(sender) = sender
        && sender.try_send((notice, out)).is_err()
    {
        tracing::debug!("the service manager does not read; a notice is dropped");
    }
}

fn send(notices: &Receiver<Told>) {
    while let Ok((notice, out)) = notices.recv() {
        let state = match &notice {
            Notice::Ready => NotifyState::Ready,
            Notice::Registered => NotifyState::Custom(REGISTERED_NOTICE),
            Notice::Reloading => NotifyState::Reloading,
            Notice::Stopping => NotifyState::Stopping,
            Notice::Watchdog => NotifyState::Watchdog,
            Notice::Status(text) => NotifyState::Status(text),
        };
        let mut states = vec![state];
        if let Notice::Reloading = notice {
            // systemd 253 and newer tells by it which reload this answers.
            states.extend(NotifyState::monotonic_usec_now());
        }
        if let Err(error) = sd_notify::notify(&states) {
            tracing::debug!("cannot notify the service manager: {error}");
        }
        if let Some(out) = out {
            // Whoever waited may have given up.
            let _ = out.try_send(());
        }
    }
}

/// Keeps a status line for people, and tells once that a server knows us. `trouble` is why settings were not reloaded.
pub async fn keep_told(
    mut link: watch::Receiver<LinkStatus>,
    reports: Reports,
    mut trouble: watch::Receiver<Option<String>>,
) {
    let mut sessions = reports.watch();
    let mut told = false;
    loop {
        let mut status = match &*link.borrow_and_update() {
            LinkStatus::Registered => {
                if !std::mem::replace(&mut told, true) {
                    notify(Notice::Registered);
                }
                format!("registered; {} sessions", reports.active())
            }
            LinkStatus::Away(reason) => format!("{} sessions; no server: {reason}", reports.active()),
        };
        if let Some(reason) = &*trouble.borrow_and_update() {
            status = format!("not reloaded, goes on with the old settings: {reason}; {status}");
        }
        // A status is one line.
        notify(Notice::Status(status.replace('\n', " ")));
        tokio::select! {
            changed = link.changed() => if changed.is_err() { return },
            _ = sessions.changed() => {}
            Ok(()) = trouble.changed() => {}
        }
    }
}
