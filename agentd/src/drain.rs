//! Draining: after `MAX_TASKS` ended sessions the runner takes nothing new, waits until it is empty and everything is
//! acknowledged, and agentd exits to be started afresh.

use tokio::sync::watch;

use crate::link::reports::Reports;

/// Waits until the runner is drained. Never, where `max_tasks` is 0. `draining` tells the servers, in heartbeats.
pub async fn run(max_tasks: u32, mut ended: watch::Receiver<u32>, reports: Reports, draining: watch::Sender<bool>) {
    if max_tasks == 0 || ended.wait_for(|ended| *ended >= max_tasks).await.is_err() {
        return std::future::pending().await;
    }
    tracing::info!(max_tasks, "MAX_TASKS sessions have ended: draining");
    draining.send_replace(true);
    stopped(&reports).await;
    acknowledged(&reports).await;
    tracing::info!("drained");
}

/// Waits until no session runs.
pub async fn stopped(reports: &Reports) {
    until(reports, || reports.active() == 0).await;
}

/// Waits until every report is acknowledged.
pub async fn acknowledged(reports: &Reports) {
    until(reports, || reports.pending().is_empty()).await;
}

async fn until(reports: &Reports, holds: impl Fn() -> bool) {
    // The sender lives in `reports`, so waiting cannot fail.
    let _ = reports.watch().wait_for(|_| holds()).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_drains_after_the_last_task_and_never_without_a_limit() {
        let (ended, receiver) = watch::channel(0);
        let (draining, is_draining) = watch::channel(false);
        let unlimited = run(0, receiver.clone(), Reports::default(), watch::Sender::new(false));
        assert!(tokio::time::timeout(Duration::from_millis(20), unlimited).await.is_err());
        let drained = tokio::spawn(run(2, receiver, Reports::default(), draining));
        ended.send_replace(1);
        assert!(!*is_draining.borrow());
        ended.send_replace(2);
        tokio::time::timeout(Duration::from_secs(5), drained).await.expect("in time").expect("ran");
        assert!(*is_draining.borrow());
    }
}
