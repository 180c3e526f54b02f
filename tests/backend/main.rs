//! helix-backend-suite: the suite of the supervisor's backends against systemd, inside a host where that is process 1.
//!
//! `helix-backend-suite [PART…]`, as root, runs every check whose name contains one of the parts, all where none is
//! named, one after another; each in directories of its own. A line per check, exit code 1 if one failed. It takes the
//! slot users `helix-u1 …` and the program `agentd` beside itself, or in `HELIX_AGENTD`.
//!
//! `conformance.rs` has what every backend must do; [`systemd`] what only this one has: gaps that a killed agentd
//! leaves, and somebody else's hand in its units.
#![allow(clippy::unwrap_used)] // a check may panic: that is how it fails

#[path = "../../agentd/src/supervisor/conformance.rs"]
mod conformance;
mod host;
mod measure;
mod systemd;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::conformance::PATIENCE;
use self::host::Host;

/// A line for whoever reads the result.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs one check on a thread of its own, so that its panic is only its own.
fn run<F: Future<Output = ()>>(name: &'static str, check: impl FnOnce(Host) -> F + Send + 'static) -> bool {
    let begun = Instant::now();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let host = Host::new(name);
            tokio::time::timeout(4 * PATIENCE, check(host)).await.expect("the check takes too long");
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
    // What it says on its way goes to standard error.
    let passed = thread.unwrap().join().is_ok();
    let left = host::clean_up(name);
    let word = match (&left, passed) {
        (None, true) => "ok  ",
        _ => "FAIL",
    };
    say(&format!("{word} {name} ({:.2} s){}", begun.elapsed().as_secs_f32(), left.clone().unwrap_or_default()));
    passed && left.is_none()
}

fn main() -> ExitCode {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()));
    // Sessions have the same names in every run, and the journal forgets nothing.
    host::command("journalctl", &["--rotate", "--vacuum-time=1us"]);
    let mut failed = Vec::new();
    macro_rules! each {
        ($module:ident $($check:ident),+ $(,)?) => {
            $(
                if wanted(stringify!($check))
                    && !run(stringify!($check), |host| async move { $module::$check(&host).await })
                {
                    failed.push(stringify!($check));
                }
            )+
        };
    }
    conformance::checks!(each!(conformance));
    systemd::checks!(each!(systemd));
    if parts.iter().any(|part| part == "measure") {
        run("measure", |host| async move { measure::times(&host).await });
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("failed: {}", failed.join(", ")));
    ExitCode::FAILURE
}
