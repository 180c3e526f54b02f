//! `[reaper]`: how often is looked for what has lost its owner, and how long it stays.

use std::time::Duration;

use super::document::Document;
use super::{Checked, duration, refuse};
use crate::reaper::Settings;

const SECTION: &str = "reaper";

/// Reads the section.
pub(super) fn read(doc: &mut Document<'_>) -> Option<Settings> {
    let mut time =
        |key, default| doc.text(SECTION, key, None).or(default).check(doc, |text| duration(text).and_then(sane));
    let (interval, grace, uploads) = (time("interval", "1h"), time("grace", "1h"), time("uploads", "24h"));
    Some(Settings { interval: interval?, grace: grace?, uploads: uploads? })
}

/// Markers of what was removed, which are the proof, live for 30 days.
fn sane(time: Duration) -> Checked<Duration> {
    if time <= Duration::from_hours(7 * 24) {
        return Ok(time);
    }
    refuse("is longer than a week", "use at most \"168h\"")
}
