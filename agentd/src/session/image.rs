//! The image that a session's agent runs in: had before anything of the session is made, and kept until its end.

use std::sync::PoisonError;
use std::time::Duration;

use helix_protocol::image::Digest;
use helix_protocol::session::Cause;
use tokio::time::Instant;

use super::{Ending, Session, begin_step, finish_step};
use crate::images::{Images, Inside, Progress};
use crate::supervisor::Supervisor;

/// The step's name in the timeline.
const STEP: &str = "image";
/// Between two words about how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);

impl<S: Supervisor> Session<S> {
    /// Returns when the image is here. Who gives up is the pull: while bytes come, it may take its time.
    pub(super) async fn have_image(&self) -> Result<(), Ending> {
        let images = &self.context.images;
        let Some(asked) = self.entry().desired.spec.image.clone() else { return Ok(()) };
        let Some(digest) = self.entry().desired.spec.image_digest() else {
            return Err(
                self.no_image("image_not_found", format!("{asked} is no digest: the server is too old for images"))
            );
        };
        if let Some(reason) = images.unavailable() {
            return Err(self.no_image("image_unavailable", format!("sessions here run in no image: {reason}")));
        }
        *self.image.lock().unwrap_or_else(PoisonError::into_inner) = Some(images.hold(digest));
        if images.inside(digest).is_some() {
            return Ok(());
        }
        self.change(|entry| begin_step(entry, STEP));
        let mut pull = images.pull(digest);
        let mut told = None;
        loop {
            let progress = pull.borrow_and_update().clone();
            match &progress.done {
                Some(Ok(())) => break,
                Some(Err(error)) => {
                    return Err(self.no_image(error.code(), format!("image {digest} cannot be had: {error}")));
                }
                None => {}
            }
            if told.is_none_or(|at: Instant| at.elapsed() >= TELL_EVERY) {
                told = Some(Instant::now());
                self.tell_progress(&progress);
            }
            if pull.changed().await.is_err() {
                return Err(self.no_image("image_pull_failed", "the pull broke off".to_owned()));
            }
        }
        self.change(|entry| finish_step(entry, STEP, None));
        Ok(())
    }

    /// What it finds in its image. One that is gone under a running session is not looked into.
    pub(super) fn inside(&self, digest: Digest) -> Inside {
        let gone = || Inside::new(Images::root_of(&self.context.config.state_dir, digest));
        self.context.images.inside(digest).unwrap_or_else(gone)
    }

    /// It runs in it no more.
    pub(super) fn let_image_go(&self) {
        self.image.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn tell_progress(&self, Progress { bytes, total, unpacking, .. }: &Progress) {
        let text = match total {
            0 => "pulling image".to_owned(),
            _ if *unpacking => "unpacking image".to_owned(),
            total => format!("pulling image {} %", bytes * 100 / total),
        };
        self.change(|entry| {
            if let Some(step) = entry.timeline.iter_mut().find(|step| step.step == STEP) {
                step.detail = Some(text);
            }
        });
    }

    fn no_image(&self, code: &str, message: String) -> Ending {
        self.change(|entry| finish_step(entry, STEP, Some(message.clone())));
        Ending::from(Cause { step: Some(STEP.to_owned()), ..Cause::new(code, message) })
    }
}
