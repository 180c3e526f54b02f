//! What stands in the way on a host: all of it at once, each with its fix. Pure: facts in, findings out.

use serde::Serialize;

use super::facts::Facts;
use super::wanted::{Program, RunnerSettings, SLOT_USERS};

/// The oldest systemd with all that units ask for.
const SYSTEMD_OLDEST: u32 = 252;
/// Tokens and certificates do not work with a clock that is further off, in seconds.
const CLOCK_OFF: i64 = 300;
/// MiB that must stay free beside what is brought.
const DISK_SPARE: u64 = 256;
const MEMORY_LEAST: u64 = 900;

/// Something about a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Nothing is done while it stands.
    pub blocks: bool,
    /// What is wrong.
    pub what: String,
    /// What to do, a command where there is one.
    pub fix: String,
}

/// What the host is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Standard<'a> {
    /// What is brought.
    pub agentd: &'a Program,
    /// MiB that are brought.
    pub brought_mib: u64,
    /// What the runner shall be.
    pub settings: &'a RunnerSettings,
    /// Public half of the signing key, `ssh-ed25519 AAAA…`.
    pub signer: &'a str,
    /// Packages are the operator's matter.
    pub leave_packages: bool,
    /// Seconds since the epoch here.
    pub now: i64,
    /// The host on which the server knows this id, where it does.
    pub known_as: Option<&'a str>,
}

/// Judges a host.
pub fn check(facts: &Facts, standard: Standard<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut block = |what: String, fix: String| findings.push(Finding { blocks: true, what, fix });
    let Standard { agentd, settings, .. } = standard;
    if facts.kernel != "Linux" {
        block(format!("its kernel is {}, not Linux", facts.kernel), "use a machine with Linux".to_owned());
        return findings;
    }
    if facts.arch != agentd.arch || facts.bits == 32 {
        let bits = if facts.bits == 32 { " with 32-bit programs" } else { "" };
        block(
            format!("it is {}{bits}; agentd beside helixctl is for {}", facts.arch, agentd.arch),
            format!("build on a machine like it (make build), or use one with 64-bit {}", agentd.arch),
        );
    }
    match (agentd.glibc, facts.glibc) {
        (Some(needed), None) => block(
            format!("its C library is not glibc (musl?), and agentd needs glibc {needed}"),
            "use Debian 12, Ubuntu 22.04 or newer, or build agentd static".to_owned(),
        ),
        (Some(needed), Some(its)) if its < needed => {
            block(
                format!("its glibc is {its}, and agentd needs {needed}"),
                "build agentd on the older system".to_owned(),
            );
        }
        _ => {}
    }
    if !facts.booted || facts.systemd < SYSTEMD_OLDEST {
        let what = match (facts.systemd, facts.booted) {
            (0, _) => "it has no systemd".to_owned(),
            (version, true) => format!("its systemd is {version}; {SYSTEMD_OLDEST} or newer is needed"),
            (_, false) => "systemd is not its PID 1".to_owned(),
        };
        block(what, "use Debian 12, Ubuntu 24.04 or newer, booted with systemd".to_owned());
    }
    for program in &facts.lacks {
        let package = match program.as_str() {
            "ssh-keygen" => "openssh-client",
            "flock" => "util-linux",
            "sha256sum" => "coreutils",
            _ => "systemd",
        };
        block(format!("it has no {program}"), format!("apt-get install {package}"));
    }
    for dir in &facts.read_only {
        block(format!("{dir} is read-only"), format!("mount -o remount,rw {dir}; then see why: dmesg | tail"));
    }
    let needed = standard.brought_mib * 2 + DISK_SPARE;
    if facts.disk_mib < needed {
        block(
            format!("{} MiB of disk are free below /usr or /var/lib; {needed} are needed", facts.disk_mib),
            "make room: du -xh / | sort -h | tail".to_owned(),
        );
    }
    let off = facts.clock - standard.now;
    if off.abs() > CLOCK_OFF {
        let way = if off > 0 { "ahead of" } else { "behind" };
        block(
            format!("its clock is {} s {way} this machine's", off.abs()),
            "timedatectl set-ntp true (or set this machine's clock)".to_owned(),
        );
    }
    for what in &facts.unreachable {
        block(
            format!("it does not reach the {what}"),
            "open the way, or name the address as runners reach it: --server URL, --nats URL".to_owned(),
        );
    }
    if let Some(signer) = facts.signer.as_deref().filter(|signer| *signer != standard.signer) {
        let short: String = signer.chars().skip(signer.len().saturating_sub(12)).collect();
        block(
            format!("it takes manifests of another signing key only (…{short})"),
            "give the key that provisioned it (--key FILE), or remove /etc/helix/allowed_signers on the host"
                .to_owned(),
        );
    }
    if let Some(other) = facts.enrolled.as_deref().filter(|id| *id != settings.id.as_str()) {
        block(
            format!("it is enrolled as runner {other}, not as {}", settings.id),
            format!("name it so (runner = \"{other}\" in the inventory), or remove that runner first"),
        );
    } else if let (None, Some(host)) = (&facts.enrolled, standard.known_as) {
        block(
            format!("the server knows a runner {} already, on host {host}", settings.id),
            format!("give another id (runner = in the inventory), or: helixctl runner remove {}", settings.id),
        );
    }
    if settings.slots > SLOT_USERS {
        block(
            format!("{} sessions at once are asked for, and there are {SLOT_USERS} slot users", settings.slots),
            format!("ask for at most {SLOT_USERS}"),
        );
    }
    packages(facts, standard, &mut findings);
    let mut warn = |what: String, fix: &str| findings.push(Finding { blocks: false, what, fix: fix.to_owned() });
    if facts.cgroup == 1 {
        warn(
            "it has cgroup version 1: some limits of sessions are not enforced".to_owned(),
            "boot with systemd.unified_cgroup_hierarchy=1",
        );
    } else {
        let lacks: Vec<_> = ["cpu", "memory", "pids"]
            .into_iter()
            .filter(|name| !facts.controllers.iter().any(|has| has == name))
            .collect();
        if !lacks.is_empty() {
            warn(
                format!("its cgroups lack {}: these limits are not enforced", lacks.join(", ")),
                "see its kernel's settings",
            );
        }
    }
    if facts.memory_mib < MEMORY_LEAST {
        warn(
            format!("it has {} MiB of memory; a desktop with an editor wants 1 GiB", facts.memory_mib),
            "ask for fewer slots",
        );
    }
    findings
}

fn packages(facts: &Facts, standard: Standard<'_>, findings: &mut Vec<Finding>) {
    if facts.missing_packages.is_empty() {
        return;
    }
    let list = facts.missing_packages.join(" ");
    if standard.leave_packages {
        let (what, fix) = (format!("it lacks packages of desktops: {list}"), format!("apt-get install {list}"));
        findings.push(Finding { blocks: false, what, fix });
    } else if facts.packager.is_empty() {
        findings.push(Finding {
            blocks: true,
            what: format!("{} has no apt-get, and these are missing: {list}", facts.distribution_name),
            fix: "install what brings them, then: helixctl provision --no-packages".to_owned(),
        });
    }
}

#[cfg(test)]
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

    fn judge(facts: &Facts, change: impl FnOnce(Standard<'_>) -> Vec<Finding>) -> Vec<Finding> {
        let (agentd, settings) = (agentd(), settings());
        let _ = facts;
        change(Standard {
            agentd: &agentd,
            brought_mib: 100,
            settings: &settings,
            signer: "ssh-ed25519 AAAA",
            leave_packages: false,
            now: 1000,
            known_as: None,
        })
    }

    #[test]
    fn a_fit_host_has_no_findings() {
        assert_eq!(judge(&good(), |standard| check(&good(), standard)), []);
    }

    #[test]
    fn each_fault_is_found_with_its_fix_and_all_at_once() {
        type Break = fn(&mut Facts);
        let faults: [(Break, &str); 13] = [
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
            (|facts| facts.unreachable.push("server x:1: refused".to_owned()), "does not reach the server x:1"),
            (|facts| facts.signer = Some("ssh-ed25519 BBBB".to_owned()), "another signing key"),
            (|facts| facts.enrolled = Some("other".to_owned()), "enrolled as runner other"),
        ];
        let mut all = good();
        for (spoil, words) in faults {
            let mut facts = good();
            spoil(&mut facts);
            spoil(&mut all);
            let findings = judge(&facts, |standard| check(&facts, standard));
            assert!(
                findings.len() == 1 && findings[0].blocks && findings[0].what.contains(words),
                "{words}: {findings:?}"
            );
            assert!(!findings[0].fix.is_empty());
        }
        assert_eq!(judge(&all, |standard| check(&all, standard)).len(), 10, "three of them exclude each other");
    }

    #[test]
    fn an_id_of_another_machine_is_not_taken_over() {
        let findings =
            |facts: &Facts| judge(facts, |standard| check(facts, Standard { known_as: Some("old"), ..standard }));
        assert!(findings(&good())[0].what.contains("knows a runner r1 already, on host old"));
        assert_eq!(findings(&Facts { enrolled: Some("r1".to_owned()), ..good() }), []);
    }

    #[test]
    fn packages_block_only_where_nobody_can_bring_them() {
        let facts = Facts { missing_packages: vec!["xrdp".to_owned()], ..good() };
        assert_eq!(judge(&facts, |standard| check(&facts, standard)), []);
        let left = judge(&facts, |standard| check(&facts, Standard { leave_packages: true, ..standard }));
        assert!(!left[0].blocks && left[0].fix == "apt-get install xrdp");
        let other = Facts { packager: String::new(), ..facts };
        assert!(judge(&other, |standard| check(&other, standard))[0].blocks);
    }
}
