//! Host suites: the product on whole systems. Each case boots the hosts it needs; see [`harness`].
//!
//! The program has a `main` of its own because all cases live in namespaces that must exist before the first thread
//! does; `libtest-mimic` gives it the command line and the output of any other test program.

mod adoption;
mod ansible;
mod attacks;
mod backend;
mod bench;
mod bridge;
mod figures;
mod fleet;
mod fleet_chaos;
mod forward;
mod harness;
mod harness_tests;
mod held;
mod images;
mod join;
mod limits;
mod moves;
mod packages;
mod power_cuts;
mod provision;
mod rdp;
mod recording;
mod service;
mod sessions;
mod stops;
mod tools;
mod units;

use std::process::ExitCode;

fn main() -> ExitCode {
    let suites = [
        harness_tests::cases(),
        sessions::cases(),
        held::cases(),
        moves::cases(),
        fleet_chaos::cases(),
        stops::cases(),
        adoption::cases(),
        limits::cases(),
        power_cuts::cases(),
        forward::cases(),
        tools::cases(),
        rdp::cases(),
        recording::cases(),
        images::cases(),
        backend::cases(),
        attacks::cases(),
        service::cases(),
        bridge::cases(),
        join::cases(),
        provision::cases(),
        packages::cases(),
        ansible::cases(),
        bench::cases(),
    ];
    harness::run(suites.into_iter().flatten().collect())
}
