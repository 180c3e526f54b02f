//! What an operator says about a runner (labels, cordon), and waiting for one to be heard.

use std::time::Duration;

use helix_protocol::api::RunnerView;
use helix_protocol::api::runners::AmendRunner;
use helix_protocol::record::RunnerRecord;
use helix_protocol::runner::Liveness;
use helix_protocol::{ErrorCode, RunnerId};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Runners, not_found};
use crate::error::{Error, Result};
use crate::sessions::validate::check_labels;

impl Runners {
    /// Sets and removes labels, cordons and uncordons. Placement goes by it from the answer on.
    pub async fn amend(&self, id: &RunnerId, change: AmendRunner) -> Result<RunnerView> {
        let AmendRunner { labels, cordoned } = change;
        let amend = |record: &RunnerRecord| {
            let mut new = record.clone();
            for (name, value) in &labels {
                match value {
                    Some(value) => new.labels.insert(name.clone(), value.clone()),
                    None => new.labels.remove(name),
                };
            }
            new.cordoned = cordoned.unwrap_or(record.cordoned);
            check_labels(&new.labels)?;
            Ok((new != *record).then_some(new))
        };
        let entry = self.inner.store.runners.modify(id.as_str(), amend, || not_found(id)).await?;
        let view = self.view(&entry.value, self.active_tasks(id));
        self.tell(id, view.status, view.liveness, entry.revision).await;
        tracing::info!(runner.id = %id, labels = ?entry.value.labels, cordoned = view.cordoned, "runner amended");
        Ok(view)
    }

    /// Completes when the runner is heard and has said what it offers, later than `after`; `WaitTimeout` after `patience`.
    pub async fn wait_online(&self, id: &RunnerId, after: Option<Timestamp>, patience: Duration) -> Result<RunnerView> {
        let store = &self.inner.store;
        let deadline = Instant::now() + patience;
        let mut records = store.runners.view().changes();
        loop {
            records.borrow_and_update();
            let view = self.get(id).await?;
            if view.liveness == Liveness::Online && view.facts.is_some() && view.registered_at > after {
                return Ok(view);
            }
            // Both arms are cancel safe: a watch and a timer.
            let changed = tokio::select! {
                changed = records.changed() => changed.is_ok(),
                () = tokio::time::sleep_until(deadline) => false,
            };
            if !changed {
                let detail = format!("runner {id} did not register within {} s", patience.as_secs());
                return Err(Error::new(ErrorCode::WaitTimeout, detail));
            }
        }
    }
}
