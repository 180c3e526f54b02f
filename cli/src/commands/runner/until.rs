//! Waiting for a runner to be as wanted, on the server's feed of events: nothing is missed and nothing is asked in vain.

use std::time::Duration;

use helix_protocol::RunnerId;
use helix_protocol::api::RunnerView;
use tokio::time::{Instant, timeout_at};

use crate::client::Client;
use crate::error::Result;
use crate::feed::Feed;

/// Looks at one runner, from when it was made on.
pub struct Watch<'a> {
    client: &'a Client,
    id: &'a RunnerId,
    feed: Feed,
}

impl<'a> Watch<'a> {
    /// Begins to look. What happens from here on is seen.
    pub async fn begin(client: &'a Client, id: &'a RunnerId) -> Result<Self> {
        Ok(Self { client, id, feed: Feed::open(&client.connection).await? })
    }

    /// The runner once `holds`, or as it was last when the time is over.
    pub async fn until(
        &mut self,
        within: Duration,
        holds: impl Fn(&RunnerView) -> bool,
    ) -> Result<Result<RunnerView, RunnerView>> {
        let deadline = Instant::now() + within;
        loop {
            let view = self.client.runner(self.id).await?;
            if holds(&view) {
                return Ok(Ok(view));
            }
            match timeout_at(deadline, self.feed.happened()).await {
                Ok(happened) => happened?,
                Err(_elapsed) => return Ok(Err(view)),
            }
        }
    }
}
