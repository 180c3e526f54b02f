//! What of a session's limits this machine enforces, in words.

use super::{Cgroups, Hierarchy};
use crate::supervisor::Enforcement;

/// What separates sessions under systemd.
const ISOLATION: &str = "each session has its own system user, private /tmp, home and processes, and a sandbox without \
                         privileges, devices and new namespaces; loopback ports and abstract sockets are shared by \
                         sessions on the host's network, and a session's own with network = none";

impl Cgroups {
    /// What systemd can enforce with these control groups.
    pub fn enforcement(&self) -> Enforcement {
        let mut enforced: Vec<String> = Vec::new();
        let mut missing: Vec<String> = Vec::new();
        let mut limit = |name: &str, fault: Option<String>| match fault {
            None => enforced.push(name.to_owned()),
            Some(reason) => missing.push(format!("{name}: {reason}")),
        };
        let v1_memory = !self.v2.contains("memory");
        limit("cpu", self.fault("cpu"));
        limit("memory", self.fault("memory"));
        let high = "control groups of version 1 have no limit that slows down".to_owned();
        limit("memory_high", self.fault("memory").or_else(|| v1_memory.then_some(high)));
        limit("tasks", self.fault("pids"));
        let weights = "no disk has the scheduler bfq, and io.cost is off: the kernel heeds no weights".to_owned();
        let io = self.fault(if self.v2.contains("io") { "io" } else { "blkio" });
        limit("io_weight", io.or_else(|| (!self.weights).then_some(weights)));
        if v1_memory {
            missing.push("oom: the kernel does not tell of kills at the memory limit (memory.events)".to_owned());
            missing.push("pressure: control groups of version 1 do not measure it".to_owned());
        } else if !has_pressure() {
            missing.push("pressure: this kernel does not measure it".to_owned());
        }
        if self.unified.is_none() {
            missing.push("kill: processes are killed one by one until none is left (no cgroup.kill)".to_owned());
            missing.push("freeze: processes are stopped one by one by SIGSTOP (no cgroup.freeze)".to_owned());
        }
        Enforcement { isolation: ISOLATION.to_owned(), limits: self.sentence(&enforced), enforced, missing }
    }

    /// Why limits of processors, memory or processes would have no effect here; empty where systemd can enforce them.
    pub fn faults(&self) -> Vec<String> {
        ["cpu", "memory", "pids"].into_iter().filter_map(|controller| self.fault(controller)).collect()
    }

    fn sentence(&self, enforced: &[String]) -> String {
        let version = match self.hierarchy() {
            Hierarchy::V2 => "control groups of version 2",
            Hierarchy::Hybrid | Hierarchy::V1 => "control groups of version 1, which enforce less than version 2",
        };
        match enforced {
            [] => format!("not enforced: systemd has no controllers here ({version})"),
            names => format!("systemd enforces {} ({version})", names.join(", ")),
        }
    }

    /// Why the controller enforces nothing.
    fn fault(&self, controller: &str) -> Option<String> {
        if self.v2.contains(controller) {
            return None;
        }
        match self.v1.get(controller) {
            Some(mount) if mount.writable => None,
            Some(mount) => Some(format!("{} is mounted read-only", mount.path.display())),
            None => Some(format!("there is no controller {controller} in this machine's control groups")),
        }
    }
}

/// The kernel may be built or booted without.
fn has_pressure() -> bool {
    std::path::Path::new("/proc/pressure").exists()
}
