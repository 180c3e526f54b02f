//! `[threads]`: how long an agent may be silent before it is said so.

use std::time::Duration;

use super::document::Document;
use super::{Checked, duration, refuse};
use crate::threads::decide::Timing;

const SECTION: &str = "threads";

/// Reads the section.
pub fn read(doc: &mut Document<'_>) -> Option<Timing> {
    let mut patience =
        |key, default| doc.text(SECTION, key, None).or(default).check(doc, |text| duration(text).and_then(sane));
    let ready_fallback = patience("ready_fallback", "60s");
    let thread_created = patience("thread_created", "90s");
    let silence = patience("silence", "180s");
    let tool_silence = patience("tool_silence", "30m");
    let timing = Timing {
        ready_fallback: ready_fallback?,
        thread_created: thread_created?,
        silence: silence?,
        tool_silence: tool_silence?,
    };
    if timing.tool_silence < timing.silence {
        let problem = format!("{:?} is shorter than silence {:?}", timing.tool_silence, timing.silence);
        doc.fault(
            SECTION,
            "tool_silence",
            &problem,
            "a tool may be silent for longer than a model: use for example \"30m\"",
        );
        return None;
    }
    Some(timing)
}

fn sane(patience: Duration) -> Checked<Duration> {
    if patience <= Duration::from_hours(24) {
        return Ok(patience);
    }
    refuse("is longer than a day", "use at most \"24h\"")
}
