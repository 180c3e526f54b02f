//! Images that are had before a session asks for them: those that the servers name with every desired set, since agents of
//! pools may come here.
//!
//! Each is pulled like any other, beside everything else. One that cannot be had is a warning and is tried again after one
//! minute, two, four … [`LONGEST`]; a session that needs it does not wait for that. Those that are named stay, whatever
//! `images_keep` says, until they are named no more or a session's pull or a full disk needs their room.

use std::time::Duration;

use helix_protocol::image::Digest;
use helix_protocol::runner::LackingImage;
use tokio::time::Instant;

use super::Images;

/// Before the second try; doubled with each.
const FIRST: Duration = Duration::from_mins(1);
/// Longest pause between two.
const LONGEST: Duration = Duration::from_hours(1);

/// One that is wanted.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    failures: u32,
    /// Not before then.
    again: Option<Instant>,
    /// Why the last try failed.
    reason: Option<String>,
}

impl Ahead {
    /// It could not be had, or had to go.
    pub(super) fn failed(&mut self, reason: String) {
        let pause = FIRST.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.again = Some(Instant::now() + pause);
        self.reason = Some(reason);
    }

    /// For the heartbeat; None while nothing is known to be wrong.
    pub(super) fn lacking(&self, digest: Digest) -> Option<LackingImage> {
        Some(LackingImage { digest, reason: self.reason.clone()? })
    }

    fn is_due(&self) -> bool {
        self.again.is_none_or(|again| Instant::now() >= again)
    }
}

impl Images {
    /// Has these images and no others ahead.
    pub fn have_ahead(&self, wanted: &[Digest]) {
        if self.unavailable().is_some() {
            return;
        }
        let (due, fewer) = {
            let mut state = self.state();
            let before = state.ahead.len();
            state.ahead.retain(|digest, _| wanted.contains(digest));
            let fewer = state.ahead.len() < before;
            for digest in wanted {
                state.ahead.entry(*digest).or_default();
            }
            let due = state.ahead.iter().filter(|(digest, ahead)| ahead.is_due() && !state.pulls.contains_key(digest));
            (due.map(|(digest, _)| *digest).collect::<Vec<_>>(), fewer)
        };
        for digest in due {
            if !self.inner.place.is_complete(digest) {
                tracing::info!(image = %digest, "image is had ahead, for a pool");
                // Who waits for it, if anybody, is told by the pull itself.
                drop(self.pull(digest));
            }
        }
        if fewer {
            let images = self.clone();
            tokio::spawn(async move { images.tidy().await });
        }
    }
}
