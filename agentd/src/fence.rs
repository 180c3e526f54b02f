//! When this runner may have been called lost: then its `on_lost = restart` sessions must be held still, because a
//! server may start them elsewhere.
//!
//! [`Fence::heard`] notes each acknowledged heartbeat with the time at which it was *sent*, which is never later than
//! the server's own. One task ([`run`]) waits on CLOCK_BOOTTIME, which goes on while the machine is suspended, and
//! says `cut off` when `MARGIN` of the lost-timeout has passed without another; it takes that back at the first
//! desired set that was asked for after contact came back ([`Fence::synced`]), which it asks for at once
//! ([`Fence::sync_wanted`]), never before, so that whoever lets a session go on has seen what the servers now want of it. The time of the last contact is kept on disk, a moment behind: a restarted
//! agentd goes on counting where its predecessor stopped, or a little earlier, which is the safe side.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use crate::supervisor::process::procfs;

/// Of the lost-timeout: in what is left, every process is stopped.
const MARGIN: f64 = 0.8;
/// File in the state directory: boot id, last contact and lost-timeout in milliseconds of CLOCK_BOOTTIME.
const FILE: &str = "contact";

/// Milliseconds of CLOCK_BOOTTIME.
type BootMillis = u64;

/// The last contact with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Contact {
    at: BootMillis,
    lost_timeout: u64,
}

impl Contact {
    fn deadline(self) -> BootMillis {
        hold_at(self.at, self.lost_timeout)
    }
}

/// Pure: whether what may start elsewhere is held, by what is heard in its order.
#[derive(Debug, Default)]
pub struct Hold {
    held: bool,
    /// Since when contact is back: only what is asked for later says what the servers want now.
    back_at: Option<BootMillis>,
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Sessions are held from now on.
    CutOff,
    /// Contact is back: a desired set is wanted.
    Back,
}

impl Hold {
    /// As a former agentd, or whoever stood in for it, left it.
    pub fn new(held: bool) -> Self {
        Self { held, back_at: None }
    }

    /// It is `now`, and no server was heard for most of the lost-timeout, or one was.
    pub fn look(&mut self, silent: bool, now: BootMillis) -> Option<Change> {
        match (silent, self.held) {
            (true, false) => (self.held, self.back_at) = (true, None),
            (true, true) => {
                self.back_at = None;
                return None;
            }
            (false, true) if self.back_at.is_none() => {
                self.back_at = Some(now);
                return Some(Change::Back);
            }
            (false, _) => return None,
        }
        Some(Change::CutOff)
    }

    /// A desired set came that was asked for at `asked_at`. True where sessions go on.
    pub fn synced(&mut self, asked_at: BootMillis) -> bool {
        let is_news = self.held && self.back_at.is_some_and(|back_at| asked_at >= back_at);
        if is_news {
            *self = Self::default();
        }
        is_news
    }

    /// Sessions are held.
    pub fn is_held(&self) -> bool {
        self.held
    }
}

/// When a runner holds its sessions that was heard last by a heartbeat which it sent at `at`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of minutes")]
pub fn hold_at(at: BootMillis, lost_timeout: u64) -> BootMillis {
    at + (lost_timeout as f64 * MARGIN) as u64
}

/// Where contact is told. Clones are the same.
#[derive(Debug, Clone)]
pub struct Fence {
    contact: Arc<watch::Sender<Option<Contact>>>,
    /// When the last desired set was asked for that came.
    synced: Arc<watch::Sender<BootMillis>>,
    sync_wanted: Arc<Notify>,
    file: PathBuf,
}

impl Fence {
    /// With the contact that a former agentd of this boot had.
    pub fn new(state_dir: &Path) -> Self {
        let file = state_dir.join(FILE);
        let contact = load(&file);
        Self {
            contact: Arc::new(watch::Sender::new(contact)),
            synced: Arc::new(watch::Sender::new(0)),
            sync_wanted: Arc::default(),
            file,
        }
    }

    /// Now, for [`Fence::heard`]; ask before the request is sent.
    pub fn now() -> BootMillis {
        let now = clock_gettime(ClockId::Boottime);
        now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
    }

    /// A heartbeat that was sent at `at` was acknowledged by a server that waits this long.
    pub fn heard(&self, at: BootMillis, lost_timeout: Duration) {
        let contact = Contact { at, lost_timeout: lost_timeout.as_millis() as u64 };
        self.contact.send_replace(Some(contact));
    }

    /// How long the servers that were heard last wait until they call a runner lost; none where none was heard in this boot.
    pub fn lost_timeout(&self) -> Option<Duration> {
        self.contact.borrow().map(|contact| Duration::from_millis(contact.lost_timeout))
    }

    /// Completes when contact is back and sessions are held until the next desired set: somebody should fetch it.
    pub async fn sync_wanted(&self) {
        self.sync_wanted.notified().await;
    }

    /// A desired set came that was asked for at `asked_at`, and whoever reads it can see it now.
    pub fn synced(&self, asked_at: BootMillis) {
        self.synced.send_replace(asked_at);
    }
}

/// True when a server may soon call a runner lost whose last contact is the one on disk.
pub fn is_silent(state_dir: &Path) -> bool {
    load(&state_dir.join(FILE)).is_some_and(|last| Fence::now() >= last.deadline())
}

/// Waits until that would be so if no contact came after the one on disk now; false where there was none in this boot.
pub async fn deadline(state_dir: &Path) -> io::Result<bool> {
    let Some(last) = load(&state_dir.join(FILE)) else { return Ok(false) };
    let timer = timer()?;
    arm(timer.get_ref(), last.deadline())?;
    timer.readable().await?.clear_ready();
    Ok(true)
}

/// Says through `cut_off` how it is, and keeps the time of the last contact, until it is dropped. `cut_off` begins with
/// what [`is_silent`] says: whoever held sessions before this agentd came relies on it.
pub async fn run(fence: Fence, cut_off: watch::Sender<bool>) -> io::Result<()> {
    tokio::select! {
        result = tell(&fence, cut_off) => result,
        () = keep(&fence) => Ok(()),
    }
}

/// Writes the last contact, one at a time and always the newest. A slow disk makes neither servers nor sessions wait.
async fn keep(fence: &Fence) {
    let mut contact = fence.contact.subscribe();
    // What was heard before this began.
    contact.mark_changed();
    while contact.changed().await.is_ok() {
        let Some(last) = *contact.borrow_and_update() else { continue };
        let file = fence.file.clone();
        let saved = tokio::task::spawn_blocking(move || save(&file, last)).await;
        if let Err(error) = saved.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::debug!("the time of the last contact is not kept: {error}");
        }
    }
}

async fn tell(fence: &Fence, cut_off: watch::Sender<bool>) -> io::Result<()> {
    let timer = timer()?;
    let (mut contact, mut synced) = (fence.contact.subscribe(), fence.synced.subscribe());
    let mut hold = Hold::new(*cut_off.borrow());
    loop {
        let last = *contact.borrow_and_update();
        let silent = last.is_some_and(|last| Fence::now() >= last.deadline());
        if last.is_some() {
            match hold.look(silent, Fence::now()) {
                Some(Change::CutOff) => {
                    tracing::warn!("no server heard for most of the lost-timeout; what may start elsewhere is held");
                    cut_off.send_replace(true);
                }
                Some(Change::Back) => fence.sync_wanted.notify_one(),
                None => {}
            }
        }
        // Silent for long already, or nothing was ever heard: then nobody can have called this runner lost.
        if let Some(last) = last.filter(|_| !silent) {
            arm(timer.get_ref(), last.deadline())?;
        }
        tokio::select! {
            changed = contact.changed() => if changed.is_err() { return Ok(()) },
            expired = timer.readable(), if last.is_some() && !silent => expired?.clear_ready(),
            _ = synced.changed(), if hold.is_held() && !silent => {
                let asked_at = *synced.borrow_and_update();
                if hold.synced(asked_at) {
                    tracing::info!("a server is heard again and says what it wants");
                    cut_off.send_replace(false);
                }
            }
        }
    }
}

fn timer() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    #[allow(deprecated, reason = "what replaces it is unsafe; an OwnedFd is always the same open descriptor")]
    AsyncFd::new(timer)
}

fn arm(timer: &OwnedFd, at: BootMillis) -> io::Result<()> {
    let value = Timespec { tv_sec: (at / 1000).cast_signed(), tv_nsec: ((at % 1000) * 1_000_000).cast_signed() };
    let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: interval, it_value: value })?;
    Ok(())
}

fn save(file: &Path, contact: Contact) -> io::Result<()> {
    let draft = file.with_extension("new");
    fs::write(&draft, format!("{} {} {}\n", procfs::boot_id()?, contact.at, contact.lost_timeout))?;
    fs::rename(draft, file)
}

/// None where there is none, or it is of another boot: then its sessions are gone, too.
fn load(file: &Path) -> Option<Contact> {
    let text = fs::read_to_string(file).ok()?;
    let mut words = text.split_whitespace();
    if words.next()? != procfs::boot_id().ok()? {
        return None;
    }
    Some(Contact { at: words.next()?.parse().ok()?, lost_timeout: words.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(receiver: &mut watch::Receiver<bool>, wanted: bool) {
        let seen = tokio::time::timeout(Duration::from_secs(10), receiver.wait_for(|now| *now == wanted)).await;
        seen.expect("in time").expect("the fence runs");
    }

    #[tokio::test]
    async fn silence_cuts_off_and_only_a_desired_set_takes_that_back() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fence = Fence::new(dir.path());
        let (sender, mut cut_off) = watch::channel(false);
        let task = tokio::spawn(run(fence.clone(), sender));
        fence.heard(Fence::now(), Duration::from_millis(100));
        until(&mut cut_off, true).await;

        fence.heard(Fence::now(), Duration::from_mins(1));
        let soon = tokio::time::timeout(Duration::from_millis(200), cut_off.wait_for(|now| !*now)).await.is_ok();
        assert!(!soon, "contact alone took it back");
        tokio::time::timeout(Duration::from_secs(10), fence.sync_wanted()).await.expect("a desired set is asked for");
        fence.synced(1);
        let soon = tokio::time::timeout(Duration::from_millis(200), cut_off.wait_for(|now| !*now)).await.is_ok();
        assert!(!soon, "what was asked for before took it back");
        fence.synced(Fence::now());
        until(&mut cut_off, false).await;
        task.abort();
    }

    #[tokio::test]
    async fn whoever_stands_in_waits_as_long() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert!(!deadline(dir.path()).await.expect("a timer"), "there never was a contact");
        let contact = Contact { at: Fence::now(), lost_timeout: 500 };
        save(&dir.path().join(FILE), contact).expect("written");
        assert!(!is_silent(dir.path()));
        assert!(deadline(dir.path()).await.expect("a timer"));
        assert!(is_silent(dir.path()) && Fence::now() >= contact.deadline());
        assert!(deadline(dir.path()).await.expect("a timer"), "a deadline that is over is waited for");
    }

    #[tokio::test]
    async fn a_restarted_agentd_goes_on_counting() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let former = Fence::new(dir.path());
        let task = tokio::spawn(run(former.clone(), watch::Sender::new(false)));
        former.heard(Fence::now().saturating_sub(1000), Duration::from_millis(500));
        let kept = async {
            while load(&former.file) != *former.contact.borrow() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), kept).await.expect("in time");
        task.abort();
        let (sender, mut cut_off) = watch::channel(false);
        let task = tokio::spawn(run(Fence::new(dir.path()), sender));
        until(&mut cut_off, true).await;
        task.abort();
    }
}
