//! Sessions of spec tasks that nobody settled: their creator, or its server, went in between.

use std::collections::HashMap;

use futures::{StreamExt as _, TryStreamExt as _};
use helix_protocol::record::SessionRecord;
use helix_protocol::{ErrorCode, SessionId, SpecTaskId};

use super::{CONCURRENCY, Reconciler};
use crate::error::Result;
use crate::sessions::view::is_unsettled;

/// Which session has the desktop of each spec task.
pub(super) type Desktops = HashMap<SpecTaskId, SessionId>;

impl Reconciler {
    /// Looks at no other view meanwhile: see the order of locks at `View::read`.
    pub(super) fn desktops(&self) -> Desktops {
        let tasks = self.store.spec_tasks.view().read();
        tasks.iter().map(|(_, entry)| (entry.value.id.clone(), entry.value.session.clone())).collect()
    }

    /// Settles what is not: most often its creator is just about to, and then nothing is left to do.
    pub(super) async fn settle_names(&self) -> Result<()> {
        let desktops = self.desktops();
        let unsettled: Vec<_> = {
            let sessions = self.store.sessions.view().read();
            let wanted = |record: &SessionRecord| is_unsettled(record) && !has_desktop(record, &desktops);
            sessions.iter().filter(|(_, entry)| wanted(&entry.value)).map(|(_, entry)| entry.clone()).collect()
        };
        futures::stream::iter(unsettled)
            .map(async |entry| match self.spec_tasks.settle(entry, None).await {
                Err(error) if error.code == ErrorCode::StoreUnavailable => Err(error),
                // One that cannot be settled keeps no other waiting.
                Err(error) if error.code != ErrorCode::Conflict => {
                    tracing::warn!(source = ?error.source, "a session of a spec task cannot be settled: {error}");
                    Ok(())
                }
                _ => Ok(()),
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }
}

/// True for a session that may get a runner: one without a spec task, or the one that its task names.
pub(super) fn has_desktop(record: &SessionRecord, desktops: &Desktops) -> bool {
    record.spec_task.as_ref().is_none_or(|task| desktops.get(task) == Some(&record.id))
}
