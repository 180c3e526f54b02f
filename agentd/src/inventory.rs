//! What this machine offers: the facts of the registration.

use std::num::NonZero;

use helix_protocol::image::own_arch;
use helix_protocol::resources::{Bytes, Cpus, Reserve};
use helix_protocol::runner::RunnerFacts;

use crate::config::Config;
use crate::kinds::Kinds;
use crate::supervisor::{Enforcement, Supervisor};

/// Facts as they are now.
pub fn facts<S: Supervisor>(config: &Config, kinds: &Kinds, supervisor: &S) -> RunnerFacts {
    let Enforcement { isolation, limits, enforced, missing } = supervisor.enforcement();
    let (memory, cpus) = (memory_bytes(), std::thread::available_parallelism().map_or(1, NonZero::get) as u32);
    let machine = Reserve { cpu: Some(Cpus(cpus.saturating_mul(1000))), memory: Some(Bytes(memory)) };
    RunnerFacts {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        slots: config.slots,
        max_tasks: config.max_tasks,
        kinds: kinds.available(),
        unavailable_kinds: kinds.unavailable(),
        default_kind: kinds.default_kind(config.default_kind.as_ref()),
        default_geometry: config.geometry,
        backend: supervisor.backend().to_owned(),
        isolation,
        limits,
        enforced,
        missing,
        max_resources: config.max_resources,
        reservable: config.reservable.or(machine),
        kind_reserve: kinds
            .reserves()
            .into_iter()
            .map(|(kind, reserve)| (kind, reserve.or(config.default_reserve)))
            .filter(|(_, reserve)| !reserve.is_empty())
            .collect(),
        // It takes a process to tell.
        no_rdp: None,
        no_images: None,
        // Of a file that may change.
        image_keys: Vec::new(),
        arch: own_arch().to_owned(),
        memory_bytes: memory,
        cpus,
        labels: config.labels.clone(),
    }
}

fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    // `unsigned long` of the machine, in units of `mem_unit` bytes.
    #[allow(clippy::useless_conversion, reason = "32-bit machines have another type here")]
    let total = u64::from(info.totalram);
    total.saturating_mul(u64::from(info.mem_unit.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says() {
        let text = std::fs::read_to_string("/proc/meminfo").expect("readable");
        let line = text.lines().find(|line| line.starts_with("MemTotal:")).expect("a total");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
        assert_eq!(memory_bytes(), kib * 1024);
    }
}
