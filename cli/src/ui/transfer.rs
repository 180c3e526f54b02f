//! How far a transfer is.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text::printable;

/// Bytes that are copied, of all files together. Gone from the terminal when dropped.
#[derive(Debug)]
pub struct Transfer {
    bar: ProgressBar,
}

impl Transfer {
    pub(super) fn new(shown: bool, total: u64) -> Self {
        let style = ProgressStyle::with_template("{wide_msg} {bytes}/{total_bytes} {bytes_per_sec} {eta}\n{wide_bar}")
            .unwrap_or_else(|_invalid| ProgressStyle::default_bar());
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bar: ProgressBar::with_draw_target(Some(total), target).with_style(style) }
    }

    /// What is copied now.
    pub fn file(&self, name: &str) {
        self.bar.set_message(printable(name));
    }

    /// There is more to copy than was known.
    pub fn more(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// So many more are done; also what a former try has left.
    pub fn done(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// What is done of all files together.
    pub fn position(&self) -> u64 {
        self.bar.position()
    }

    /// No more than this is done: something must be done again.
    pub fn back_to(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// The same bar, for who counts elsewhere.
    pub fn counter(&self) -> impl Fn(u64) + Clone + Send + Sync + 'static {
        let bar = self.bar.clone();
        move |bytes| bar.inc(bytes)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
