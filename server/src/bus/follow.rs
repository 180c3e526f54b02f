//! Reading a stream in order: what it holds now, then what comes.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::{Ordered, OrderedConfig};
use futures::StreamExt as _;

use super::{Bus, unavailable};
use crate::error::Result;

/// Messages of one stream, in order and without a hole, for as long as the connection lasts.
pub struct Follow {
    messages: Ordered,
    /// Messages that were stored before this began and are still to come; 0 = none.
    pub pending: u64,
    /// First sequence that the stream holds.
    pub first: u64,
    /// Last sequence that the stream had given when this began.
    pub last: u64,
}

/// One stored message.
pub struct Stored {
    /// The message.
    pub message: async_nats::Message,
    /// Its place in the stream.
    pub sequence: u64,
    /// How many of those stored by now follow it.
    pub pending: u64,
}

impl Bus {
    /// First and last sequence of a stream.
    pub async fn stream_range(&self, stream: &str) -> Result<(u64, u64)> {
        self.require_up()?;
        let info = self.jetstream.get_stream(stream).await.map_err(unavailable)?;
        let state = &info.cached_info().state;
        Ok((state.first_sequence, state.last_sequence))
    }

    /// Begins to read. Ends with the connection: callers begin again with each generation of the bus.
    pub async fn follow(&self, stream: &str, filter: &str, from: DeliverPolicy) -> Result<Follow> {
        self.require_up()?;
        let stream = self.jetstream.get_stream(stream).await.map_err(unavailable)?;
        let state = &stream.cached_info().state;
        let (first, last) = (state.first_sequence, state.last_sequence);
        let consumer = stream
            .create_consumer(OrderedConfig {
                deliver_subject: self.client.new_inbox(),
                filter_subject: filter.to_owned(),
                deliver_policy: from,
                ..OrderedConfig::default()
            })
            .await
            .map_err(unavailable)?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(unavailable)?;
        Ok(Follow { messages, pending, first, last })
    }
}

impl Follow {
    /// The next message. Cancel safe.
    pub async fn next(&mut self) -> Result<Stored> {
        let ended = || unavailable("the stream ended");
        let message = self.messages.next().await.ok_or_else(ended)?.map_err(unavailable)?;
        let info = message.info().map_err(unavailable)?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        Ok(Stored { message: message.message, sequence, pending })
    }
}
