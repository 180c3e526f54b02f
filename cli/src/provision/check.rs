//! What stands in the way on a host, and what is worth knowing of it: all of it at once, each with its fix. Pure: facts in,
//! checks out. `provision` changes nothing while one of them fails; `doctor HOST` tells them beside its own.

use super::facts::{Facts, Unreachable};
use super::wanted::{Program, RunnerSettings, SLOT_USERS};
use crate::checks::Check;

/// The oldest systemd with all that units ask for.
const SYSTEMD_OLDEST: u32 = 252;
/// Tokens and certificates do not work with a clock that is further off, in seconds.
const CLOCK_OFF: i64 = 300;
/// MiB that must stay free beside what is brought.
const DISK_SPARE: u64 = 256;
/// The files of an install and of a few sessions.
const INODES_LEAST: u64 = 2000;
const MEMORY_LEAST: u64 = 900;

/// What the host is judged by. What is absent is not asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standard<'a> {
    /// What is brought.
    pub agentd: Option<&'a Program>,
    /// MiB that are brought.
    pub brought_mib: u64,
    /// What the runner shall be.
    pub settings: Option<&'a RunnerSettings>,
    /// Public half of the signing key, `ssh-ed25519 AAAA…`.
    pub signer: Option<&'a str>,
    /// Packages are the operator's matter.
    pub leave_packages: bool,
    /// Seconds since the epoch here.
    pub now: i64,
    /// The host on which the server knows this id, where it does.
    pub known_as: Option<&'a str>,
}

/// Judges a host: what is not as it should be.
pub fn check(facts: &Facts, standard: Standard<'_>) -> Vec<Check> {
    if facts.kernel != "Linux" {
        let what = format!("its kernel is {}, not Linux", facts.kernel);
        return vec![Check::fail("system", what).next("use a machine with Linux")];
    }
    let mut checks = Vec::new();
    system(facts, standard, &mut checks);
    room(facts, standard, &mut checks);
    time(facts, standard, &mut checks);
    checks.extend(facts.unreachable.iter().map(unreachable));
    identity(facts, standard, &mut checks);
    packages(facts, standard, &mut checks);
    limits(facts, &mut checks);
    checks
}

/// Processor, C library, systemd, programs.
fn system(facts: &Facts, standard: Standard<'_>, checks: &mut Vec<Check>) {
    let mut fail = |what: String, fix: String| checks.push(Check::fail("system", what).next(fix));
    if let Some(agentd) = standard.agentd {
        if facts.arch != agentd.arch || facts.bits == 32 {
            let bits = if facts.bits == 32 { " with 32-bit programs" } else { "" };
            fail(
                format!("it is {}{bits}; agentd beside helixctl is for {}", facts.arch, agentd.arch),
                format!("build on a machine like it (make build), or use one with 64-bit {}", agentd.arch),
            );
        }
        match (agentd.glibc, facts.glibc) {
            (Some(needed), None) => fail(
                format!("its C library is not glibc (musl?), and agentd needs glibc {needed}"),
                "use Debian 12, Ubuntu 22.04 or newer, or build agentd static".to_owned(),
            ),
            (Some(needed), Some(its)) if its < needed => fail(
                format!("its glibc is {its}, and agentd needs {needed}"),
                "build agentd on the older system".to_owned(),
            ),
            _ => {}
        }
    }
    if !facts.booted || facts.systemd < SYSTEMD_OLDEST {
        let what = match (facts.systemd, facts.booted) {
            (0, _) => "it has no systemd".to_owned(),
            (version, true) => format!("its systemd is {version}; {SYSTEMD_OLDEST} or newer is needed"),
            (_, false) => "systemd is not its PID 1".to_owned(),
        };
        fail(what, "use Debian 12, Ubuntu 24.04 or newer, booted with systemd".to_owned());
    }
    for program in &facts.lacks {
        let package = match program.as_str() {
            "ssh-keygen" => "openssh-client",
            "flock" => "util-linux",
            "sha256sum" => "coreutils",
            _ => "systemd",
        };
        fail(format!("it has no {program}"), format!("apt-get install {package}"));
    }
}

/// Disks and memory.
fn room(facts: &Facts, standard: Standard<'_>, checks: &mut Vec<Check>) {
    for dir in &facts.read_only {
        let fix = format!("mount -o remount,rw {dir}; then see why: dmesg | tail");
        checks.push(Check::fail("disk", format!("{dir} is read-only")).next(fix));
    }
    let needed = standard.brought_mib * 2 + DISK_SPARE;
    if facts.disk_mib < needed {
        let what = format!("{} MiB of disk are free below /usr or /var/lib; {needed} are needed", facts.disk_mib);
        checks.push(Check::fail("disk", what).next("make room: du -xh / | sort -h | tail"));
    }
    if let Some(inodes) = facts.inodes.filter(|inodes| *inodes < INODES_LEAST) {
        let what = format!("only {inodes} more files fit below /usr or /var/lib, whatever space is free");
        checks.push(Check::fail("disk", what).next("remove small files: du --inodes -x / | sort -n | tail"));
    }
    if facts.memory_mib < MEMORY_LEAST {
        let what = format!("it has {} MiB of memory; a desktop with an editor wants 1 GiB", facts.memory_mib);
        checks.push(Check::warn("memory", what).next("ask for fewer slots"));
    }
}

fn time(facts: &Facts, standard: Standard<'_>, checks: &mut Vec<Check>) {
    let off = facts.clock - standard.now;
    if off.abs() > CLOCK_OFF {
        let way = if off > 0 { "ahead of" } else { "behind" };
        let what = format!("its clock is {} s {way} this machine's: tokens and certificates fail", off.abs());
        checks.push(Check::fail("clock", what).next("timedatectl set-ntp true (or set this machine's clock)"));
    }
}

/// Each of the ways in which nothing is reached has another cause.
fn unreachable(it: &Unreachable) -> Check {
    let Unreachable { what, place, how, words } = it;
    let host = place.rsplit_once(':').map_or(place.as_str(), |(host, _)| host);
    let (why, fix) = match how.as_str() {
        "dns" => (
            "it finds no address for that name".to_owned(),
            format!("on the host: getent hosts {host}; cat /etc/resolv.conf. Or name an address: --server URL, --nats URL"),
        ),
        "tls" => (
            format!("TLS fails: {words}"),
            "put the authority's certificate on the host (/usr/local/share/ca-certificates, update-ca-certificates), or \
             give the server one that fits its name; see the clock, too"
                .to_owned(),
        ),
        _ if words.contains("refused") => (
            format!("nothing listens there, or a firewall refuses ({words})"),
            "start it, or name the address as runners reach it: --server URL, --nats URL".to_owned(),
        ),
        _ if words.contains("no answer") || words.contains("timed out") => (
            format!("there is {}: packets are dropped on the way", if words.contains("no answer") { words } else { "no answer" }),
            format!("open the way in firewalls and security groups: port {}", place.rsplit(':').next().unwrap_or_default()),
        ),
        _ => (words.clone(), "on the host: ip route; or name another address: --server URL, --nats URL".to_owned()),
    };
    let name = if what == "server" { "server" } else { "nats" };
    Check::fail(name, format!("it does not reach the {what} {place}: {why}")).next(fix)
}

/// Whose it is.
fn identity(facts: &Facts, standard: Standard<'_>, checks: &mut Vec<Check>) {
    if let (Some(signer), Some(ours)) = (&facts.signer, standard.signer)
        && signer != ours
    {
        let short: String = signer.chars().skip(signer.len().saturating_sub(12)).collect();
        let fix = "give the key that provisioned it (--key FILE), or remove /etc/helix/allowed_signers on the host";
        let what = format!("it takes manifests of another signing key only (…{short})");
        checks.push(Check::fail("signing-key", what).next(fix));
    }
    let Some(settings) = standard.settings else { return };
    if let Some(other) = facts.enrolled.as_deref().filter(|id| *id != settings.id.as_str()) {
        let fix = format!("name it so (runner = \"{other}\" in the inventory), or: helixctl runner remove");
        let what = format!("it is enrolled as runner {other}, not as {}", settings.id);
        checks.push(Check::fail("identity", what).next(fix));
    } else if let (None, Some(host)) = (&facts.enrolled, standard.known_as) {
        let fix = format!(
            "give another id (runner = in the inventory), or: helixctl runner remove --server-only {}",
            settings.id
        );
        let what = format!("the server knows a runner {} already, on host {host}", settings.id);
        checks.push(Check::fail("identity", what).next(fix));
    }
    if settings.slots > SLOT_USERS {
        let what = format!("{} sessions at once are asked for, and there are {SLOT_USERS} slot users", settings.slots);
        checks.push(Check::fail("slots", what).next(format!("ask for at most {SLOT_USERS}")));
    }
}

fn packages(facts: &Facts, standard: Standard<'_>, checks: &mut Vec<Check>) {
    if facts.missing_packages.is_empty() {
        return;
    }
    let list = facts.missing_packages.join(" ");
    if standard.leave_packages {
        let what = format!("it lacks packages of desktops: {list}");
        checks.push(Check::warn("packages", what).next(format!("apt-get install {list}")));
    } else if facts.packager.is_empty() {
        let what = format!("{} has no apt-get, and these are missing: {list}", facts.distribution_name);
        checks.push(
            Check::fail("packages", what).next("install what brings them, then: helixctl provision --no-packages"),
        );
    }
}

/// What limits of sessions are worth there, and what else is in the way of one thing or another.
fn limits(facts: &Facts, checks: &mut Vec<Check>) {
    if facts.cgroup == 1 {
        let what = "it has cgroup version 1: some limits of sessions are not enforced";
        checks.push(Check::warn("cgroups", what).next("boot with systemd.unified_cgroup_hierarchy=1"));
    }
    let has = |name: &&str| facts.controllers.iter().any(|has| has == name);
    let lacks: Vec<_> = ["cpu", "memory", "pids"].into_iter().filter(|name| !has(name)).collect();
    if !lacks.is_empty() {
        let what = format!("its cgroups lack {}: agentd runs no sessions without", lacks.join(", "));
        checks.push(
            Check::fail("cgroups", what).next("see its kernel's parameters: cat /proc/cmdline (cgroup_disable=)"),
        );
    }
    // agentd's own, or another runner's of this machine.
    if let Some(port) = facts.port.as_ref().filter(|port| port.name != "agentd") {
        let unit = if port.unit == "-" { String::new() } else { format!(", {}", port.unit) };
        let what = format!(
            "port {} is taken by {} (process {}{unit}): agentd runs without /health",
            port.port, port.name, port.process
        );
        let end =
            if port.unit == "-" { format!("kill {}", port.process) } else { format!("systemctl stop {}", port.unit) };
        checks.push(Check::warn("port", what).next(format!("{end}, then: systemctl restart agentd; sessions run on")));
    }
}

#[cfg(test)]
#[allow(missing_docs, clippy::missing_panics_doc, reason = "shared by tests alone")]
pub mod tests {
    use super::super::facts::Version;
    use super::*;

    /// agentd for tests.
    pub fn agentd() -> Program {
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0".to_vec();
        elf.extend(b"GLIBC_2.34\0");
        Program::new(elf.into()).expect("a program")
    }

    /// Settings for tests.
    pub fn settings() -> RunnerSettings {
        RunnerSettings {
            id: helix_protocol::RunnerId::parse("r1").expect("valid"),
            server: "https://helix.example".to_owned(),
            nats: None,
            slots: 8,
            labels: [].into(),
        }
    }

    /// A host that is fit.
    pub fn good() -> Facts {
        Facts {
            kernel: "Linux".to_owned(),
            arch: "x86_64".to_owned(),
            bits: 64,
            hostname: "r1".to_owned(),
            systemd: 252,
            booted: true,
            glibc: Some(Version(2, 36)),
            cgroup: 2,
            controllers: ["cpu", "memory", "pids"].map(str::to_owned).into(),
            memory_mib: 4096,
            disk_mib: 10_000,
            packager: "apt".to_owned(),
            clock: 1000,
            ..Facts::default()
        }
    }

    /// What is found by the standard that it is judged by, with one difference.
    fn judge(facts: &Facts, change: fn(&mut Standard<'_>)) -> Vec<Check> {
        let (agentd, settings) = (agentd(), settings());
        let mut standard = Standard {
            agentd: Some(&agentd),
            brought_mib: 100,
            settings: Some(&settings),
            signer: Some("ssh-ed25519 AAAA"),
            now: 1000,
            ..Standard::default()
        };
        change(&mut standard);
        check(facts, standard)
    }

    fn lost(what: &str, place: &str, how: &str, words: &str) -> Unreachable {
        let [what, place, how, words] = [what, place, how, words].map(str::to_owned);
        Unreachable { what, place, how, words }
    }

    #[test]
    fn a_fit_host_has_no_findings() {
        assert_eq!(judge(&good(), |_| {}), []);
    }

    #[test]
    fn each_fault_is_found_with_its_fix_and_all_at_once() {
        type Break = fn(&mut Facts);
        let faults: [(Break, &str); 19] = [
            (|facts| facts.arch = "aarch64".to_owned(), "it is aarch64"),
            (|facts| facts.bits = 32, "32-bit"),
            (|facts| facts.glibc = None, "musl"),
            (|facts| facts.glibc = Some(Version(2, 31)), "its glibc is 2.31"),
            (|facts| facts.systemd = 0, "no systemd"),
            (|facts| facts.systemd = 247, "its systemd is 247"),
            (|facts| facts.lacks.push("ssh-keygen".to_owned()), "it has no ssh-keygen"),
            (|facts| facts.read_only.push("/usr".to_owned()), "/usr is read-only"),
            (|facts| facts.disk_mib = 100, "100 MiB of disk"),
            (|facts| facts.clock += 3600, "3600 s ahead"),
            (|facts| facts.inodes = Some(3), "only 3 more files fit"),
            (|facts| facts.controllers.retain(|name| name != "memory"), "its cgroups lack memory"),
            (
                |facts| facts.unreachable.push(lost("server", "x:1", "tcp", "Connection refused")),
                "does not reach the server x:1: nothing listens there",
            ),
            (|facts| facts.unreachable.push(lost("server", "x:1", "dns", "")), "no address for that name"),
            (
                |facts| facts.unreachable.push(lost("NATS", "x:1", "tcp", "no answer within 5 s")),
                "packets are dropped on the way",
            ),
            (
                |facts| facts.unreachable.push(lost("server", "x:1", "tls", "certificate has expired")),
                "TLS fails: certificate has expired",
            ),
            (|facts| facts.unreachable.push(lost("server", "x:1", "tcp", "No route to host")), "No route to host"),
            (|facts| facts.signer = Some("ssh-ed25519 BBBB".to_owned()), "another signing key"),
            (|facts| facts.enrolled = Some("other".to_owned()), "enrolled as runner other"),
        ];
        let mut all = good();
        for (spoil, words) in faults {
            let mut facts = good();
            spoil(&mut facts);
            spoil(&mut all);
            let found = judge(&facts, |_| {});
            assert!(found.len() == 1 && found[0].is_fault() && found[0].found.contains(words), "{words}: {found:?}");
            assert!(found[0].next.as_ref().is_some_and(|fix| !fix.is_empty()), "{found:?}");
        }
        assert_eq!(judge(&all, |_| {}).len(), 16, "three of them exclude each other");
    }

    #[test]
    fn what_is_worth_knowing_stands_in_nobodys_way() {
        let listener = |name: &str| super::super::facts::Listener {
            port: "3030".to_owned(),
            process: "17".to_owned(),
            unit: "web.service".to_owned(),
            name: name.to_owned(),
        };
        let facts = Facts { cgroup: 1, memory_mib: 512, port: Some(listener("python3")), ..good() };
        let found = judge(&facts, |_| {});
        assert!(found.len() == 3 && found.iter().all(|check| !check.is_fault()), "{found:?}");
        assert!(found[2].found.contains("taken by python3 (process 17, web.service)"), "{found:?}");
        assert_eq!(judge(&Facts { port: Some(listener("agentd")), ..good() }, |_| {}), []);
    }

    #[test]
    fn an_id_of_another_machine_is_not_taken_over() {
        let found = |facts: &Facts| judge(facts, |standard| standard.known_as = Some("old"));
        assert!(found(&good())[0].found.contains("knows a runner r1 already, on host old"));
        assert_eq!(found(&Facts { enrolled: Some("r1".to_owned()), ..good() }), []);
    }

    #[test]
    fn packages_block_only_where_nobody_can_bring_them() {
        let facts = Facts { missing_packages: vec!["xrdp".to_owned()], ..good() };
        assert_eq!(judge(&facts, |_| {}), []);
        let left = judge(&facts, |standard| standard.leave_packages = true);
        assert!(!left[0].is_fault() && left[0].next.as_deref() == Some("apt-get install xrdp"));
        let other = Facts { packager: String::new(), ..facts };
        assert!(judge(&other, |_| {})[0].is_fault());
    }
}
