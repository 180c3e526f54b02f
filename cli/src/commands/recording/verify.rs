//! `recording verify`: fetches every chunk, computes the chain anew, and compares it with the audit trail.
//!
//! Nothing that is beside the chunks is believed but the trail: not the manifest, which whoever changes a chunk can change,
//! too. The pure part is [`judge`].

use std::collections::BTreeMap;
use std::process::ExitCode;

use helix_protocol::ids::hex;
use helix_protocol::recording::chunk::{self, Checked, Header, first_link};
use helix_protocol::recording::{Deletion, Head, HeadList};
use helix_protocol::{ErrorCode, RecordingId};
use jiff::Timestamp;
use serde::Serialize;

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::ui::Ui;

/// What is wrong with a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub(super) enum Fault {
    /// A chunk is not the one that was recorded.
    Changed { chunk: u32, why: String },
    /// Chunks at the end are gone.
    CutOff { chunk: u32, known: u32 },
    /// No chunk is what was recorded.
    WrittenAnew { chunk: u32 },
    /// Its times go back, or are later than the server took it.
    Untimely { chunk: u32 },
    /// The trail says nothing of the last chunk.
    Unproved { chunk: u32 },
    /// It was deleted.
    Deleted { deletion: Deletion },
}

impl Fault {
    fn words(&self) -> String {
        match self {
            Self::Changed { chunk, why } => format!("chunk {chunk} was changed: {why}"),
            Self::CutOff { chunk, known } => {
                format!("it was cut off: chunk {chunk} is missing, the audit trail knows chunks up to {known}")
            }
            Self::WrittenAnew { chunk } => {
                format!("it was written anew: no chunk is what the audit trail says, from chunk {chunk} on")
            }
            Self::Untimely { chunk } => {
                format!("the times of chunk {chunk} cannot be: they go back, or are later than the server took it")
            }
            Self::Unproved { chunk } => {
                format!("chunk {chunk} is not proved: the audit trail does not know it, or not any more")
            }
            Self::Deleted { deletion: Deletion { retention: true, at, .. } } => {
                format!("it was deleted at {at}, because its time was up: there is nothing left to verify")
            }
            Self::Deleted { deletion: Deletion { by, at, .. } } => format!("it was deleted at {at} by {by}"),
        }
    }
}

/// What is known of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// As bytes have it.
    pub hash: String,
    /// What it names as the one before; none where it is no chunk of this number.
    pub previous: Option<String>,
    /// Its times follow those of the chunk before, and the server took it later.
    pub timely: bool,
}

#[derive(Debug, Serialize)]
struct Verdict {
    recording: RecordingId,
    verified: bool,
    chunks: u32,
    /// It has its end.
    complete: bool,
    #[serde(flatten)]
    fault: Option<Fault>,
}

/// Verifies one recording.
pub(super) async fn run(client: &Client, id: &RecordingId, ui: &Ui) -> Result<ExitCode> {
    let HeadList { heads, deleted } = client.recording_heads(id).await?;
    let claimed = match client.recording(id).await {
        Ok(detail) => detail.recording.chunks,
        Err(error) if error.code == Some(ErrorCode::RecordingDeleted) || deleted.is_some() => {
            let Some(deletion) = deleted else { return Err(error) };
            return tell(id, 0, &heads, Some(Fault::Deleted { deletion }), ui);
        }
        Err(error) => return Err(error),
    };
    let known = heads.iter().map(|head| head.number + 1).max().unwrap_or(0);
    let mut taken_at: BTreeMap<u32, Timestamp> = BTreeMap::new();
    for head in &heads {
        taken_at.entry(head.number).or_insert(head.at);
    }
    let (mut seen, mut after_us, mut started_at) = (Vec::new(), 0, None);
    for number in 0..claimed.max(known) {
        let Some(bytes) = client.recording_chunk(id, number).await? else { break };
        let header = Header::parse(&bytes).ok().filter(|header| header.number == number);
        let whole = chunk::check(&bytes, 0);
        let previous = header.filter(|_| whole.is_ok()).map(|header| hex(&header.previous));
        let timely = whole.is_ok_and(|Checked { entry, start, .. }| {
            started_at = started_at.or(start.map(|start| start.started_at));
            let follows = entry.from_us >= std::mem::replace(&mut after_us, entry.to_us);
            let known = started_at.zip(taken_at.get(&number));
            follows && known.is_none_or(|(began, taken_at)| chunk::can_be(entry.to_us, began, *taken_at))
        });
        seen.push(Seen { hash: hex(&chunk::link(&bytes)), previous, timely });
    }
    let fault = judge(&hex(&first_link(id)), &seen, claimed, &heads);
    tell(id, seen.len() as u32, &heads, fault, ui)
}

fn tell(id: &RecordingId, chunks: u32, heads: &[Head], fault: Option<Fault>, ui: &Ui) -> Result<ExitCode> {
    let complete = heads.iter().any(|head| head.is_last);
    let verdict = Verdict { recording: id.clone(), verified: fault.is_none(), chunks, complete, fault };
    ui.answer(&verdict, || {
        if verdict.fault.is_some() {
            return Ok(());
        }
        let end = if complete { "to its end" } else { "as far as it has come" };
        ui.line(&format!("{id}: all {chunks} chunks are what was recorded, {end}"))
    })?;
    match &verdict.fault {
        None => Ok(ExitCode::SUCCESS),
        Some(_) if ui.json => Ok(ExitCode::FAILURE),
        Some(fault) => Err(CliError::failed(format!("recording {id} is not what was recorded"))
            .because(fault.words())
            .next(format!("helixctl audit --target {id} tells who had to do with it"))),
    }
}

/// The first thing that is wrong, if anything is. `first` is what the first chunk has to name; `claimed` is how many chunks
/// the recording says that it has.
pub(super) fn judge(first: &str, seen: &[Seen], claimed: u32, heads: &[Head]) -> Option<Fault> {
    // The first word counts: whoever writes into the trail later does not change what was said.
    let mut trail: BTreeMap<u32, &str> = BTreeMap::new();
    for head in heads {
        trail.entry(head.number).or_insert(&head.hash);
    }
    let differs = |number: u32| {
        let (seen, said) = (seen.get(number as usize)?, trail.get(&number)?);
        Some(seen.hash != **said)
    };
    let (mut compared, mut different) = (0, 0);
    for differs in (0..seen.len() as u32).filter_map(differs) {
        compared += 1;
        different += u32::from(differs);
    }
    if compared > 1 && different == compared {
        return Some(Fault::WrittenAnew { chunk: 0 });
    }
    let mut previous = first;
    for (number, chunk) in (0..).zip(seen) {
        let why = if differs(number) == Some(true) {
            "its hash is not the one in the audit trail"
        } else if chunk.previous.is_none() {
            "it is no whole chunk of this number"
        } else if chunk.previous.as_deref() != Some(previous) {
            "it does not name the chunk before it"
        } else if !chunk.timely {
            return Some(Fault::Untimely { chunk: number });
        } else {
            previous = &chunk.hash;
            continue;
        };
        return Some(Fault::Changed { chunk: number, why: why.to_owned() });
    }
    let there = seen.len() as u32;
    let known = trail.keys().next_back().map_or(0, |last| last + 1).max(claimed);
    if there < known {
        return Some(Fault::CutOff { chunk: there, known: known - 1 });
    }
    let last = there.checked_sub(1)?;
    (!trail.contains_key(&last)).then_some(Fault::Unproved { chunk: last })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(hashes: &[&str]) -> Vec<Seen> {
        let previous = std::iter::once(&"first").chain(hashes);
        let seen =
            hashes.iter().zip(previous).map(|(hash, previous)| (Some((*previous).to_owned()), (*hash).to_owned()));
        seen.map(|(previous, hash)| Seen { hash, previous, timely: true }).collect()
    }

    fn trail(hashes: &[&str]) -> Vec<Head> {
        let head = |(number, hash): (u32, &&str)| Head {
            sequence: u64::from(number),
            number,
            hash: (*hash).to_owned(),
            is_last: false,
            at: jiff::Timestamp::UNIX_EPOCH,
        };
        (0..).zip(hashes).map(head).collect()
    }

    #[test]
    fn whatever_is_done_to_a_recording_is_found() {
        let heads = trail(&["a", "b", "c"]);
        let judged = |seen: &[Seen], claimed| judge("first", seen, claimed, &heads);
        assert_eq!(judged(&chain(&["a", "b", "c"]), 3), None);
        let changed = |chunk, why: &str| Some(Fault::Changed { chunk, why: why.to_owned() });
        // The last one: no chunk names it.
        assert_eq!(judged(&chain(&["a", "b", "x"]), 3), changed(2, "its hash is not the one in the audit trail"));
        let mut torn = chain(&["a", "b", "c"]);
        torn[1].previous = None;
        assert_eq!(judged(&torn, 3), changed(1, "it is no whole chunk of this number"));
        torn[1].previous = Some("x".to_owned());
        assert_eq!(judged(&torn, 3), changed(1, "it does not name the chunk before it"));
        let mut late = chain(&["a", "b", "c"]);
        late[1].timely = false;
        assert_eq!(judged(&late, 3), Some(Fault::Untimely { chunk: 1 }));
        for claimed in [2, 3] {
            assert_eq!(judged(&chain(&["a", "b"]), claimed), Some(Fault::CutOff { chunk: 2, known: 2 }));
        }
        assert_eq!(judged(&chain(&["x", "y", "z"]), 3), Some(Fault::WrittenAnew { chunk: 0 }));
        assert_eq!(judged(&chain(&["a", "b", "c", "d"]), 4), Some(Fault::Unproved { chunk: 3 }));
        assert_eq!(judged(&[], 0), Some(Fault::CutOff { chunk: 0, known: 2 }));
    }

    #[test]
    fn what_the_trail_said_first_counts() {
        let mut heads = trail(&["a", "b"]);
        heads.extend(trail(&["x", "y"]));
        assert_eq!(judge("first", &chain(&["x", "y"]), 2, &heads), Some(Fault::WrittenAnew { chunk: 0 }));
        // What is older than the trail is proved by what follows.
        let last = trail(&["a", "b"]).split_off(1);
        assert_eq!(judge("first", &chain(&["a", "b"]), 2, &last), None);
        assert!(matches!(judge("first", &chain(&["a", "x"]), 2, &last), Some(Fault::Changed { chunk: 1, .. })));
    }
}
