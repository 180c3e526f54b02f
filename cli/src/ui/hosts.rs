//! A line for each of many hosts, with the step that runs: they stay in place on a terminal; elsewhere each step is a line.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Ui;
use super::text::printable;

/// All lines.
#[derive(Debug)]
pub struct Hosts {
    ui: Ui,
    bars: Option<MultiProgress>,
}

/// One host's line.
#[derive(Debug, Clone)]
pub struct HostLine {
    ui: Ui,
    host: String,
    bar: Option<ProgressBar>,
}

impl Hosts {
    pub(super) fn new(ui: &Ui, shown: bool) -> Self {
        let bars = shown.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { ui: ui.clone(), bars }
    }

    /// The line of a host.
    pub fn line(&self, host: &str) -> HostLine {
        let bar = self.bars.as_ref().map(|bars| {
            let style = ProgressStyle::with_template("{spinner} {prefix:.bold} {wide_msg} {elapsed}")
                .unwrap_or_else(|_invalid| ProgressStyle::default_spinner());
            let bar = bars.add(ProgressBar::new_spinner().with_style(style).with_prefix(printable(host)));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        HostLine { ui: self.ui.clone(), host: host.to_owned(), bar }
    }
}

impl HostLine {
    /// The step that begins.
    pub fn step(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(printable(text)),
            None => self.ui.note(&format!("{}: {text}", self.host)),
        }
    }

    /// More about the step, many times a second; seen on a terminal only.
    pub fn now(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(text));
        }
    }

    /// How it ended: the line stays.
    pub fn end(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.finish_with_message(printable(text)),
            None => self.ui.note(&format!("{}: {text}", self.host)),
        }
    }
}
