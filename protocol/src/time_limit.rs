//! How long something may last: `idle_timeout` and `lifetime` of sessions and pools.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Shortest that is taken: viewers at ports of a runner's own are known by its heartbeats alone.
const LEAST_SECONDS: u64 = 10;
/// Longest that is taken.
const MOST_SECONDS: u64 = 365 * 24 * 3600;
/// Units, the largest first.
const UNITS: [(&str, u64); 4] = [("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];

/// A time limit, written `90s`, `30m`, `8h` or `7d`; `10s` to `365d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeLimit {
    seconds: u64,
}

crate::ids::string_schema!(TimeLimit);

/// Why a text is not a [`TimeLimit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeLimitError {
    /// Not a number with a unit.
    #[error("{0:?} is not a time limit: write a number with s, m, h or d, for example 30m")]
    Unreadable(String),
    /// Nothing could be used in so short a time, or nobody will see its end.
    #[error("{0} is out of range: a time limit is 10s to 365d; leave it out for none")]
    OutOfRange(String),
}

impl TimeLimit {
    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl std::str::FromStr for TimeLimit {
    type Err = TimeLimitError;
    fn from_str(text: &str) -> Result<Self, TimeLimitError> {
        let short = || text.chars().take(40).collect();
        let is_number = |digits: &&str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let read = |(unit, seconds): &(&str, u64)| Some((text.strip_suffix(unit).filter(is_number)?, *seconds));
        let (digits, unit) = UNITS.iter().find_map(read).ok_or_else(|| TimeLimitError::Unreadable(short()))?;
        let seconds = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
        match seconds.filter(|seconds| (LEAST_SECONDS..=MOST_SECONDS).contains(seconds)) {
            Some(seconds) => Ok(Self { seconds }),
            None => Err(TimeLimitError::OutOfRange(short())),
        }
    }
}

impl TryFrom<String> for TimeLimit {
    type Error = TimeLimitError;
    fn try_from(text: String) -> Result<Self, TimeLimitError> {
        text.parse()
    }
}

impl From<TimeLimit> for String {
    fn from(limit: TimeLimit) -> Self {
        limit.to_string()
    }
}

impl std::fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, seconds) = UNITS.iter().find(|(_, unit)| self.seconds.is_multiple_of(*unit)).unwrap_or(&UNITS[3]);
        write!(f, "{}{unit}", self.seconds / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_with_the_way_to_write_it() {
        for (text, shown) in [("90s", "90s"), ("60m", "1h"), ("30m", "30m"), ("7d", "7d"), ("10s", "10s")] {
            assert_eq!(text.parse::<TimeLimit>().expect(text).to_string(), shown);
        }
        for text in ["", "m", "30", "-5m", "+5m", "1.5h", "soon", "5 m", "30M", "1w"] {
            assert!(matches!(text.parse::<TimeLimit>(), Err(TimeLimitError::Unreadable(_))), "{text}");
        }
        for text in ["0s", "9s", "366d", "99999999999999999999d", "18446744073709551615h"] {
            assert!(matches!(text.parse::<TimeLimit>(), Err(TimeLimitError::OutOfRange(_))), "{text}");
        }
    }
}
