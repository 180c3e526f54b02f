//! Samples, and what is told of them.

use std::fmt;

/// Values of one kind, with their unit.
#[derive(Debug)]
pub struct Figures {
    sorted: Vec<f64>,
    unit: &'static str,
}

impl Figures {
    /// Of these samples.
    pub fn of(samples: impl IntoIterator<Item = f64>, unit: &'static str) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted, unit }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// Value at quantile `q` (0..=1), nearest rank.
    pub fn at(&self, q: f64) -> f64 {
        let rank = (self.sorted.len() as f64 * q).ceil() as usize;
        self.sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, count) = (self.unit, self.count());
        write!(f, "p50 {:.1} {unit} · p99 {:.1} {unit} · n {count}", self.at(0.5), self.at(0.99))
    }
}
