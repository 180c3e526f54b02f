//! Whether the program that has the keyboard has read what was typed.
//!
//! The display knows whose window has the focus (X-Resource), and the kernel whether that process's first thread, which
//! reads the display's events in the toolkits that we know, has anything to do: one that slept all the time while the
//! display answered us twice had nothing left to handle of what was sent before. No protocol tells it better:
//! `_NET_WM_PING` is answered by some toolkits and no terminal.
//!
//! Failure: of a program on another machine nothing is known, and one that never sleeps may read long since; then time
//! has to do.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use x11rb::protocol::res::{ClientIdMask, ClientIdSpec, QueryClientIdsRequest};
use x11rb::protocol::xproto::{GetInputFocusRequest, InputFocus};

use super::Result;
use super::connection::Connection;

/// Of a program that nothing is known of it is assumed that it reads within this time.
const UNKNOWN: Duration = Duration::from_millis(100);
/// A program that always has something to do is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Returns when what was typed until now has been read.
pub(super) async fn has_read(x: &Connection) -> Result<()> {
    let asked = Instant::now();
    let Some(pid) = reader(x).await? else {
        sleep_until(asked + UNKNOWN).await;
        return Ok(());
    };
    let mut before = None;
    while asked.elapsed() < PATIENCE {
        // What was typed has reached the display, and so has its answer to whatever the program asked meanwhile.
        x.ask(GetInputFocusRequest {}).await?;
        // A process that is gone reads nothing any more.
        let Some(now) = Activity::of(pid) else { return Ok(()) };
        if now.sleeps && before.as_ref() == Some(&now) {
            return Ok(());
        }
        before = Some(now);
        sleep(PAUSE).await;
    }
    Ok(())
}

/// The process whose window has the focus, as far as the display knows it.
async fn reader(x: &Connection) -> Result<Option<u32>> {
    let focus = x.ask(GetInputFocusRequest {}).await?.focus;
    if [u32::from(InputFocus::NONE), u32::from(InputFocus::POINTER_ROOT)].contains(&focus) || !x.knows_clients() {
        return Ok(None);
    }
    let spec = ClientIdSpec { client: focus, mask: ClientIdMask::LOCAL_CLIENT_PID };
    let owners = x.ask(QueryClientIdsRequest { specs: vec![spec].into() }).await?;
    let pids = owners.ids.iter().filter(|id| id.spec.mask == ClientIdMask::LOCAL_CLIENT_PID);
    Ok(pids.flat_map(|id| &id.value).copied().find(|pid| *pid != 0))
}

/// What a process's first thread has done, as the kernel counts it.
#[derive(Debug, PartialEq, Eq)]
struct Activity {
    /// It waits for something, and not for a disk or to be let go on.
    sleeps: bool,
    /// Time on a processor, time that it waited for one, and how often it had one; empty where the kernel does not count.
    runs: String,
}

impl Activity {
    /// `None`: there is no such process.
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let runs = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        // Its name, in brackets, may have brackets in it.
        let state = stat.rsplit_once(") ")?.1;
        Some(Self { sleeps: state.starts_with('S'), runs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_does_not_sleep() {
        let own = Activity::of(std::process::id()).expect("this process");
        assert!(!own.runs.is_empty());
        assert_eq!(Activity::of(u32::MAX), None);
    }
}
