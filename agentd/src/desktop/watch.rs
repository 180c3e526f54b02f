//! Whether something was drawn, by the display's own notices (DAMAGE), and waiting for pixels to change or to rest.
//!
//! The display tells once that something was drawn, and no more until it is told to begin anew ([`Watch::arm`]): a
//! busy screen that nobody looks at costs nothing. What was drawn need not look different; a wait compares pixels.

use std::time::Duration;

use helix_protocol::desktop::{MAX_WAIT_TIMEOUT_MS, Wait, WaitFor, Waited};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use x11rb::protocol::damage::{CreateRequest, ReportLevel, SubtractRequest};
use x11rb::protocol::xproto::{MATCH_ERROR, Window};

use super::connection::Connection;
use super::{Desktop, DesktopError, Result};

/// Between two looks at a screen on which something is drawn all the time.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Notices of one display.
pub(super) struct Watch {
    damage: u32,
    /// Notices that were answered by beginning anew.
    armed: Mutex<u64>,
    nonce: String,
}

impl Watch {
    pub async fn new(x: &Connection, root: Window) -> Result<Self> {
        let mut nonce = [0; 6];
        getrandom::fill(&mut nonce).map_err(|error| DesktopError::Fault(format!("no random numbers: {error}")))?;
        let damage = x.new_id();
        x.tell(CreateRequest { damage, drawable: root, level: ReportLevel::NON_EMPTY }).await?;
        Ok(Self { damage, armed: Mutex::new(0), nonce: helix_protocol::ids::hex(&nonce) })
    }

    /// Tells this connection from every other one.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// From now on the display tells when something is drawn. The number stays the same while nothing is.
    pub async fn arm(&self, x: &Connection) -> Result<u64> {
        let mut armed = self.armed.lock().await;
        let told = *x.damaged().borrow();
        if told != *armed {
            x.tell(SubtractRequest { damage: self.damage, repair: x11rb::NONE, parts: x11rb::NONE }).await?;
            *armed = told;
        }
        Ok(told)
    }
}

impl Desktop {
    /// Notices from now on: who waits on it sees whatever is drawn after this.
    pub(super) async fn notices(&self) -> Result<watch::Receiver<u64>> {
        let mut notices = self.x.damaged();
        notices.mark_unchanged();
        self.watch.arm(&self.x).await?;
        Ok(notices)
    }

    /// Until a notice comes; false where none does in time.
    pub(super) async fn drawn(&self, notices: &mut watch::Receiver<u64>, deadline: Instant) -> Result<bool> {
        tokio::select! {
            () = self.x.ended().cancelled() => Err(DesktopError::gone()),
            changed = timeout_at(deadline, notices.changed()) => match changed {
                Ok(Ok(())) => Ok(true),
                Ok(Err(_)) => Err(DesktopError::gone()),
                Err(_) => Ok(false),
            },
        }
    }

    /// Waits for pixels.
    pub(super) async fn wait(&self, wait: &Wait) -> Result<Waited> {
        let within = |name: &str, ms: u64, most: u64| {
            let detail = || DesktopError::Invalid(format!("{name}: write 1 to {most} milliseconds"));
            (1..=most).contains(&ms).then(|| Duration::from_millis(ms)).ok_or_else(detail)
        };
        let patience = within("timeout_ms", wait.timeout_ms, MAX_WAIT_TIMEOUT_MS)?;
        let quiet = within("quiet_ms", wait.quiet_ms, MAX_WAIT_TIMEOUT_MS)?;
        let region = self.region(wait.region)?;
        let begun = Instant::now();
        let deadline = begun + patience;
        let mut notices = self.notices().await?;
        let first = self.look(region).await?;
        let (mut last, mut rested_since) = (first, begun);
        let mut changed = false;
        let answer = |changed, reached| Ok(Waited { changed, reached, waited_ms: begun.elapsed().as_millis() as u64 });
        loop {
            let next = match wait.goal {
                WaitFor::Change => deadline,
                WaitFor::Settle => deadline.min(rested_since + quiet),
            };
            // Looked at the clock first: on a screen that is drawn without end there is always a notice.
            if Instant::now() >= next || !self.drawn(&mut notices, next).await? {
                let rested = wait.goal == WaitFor::Settle && Instant::now() >= rested_since + quiet;
                return answer(changed, rested);
            }
            let looked = Instant::now();
            notices.mark_unchanged();
            self.watch.arm(&self.x).await?;
            let seen = match self.look(region).await {
                // The screen has become smaller than the region: that is a change, too.
                Err(DesktopError::X(MATCH_ERROR)) => {
                    self.region(wait.region)?;
                    return answer(true, wait.goal == WaitFor::Change);
                }
                seen => seen?,
            };
            if seen != last {
                (last, rested_since, changed) = (seen, Instant::now(), true);
            }
            if wait.goal == WaitFor::Change && seen != first {
                return answer(true, true);
            }
            // Not the time of a timeout: a screen that is drawn without end is looked at this often.
            sleep_until((looked + LOOK_EVERY).min(next)).await;
        }
    }
}
