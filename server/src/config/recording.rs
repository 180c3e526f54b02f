//! Section `[recording]`: what becomes of sessions that say nothing of a recording.

use std::ops::RangeInclusive;

use helix_protocol::recording::{Keep, KeepError, RecordingOptions};
use helix_protocol::resources::Bytes;

use super::document::Document;
use super::nats::{NatsConfig, amount};
use super::{refuse, switch};

/// From what a few chunks need.
const STORE: RangeInclusive<Bytes> = Bytes(1 << 20)..=Bytes(1 << 50);

/// Defaults of recordings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordingDefaults {
    /// Sessions are recorded unless they ask not to be.
    pub on: bool,
    /// How long a recording is kept whose session does not say.
    pub keep: Keep,
    /// Most that all recordings together take of JetStream's disk, so that the records of sessions always find room.
    pub max_store: Bytes,
    /// Somebody wrote that bound. One that nobody did is no reason not to start.
    pub is_chosen: bool,
}

impl RecordingDefaults {
    /// How a session is recorded that asked for `asked`, or said nothing of it.
    pub fn fill_in(&self, asked: Option<RecordingOptions>, says_nothing: bool) -> Option<RecordingOptions> {
        let options = asked.or((says_nothing && self.on).then(RecordingOptions::default))?;
        Some(RecordingOptions { keep: options.keep.or(Some(self.keep)) })
    }
}

/// Reads the section; notes faults. `nats` says how much there is to share.
pub(super) fn read(doc: &mut Document<'_>, nats: Option<&NatsConfig>) -> Option<RecordingDefaults> {
    let section = "recording";
    let on = doc.boolean(section, "default", None).or("false").check(doc, switch);
    let keep = doc.text(section, "keep", None).or("30d").check(doc, |text| {
        text.parse().or_else(|error: KeepError| refuse(error.to_string(), "write for example \"7d\""))
    });
    let half = nats.map_or(*STORE.start(), |nats| Bytes(nats.max_file_store.0 / 2));
    let max_store =
        doc.text(section, "max_store", None).or(&half.0.to_string()).check(doc, |text| amount(text, &STORE));
    let max_store = max_store?;
    Some(RecordingDefaults { on: on?, keep: keep?, max_store, is_chosen: max_store != half })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_session_says_goes_first() {
        let keep: Keep = "7d".parse().expect("valid");
        let own = RecordingOptions { keep: "1h".parse().ok() };
        for on in [false, true] {
            let defaults = RecordingDefaults { on, keep, max_store: Bytes(1 << 30), is_chosen: false };
            assert_eq!(defaults.fill_in(Some(own), false), Some(own));
            assert_eq!(
                defaults.fill_in(Some(RecordingOptions::default()), false),
                Some(RecordingOptions { keep: Some(keep) })
            );
            assert_eq!(defaults.fill_in(None, false), None, "it asked not to be");
            assert_eq!(defaults.fill_in(None, true).is_some(), on);
        }
    }
}
