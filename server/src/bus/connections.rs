//! Ends NATS connections of runners whose token is no longer good: nats-server asks about a token when a connection begins,
//! and never again.
//!
//! The system account has the two services for it, and `nats.conf` gives them to servers alone. Who is ended may come back with
//! a good token. Where a `nats.conf` of before does not have them, a connection ends with its credentials, and a warning says
//! so.

use std::time::Duration;

use async_nats::{HeaderMap, StatusCode};
use futures::StreamExt as _;
use helix_protocol::{RunnerId, subject};
use serde::Deserialize;
use serde_json::json;

use super::{Bus, REQUEST_TIMEOUT};

/// Every nats-server of a cluster answers, and nobody knows how many there are: after the last answer this long.
const MORE_ANSWERS: Duration = Duration::from_millis(250);

/// What one nats-server says of its connections.
#[derive(Deserialize)]
struct Connections {
    server: Server,
    data: Data,
}

#[derive(Deserialize)]
struct Server {
    id: String,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    connections: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    cid: u64,
    #[serde(default)]
    authorized_user: String,
}

impl Bus {
    /// Ends every connection of this runner, on every nats-server.
    pub async fn end_connections(&self, runner: &RunnerId) {
        match self.try_end(runner).await {
            Ok(0) => {}
            Ok(ended) => tracing::info!(runner.id = %runner, ended, "the runner's NATS connections are ended"),
            Err(error) => tracing::warn!(
                runner.id = %runner, error = format!("{error:#}"),
                "the runner's NATS connections end when their credentials do; is nats.conf made by this version's \
                 `helix-server nats-config`?"
            ),
        }
    }

    async fn try_end(&self, runner: &RunnerId) -> anyhow::Result<usize> {
        let client = self.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await?;
        let filter = json!({ "acc": subject::ACCOUNT_RUNNERS, "user": runner, "auth": true });
        let question = serde_json::to_vec(&filter)?.into();
        client.publish_with_reply_and_headers(subject::SYS_CONNECTIONS, inbox, HeaderMap::new(), question).await?;
        let (mut ended, mut wait) = (0, REQUEST_TIMEOUT);
        while let Ok(Some(answer)) = tokio::time::timeout(wait, answers.next()).await {
            anyhow::ensure!(answer.status != Some(StatusCode::NO_RESPONDERS), "the system account does not answer");
            wait = MORE_ANSWERS;
            let Connections { server, data } = serde_json::from_slice(&answer.payload)?;
            for entry in data.connections.iter().filter(|entry| entry.authorized_user == runner.as_str()) {
                let order = serde_json::to_vec(&json!({ "cid": entry.cid }))?.into();
                client.request(subject::sys_kick(&server.id), order).await?;
                ended += 1;
            }
        }
        anyhow::ensure!(wait == MORE_ANSWERS, "no nats-server answers");
        Ok(ended)
    }
}
