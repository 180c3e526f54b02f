//! The reaper of what is stored: removes what belongs to nothing known, and says what else is there.
//!
//! [`walk`] goes through every key, subject and stream; [`names`] (pure) says whose each is, [`judge`] (pure) whether it may
//! go. It goes only if its name is ours, its owner was removed on purpose (its key has a marker), the grace time is over
//! since then and since its own last change, and two looks found the same. What lacks a proof is told and left: an
//! emptied or foreign NATS loses nothing by it.
//!
//! A removal names what was seen (a record's revision, a stream's sequence), so whatever is written meanwhile stays, and
//! two servers that look at once do no harm. What a look remembers is a record of the store (`helix_reaper`), so the next
//! leader goes on. [`schedule`] is the one task, which the leader alone runs; a pass can be asked for on any server.
//! A pass that fails is repeated by the next one.

pub mod judge;
mod names;
mod schedule;
mod stored;
mod tally;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::api::reap::{LeftoversOfRunner, ReapReport, ReaperSummary, ReaperView};
use helix_protocol::audit::AuditEntry;
use helix_protocol::reap::{LeftoverKind, ReaperRecord};
use helix_protocol::{ErrorCode, RunnerId, SessionId, subject};
use jiff::Timestamp;
use tokio::sync::Mutex;

use self::judge::{Evidence, Owned, Verdict, judge};
use self::names::Owner;
use self::stored::Seen;
use self::tally::Tally;
use self::walk::{Candidate, Found};
use crate::audit::{Audit, OK};
use crate::bus::{Bus, unavailable};
use crate::error::{Error, Result};
use crate::images::Images;
use crate::store::jetstream::Fate;
use crate::store::{Store, Versioned};

/// Places that one look judges: what bounds its work, and the record of what it remembers.
const MAX_JUDGED: usize = 1000;
/// How often the record is written again that another server wrote meanwhile.
const MAX_TRIES: usize = 5;
/// Principal of what the control plane does by itself.
const OURSELVES: &str = "helix";
/// What the audit trail calls a pass that removed something.
const ACTION: &str = "reap";

/// `[reaper]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Between two looks at everything.
    pub interval: Duration,
    /// How long an owner must have been gone, and what it left untouched.
    pub grace: Duration,
    /// The same for image chunks and manifests that nothing names: somebody may be pushing them.
    pub uploads: Duration,
}

/// The reaper. Cheap to clone.
#[derive(Clone)]
pub struct Reaper {
    bus: Bus,
    store: Store,
    audit: Audit,
    images: Images,
    settings: Settings,
    server_id: Arc<str>,
    /// One pass at a time.
    alone: Arc<Mutex<()>>,
}

/// A pass under way.
struct Pass {
    now: Timestamp,
    dry_run: bool,
    before: ReaperRecord,
    tally: Tally,
}

impl Reaper {
    /// Over a store.
    pub fn new(bus: Bus, store: Store, audit: Audit, images: Images, settings: Settings, server_id: Arc<str>) -> Self {
        Self { bus, store, audit, images, settings, server_id, alone: Arc::default() }
    }

    /// What is known, without looking anew.
    pub async fn view(&self) -> Result<ReaperView> {
        let record = self.record().await?.map(|entry| (*entry.value).clone()).unwrap_or_default();
        Ok(ReaperView { last: record.last, last_removal: record.last_removal, runners: self.runners() })
    }

    /// The last look in numbers.
    pub async fn summary(&self) -> Result<Option<ReaperSummary>> {
        Ok(self.record().await?.and_then(|entry| entry.value.last.as_ref().map(ReaperSummary::from)))
    }

    /// Looks now, by the same rules as ever, and answers what this look found.
    pub async fn reap(&self, dry_run: bool) -> Result<ReaperView> {
        let (report, _) = Box::pin(self.pass(dry_run)).await?;
        let view = self.view().await?;
        Ok(ReaperView { last: Some(report), ..view })
    }

    /// One look. Answers what it found, and when the next thing may go.
    async fn pass(&self, dry_run: bool) -> Result<(ReapReport, Option<Timestamp>)> {
        let _alone = self.alone.lock().await;
        let generation = self.bus.require_up()?;
        let store = &self.store;
        tokio::try_join!(
            store.sessions.catch_up(),
            store.observed.catch_up(),
            store.runners.catch_up(),
            store.recordings.catch_up(),
            store.checkpoints.catch_up(),
            store.tokens.catch_up(),
            store.spec_tasks.catch_up(),
            store.images.catch_up(),
        )?;
        let before = self.record().await?.map(|entry| (*entry.value).clone()).unwrap_or_default();
        let mut pass = Pass { now: Timestamp::now(), dry_run, before, tally: Tally::default() };
        let Found { mut candidates, foreign } = self.walk().await?;
        for foreign in foreign {
            pass.tally.foreign(&foreign);
        }
        // Where the last one stopped: what can never go must not keep the others waiting.
        pass.tally.go_on(&pass.before, |place| candidates.contains_key(place));
        let more = candidates.len() > MAX_JUDGED;
        let rest = pass.before.after.as_ref().map(|after| candidates.split_off(after)).unwrap_or_default();
        for (number, (place, candidate)) in rest.into_iter().chain(candidates).enumerate() {
            if number == MAX_JUDGED {
                pass.tally.after = Some(place);
                break;
            }
            // What the views said is of another life of the store.
            if self.bus.require_up()? != generation {
                return Err(unavailable("NATS came back while the reaper looked"));
            }
            // What went before a failure went: it is told all the same.
            if let Err(error) = self.examine(&mut pass, &place, &candidate).await {
                pass.tally.after = Some(place);
                self.conclude(&mut pass, more).await?;
                return Err(error);
            }
        }
        let uploads = self.reap_uploads(&mut pass).await;
        let report = self.conclude(&mut pass, more).await?;
        uploads?;
        Ok((report, pass.tally.next))
    }

    async fn examine(&self, pass: &mut Pass, place: &str, candidate: &Candidate) -> Result<()> {
        let Candidate { kind, owner, stream, filter } = candidate;
        let seen = if is_record(*kind) {
            stored::key(&self.bus, stream, filter).await?
        } else {
            stored::all(&self.bus, stream, filter).await?
        };
        let Some(seen) = seen else { return Ok(()) };
        let evidence = Evidence {
            // After what was seen: whoever came to have it before that is its owner.
            owner: self.owned(owner).await?,
            written: seen.written,
            last: seen.last,
            before: pass.before.suspects.get(place).copied(),
        };
        let verdict = judge(&evidence, pass.now, self.settings.grace);
        pass.tally.suspects.remove(place);
        match verdict {
            Verdict::Owned => {}
            Verdict::Unproved => pass.tally.unproved(*kind, place, seen.bytes),
            Verdict::Waiting(suspect, may_go) => {
                pass.tally.waiting(*kind, place, seen.bytes);
                pass.tally.suspect(place, suspect, may_go);
            }
            Verdict::Gone => {
                if pass.dry_run || self.remove(candidate, &seen).await? {
                    pass.tally.removed(*kind, place, seen.bytes);
                }
            }
        }
        Ok(())
    }

    /// Whether its owner is there, as the store says now.
    async fn owned(&self, owner: &Owner) -> Result<Owned> {
        let store = &self.store;
        Ok(match owner {
            Owner::Session(session) => self.session(session).await?,
            Owner::Runner(runner) => self.runner(runner).await?,
            Owner::Recording(recording) => of(store.recordings.fate(recording.as_str()).await?),
            Owner::Family(family) => {
                let has_forks = {
                    let content = store.checkpoints.view().read();
                    content.iter().any(|(_, entry)| entry.value.family == *family)
                };
                if has_forks { Owned::Yes } else { of(store.checkpoints.fate(family.as_str()).await?) }
            }
            Owner::Report(runner, session) => match self.runner(runner).await? {
                Owned::Removed(at) => {
                    let record = store.sessions.get(session.as_str()).await?.found();
                    let is_there = record.and_then(|entry| entry.value.assignment.clone());
                    // Whoever looks at that session is told of it.
                    if is_there.is_some_and(|of| of.runner == *runner) { Owned::Yes } else { Owned::Removed(at) }
                }
                other => other,
            },
        })
    }

    async fn session(&self, session: &SessionId) -> Result<Owned> {
        let fate = of(self.store.sessions.fate(session.as_str()).await?);
        Ok(if fate != Owned::Yes && self.unclaimed().contains(session) { Owned::Yes } else { fate })
    }

    async fn runner(&self, runner: &RunnerId) -> Result<Owned> {
        Ok(of(self.store.runners.fate(runner.as_str()).await?))
    }

    /// Removes what was seen. False where it has changed since, or is gone.
    async fn remove(&self, candidate: &Candidate, seen: &Seen) -> Result<bool> {
        let (Candidate { kind, stream, filter, .. }, store) = (candidate, &self.store);
        let key = filter.strip_prefix("$KV.").and_then(|rest| rest.split_once('.')).map_or(filter.as_str(), |of| of.1);
        let removed = match kind {
            LeftoverKind::Report => store.observed.delete(key, seen.last).await,
            LeftoverKind::Lease => store.leases.delete(key, seen.last).await,
            LeftoverKind::Ticket => store.tickets.delete(key, seen.last).await,
            LeftoverKind::Token => store.tokens.delete(key, seen.last).await,
            LeftoverKind::SpecTask => store.spec_tasks.delete(key, seen.last).await,
            _ => stored::purge(&self.bus, stream, filter, seen).await,
        };
        match removed {
            Ok(count) if count > 0 => {
                tracing::info!(kind = kind.word(), stream, filter, bytes = seen.bytes, "an owner is gone; so is this");
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if error.code == ErrorCode::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn reap_uploads(&self, pass: &mut Pass) -> Result<()> {
        let rubbish = match self.images.reap(self.settings.uploads, pass.dry_run).await {
            // Somebody collects images at this moment.
            Err(error) if error.code == ErrorCode::Conflict => return Ok(()),
            rubbish => rubbish?,
        };
        pass.tally.uploads(&rubbish);
        Ok(())
    }

    /// Tells what a pass found, and remembers it for the next one.
    async fn conclude(&self, pass: &mut Pass, more: bool) -> Result<ReapReport> {
        let report = pass.tally.report(pass.now, &self.server_id, pass.dry_run, more);
        if pass.dry_run {
            return Ok(report);
        }
        if !report.removed.is_empty() {
            let what = report.removed.iter().map(|of| format!("{}: {}", of.kind.word(), of.count)).collect::<Vec<_>>();
            self.audit.note(AuditEntry {
                at: pass.now,
                principal: OURSELVES.to_owned(),
                action: ACTION.to_owned(),
                target: what.join(", "),
                result: OK.to_owned(),
                repeated: 0,
                entrance: None,
            });
        }
        let removal = (!report.removed.is_empty()).then(|| report.clone());
        for _ in 0..MAX_TRIES {
            let entry = self.record().await?;
            let known = entry.as_ref().and_then(|entry| entry.value.last_removal.clone());
            let record = ReaperRecord {
                last: Some(report.clone()),
                last_removal: removal.clone().or(known),
                suspects: pass.tally.suspects.clone(),
                after: pass.tally.after.clone(),
            };
            let written = match &entry {
                Some(entry) => self.store.reaper.update(subject::REAPER_KEY, &record, entry.revision).await,
                None => self.store.reaper.create(subject::REAPER_KEY, &record).await,
            };
            match written {
                Ok(_) => return Ok(report),
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorCode::Conflict, "several servers reap at once; repeat the request"))
    }

    async fn record(&self) -> Result<Option<Versioned<ReaperRecord>>> {
        Ok(self.store.reaper.get(subject::REAPER_KEY).await?.found())
    }

    /// What runners said last.
    fn runners(&self) -> Vec<LeftoversOfRunner> {
        let leases = self.store.leases.view().read();
        let prefix = "runner.";
        let told = leases.with_prefix(prefix).filter_map(|(key, entry)| {
            let leftovers = entry.value.heartbeat.as_ref()?.leftovers.clone();
            let runner = RunnerId::parse(key.strip_prefix(prefix)?).ok()?;
            (!leftovers.is_empty()).then_some(LeftoversOfRunner { runner, leftovers })
        });
        told.collect()
    }
}

/// True for what is a record of a bucket; the rest is messages of a stream.
fn is_record(kind: LeftoverKind) -> bool {
    use LeftoverKind::{Lease, Report, SpecTask, Ticket, Token};
    matches!(kind, Report | Lease | Ticket | Token | SpecTask)
}

fn of(fate: Fate) -> Owned {
    match fate {
        Fate::There => Owned::Yes,
        Fate::Removed(at) => Owned::Removed(at),
        Fate::Unknown => Owned::Unknown,
    }
}
