//! Why a session is where it is, or why it is nowhere: what each runner says to it now.

use helix_protocol::SessionId;
use helix_protocol::api::placement::{PlacementView, RunnerVerdict};
use helix_protocol::record::SessionRecord;

use super::fleet::{self, Rules};
use super::room::gives_way_to;
use super::{Sessions, not_found};
use crate::auth::Principal;
use crate::error::Result;
use crate::scheduler::{Ask, Candidate, explain};

impl Sessions {
    /// As of now: a session that has a runner keeps it, whatever others would say.
    pub async fn explain(&self, by: &Principal, id: &SessionId) -> Result<PlacementView> {
        let view = self.get(by, id).await?;
        let store = &self.inner.store;
        let entry = store.sessions.get(id.as_str()).await?.found().ok_or_else(|| not_found(id))?;
        // Another name of a desktop is placed where that is.
        let desktop = entry.value.desktop_of.as_ref().and_then(|id| store.sessions.view().get(id.as_str()));
        let record: &SessionRecord = desktop.as_ref().map_or(&entry.value, |desktop| &desktop.value);
        let rules = Rules::read(store);
        let (candidates, made_room) = {
            let (sessions, observed) = (store.sessions.view().read(), store.observed.view().read());
            let records = sessions.iter().map(|(_, entry)| &entry.value);
            let preempted = |other: &SessionRecord| other.work.preempted.as_ref().is_some_and(|of| of.by == record.id);
            let gave_way = records.filter(|other| gives_way_to(other) == Some(&record.id) || preempted(other));
            let gave_way: Vec<_> = gave_way.map(|other| other.id.clone()).collect();
            (fleet::candidates(store, &sessions, &observed), gave_way)
        };
        let applicant = rules.applicant(record);
        let runner = view.runner.as_ref();
        // The one that it is bound to decides alone.
        let asked = |candidate: &Candidate| record.on_runner.as_ref().is_none_or(|bound| candidate.id == *bound);
        let verdict = |(candidate, fit): (&Candidate, Result<(), crate::scheduler::Unfit>)| RunnerVerdict {
            runner: candidate.id.clone(),
            runs_it: runner == Some(&candidate.id),
            fits: fit.is_ok() && asked(candidate),
            reason: match fit {
                _ if !asked(candidate) => "is not the runner that it was asked for".to_owned(),
                Ok(()) => merits(candidate, applicant.ask),
                Err(unfit) => unfit.to_string(),
            },
        };
        Ok(PlacementView {
            id: view.id,
            phase: view.phase,
            runner: view.runner.clone(),
            cause: view.cause,
            queue_position: view.queue_position,
            priority: applicant.waiting.priority,
            assigned_at: record.assignment.as_ref().map(|assignment| assignment.assigned_at),
            gives_way_to: gives_way_to(record).cloned(),
            made_room,
            runners: explain(&candidates, applicant.ask).into_iter().map(verdict).collect(),
        })
    }
}

/// What speaks for a runner, in the order in which it counts.
fn merits(candidate: &Candidate, ask: Ask<'_>) -> String {
    let has_image = ask.image.map(|image| {
        let has = candidate.images.contains(&image.digest);
        if has { "has the image, " } else { "must fetch the image, " }
    });
    format!("{}has {} of {} slots taken", has_image.unwrap_or_default(), candidate.held.slots, candidate.slots)
}
