//! Pools.

use helix_protocol::PoolName;
use helix_protocol::api::pools::{PoolList, PoolView, ScalePool};
use helix_protocol::pool::PoolSpec;
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `GET /pools`.
    pub async fn pools(&self) -> Result<PoolList> {
        self.get("list the pools", &["pools"]).await
    }

    /// `GET /pools/{id}`.
    pub async fn pool(&self, name: &PoolName) -> Result<PoolView> {
        self.get("read the pool", &["pools", name.as_str()]).await
    }

    /// `PUT /pools/{id}`, building on what was seen: 0 for no pool.
    pub async fn apply_pool(&self, name: &PoolName, spec: &PoolSpec, version: u64) -> Result<PoolView> {
        let query = [("version", version.to_string())];
        self.call("apply the pool", Method::PUT, &["pools", name.as_str()], &query, Some(spec)).await
    }

    /// `PATCH /pools/{id}`.
    pub async fn scale_pool(&self, name: &PoolName, how: &ScalePool) -> Result<PoolView> {
        self.call("scale the pool", Method::PATCH, &["pools", name.as_str()], &[], Some(how)).await
    }

    /// `DELETE /pools/{id}`.
    pub async fn delete_pool(&self, name: &PoolName, stop: bool) -> Result<()> {
        let query: Vec<_> = stop.then(|| ("stop", "true".to_owned())).into_iter().collect();
        self.ask("delete the pool", Method::DELETE, &["pools", name.as_str()], &query, None::<&()>).await.map(|_| ())
    }
}
