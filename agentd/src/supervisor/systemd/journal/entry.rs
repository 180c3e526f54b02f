//! Entries of `journalctl -o json`: one JSON object per line, `MESSAGE` as text or, where it is not UTF-8, as bytes.

use std::io;

use helix_protocol::link::LogLine;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Longest line of JSON: a message of journald's limit (48 KiB) as an array of numbers has 240 KiB.
const MAX_JSON: usize = 512 * 1024;
/// Longest text that is passed on; the rest of it is cut.
const MAX_TEXT: usize = 48 * 1024;

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it is.
    pub(super) cursor: String,
    /// Microseconds since 1970.
    pub(super) time: u64,
    /// The unit that wrote it, by journald's own word.
    pub(super) unit: String,
    /// What it wrote.
    pub(super) text: String,
}

impl Entry {
    /// Its lines: programs that speak to the journal themselves may write several at once.
    pub(super) fn lines(self, word: &str) -> impl Iterator<Item = LogLine> {
        let lines: Vec<LogLine> =
            self.text.lines().map(|text| LogLine { unit: word.to_owned(), text: text.to_owned() }).collect();
        lines.into_iter()
    }
}

#[derive(Deserialize)]
struct Json {
    #[serde(rename = "__CURSOR")]
    cursor: String,
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time: String,
    #[serde(rename = "_SYSTEMD_UNIT")]
    unit: String,
    #[serde(rename = "MESSAGE", default)]
    message: Value,
}

/// Reads entries one after the other.
pub(super) struct Entries<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Entries<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: Vec::new() }
    }

    /// The next entry; None at the end. Lines that are no entry or too long are passed over. Cancel safe: what was
    /// read of a line is kept.
    pub(super) async fn next(&mut self) -> io::Result<Option<Entry>> {
        loop {
            let read = self.reader.fill_buf().await?;
            if read.is_empty() {
                return Ok(None);
            }
            let end = read.iter().position(|&byte| byte == b'\n');
            let taken = end.map_or(read.len(), |end| end + 1);
            // One byte more than possible says: too long.
            let room = (MAX_JSON + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&read[..end.unwrap_or(taken).min(room)]);
            self.reader.consume(taken);
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                if let Some(entry) = (line.len() <= MAX_JSON).then(|| parse(&line)).flatten() {
                    return Ok(Some(entry));
                }
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<Entry> {
    let Json { cursor, time, unit, message } = serde_json::from_slice(line).ok()?;
    Some(Entry { cursor, time: time.parse().ok()?, unit, text: cut(text_of(&message)) })
}

fn text_of(message: &Value) -> String {
    match message {
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let bytes: Option<Vec<u8>> =
                values.iter().map(|value| value.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
            match bytes {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                // The field more than once.
                None => values.iter().map(text_of).collect::<Vec<_>>().join("\n"),
            }
        }
        _ => String::new(),
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(message: &str) -> String {
        format!(
            r#"{{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"7","_SYSTEMD_UNIT":"helix-s0-app.service","MESSAGE":{message}}}"#
        )
    }

    async fn texts(input: &str) -> Vec<String> {
        let mut entries = Entries::new(input.as_bytes());
        let mut found = Vec::new();
        while let Some(entry) = entries.next().await.unwrap() {
            found.push(entry.text);
        }
        found
    }

    #[tokio::test]
    async fn texts_bytes_and_repeated_fields_are_read_and_rubbish_is_passed_over() {
        let long = json(&format!("\"{}\"", "x".repeat(MAX_JSON)));
        let input = [
            json("\"a line\""),
            "no json".to_owned(),
            long,
            json("[104, 105, 255]"),
            json("[\"one\", \"two\"]"),
            json("null"),
            json("\"cut off")[..20].to_owned(),
        ];
        assert_eq!(texts(&input.join("\n")).await, ["a line", "hi\u{fffd}", "one\ntwo", ""]);
    }

    #[tokio::test]
    async fn a_long_text_is_cut_between_characters() {
        let text = texts(&(json(&format!("\"{}\"", "é".repeat(MAX_TEXT))) + "\n")).await.remove(0);
        assert_eq!(text.len(), MAX_TEXT);
    }

    #[test]
    fn an_entry_of_several_lines_is_several_lines() {
        let entry = parse(json(r#""a\nb\n""#).as_bytes()).unwrap();
        assert_eq!((entry.time, entry.unit.as_str()), (7, "helix-s0-app.service"));
        let texts: Vec<String> = entry.lines("app").map(|line| line.text).collect();
        assert_eq!(texts, ["a", "b"]);
    }
}
