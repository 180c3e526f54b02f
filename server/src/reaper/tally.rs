//! What a look finds, kind by kind, and what the next one has to know. Pure.

use std::collections::BTreeMap;

use helix_protocol::api::reap::{Leftovers, MAX_EXAMPLES, ReapReport};
use helix_protocol::reap::{LeftoverKind, ReaperRecord, Suspect};
use helix_protocol::subject;
use jiff::Timestamp;

use super::walk::Foreign;
use crate::images::Rubbish;

/// Places that are remembered for the next look.
const MAX_SUSPECTS: usize = 2000;

type Kinds = BTreeMap<LeftoverKind, Leftovers>;

/// The numbers of one look.
#[derive(Debug, Default)]
pub struct Tally {
    removed: Kinds,
    waiting: Kinds,
    unproved: Kinds,
    foreign: Kinds,
    /// What may go with a later look.
    pub suspects: BTreeMap<String, Suspect>,
    /// When the first of them may.
    pub next: Option<Timestamp>,
    /// Place where the next look goes on.
    pub after: Option<String>,
}

impl Tally {
    /// Takes over what was remembered of places that are still there.
    pub fn go_on(&mut self, before: &ReaperRecord, is_there: impl Fn(&str) -> bool) {
        let still = before.suspects.iter().filter(|(place, _)| is_there(place));
        self.suspects = still.map(|(place, suspect)| (place.clone(), *suspect)).collect();
    }

    /// It went, or would have gone.
    pub fn removed(&mut self, kind: LeftoverKind, place: &str, bytes: u64) {
        note(&mut self.removed, kind, place, bytes);
    }

    /// It may go later.
    pub fn waiting(&mut self, kind: LeftoverKind, place: &str, bytes: u64) {
        note(&mut self.waiting, kind, place, bytes);
    }

    /// To be remembered of it.
    pub fn suspect(&mut self, place: &str, suspect: Suspect, may_go: Timestamp) {
        if self.suspects.len() < MAX_SUSPECTS {
            self.suspects.insert(place.to_owned(), suspect);
            self.next = Some(self.next.map_or(may_go, |next| next.min(may_go)));
        }
    }

    /// It stays, although it is named like ours.
    pub fn unproved(&mut self, kind: LeftoverKind, place: &str, bytes: u64) {
        note(&mut self.unproved, kind, place, bytes);
    }

    /// It is not ours.
    pub fn foreign(&mut self, foreign: &Foreign) {
        note(&mut self.foreign, foreign.kind, &foreign.place, foreign.bytes);
    }

    /// What pushes have left.
    pub fn uploads(&mut self, rubbish: &Rubbish) {
        for digest in &rubbish.images {
            let place = format!("KV_{}/{}", subject::BUCKET_IMAGES, subject::image_key(digest));
            self.removed(LeftoverKind::Image, &place, 0);
        }
        if rubbish.chunks > 0 {
            let kinds = if rubbish.is_proved { &mut self.removed } else { &mut self.unproved };
            let (kind, count, bytes) = (LeftoverKind::ImageChunk, rubbish.chunks.into(), rubbish.bytes);
            kinds.insert(kind, Leftovers { kind, count, bytes, examples: vec![subject::STREAM_IMAGES.to_owned()] });
        }
    }

    /// For people.
    pub fn report(&self, at: Timestamp, server: &str, dry_run: bool, more: bool) -> ReapReport {
        let list = |kinds: &Kinds| kinds.values().cloned().collect();
        ReapReport {
            at,
            server: server.to_owned(),
            dry_run,
            removed: list(&self.removed),
            waiting: list(&self.waiting),
            unproved: list(&self.unproved),
            foreign: list(&self.foreign),
            more,
        }
    }
}

fn note(kinds: &mut Kinds, kind: LeftoverKind, place: &str, bytes: u64) {
    let of = kinds.entry(kind).or_insert_with(|| Leftovers { kind, count: 0, bytes: 0, examples: Vec::new() });
    of.count += 1;
    of.bytes += bytes;
    if of.examples.len() < MAX_EXAMPLES {
        of.examples.push(place.to_owned());
    }
}
