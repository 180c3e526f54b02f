//! Tells the guest's loop when a child has ended.
//!
//! A signal handler would need unsafe code, and a pidfd per child would miss the double-forked orphans that reach a
//! subreaper. So one thread waits for any child without collecting it, writes to an eventfd that the loop polls, and
//! goes on only after the loop has collected. Only the loop collects: a pid it has not collected yet cannot be reused.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions};

/// The thread needs a few calls' depth only.
const STACK_BYTES: usize = 64 * 1024;

/// The loop's side.
pub(super) struct Reaper {
    ended: Arc<OwnedFd>,
    go_on: Sender<()>,
}

/// A child that has been collected.
pub(super) struct Ended {
    pub(super) pid: u32,
    /// As a shell tells it.
    pub(super) exit_status: i32,
}

impl Reaper {
    pub(super) fn start() -> io::Result<Self> {
        let ended = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (go_on, wait) = channel();
        let thread_ended = Arc::clone(&ended);
        std::thread::Builder::new()
            .name("reaper".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || wait_for_children(&thread_ended, &wait))?;
        Ok(Self { ended, go_on })
    }

    /// Readable when a child has ended.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Says that there may be children now: after every start.
    pub(super) fn started(&self) {
        // The thread ends only with the process.
        let _ = self.go_on.send(());
    }

    /// Collects one child that has ended. None when there is none, or no child at all.
    pub(super) fn collect() -> Option<Ended> {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let exit_status =
                    status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(255);
                Some(Ended { pid: pid.as_raw_pid().cast_unsigned(), exit_status })
            }
            _ => None,
        }
    }

    /// Clears the event; the thread looks again. Call after collecting everything.
    pub(super) fn collected(&self) {
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(&self.ended, &mut count);
        self.started();
    }
}

/// True when no child is left, ended or not: a subreaper without children has no descendants.
pub(super) fn is_childless() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(rustix::process::waitid(WaitId::All, options), Err(Errno::CHILD))
}

fn wait_for_children(ended: &OwnedFd, go_on: &Receiver<()>) {
    loop {
        match rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(Errno::INTR) => continue,
            // No child at all: the next start wakes this thread.
            Err(_) => {}
            Ok(_) => {
                let _ = rustix::io::write(ended, &1_u64.to_ne_bytes());
            }
        }
        if go_on.recv().is_err() {
            return;
        }
    }
}
