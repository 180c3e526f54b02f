//! Checkpoints of workspaces, and sessions that move.

use helix_protocol::SessionId;
use helix_protocol::api::SessionView;
use helix_protocol::api::checkpoints::{CheckpointList, ForkSession, MoveSession, RestoreSession, WorkView};
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `GET /sessions/{id}/checkpoints`.
    pub async fn checkpoints(&self, id: &SessionId) -> Result<CheckpointList> {
        self.get("list the checkpoints", &["sessions", id.as_str(), "checkpoints"]).await
    }

    /// `POST /sessions/{id}/checkpoints`.
    pub async fn make_checkpoint(&self, id: &SessionId) -> Result<WorkView> {
        let path = ["sessions", id.as_str(), "checkpoints"];
        self.call("make a checkpoint", Method::POST, &path, &[], None::<&()>).await
    }

    /// `GET /sessions/{id}/work?wait=true`: at most some 20 s.
    pub async fn work(&self, id: &SessionId) -> Result<WorkView> {
        let (path, query) = (["sessions", id.as_str(), "work"], [("wait", "true".to_owned())]);
        self.call("see how the session's work is", Method::GET, &path, &query, None::<&()>).await
    }

    /// `POST /sessions/{id}/restore`.
    pub async fn restore_session(&self, id: &SessionId, request: &RestoreSession) -> Result<WorkView> {
        let path = ["sessions", id.as_str(), "restore"];
        self.call("go back to the checkpoint", Method::POST, &path, &[], Some(request)).await
    }

    /// `POST /sessions/{id}/fork`.
    pub async fn fork_session(&self, id: &SessionId, request: &ForkSession) -> Result<SessionView> {
        let path = ["sessions", id.as_str(), "fork"];
        self.call("fork the session", Method::POST, &path, &[], Some(request)).await
    }

    /// `POST /sessions/{id}/move`.
    pub async fn move_session(&self, id: &SessionId, request: &MoveSession) -> Result<WorkView> {
        self.call("move the session", Method::POST, &["sessions", id.as_str(), "move"], &[], Some(request)).await
    }
}
