//! What a session may use ([`Resources`]), what is kept free for it ([`Reserve`]), and what it uses ([`Usage`]).
//!
//! The same names everywhere: in a session's spec, in a kind's file, in a runner's settings and on the wire. Amounts
//! are whole numbers inside: thousandths of a processor, bytes.

use serde::{Deserialize, Serialize};

/// The least memory that a desktop with a terminal runs in, in bytes. A smaller limit is refused.
pub const MIN_MEMORY: u64 = 64 * 1024 * 1024;
/// The fewest processes and threads that a desktop with a terminal needs. A smaller limit is refused.
pub const MIN_TASKS: u32 = 32;

/// Processors, in thousandths. Written as a number of processors: `2`, `0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Cpus(pub u32);

/// Why a number is not an amount of processors.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0} is not a number of processors: write 0.01 to 4096, for example 2 or 0.5")]
pub struct CpusError(pub String);

impl TryFrom<f64> for Cpus {
    type Error = CpusError;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked first")]
    fn try_from(number: f64) -> Result<Self, CpusError> {
        if (0.01..=4096.0).contains(&number) {
            return Ok(Self((number * 1000.0).round() as u32));
        }
        Err(CpusError(number.to_string()))
    }
}

impl From<Cpus> for f64 {
    fn from(cpus: Cpus) -> Self {
        Self::from(cpus.0) / 1000.0
    }
}

impl std::str::FromStr for Cpus {
    type Err = CpusError;
    fn from_str(text: &str) -> Result<Self, CpusError> {
        let number: f64 = text.trim().parse().map_err(|_| CpusError(text.chars().take(40).collect()))?;
        Self::try_from(number)
    }
}

impl std::fmt::Display for Cpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f64::from(*self).fmt(f)
    }
}

/// An amount of memory in bytes. Read from a number of bytes or a text with a binary unit (`"4GiB"`, `"512MiB"`);
/// written as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "AmountText", into = "u64")]
pub struct Bytes(pub u64);

/// Why a text is not an amount of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an amount of memory: write bytes, or a number with KiB, MiB, GiB or TiB, for example 4GiB")]
pub struct BytesError(pub String);

#[derive(Deserialize)]
#[serde(untagged, expecting = "write bytes as a number, or a text such as \"4GiB\"")]
enum AmountText {
    Number(u64),
    Text(String),
}

impl TryFrom<AmountText> for Bytes {
    type Error = BytesError;
    fn try_from(given: AmountText) -> Result<Self, BytesError> {
        match given {
            AmountText::Number(number) => Ok(Self(number)),
            AmountText::Text(text) => text.parse(),
        }
    }
}

impl From<Bytes> for u64 {
    fn from(bytes: Bytes) -> Self {
        bytes.0
    }
}

const UNITS: [(&str, u32); 9] =
    [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("T", 40), ("G", 30), ("M", 20), ("K", 10), ("B", 0)];

impl std::str::FromStr for Bytes {
    type Err = BytesError;
    fn from_str(text: &str) -> Result<Self, BytesError> {
        let bad = || BytesError(format!("{:?}", text.chars().take(40).collect::<String>()));
        let trimmed = text.trim();
        let unit = UNITS.iter().find_map(|(unit, shift)| Some((trimmed.strip_suffix(unit)?, *shift)));
        let (number, shift) = unit.unwrap_or((trimmed, 0));
        let number: u64 = number.trim_end().parse().map_err(|_| bad())?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (unit, shift) in &UNITS[..4] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= *shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        match self.0 {
            // Not a whole number of any unit, and too long to read in bytes.
            large if large >= 10 << 20 => write!(f, "{}MiB", large >> 20),
            small => write!(f, "{small}B"),
        }
    }
}

#[cfg(feature = "openapi")]
mod schema {
    use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
    use utoipa::openapi::{RefOr, Schema};

    macro_rules! number {
        ($name:ident, $text:literal) => {
            impl utoipa::PartialSchema for super::$name {
                fn schema() -> RefOr<Schema> {
                    ObjectBuilder::new().schema_type(SchemaType::Type(Type::Number)).description(Some($text)).into()
                }
            }
            impl utoipa::ToSchema for super::$name {}
        };
    }
    number!(Cpus, "Processors, for example 2 or 0.5");
    number!(Bytes, "Bytes; in requests also a text such as \"4GiB\"");
}

/// Most that a session may use. What is absent is decided by the next in line: spec, kind, runner; then unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resources {
    /// Processors: above it the session waits (throttled).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpus>,
    /// Memory: above it the greediest process of the session is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Memory above which the session is slowed and its pages are taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<Bytes>,
    /// Processes and threads: above it fork fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u32>,
    /// Share of the disk beside other sessions, 1 to 10000; 100 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u16>,
}

impl Resources {
    /// True when nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What `self` leaves open is taken from `next`.
    #[must_use]
    pub fn or(self, next: Self) -> Self {
        Self {
            cpu: self.cpu.or(next.cpu),
            memory: self.memory.or(next.memory),
            memory_high: self.memory_high.or(next.memory_high),
            tasks: self.tasks.or(next.tasks),
            io_weight: self.io_weight.or(next.io_weight),
        }
    }

    /// Nothing above `maximum`: what is unlimited or higher becomes the maximum.
    #[must_use]
    pub fn capped(self, maximum: Self) -> Self {
        fn least<T: Ord>(own: Option<T>, most: Option<T>) -> Option<T> {
            match (own, most) {
                (Some(own), Some(most)) => Some(own.min(most)),
                (own, most) => own.or(most),
            }
        }
        Self {
            cpu: least(self.cpu, maximum.cpu),
            memory: least(self.memory, maximum.memory),
            // No maximum where nothing was asked: slowing down is not a bound.
            memory_high: self.memory_high.map(|own| maximum.memory.map_or(own, |most| own.min(most))),
            tasks: least(self.tasks, maximum.tasks),
            io_weight: self.io_weight,
        }
    }

    /// The first amount that is above `maximum`: its name, what was asked, what is possible.
    pub fn exceeds(&self, maximum: &Self) -> Option<(&'static str, String, String)> {
        fn above<T: Ord + std::fmt::Display>(
            name: &'static str,
            own: Option<T>,
            most: Option<T>,
        ) -> Option<(&'static str, String, String)> {
            let (own, most) = (own?, most?);
            (own > most).then(|| (name, own.to_string(), most.to_string()))
        }
        above("cpu", self.cpu, maximum.cpu)
            .or_else(|| above("memory", self.memory, maximum.memory))
            .or_else(|| above("memory_high", self.memory_high, maximum.memory))
            .or_else(|| above("tasks", self.tasks, maximum.tasks))
    }

    /// What no session can run with, for people; None if it can.
    pub fn fault(&self) -> Option<String> {
        if let Some(memory) = self.memory.filter(|memory| memory.0 < MIN_MEMORY) {
            return Some(format!("memory {memory} is below {}, which a desktop needs", Bytes(MIN_MEMORY)));
        }
        if let Some(high) = self.memory_high.filter(|high| high.0 < MIN_MEMORY) {
            return Some(format!("memory_high {high} is below {}, which a desktop needs", Bytes(MIN_MEMORY)));
        }
        if let Some(tasks) = self.tasks.filter(|tasks| *tasks < MIN_TASKS) {
            return Some(format!("tasks {tasks} is below {MIN_TASKS}, which a desktop needs"));
        }
        if let Some(weight) = self.io_weight.filter(|weight| !(1..=10_000).contains(weight)) {
            return Some(format!("io_weight {weight} is not from 1 to 10000"));
        }
        None
    }
}

/// What admission keeps free for a session, used or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reserve {
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpus>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

impl Reserve {
    /// True when nothing is reserved.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What `self` leaves open is taken from `next`.
    #[must_use]
    pub fn or(self, next: Self) -> Self {
        Self { cpu: self.cpu.or(next.cpu), memory: self.memory.or(next.memory) }
    }
}

/// The network of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Network {
    /// The machine's: what the machine reaches, the session reaches, loopback included.
    #[default]
    Host,
    /// None but a loopback of its own.
    None,
}

/// What becomes of a session while its runner cannot be heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OnLost {
    /// It runs on.
    #[default]
    Wait,
    /// It may be started elsewhere: its runner freezes it before it can be called lost, and thaws it only when its
    /// epoch is confirmed, so that there are never two live copies.
    Restart,
}

/// The limits that a session runs under, and how far this machine enforces them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Limits {
    /// Spec, kind and runner together, capped by the runner's maximum.
    pub resources: Resources,
    /// Names of those that this machine enforces: `cpu`, `memory`, `memory_high`, `tasks`, `io_weight`.
    pub enforced: Vec<String>,
    /// What is missing here, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// What a session uses now. Absent = this machine does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Memory in bytes, files in memory included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Processor time since its start in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usec: Option<u64>,
    /// Thousandths of a processor since the sample before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_milli: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u32>,
    /// Times that a process was killed at the memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Share of time that some process waited for the resource, in percent over 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// Pressure stall information, percent of the last 10 s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pressure {
    /// For a processor.
    pub cpu: u8,
    /// For memory.
    pub memory: u8,
    /// For the disk.
    pub io: u8,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    #[test]
    fn amounts_read_and_refuse() {
        assert_eq!("4GiB".parse(), Ok(Bytes(4 << 30)));
        assert_eq!("512 MiB".parse(), Ok(Bytes(512 << 20)));
        assert_eq!("1000".parse(), Ok(Bytes(1000)));
        assert_eq!("2G".parse(), Ok(Bytes(2 << 30)));
        for bad in ["", "GiB", "-1", "4.5GiB", "4XiB", "99999999999TiB"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("0.5".parse(), Ok(Cpus(500)));
        for bad in ["", "0", "-1", "NaN", "inf", "5000"] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(Bytes(4 << 30).to_string(), "4GiB");
        assert_eq!(Bytes((4 << 30) + 1).to_string(), "4096MiB");
    }

    #[test]
    fn resources_read_as_they_are_written() {
        let text = r#"{"cpu":1.5,"memory":"4GiB","tasks":200}"#;
        let resources: Resources = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&resources).unwrap(), r#"{"cpu":1.5,"memory":4294967296,"tasks":200}"#);
    }

    #[test]
    fn the_first_wins_and_the_maximum_caps() {
        let spec = Resources { cpu: Some(Cpus(4000)), ..Resources::default() };
        let kind = Resources { cpu: Some(Cpus(2000)), memory: Some(Bytes(4 << 30)), ..Resources::default() };
        let most = Resources { cpu: Some(Cpus(3000)), tasks: Some(500), ..Resources::default() };
        let both = spec.or(kind);
        assert_eq!((both.cpu, both.memory), (Some(Cpus(4000)), Some(Bytes(4 << 30))));
        assert_eq!(both.exceeds(&most), Some(("cpu", "4".to_owned(), "3".to_owned())));
        let capped = both.capped(most);
        assert_eq!((capped.cpu, capped.tasks), (Some(Cpus(3000)), Some(500)));
        assert_eq!(capped.exceeds(&most), None);
    }

    #[test]
    fn what_no_desktop_runs_in_is_named() {
        let small = Resources { memory: Some(Bytes(1 << 20)), ..Resources::default() };
        assert!(small.fault().unwrap().contains("64MiB"));
        assert_eq!(Resources::default().fault(), None);
    }
}
