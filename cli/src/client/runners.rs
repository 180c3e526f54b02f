//! Runners: how they enrol and how they leave.

use helix_protocol::RunnerId;
use helix_protocol::api::{CreateJoinToken, JoinToken};
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `POST /runners/join-tokens`.
    pub async fn create_join_token(&self, request: &CreateJoinToken) -> Result<JoinToken> {
        self.call("make a join token", Method::POST, &["runners", "join-tokens"], &[], Some(request)).await
    }

    /// `DELETE /runners/{id}`.
    pub async fn delete_runner(&self, id: &RunnerId) -> Result<()> {
        self.ask("remove the runner", Method::DELETE, &["runners", id.as_str()], &[], None::<&()>).await.map(|_| ())
    }
}
