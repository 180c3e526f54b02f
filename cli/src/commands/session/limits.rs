//! Limits: as flags of `create` and `limit`, and as words for people.

use clap::Args;
use helix_protocol::resources::{Bytes, Cpus, Limits, Reserve, Resources, Usage};

/// Names of [`ResourceArgs`]' flags.
pub const LIMITS: [&str; 5] = ["cpu", "memory", "memory_high", "tasks", "io_weight"];

/// Most that a session may use, as flags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ResourceArgs {
    /// Most processors, for example 2 or 0.5: above it the session waits
    #[arg(long, value_name = "N")]
    cpu: Option<Cpus>,
    /// Most memory, for example 4GiB: above it the greediest process is killed
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Memory above which the session is slowed, for example 3GiB
    #[arg(long, value_name = "SIZE")]
    memory_high: Option<Bytes>,
    /// Most processes and threads, at least 32
    #[arg(long, value_name = "N")]
    tasks: Option<u32>,
    /// Share of the disk beside other sessions, 1 to 10000 (100 where nothing is said)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    io_weight: Option<u16>,
}

impl From<ResourceArgs> for Resources {
    fn from(args: ResourceArgs) -> Self {
        let ResourceArgs { cpu, memory, memory_high, tasks, io_weight } = args;
        Self { cpu, memory, memory_high, tasks, io_weight }
    }
}

/// What is kept free for a session, as flags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ReserveArgs {
    /// Processors to keep free for it; it waits for a runner that has them
    #[arg(long, value_name = "N")]
    reserve_cpu: Option<Cpus>,
    /// Memory to keep free for it; it waits for a runner that has it
    #[arg(long, value_name = "SIZE")]
    reserve_memory: Option<Bytes>,
}

impl From<ReserveArgs> for Reserve {
    fn from(args: ReserveArgs) -> Self {
        Self { cpu: args.reserve_cpu, memory: args.reserve_memory }
    }
}

/// `cpu 2, memory 4GiB`; `none` where nothing is limited.
pub fn amounts(resources: &Resources) -> String {
    let Resources { cpu, memory, memory_high, tasks, io_weight } = resources;
    words([
        cpu.map(|cpu| format!("cpu {cpu}")),
        memory.map(|memory| format!("memory {memory}")),
        memory_high.map(|memory| format!("memory_high {memory}")),
        tasks.map(|tasks| format!("tasks {tasks}")),
        io_weight.map(|weight| format!("io_weight {weight}")),
    ])
}

/// `cpu 1, memory 2GiB`; `none` where nothing is reserved.
pub fn reserved(reserve: &Reserve) -> String {
    words([
        reserve.cpu.map(|cpu| format!("cpu {cpu}")),
        reserve.memory.map(|memory| format!("memory {memory}")),
        None,
        None,
        None,
    ])
}

fn words(parts: [Option<String>; 5]) -> String {
    let words: Vec<_> = parts.into_iter().flatten().collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// Names in a row; `nothing` where there are none.
pub fn names(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Rows about the limits that a session runs under; `asked` where no runner has said anything yet.
pub fn rows(asked: &Resources, reserve: &Reserve, limits: Option<&Limits>) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    match limits {
        Some(limits) => {
            rows.push(("limits", amounts(&limits.resources)));
            // Only of those that it has: what else the machine could enforce is the runner's page.
            let limited = |name: &&String| is_set(&limits.resources, name);
            let enforced: Vec<_> = limits.enforced.iter().filter(limited).cloned().collect();
            if !limits.resources.is_empty() {
                rows.push(("enforced", names(&enforced)));
            }
            rows.extend((!limits.missing.is_empty()).then(|| ("not enforced", limits.missing.join("\n"))));
            if asked.or(limits.resources) != limits.resources {
                rows.push(("asked limits", amounts(asked)));
            }
        }
        None if !asked.is_empty() => rows.push(("asked limits", amounts(asked))),
        None => {}
    }
    if !reserve.is_empty() {
        rows.push(("reserve", reserved(reserve)));
    }
    rows
}

fn is_set(resources: &Resources, name: &str) -> bool {
    match name {
        "cpu" => resources.cpu.is_some(),
        "memory" => resources.memory.is_some(),
        "memory_high" => resources.memory_high.is_some(),
        "tasks" => resources.tasks.is_some(),
        "io_weight" => resources.io_weight.is_some(),
        _ => true,
    }
}

/// Rows about what a session uses.
pub fn usage_rows(usage: &Usage) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    rows.extend(usage.memory_bytes.map(|bytes| ("memory used", mebibytes(bytes))));
    let total = usage.cpu_usec.map(|usec| format!("{:.1} s in all", usec as f64 / 1e6));
    let now = usage.cpu_milli.map(|milli| format!("{:.2}", f64::from(milli) / 1000.0));
    let cpu: Vec<_> = now.into_iter().chain(total).collect();
    rows.extend((!cpu.is_empty()).then(|| ("cpu used", cpu.join(", "))));
    rows.extend(usage.tasks.map(|tasks| ("tasks", tasks.to_string())));
    rows.extend(
        usage
            .pressure
            .map(|of| ("pressure", format!("cpu {}%, memory {}%, io {}% of the last 10 s", of.cpu, of.memory, of.io))),
    );
    let kills = usage.oom_kills.filter(|kills| *kills > 0);
    rows.extend(kills.map(|kills| ("killed", format!("{kills} times a process, at the memory limit"))));
    rows
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use helix_protocol::resources::Pressure;

    use super::*;

    fn text(rows: &[(&str, String)]) -> String {
        rows.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn limits_say_what_is_enforced_and_what_is_not() {
        let asked = Resources { cpu: Some(Cpus(8000)), ..Resources::default() };
        let resources = Resources { cpu: Some(Cpus(2000)), memory: Some(Bytes(4 << 30)), ..Resources::default() };
        let limits = Limits {
            resources,
            enforced: vec!["memory".to_owned(), "tasks".to_owned()],
            missing: vec!["cpu: the controller is not delegated".to_owned()],
        };
        let reserve = Reserve { cpu: Some(Cpus(500)), memory: None };
        insta::assert_snapshot!(text(&rows(&asked, &reserve, Some(&limits))), @r"
        limits: cpu 2, memory 4GiB
        enforced: memory
        not enforced: cpu: the controller is not delegated
        asked limits: cpu 8
        reserve: cpu 0.5
        ");
        insta::assert_snapshot!(text(&rows(&asked, &Reserve::default(), None)), @"asked limits: cpu 8");
        assert_eq!(rows(&Resources::default(), &Reserve::default(), None), []);
    }

    #[test]
    fn usage_says_what_the_machine_says() {
        let pressure = Some(Pressure { cpu: 3, memory: 0, io: 12 });
        let usage = Usage {
            memory_bytes: Some(23_068_672),
            cpu_usec: Some(4_260_000),
            cpu_milli: Some(250),
            tasks: Some(17),
            oom_kills: Some(2),
            pressure,
        };
        insta::assert_snapshot!(text(&usage_rows(&usage)), @r"
        memory used: 22.0 MiB
        cpu used: 0.25, 4.3 s in all
        tasks: 17
        pressure: cpu 3%, memory 0%, io 12% of the last 10 s
        killed: 2 times a process, at the memory limit
        ");
        assert_eq!(usage_rows(&Usage::default()), []);
    }
}
