//! A session's log lines: at once, or as an answer that goes on.

use helix_protocol::SessionId;
use helix_protocol::api::SessionLogs;
use helix_protocol::link::LogLine;
use reqwest::Method;

use super::{ANSWER_WITHIN, Client, innermost, refusal, timed_out, transport_error};
use crate::error::{CliError, Kind, Result};

/// Longest line that is taken: longer than any that a runner sends.
const MAX_LINE: usize = 16 << 20;

/// Which log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsRequest {
    /// Last lines of each unit.
    pub lines: u32,
    /// Only of this unit.
    pub unit: Option<String>,
}

impl LogsRequest {
    fn query(&self) -> impl Iterator<Item = (&'static str, String)> {
        let unit = self.unit.clone().map(|unit| ("unit", unit));
        std::iter::once(("lines", self.lines.to_string())).chain(unit)
    }
}

impl Client {
    /// `GET /sessions/{id}/logs`.
    pub async fn logs(&self, id: &SessionId, request: &LogsRequest) -> Result<SessionLogs> {
        let query: Vec<_> = request.query().collect();
        self.call("read the logs", Method::GET, &["sessions", id.as_str(), "logs"], &query, None::<&()>).await
    }

    /// `GET /sessions/{id}/logs?follow=true`. Has no deadline once it is answered.
    pub async fn follow_logs(&self, id: &SessionId, request: &LogsRequest) -> Result<FollowedLogs> {
        let what = "cannot follow the logs";
        let query: Vec<_> = request.query().chain([("follow", "true".to_owned())]).collect();
        let (request, place) = self.request(Method::GET, &["sessions", id.as_str(), "logs"], &query);
        let late = |_elapsed| timed_out(what, &place);
        let response = tokio::time::timeout(ANSWER_WITHIN, request.send()).await.map_err(late)?;
        let response = response.map_err(|error| transport_error(what, &place, &error))?;
        let status = response.status();
        if !status.is_success() {
            let body = tokio::time::timeout(ANSWER_WITHIN, response.bytes()).await.map_err(late)?;
            let body = body.map_err(|error| transport_error(what, &place, &error))?;
            return Err(refusal(what.to_owned(), place, status, &body));
        }
        Ok(FollowedLogs { response, place, lines: Lines::default() })
    }
}

/// Lines as they are written. Ends with the session's log.
#[derive(Debug)]
pub struct FollowedLogs {
    response: reqwest::Response,
    place: String,
    lines: Lines,
}

impl FollowedLogs {
    /// The next line; `None` after the last. An answer that breaks off is an error: it is not the log's end.
    pub async fn next(&mut self) -> Result<Option<LogLine>> {
        loop {
            if let Some(line) = self.lines.take() {
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    self.failed(Kind::Failed, format!("a line is not what this helixctl expects: {error}"))
                });
            }
            if self.lines.pending() > MAX_LINE {
                return Err(self.failed(Kind::Failed, format!("a line is longer than {MAX_LINE} bytes")));
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.lines.add(&chunk),
                Ok(None) => return Ok(None),
                Err(error) => {
                    return Err(self.failed(Kind::Unreachable, format!("the answer broke off: {}", innermost(&error))));
                }
            }
        }
    }

    fn failed(&self, kind: Kind, why: String) -> CliError {
        CliError::new(kind, "cannot follow the logs any further")
            .at(&self.place)
            .because(why)
            .next("repeat the command: what was written meanwhile is among the last lines")
    }
}

/// Bytes on their way to whole lines.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Up to where lines were taken.
    taken: usize,
    /// Up to where there is no line end.
    searched: usize,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.searched -= self.taken;
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let end = self.searched + length;
        let line = self.buffer[self.taken..end].to_vec();
        self.taken = end + 1;
        self.searched = self.taken;
        Some(line)
    }

    /// Bytes of a line that has no end yet.
    fn pending(&self) -> usize {
        self.buffer.len() - self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text = b"first\n\nthird, longer\nlast without an end";
        for piece in 1..text.len() {
            let (mut lines, mut taken) = (Lines::default(), Vec::new());
            for bytes in text.chunks(piece) {
                lines.add(bytes);
                taken.extend(std::iter::from_fn(|| lines.take()));
            }
            assert_eq!(taken, [&b"first"[..], b"", b"third, longer"], "{piece}");
            assert_eq!(lines.pending(), b"last without an end".len());
        }
    }
}
