//! Spec tasks: a piece of work with one agent instance and many threads.

use helix_protocol::SpecTaskId;
use helix_protocol::api::threads::{CreateSpecTask, SpecTaskList, SpecTaskView};
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `POST /spec-tasks`.
    pub async fn create_spec_task(&self, request: &CreateSpecTask) -> Result<SpecTaskView> {
        self.call("create the spec task", Method::POST, &["spec-tasks"], &[], Some(request)).await
    }

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
