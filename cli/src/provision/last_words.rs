//! What a service says of itself when it does not do what it was started for: the cause of an error that, from outside, is
//! only that nobody is heard. The host's own script finds it (`host_scripts/last_words.sh`).

use crate::error::{CliError, Kind};

/// Functions of a shell: `last_words UNIT SINCE` prints what [`LastWords::parse`] reads.
pub const SCRIPT: &str = include_str!("host_scripts/last_words.sh");

/// How a service fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastWords {
    /// It ended by itself.
    ends: bool,
    text: String,
}

impl LastWords {
    /// Reads the script's output; None for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (how, text) = text.trim().split_once('\n')?;
        let ends = match how {
            "ends" => true,
            "runs" => false,
            _ => return None,
        };
        Some(Self { ends, text: text.to_owned() })
    }

    /// For people.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// An error whose cause this is. One that ends again and again is no matter of addresses, whatever was waited for.
    pub fn explain(&self, error: CliError) -> CliError {
        let why = [error.why.as_deref().unwrap_or_default(), &self.text].join("\n");
        let error = error.because(why.trim());
        if !self.ends {
            return error;
        }
        // The text begins with it.
        let unit = self.text.split(' ').next().unwrap_or_default();
        CliError { what: "agentd does not stay up".to_owned(), kind: Kind::Failed, ..error }
            .next(format!("correct what it says and run it again; more of it, on its machine: journalctl -u {unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ends_is_told_of_in_another_way_than_who_is_not_heard() {
        let error =
            || CliError::new(Kind::TimedOut, "runner r1 does not come online").because("not enrolled").next("NATS?");
        let ends = LastWords::parse("ends\nagentd.service is activating\nits last words:\n  no disk\n").expect("whole");
        let told = ends.explain(error());
        assert_eq!((told.kind, told.what.as_str()), (Kind::Failed, "agentd does not stay up"));
        assert_eq!(told.why.as_deref(), Some("not enrolled\nagentd.service is activating\nits last words:\n  no disk"));
        assert!(told.next.is_some_and(|next| next.ends_with("journalctl -u agentd.service")));
        let runs = LastWords::parse("runs\nagentd.service is active").expect("whole");
        let told = runs.explain(error());
        assert_eq!((told.kind, told.next.as_deref()), (Kind::TimedOut, Some("NATS?")));
        assert!(told.why.is_some_and(|why| why.ends_with("is active")));
        assert_eq!(LastWords::parse("sh: 1: journalctl: not found"), None);
    }
}
