//! What a machine is told about its server: lines `NAME=VALUE`, the same on the disk, on a seed disk and in a credential
//! (`first-boot.sh` reads all three).

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{CliError, Kind, Result};

/// What may be told.
const KNOWN: [&str; 10] = [
    "API_HOST",
    "API_TOKEN",
    "CONCURRENCY",
    "MAX_TASKS",
    "SESSION_TIMEOUT",
    "NATS_URL",
    "LOG_LEVEL",
    "DISPLAY_WIDTH",
    "DISPLAY_HEIGHT",
    "LABELS",
];

/// The words of a file, checked. Its token is not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct JoinWords(BTreeMap<String, String>);

/// Not the token.
impl std::fmt::Debug for JoinWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl JoinWords {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |why: String| {
            CliError::new(Kind::Usage, "cannot read what machines are told")
                .at(path.display())
                .because(why)
                .next("lines like API_HOST=https://helix.example.org, API_TOKEN=…, LABELS=pool=ci")
        };
        Self::parse(&std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?).map_err(bad)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut words = BTreeMap::new();
        for (number, line) in text.lines().enumerate().map(|(number, line)| (number + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once('=').ok_or_else(|| format!("line {number} is not NAME=VALUE"))?;
            if name == "RUNNER_ID" {
                return Err(format!(
                    "line {number}: all machines of this disk would be the same runner; \
                    each makes an id of its own, or is told one by its seed disk or credential"
                ));
            }
            if !KNOWN.contains(&name) {
                let near = KNOWN.iter().find(|known| strsim::jaro_winkler(known, name) > 0.8);
                let meant = near.map_or_else(|| KNOWN.join(", "), |near| format!("did you mean {near}?"));
                return Err(format!("line {number}: {name:?} is nothing that a machine can be told; {meant}"));
            }
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            if value.contains(|c: char| c.is_control() || matches!(c, '"' | '\\' | '$' | '`')) {
                return Err(format!("line {number}: {name} has a quote, backslash, $ or ` in it"));
            }
            if name == "LABELS" && !value.split(',').all(is_label) {
                return Err(format!(
                    "line {number}: LABELS is NAME=VALUE,NAME=VALUE with letters, digits and ._/- alone"
                ));
            }
            words.insert(name.to_owned(), value.to_owned());
        }
        Ok(Self(words))
    }

    /// True where nothing is told.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an enrolment token is among it.
    pub fn has_token(&self) -> bool {
        self.0.contains_key("API_TOKEN")
    }

    /// The server, where it is told.
    pub fn server(&self) -> Option<&str> {
        self.0.get("API_HOST").map(String::as_str)
    }

    /// As it stands on the disk.
    pub fn text(&self) -> String {
        let lines: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")).collect();
        lines.concat()
    }
}

fn is_label(label: &str) -> bool {
    label.split_once('=').is_some_and(|(name, value)| {
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c));
        !name.is_empty() && plain(name) && plain(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_mistakes_named_by_their_line() {
        let words = JoinWords::parse("# x\nAPI_HOST=https://a\nAPI_TOKEN=\"s3cret\"\n\nLABELS=pool=ci,site=a/b\n");
        let words = words.expect("fine");
        assert!(words.has_token() && !format!("{words:?}").contains("s3cret"));
        assert_eq!(words.server(), Some("https://a"));
        assert_eq!(JoinWords::parse(&words.text()), Ok(words));
        let said = |text: &str| JoinWords::parse(text).expect_err(text);
        insta::assert_snapshot!(said("API_HOTS=x"), @r#"line 1: "API_HOTS" is nothing that a machine can be told; did you mean API_HOST?"#);
        insta::assert_snapshot!(said("\nhello"), @"line 2 is not NAME=VALUE");
        insta::assert_snapshot!(said("LOG_LEVEL=$(id)"), @"line 1: LOG_LEVEL has a quote, backslash, $ or ` in it");
        assert!(said("RUNNER_ID=x").contains("the same runner"));
        for bad in ["LABELS=pool", "LABELS=a=b c", "LABELS=a=b=c", "LABELS==b"] {
            assert!(said(bad).contains("NAME=VALUE,NAME=VALUE"), "{bad}");
        }
    }
}
