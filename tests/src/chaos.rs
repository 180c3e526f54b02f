//! What tests of kills share: their seed, a log of everything with times, and the account of kills that were lived through.
//!
//! Files are in `~/.cache/helix-chaos`, so that they are there after a run: logs of runs that failed, and `kills.jsonl`
//! (`HELIX_KILLS_LOG` for another), one line for each run whose oracle was content. Kills of a run that failed or was
//! broken off are in no line, so a sum of them is one of kills that harmed nothing; another run adds to it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Seed of a run that nothing else was asked of.
const SEED: u64 = 1;

/// The number in that variable, where there is one.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `HELIX_CHAOS_SEED`; without it another one for every run where `long`, and always the same elsewhere.
pub fn seed(long: bool) -> u64 {
    let drawn = || if long { jiff::Timestamp::now().as_microsecond().unsigned_abs() } else { SEED };
    number("HELIX_CHAOS_SEED").unwrap_or_else(drawn)
}

/// `~/.cache/helix-chaos`, made if need be.
pub fn dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let dir = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("helix-chaos");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Everything that was done and seen, with seconds since the beginning. A run that fails leaves it.
pub struct History {
    began: Instant,
    path: PathBuf,
    file: Mutex<File>,
}

impl History {
    /// A new one; its name says of which run.
    pub fn begin(suite: &str, seed: u64) -> Result<Self> {
        let path = dir()?.join(format!("{suite}-{seed}-{}.log", std::process::id()));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Self { began: Instant::now(), path, file: Mutex::new(file) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// One line.
    pub fn note(&self, who: &str, what: impl Display) {
        let at = self.began.elapsed().as_secs_f64();
        if let Ok(mut file) = self.file.lock() {
            // A full disk must not hide what the test finds.
            let _ = writeln!(file, "{at:9.3} {who:<10} {what}");
        }
    }

    /// All was well: it is not needed.
    pub fn discard(self) -> Result<()> {
        Ok(std::fs::remove_file(self.path)?)
    }
}

/// Kills of one run, by what was killed.
pub struct Kills {
    suite: &'static str,
    seed: u64,
    by: Mutex<BTreeMap<&'static str, u64>>,
}

/// A line of the account.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    at: String,
    suite: String,
    seed: u64,
    kills: u64,
    by: BTreeMap<String, u64>,
}

impl Kills {
    /// None yet.
    pub fn of(suite: &'static str, seed: u64) -> Self {
        Self { suite, seed, by: Mutex::default() }
    }

    /// So many more of this component.
    pub fn count(&self, component: &'static str, kills: u64) {
        if let Ok(mut by) = self.by.lock() {
            *by.entry(component).or_default() += kills;
        }
    }

    /// Nothing was harmed: the run goes into the account. Answers what it sums up to, for people.
    pub fn survived(self) -> Result<String> {
        let by = self.by.into_inner().unwrap_or_default();
        let by: BTreeMap<_, _> = by.into_iter().map(|(name, kills)| (name.to_owned(), kills)).collect();
        let kills = by.values().sum();
        let at = jiff::Timestamp::now().to_string();
        let line = Line { at, suite: self.suite.to_owned(), seed: self.seed, kills, by };
        let path = account()?;
        let mut file =
            File::options().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
        // One write: runs beside each other append whole lines.
        file.write_all(format!("{}\n", serde_json::to_string(&line)?).as_bytes())?;
        let (all, by) = sum(&std::fs::read_to_string(&path)?)?;
        Ok(format!("{kills} kills in this run {:?}; {all} in all so far {by:?} ({})", line.by, path.display()))
    }
}

fn account() -> Result<PathBuf> {
    match std::env::var_os("HELIX_KILLS_LOG") {
        Some(path) => Ok(PathBuf::from(path)),
        None => Ok(dir()?.join("kills.jsonl")),
    }
}

/// All of an account, and by component.
fn sum(text: &str) -> Result<(u64, BTreeMap<String, u64>)> {
    let mut all = BTreeMap::<_, u64>::new();
    for line in text.lines() {
        let line: Line = serde_json::from_str(line).with_context(|| format!("not a line of kills: {line}"))?;
        for (component, kills) in line.by {
            *all.entry(component).or_default() += kills;
        }
    }
    Ok((all.values().sum(), all))
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn runs_add_up() {
        let one = r#"{"at":"2026-01-01T00:00:00Z","suite":"a","seed":1,"kills":5,"by":{"agentd":2,"nats":3}}"#;
        let other = r#"{"at":"2026-01-02T00:00:00Z","suite":"b","seed":2,"kills":4,"by":{"agentd":4}}"#;
        let (all, by) = sum(&format!("{one}\n{other}\n")).unwrap();
        assert_eq!((all, by["agentd"], by["nats"]), (9, 6, 3));
        assert!(sum("{\"at\"").is_err());
    }
}
