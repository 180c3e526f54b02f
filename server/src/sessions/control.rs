//! The control lease: who may type in a session's desktop. Kept in its record, enforced at its runner's gate.
//!
//! A person takes it over at once, and whoever had it is told so with every call; what is not renewed is free again
//! by itself ([`Sessions::free_control`], called by the leader).

use std::time::Duration;

use helix_protocol::api::control::{ControlView, TakeControl};
use helix_protocol::control::{Control, Holder};
use helix_protocol::event::{ControlChange, Event};
use helix_protocol::record::{Scope, SessionRecord};
use helix_protocol::session::Desired;
use helix_protocol::{ErrorCode, Seat, SessionId};
use jiff::Timestamp;
use tokio::time::Instant;

use super::view::observed_of;
use super::{Sessions, not_found};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::store::Versioned;

/// Life of a lease where none is given, in seconds.
const DEFAULT_TTL: u64 = 120;
/// Shortest and longest, in seconds.
const TTL: std::ops::RangeInclusive<u64> = 10..=3600;
/// How long a change may take until the runner's gate knows of it, before it is answered all the same.
pub(super) const ENFORCED_WITHIN: Duration = Duration::from_secs(2);

impl Sessions {
    /// Who may type.
    pub async fn control(&self, by: &Principal, id: &SessionId) -> Result<ControlView> {
        let desktop = self.find(by, id).await?.desktop;
        let record = self.inner.store.sessions.get(desktop.as_str()).await?.found().ok_or_else(|| not_found(id))?;
        Ok(self.control_view(&record.value))
    }

    /// Gives `by` the control, at this seat, or prolongs it. Answers when the session's gate knows, or after 2 s.
    pub async fn take_control(&self, by: &Principal, id: &SessionId, asked: &TakeControl) -> Result<ControlView> {
        let ttl = asked.ttl_seconds.unwrap_or(DEFAULT_TTL);
        if !TTL.contains(&ttl) {
            let detail = format!("ttl_seconds: the control lasts {} to {} seconds", TTL.start(), TTL.end());
            return Err(Error::new(ErrorCode::InvalidRequest, detail));
        }
        let polite = asked.if_free || matches!(by.scope, Scope::Session(_));
        let change = |record: &SessionRecord, now: Timestamp| {
            let expires_at = now.checked_add(Duration::from_secs(ttl)).ok();
            let mut new = SessionRecord { control_expires_at: expires_at, ..record.clone() };
            match &record.control.holder {
                Some(holder) if is_at(holder, by, Some(&asked.seat)) => {}
                Some(holder) if polite => return Err(taken(id, holder)),
                _ => {
                    let holder =
                        Holder { by: by.name.clone(), token: by.digest(), seat: asked.seat.clone(), since: now };
                    new.control = Control { epoch: record.control.epoch + 1, holder: Some(holder) };
                }
            }
            Ok(Some(new))
        };
        self.change_control(by, id, ControlChange::Taken, change).await
    }

    /// Frees the control. Its holder may, from his seat: where somebody else has it by now, nothing changes. Without a
    /// seat whoever may change the session may, whoever holds it.
    pub async fn hand_back_control(&self, by: &Principal, id: &SessionId, seat: Option<&Seat>) -> Result<ControlView> {
        let change = |record: &SessionRecord, _| match &record.control.holder {
            None => Ok(None),
            Some(holder) if is_at(holder, by, seat) => Ok(Some(freed(record))),
            // It was taken over: his own is handed back already.
            Some(_) if seat.is_some() => Ok(None),
            Some(_) if by.may_change(id, &record.owner) => Ok(Some(freed(record))),
            Some(holder) => Err(taken(id, holder)),
        };
        self.change_control(by, id, ControlChange::HandedBack, change).await
    }

    async fn change_control(
        &self,
        by: &Principal,
        id: &SessionId,
        why: ControlChange,
        change: impl Fn(&SessionRecord, Timestamp) -> Result<Option<SessionRecord>>,
    ) -> Result<ControlView> {
        let at = self.find(by, id).await?;
        if !by.may_drive(id, &at.view.owner) {
            let detail = format!("token {:?} may look at the desktop of session {id} and not drive it", by.name);
            return Err(Error::new(ErrorCode::Forbidden, detail));
        }
        let mut before = 0;
        let amend = |record: &SessionRecord| {
            before = record.control.epoch;
            let phase = self.known_of(record).phase();
            if record.desired == Desired::Stopped || phase.is_terminal() {
                let detail = format!("session {id} is {phase}; there is no desktop to control");
                return Err(Error::new(ErrorCode::SessionEnded, detail));
            }
            change(record, Timestamp::now())
        };
        let store = &self.inner.store;
        let entry = store.sessions.modify(at.desktop.as_str(), amend, || not_found(id)).await?;
        if entry.value.control.epoch != before {
            tracing::info!(session.id = %id, by = by.name, epoch = entry.value.control.epoch, ?why, "control changed");
            self.tell_control(&entry, &by.name, why).await;
            self.seen_within(ENFORCED_WITHIN, || self.is_enforced(&entry.value)).await;
        }
        Ok(self.control_view(&entry.value))
    }

    /// Completes when `is_so`, asked again with each report that comes, or after `patience`.
    pub(super) async fn seen_within(&self, patience: Duration, is_so: impl Fn() -> bool) {
        let mut reports = self.inner.store.observed.view().changes();
        let deadline = Instant::now() + patience;
        while !is_so() {
            // Both arms are cancel safe: a watch and a timer.
            let changed = tokio::select! {
                changed = reports.changed() => changed.is_ok(),
                () = tokio::time::sleep_until(deadline) => false,
            };
            if !changed {
                return;
            }
        }
    }

    fn is_enforced(&self, record: &SessionRecord) -> bool {
        let observed = self.inner.store.observed.view().read();
        record.control.epoch == 0
            || observed_of(record, &observed).is_some_and(|seen| seen.control >= record.control.epoch)
    }

    fn control_view(&self, record: &SessionRecord) -> ControlView {
        ControlView {
            epoch: record.control.epoch,
            holder: record.control.holder.clone(),
            expires_at: record.control_expires_at,
            enforced: self.is_enforced(record),
        }
    }

    /// Frees every lease that nobody renewed.
    pub async fn free_control(&self) -> Result<()> {
        let is_over = |record: &SessionRecord| {
            record.control.holder.is_some() && record.control_expires_at.is_none_or(|end| end <= Timestamp::now())
        };
        let over: Vec<SessionId> = {
            let sessions = self.inner.store.sessions.view().read();
            sessions
                .iter()
                .filter(|(_, entry)| is_over(&entry.value))
                .map(|(_, entry)| entry.value.id.clone())
                .collect()
        };
        for id in over {
            let mut holder = None;
            let free = |record: &SessionRecord| {
                holder = record.control.holder.as_ref().filter(|_| is_over(record)).map(|holder| holder.by.clone());
                Ok(holder.is_some().then(|| freed(record)))
            };
            let entry = self.inner.store.sessions.modify(id.as_str(), free, || not_found(&id)).await?;
            if let Some(by) = holder {
                tracing::info!(session.id = %id, by, "control free again: nobody renewed it");
                self.tell_control(&entry, &by, ControlChange::Expired).await;
            }
        }
        Ok(())
    }

    async fn tell_control(&self, entry: &Versioned<SessionRecord>, by: &str, why: ControlChange) {
        let record = &entry.value;
        let event = Event::Control {
            session: record.id.clone(),
            epoch: record.control.epoch,
            holder: record.control.holder.clone(),
            by: by.to_owned(),
            why,
            at: Timestamp::now(),
        };
        self.inner.events.tell(&event, &format!("control.{}.{}", record.id, entry.revision)).await;
    }
}

fn freed(record: &SessionRecord) -> SessionRecord {
    let control = Control { epoch: record.control.epoch + 1, holder: None };
    SessionRecord { control, control_expires_at: None, ..record.clone() }
}

fn is_at(holder: &Holder, by: &Principal, seat: Option<&Seat>) -> bool {
    holder.token == by.digest() && seat == Some(&holder.seat)
}

/// Somebody else has it.
pub fn taken(id: &SessionId, holder: &Holder) -> Error {
    let Holder { by, seat, since, .. } = holder;
    let detail = format!(
        "{by} (seat {seat}) has had the control of session {id} since {since}; wait until it is handed back, or take it \
         over: PUT /api/v1/sessions/{id}/control"
    );
    Error::new(ErrorCode::ControlTaken, detail)
}
