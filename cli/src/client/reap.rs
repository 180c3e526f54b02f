//! What belongs to nothing known.

use helix_protocol::api::reap::{ReapRequest, ReaperView};
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `GET /reap`.
    pub async fn reaped(&self) -> Result<ReaperView> {
        self.get("read what the reaper found", &["reap"]).await
    }

    /// `POST /reap`.
    pub async fn reap(&self, request: ReapRequest) -> Result<ReaperView> {
        self.call("have the reaper look", Method::POST, &["reap"], &[], Some(&request)).await
    }
}
