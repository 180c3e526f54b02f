//! The other runners of this machine: what they have, the one to be may not have.

use std::fs;
use std::io;
use std::path::Path;

/// Where settings of all runners are.
pub const SETTINGS_DIR: &str = "/etc/helix";
/// Port of `/health` where settings say none.
pub const FIRST_HEALTH_PORT: u16 = 3030;

/// What one of them has.
pub struct Other {
    /// As its settings are called.
    pub name: String,
    /// Numbers of its slot users.
    pub slots: std::ops::Range<u32>,
    /// Its port of `/health`.
    pub health_port: u16,
}

impl Other {
    /// All but the one whose settings these are.
    pub fn all(own: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(SETTINGS_DIR) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut others = Vec::new();
        for path in entries.iter().map(fs::DirEntry::path) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let is_settings = path.extension().is_some_and(|extension| extension == "toml")
                && (stem == "agentd" || stem.starts_with("agentd-"));
            if is_settings && path != own {
                others.push(Self::read(&path, &stem)?);
            }
        }
        Ok(others)
    }

    /// What others may not have, too; a file that agentd would refuse counts for nothing.
    fn read(path: &Path, stem: &str) -> io::Result<Self> {
        let table: toml::Table = fs::read_to_string(path)?.parse().unwrap_or_default();
        let env = fs::read_to_string(path.with_extension("env")).unwrap_or_default();
        let variable = |name: &str| {
            let line = env.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.and_then(|value| value.trim_matches(['"', '\'']).parse::<i64>().ok())
        };
        let number = |key: &str| table.get(key).and_then(toml::Value::as_integer);
        let whole = |number: Option<i64>, default: u32| number.and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
        let count = variable("CONCURRENCY").or_else(|| variable("AGENT_CONCURRENCY")).or_else(|| number("concurrency"));
        let (first, count) = (whole(number("slot_user_first"), 1), whole(count, 1));
        let is_process = table.get("backend").and_then(toml::Value::as_str) == Some("process");
        let slots = if is_process { 0..0 } else { first..first.saturating_add(count) };
        let health_port = number("health_port").and_then(|port| u16::try_from(port).ok()).unwrap_or(FIRST_HEALTH_PORT);
        Ok(Self { name: stem.to_owned(), slots, health_port })
    }
}
