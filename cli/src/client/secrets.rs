//! Stored secrets of the caller: their values go to the server and never come back.

use helix_protocol::api::threads::{SecretList, SetSecret};
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `GET /secrets`.
    pub async fn secrets(&self) -> Result<SecretList> {
        self.get("list the secrets", &["secrets"]).await
    }

    /// `PUT /secrets/{name}`.
    pub async fn set_secret(&self, name: &str, request: &SetSecret) -> Result<()> {
        self.ask("store the secret", Method::PUT, &["secrets", name], &[], Some(request)).await.map(|_| ())
    }

    /// `DELETE /secrets/{name}`.
    pub async fn delete_secret(&self, name: &str) -> Result<()> {
        self.ask("delete the secret", Method::DELETE, &["secrets", name], &[], None::<&()>).await.map(|_| ())
    }
}
