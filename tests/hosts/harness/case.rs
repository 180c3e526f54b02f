//! The cases of this test program, and the way from `main` to them.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Trial};
use tokio::time::timeout;

use super::janitor::{self, Role};

/// Longer than any case: one that hangs fails, and its hosts end.
const LONGEST: Duration = Duration::from_mins(15);
/// Minutes instead of that, where a case is made longer on purpose (`make soak`).
const MINUTES: &str = "HELIX_TEST_HOSTS_MINUTES";
/// Says which cases run: `all` tests, `bench` for the benchmarks alone, or those that `make test` has time for.
const WHICH: &str = "HELIX_TEST_HOSTS";

/// When a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    Thorough,
    Bench,
}

/// One test.
pub struct Case {
    name: &'static str,
    when: When,
    outside: Option<fn() -> Result<()>>,
    body: Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send>,
}

impl Case {
    /// One that `make test` runs: quick.
    pub fn always<F>(name: &'static str, body: fn() -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self { name, when: When::Always, outside: None, body: Box::new(move || body().boxed()) }
    }

    /// With something that is made before the lab begins: there is no way to a mirror inside.
    pub fn needs(mut self, outside: fn() -> Result<()>) -> Self {
        self.outside = Some(outside);
        self
    }

    /// One that only `make test-hosts` runs (`HELIX_TEST_HOSTS=all`); elsewhere it shows as ignored.
    pub fn thorough<F>(name: &'static str, body: fn() -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self { when: When::Thorough, ..Self::always(name, body) }
    }

    /// A measurement, which only `make bench` runs (`HELIX_TEST_HOSTS=bench`); elsewhere it shows as ignored.
    pub fn bench<F>(name: &'static str, body: fn() -> F) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self { when: When::Bench, ..Self::always(name, body) }
    }

    fn runs(&self, which: &str) -> bool {
        match self.when {
            When::Always => which != "bench",
            When::Thorough => which == "all",
            When::Bench => which == "bench",
        }
    }

    fn into_trial(self, which: &str) -> Trial {
        let runs = self.runs(which);
        let body = self.body;
        let trial = Trial::test(self.name, move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let outcome = runtime.block_on(async { timeout(longest(), body()).await }).context("took too long");
            outcome.flatten().map_err(|fault| format!("{fault:?}").into())
        });
        trial.with_ignored_flag(!runs)
    }
}

fn longest() -> Duration {
    let minutes = std::env::var(MINUTES).ok().and_then(|text| text.parse().ok());
    minutes.map_or(LONGEST, Duration::from_mins)
}

/// What `main` does, in whichever of the three processes it is.
pub fn run(cases: Vec<Case>) -> ExitCode {
    let outcome = match Role::of_this_process() {
        Role::Init(lab) => janitor::init(&lab),
        Role::Launcher if chosen(&cases).next().is_some() => janitor::launch(|| prepare(&cases)),
        Role::Launcher | Role::Trials => {
            let which = std::env::var(WHICH).unwrap_or_default();
            let trials = cases.into_iter().map(|case| case.into_trial(&which)).collect();
            return libtest_mimic::run(&Arguments::from_args(), trials).exit_code();
        }
    };
    outcome.unwrap_or_else(|fault| {
        super::say(&format!("{fault:?}"));
        ExitCode::FAILURE
    })
}

/// What the cases that will run need from outside.
fn prepare(cases: &[Case]) -> Result<()> {
    let which = std::env::var(WHICH).unwrap_or_default();
    chosen(cases).filter(|case| case.runs(&which)).filter_map(|case| case.outside).try_for_each(|outside| outside())
}

/// Cases that the command line means. Listing them, or running none because another test's name was given, takes no lab and
/// no root.
fn chosen(cases: &[Case]) -> impl Iterator<Item = &Case> {
    let arguments = Arguments::from_args();
    cases.iter().filter(move |case| {
        let hit =
            |wanted: &String| if arguments.exact { case.name == wanted } else { case.name.contains(wanted.as_str()) };
        !arguments.list && arguments.filter.as_ref().is_none_or(hit) && !arguments.skip.iter().any(hit)
    })
}
