//! One walk through all that is stored: what may have lost its owner, and what is nobody's.
//!
//! The views answer for most of it; what they do not know is only a candidate. Views are read one after the other, never
//! two at once but in the order that `View::read` says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use helix_protocol::reap::LeftoverKind;
use helix_protocol::record::Scope;
use helix_protocol::{SessionId, subject};
use jiff::Timestamp;

use super::Reaper;
use super::names::{self, Name, Owner};
use super::stored::{self, Seen};
use crate::bus::schema;
use crate::error::Result;
use crate::store::view::View;

/// Foreign places that one walk looks at one by one; more are counted without their bytes.
const MAX_FOREIGN: usize = 200;

/// Something whose owner the views do not know.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// What it is.
    pub kind: LeftoverKind,
    /// Of whom.
    pub owner: Owner,
    /// In which stream.
    pub stream: String,
    /// Under which subjects.
    pub filter: String,
}

/// What is nothing of Helix.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// What it is.
    pub kind: LeftoverKind,
    /// Where.
    pub place: String,
    /// How much.
    pub bytes: u64,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Found {
    /// By place.
    pub candidates: BTreeMap<String, Candidate>,
    /// In order.
    pub foreign: Vec<Foreign>,
}

impl Reaper {
    /// Walks.
    pub(super) async fn walk(&self) -> Result<Found> {
        let mut found = Found::default();
        let ours: BTreeSet<String> = schema::names().into_iter().collect();
        for (name, _, bytes) in stored::streams(&self.bus).await? {
            if !ours.contains(&name) && name != subject::STREAM_RESTORE {
                found.foreign.push(Foreign { kind: LeftoverKind::Stream, place: name, bytes });
            }
        }
        let runs_without_record = self.unclaimed();
        for stream in ours.iter().filter(|stream| *stream != subject::STREAM_EXTERNAL_AGENTS) {
            for subject in stored::subjects(&self.bus, stream).await? {
                let (kind, owner) = match names::read(stream, &subject) {
                    Name::Own if self.is_readable(stream, &subject) => continue,
                    Name::Own => {
                        self.note_unreadable(&mut found, stream, &subject).await?;
                        continue;
                    }
                    Name::Foreign(kind) => {
                        self.note_foreign(&mut found, kind, stream, &subject).await?;
                        continue;
                    }
                    Name::Of(kind, owner) => (kind, owner),
                    Name::Record(kind) => match self.recorded_owner(kind, &subject).await? {
                        Some(owner) => (kind, owner),
                        None => continue,
                    },
                };
                if self.is_known(&owner) || matches!(&owner, Owner::Session(id) if runs_without_record.contains(id)) {
                    continue;
                }
                let filter = names::place(&subject, &owner);
                let candidate = Candidate { kind, owner, stream: stream.clone(), filter };
                found.candidates.insert(format!("{stream}/{}", candidate.filter), candidate);
            }
        }
        Ok(found)
    }

    /// Sessions that run without a record: everything of them is somebody's to decide about.
    pub(super) fn unclaimed(&self) -> BTreeSet<SessionId> {
        let observed = self.store.observed.view().read();
        observed.sought().map(|entry| entry.value.session.clone()).collect()
    }

    /// Whether the views have it. What they do not have is asked of the store before anything follows from it.
    fn is_known(&self, owner: &Owner) -> bool {
        let store = &self.store;
        match owner {
            Owner::Session(session) => store.sessions.view().read().get(session.as_str()).is_some(),
            Owner::Runner(runner) | Owner::Report(runner, _) => {
                store.runners.view().read().get(runner.as_str()).is_some()
            }
            Owner::Recording(recording) => store.recordings.view().read().get(recording.as_str()).is_some(),
            Owner::Family(family) => {
                let content = store.checkpoints.view().read();
                content.iter().any(|(_, entry)| entry.value.family == *family)
            }
        }
    }

    /// Whose a record says that it is; None where it says nobody's, or is none.
    async fn recorded_owner(&self, kind: LeftoverKind, subject: &str) -> Result<Option<Owner>> {
        let key = subject.rsplit('.').next().unwrap_or(subject);
        Ok(match kind {
            LeftoverKind::Token => self.store.tokens.view().get(key).and_then(|entry| match &entry.value.scope {
                Scope::Runner(runner) => Some(Owner::Runner(runner.clone())),
                Scope::Session(session) | Scope::Desktop(session) | Scope::View(session) => {
                    Some(Owner::Session(session.clone()))
                }
                Scope::Admin | Scope::Operator | Scope::User | Scope::Viewer | Scope::Enrol(_) => None,
            }),
            LeftoverKind::SpecTask => {
                self.store.spec_tasks.view().get(key).map(|entry| Owner::Session(entry.value.session.clone()))
            }
            // They live for a minute, so there are few.
            LeftoverKind::Ticket => {
                self.store.tickets.get(key).await?.found().map(|entry| Owner::Session(entry.value.session.clone()))
            }
            _ => None,
        })
    }

    /// False for a key of ours whose record cannot be read: it is in no view, and no marker either.
    fn is_readable(&self, stream: &str, subject: &str) -> bool {
        fn has<T>(view: &View<T>, key: &str) -> bool {
            let content = view.read();
            content.get(key).is_some() || content.was_deleted(key)
        }
        let Some(bucket) = stream.strip_prefix("KV_") else { return true };
        let key = subject.strip_prefix("$KV.").and_then(|rest| rest.strip_prefix(bucket)?.strip_prefix('.'));
        let (Some(key), store) = (key, &self.store) else { return true };
        match bucket {
            subject::BUCKET_SESSIONS => has(store.sessions.view(), key),
            subject::BUCKET_RUNNERS => has(store.runners.view(), key),
            subject::BUCKET_POOLS => has(store.pools.view(), key),
            subject::BUCKET_RECORDINGS => has(store.recordings.view(), key),
            subject::BUCKET_CHECKPOINTS => has(store.checkpoints.view(), key),
            subject::BUCKET_DESIRED => has(store.desired.view(), key),
            subject::BUCKET_SECRETS => has(store.secrets.view(), key),
            subject::BUCKET_IMAGES => has(store.images.view(), key),
            _ => true,
        }
    }

    /// A key of ours that the views do not have: unreadable, unless it is so new that they have yet to hear of it.
    async fn note_unreadable(&self, found: &mut Found, stream: &str, subject: &str) -> Result<()> {
        let Some(seen) = stored::key(&self.bus, stream, subject).await? else { return Ok(()) };
        let age = Duration::try_from(Timestamp::now().duration_since(seen.written)).unwrap_or_default();
        if age >= self.settings.grace {
            let place = format!("{stream}/{subject}");
            found.foreign.push(Foreign { kind: LeftoverKind::Key, place, bytes: seen.bytes });
        }
        Ok(())
    }

    async fn note_foreign(&self, found: &mut Found, kind: LeftoverKind, stream: &str, subject: &str) -> Result<()> {
        let seen = if found.foreign.len() < MAX_FOREIGN {
            // A marker is what is left of a key that somebody removed.
            let Some(seen) = stored::key(&self.bus, stream, subject).await? else { return Ok(()) };
            Some(seen)
        } else {
            None
        };
        let bytes = seen.map_or(0, |seen: Seen| seen.bytes);
        found.foreign.push(Foreign { kind, place: format!("{stream}/{subject}"), bytes });
        Ok(())
    }
}
