//! Ending a whole session: units in order with a short grace each, then every descendant, until none is left.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::units::Unit;
use crate::supervisor::UnitName;
use crate::supervisor::process::{procfs, sweep};

/// In this order; those of one step together.
const STEPS: [&[UnitName]; 4] = [
    &[UnitName::App, UnitName::Workspace, UnitName::Tools],
    &[UnitName::Wm],
    &[UnitName::Dbus, UnitName::Forward],
    // The recorder sees the last of it.
    &[UnitName::Display, UnitName::Recorder],
];

/// Between SIGTERM and SIGKILL of each step. The app may have something to save.
const GRACES: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_millis(500), Duration::from_millis(500), Duration::from_secs(1)];

/// After the last step every descendant gets SIGKILL; what hangs in the kernel longer than this is reported.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(8);

/// How far the ending is.
pub(super) enum Ending {
    /// Units of `STEPS[step]` have been told to end.
    Step(usize),
    /// Every descendant has been killed; this is when we give up on one that does not go.
    Sweep(Instant),
}

/// What the loop does next.
pub(super) enum Progress {
    /// Wait for an event, at most until then.
    Wait(Instant),
    /// No process is left.
    Gone,
    /// These processes do not end.
    LeftBehind(String),
}

impl Ending {
    /// Begins with the first step.
    pub(super) fn begin(units: &mut [Unit], now: Instant) -> Self {
        end_step(units, 0, now);
        Self::Step(0)
    }

    /// Goes on as far as it can. Call after every event and at the time that it asked for.
    pub(super) fn advance(&mut self, units: &mut [Unit], childless: impl Fn() -> bool, now: Instant) -> Progress {
        loop {
            match *self {
                Self::Step(step) => {
                    let mut running = units.iter().filter(|unit| unit.is_running() && in_step(unit, step));
                    if let Some(unit) = running.next() {
                        return Progress::Wait(unit.kill_at.unwrap_or(now + SWEEP_TIMEOUT));
                    }
                    if step + 1 < STEPS.len() {
                        end_step(units, step + 1, now);
                        *self = Self::Step(step + 1);
                    } else {
                        *self = Self::Sweep(now + SWEEP_TIMEOUT);
                    }
                }
                Self::Sweep(_) if childless() => return Progress::Gone,
                Self::Sweep(give_up) => {
                    // Each end of one of them brings its children to us and is an event, so this runs again
                    // until there is nobody: a process that forks meanwhile cannot escape.
                    let left = kill_descendants();
                    return if now < give_up { Progress::Wait(give_up) } else { Progress::LeftBehind(left) };
                }
            }
        }
    }
}

fn in_step(unit: &Unit, step: usize) -> bool {
    STEPS[step].contains(&unit.record.name)
}

fn end_step(units: &mut [Unit], step: usize, now: Instant) {
    for unit in units.iter_mut().filter(|unit| in_step(unit, step)) {
        unit.end(now + GRACES[step]);
    }
}

fn kill_descendants() -> String {
    let all = procfs::processes().unwrap_or_default();
    let living: Vec<_> =
        procfs::descendants(&all, std::process::id()).into_iter().filter(|process| process.alive).collect();
    for process in &living {
        // One that has ended meanwhile needs no signal; one that refuses it is described to the caller.
        let _ = sweep::signal(process, Signal::KILL);
    }
    sweep::describe(&living)
}
