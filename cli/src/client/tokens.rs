//! Tokens: made, listed, revoked.

use helix_protocol::api::tokens::{CreateToken, NewToken, TokenList};
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `POST /tokens`.
    pub async fn create_token(&self, request: &CreateToken) -> Result<NewToken> {
        self.call("make a token", Method::POST, &["tokens"], &[], Some(request)).await
    }

    /// `GET /tokens`.
    pub async fn tokens(&self) -> Result<TokenList> {
        self.get("list the tokens", &["tokens"]).await
    }

    /// `DELETE /tokens/{id}`.
    pub async fn revoke_token(&self, id: &str) -> Result<()> {
        self.ask("revoke the token", Method::DELETE, &["tokens", id], &[], None::<&()>).await.map(|_| ())
    }
}
