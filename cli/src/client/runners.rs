//! Runners: what an operator says about them, their tokens, and how they leave.

use std::time::Duration;

use helix_protocol::RunnerId;
use helix_protocol::api::RunnerView;
use helix_protocol::api::runners::AmendRunner;
use jiff::Timestamp;
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `PATCH /runners/{id}`.
    pub async fn amend_runner(&self, id: &RunnerId, change: &AmendRunner) -> Result<RunnerView> {
        self.call("change the runner", Method::PATCH, &["runners", id.as_str()], &[], Some(change)).await
    }

    /// `POST /runners/{id}/rotate`.
    pub async fn rotate_runner(&self, id: &RunnerId) -> Result<RunnerView> {
        self.call("rotate the runner's token", Method::POST, &["runners", id.as_str(), "rotate"], &[], None::<&()>)
            .await
    }

    /// `GET /runners/{id}?wait=online`: at most some 25 s.
    pub async fn wait_for_runner(
        &self,
        id: &RunnerId,
        after: Option<Timestamp>,
        within: Duration,
    ) -> Result<RunnerView> {
        let mut query = vec![("wait", "online".to_owned()), ("timeout", within.as_secs().max(1).to_string())];
        query.extend(after.map(|after| ("after", after.to_string())));
        self.call("wait for the runner", Method::GET, &["runners", id.as_str()], &query, None::<&()>).await
    }

    /// `DELETE /runners/{id}`.
    pub async fn delete_runner(&self, id: &RunnerId, force: bool) -> Result<()> {
        let query: Vec<_> = force.then(|| ("force", "true".to_owned())).into_iter().collect();
        self.ask("remove the runner", Method::DELETE, &["runners", id.as_str()], &query, None::<&()>).await.map(|_| ())
    }
}
