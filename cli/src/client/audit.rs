//! The audit trail.

use helix_protocol::api::audit::AuditPage;
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `GET /audit`.
    pub async fn audit(&self, query: &[(&str, String)]) -> Result<AuditPage> {
        self.call("read the audit trail", Method::GET, &["audit"], query, None::<&()>).await
    }
}
