//! Recordings of desktops.

use helix_protocol::recording::{EventPage, HeadList, RecordingDetail, RecordingList};
use helix_protocol::{ErrorCode, RecordingId};
use reqwest::Method;

use super::Client;
use crate::error::Result;

impl Client {
    /// `GET /recordings`.
    pub async fn recordings(&self, query: &[(&str, String)]) -> Result<RecordingList> {
        self.call("list the recordings", Method::GET, &["recordings"], query, None::<&()>).await
    }

    /// `GET /recordings/{id}`, with all of its chunks.
    pub async fn recording(&self, id: &RecordingId) -> Result<RecordingDetail> {
        let page = async |from: u32| {
            let query = [("from_chunk", from.to_string())];
            let path = ["recordings", id.as_str()];
            self.call::<(), RecordingDetail>("read the recording", Method::GET, &path, &query, None).await
        };
        let mut detail = page(0).await?;
        loop {
            let next = detail.chunk_list.last().map_or(0, |last| last.number + 1);
            if next >= detail.recording.chunks {
                return Ok(detail);
            }
            let more = page(next).await?.chunk_list;
            if more.is_empty() {
                // What is missing there is told by whoever needs it.
                return Ok(detail);
            }
            detail.chunk_list.extend(more);
        }
    }

    /// `GET /recordings/{id}/chunks/{number}`; none where there is no such chunk.
    pub async fn recording_chunk(&self, id: &RecordingId, number: u32) -> Result<Option<Vec<u8>>> {
        let (number, what) = (number.to_string(), "read a chunk of the recording");
        let path = ["recordings", id.as_str(), "chunks", &number];
        match self.ask(what, Method::GET, &path, &[], None::<&()>).await {
            Ok((_, bytes)) => Ok(Some(bytes)),
            Err(error) if error.code == Some(ErrorCode::ChunkNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `GET /recordings/{id}/events`.
    pub async fn recording_events(&self, id: &RecordingId, after: Option<&str>) -> Result<EventPage> {
        let query: Vec<_> = after.into_iter().map(|after| ("after", after.to_owned())).collect();
        let path = ["recordings", id.as_str(), "events"];
        self.call("read the recording's events", Method::GET, &path, &query, None::<&()>).await
    }

    /// `GET /recordings/{id}/heads`.
    pub async fn recording_heads(&self, id: &RecordingId) -> Result<HeadList> {
        self.get("read the proof of the recording", &["recordings", id.as_str(), "heads"]).await
    }

    /// `DELETE /recordings/{id}`.
    pub async fn delete_recording(&self, id: &RecordingId) -> Result<()> {
        let path = ["recordings", id.as_str()];
        self.ask("delete the recording", Method::DELETE, &path, &[], None::<&()>).await.map(|_| ())
    }
}
