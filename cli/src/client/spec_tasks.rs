//! Spec tasks: a piece of work with one agent instance and many threads.

use helix_protocol::SpecTaskId;
use helix_protocol::api::threads::{SpecTaskList, SpecTaskView};
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `GET /spec-tasks`.
    pub async fn spec_tasks(&self) -> Result<SpecTaskList> {
        self.get("list the spec tasks", &["spec-tasks"]).await
    }

    /// `GET /spec-tasks/{id}`.
    pub async fn spec_task(&self, id: &SpecTaskId) -> Result<SpecTaskView> {
        self.get("read the spec task", &["spec-tasks", id.as_str()]).await
    }

    /// `DELETE /spec-tasks/{id}`.
    pub async fn stop_spec_task(&self, id: &SpecTaskId) -> Result<SpecTaskView> {
        self.call("stop the spec task", Method::DELETE, &["spec-tasks", id.as_str()], &[], None::<&()>).await
    }
}
