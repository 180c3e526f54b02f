//! What a host says of itself: one script's output, read. Pure.
//!
//! The scripts (`host_scripts/facts.sh`, and `doctor.sh` behind it where somebody wants to know more) print `key=value` lines
//! and decide nothing; what is not understood is left out, so that an odd host is judged by [`super::check`] and not by a
//! parser.

use std::collections::BTreeMap;

use super::symptoms::Symptoms;

/// What one host said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `Linux`.
    pub kernel: String,
    /// `x86_64`.
    pub arch: String,
    /// Bits of a word, 0 if unknown.
    pub bits: u32,
    /// Host name.
    pub hostname: String,
    /// The login that the connection has.
    pub login: String,
    /// `debian`; empty if unknown.
    pub distribution: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub distribution_name: String,
    /// Version of systemd, 0 without one.
    pub systemd: u32,
    /// systemd is PID 1.
    pub booted: bool,
    /// Version of glibc, where that is the C library.
    pub glibc: Option<Version>,
    /// 2, or 1.
    pub cgroup: u32,
    /// Controllers that it has.
    pub controllers: Vec<String>,
    /// MiB of memory.
    pub memory_mib: u64,
    /// Processors.
    pub processors: u32,
    /// MiB free below /var/lib and /usr, whichever is less.
    pub disk_mib: u64,
    /// Inodes free there; None where the file system counts none.
    pub inodes: Option<u64>,
    /// Directories that cannot be written.
    pub read_only: Vec<String>,
    /// `apt`, or empty.
    pub packager: String,
    /// Seconds since the epoch.
    pub clock: i64,
    /// Programs that provisioning itself needs and that are not there.
    pub lacks: Vec<String>,
    /// Packages that sessions need and that are not there.
    pub missing_packages: Vec<String>,
    /// Managed files that are there.
    pub files: BTreeMap<String, FileFact>,
    /// Key that the host takes manifests from: the second and third word of `/etc/helix/allowed_signers`.
    pub signer: Option<String>,
    /// agentd.service as systemd has it.
    pub unit: Unit,
    /// Other agentd services, each with its state: `agentd@two.service active`.
    pub other_agents: Vec<String>,
    /// Id of the runner that it enrolled as.
    pub enrolled: Option<String>,
    /// A change that was neither confirmed nor undone.
    pub pending: Option<String>,
    /// A session has shown a first frame since the last change.
    pub proved: bool,
    /// What it does not reach.
    pub unreachable: Vec<Unreachable>,
    /// Drivers of its graphics cards.
    pub gpus: Vec<String>,
    /// Toolchains and their versions.
    pub toolchains: BTreeMap<String, String>,
    /// Who listens on the port of `/health`.
    pub port: Option<Listener>,
    /// More, where that was asked.
    pub symptoms: Symptoms,
}

/// agentd.service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// It is there.
    pub loaded: bool,
    /// It is started at boot.
    pub enabled: bool,
    /// `active`, `failed`, `activating` ...
    pub active: String,
    /// `running`, `auto-restart` ...
    pub sub: String,
    /// How its last run ended.
    pub result: String,
    /// Times that systemd started it again.
    pub restarts: u32,
    /// What it says of itself.
    pub status: String,
}

/// Something that is not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// `server` or `NATS`.
    pub what: String,
    /// `HOST:PORT`.
    pub place: String,
    /// `dns`, `tcp` or `tls`.
    pub how: String,
    /// What the host's own programs say.
    pub words: String,
}

/// Who listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Which port.
    pub port: String,
    /// Process id.
    pub process: String,
    /// Its unit, or `-`.
    pub unit: String,
    /// Its name.
    pub name: String,
}

/// A managed file as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFact {
    /// SHA-256 in hex.
    pub sha256: String,
    /// Permissions.
    pub mode: u32,
}

/// `2.36`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// The first two numbers of a text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|part| part.trim().parse().ok());
        Some(Self(numbers.next()??, numbers.next().flatten().unwrap_or(0)))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Facts {
    /// Reads the script's output; None if its last line is missing.
    pub fn parse(text: &str) -> Option<Self> {
        let mut facts = Self::default();
        let mut whole = false;
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let text = || value.to_owned();
            facts.symptoms.hear(key, value);
            match key {
                "kernel" => facts.kernel = text(),
                "arch" => facts.arch = text(),
                "bits" => facts.bits = value.parse().unwrap_or_default(),
                "hostname" => facts.hostname = text(),
                "login" => facts.login = text(),
                "distribution" => facts.distribution = text(),
                "distribution_name" => facts.distribution_name = text(),
                "systemd" => facts.systemd = value.parse().unwrap_or_default(),
                "booted" => facts.booted = value == "yes",
                "glibc" => facts.glibc = Version::parse(value),
                "cgroup" => facts.cgroup = value.parse().unwrap_or_default(),
                "controllers" => facts.controllers = value.split_whitespace().map(str::to_owned).collect(),
                "memory_kib" => facts.memory_mib = value.parse::<u64>().unwrap_or_default() / 1024,
                "processors" => facts.processors = value.parse().unwrap_or_default(),
                "disk_kib" => facts.disk_mib = value.parse::<u64>().unwrap_or_default() / 1024,
                "inodes" => facts.inodes = value.parse().ok(),
                "read_only" => facts.read_only.push(text()),
                "packager" => facts.packager = text(),
                "clock" => facts.clock = value.parse().unwrap_or_default(),
                "lacks" => facts.lacks.push(text()),
                "missing_package" => facts.missing_packages.push(text()),
                "file" => facts.files.extend(file(value)),
                "signer" => facts.signer = Some(text()),
                "LoadState" => facts.unit.loaded = value == "loaded",
                "UnitFileState" => facts.unit.enabled = value == "enabled",
                "ActiveState" => facts.unit.active = text(),
                "SubState" => facts.unit.sub = text(),
                "Result" => facts.unit.result = text(),
                "NRestarts" => facts.unit.restarts = value.parse().unwrap_or_default(),
                "StatusText" => facts.unit.status = text(),
                "other_agent" => facts.other_agents.push(text()),
                "enrolled" => facts.enrolled = Some(text()),
                "pending" => facts.pending = Some(text()),
                "proved" => facts.proved = value == "yes",
                "unreachable" => facts.unreachable.extend(unreachable(value)),
                "gpu" => facts.gpus.push(text()),
                "toolchain" => facts.toolchains.extend(pair(value)),
                "port" => facts.port = listener(value),
                "end" => whole = true,
                _ => {}
            }
        }
        facts.missing_packages.dedup();
        facts.unreachable.dedup();
        whole.then_some(facts)
    }
}

impl Unit {
    /// It runs.
    pub fn is_active(&self) -> bool {
        self.active == "active"
    }
}

/// Labels that a host gets of what it is, beside its operator's own: its toolchains and its graphics card.
pub fn labels(facts: &Facts) -> BTreeMap<String, String> {
    let toolchains = facts.toolchains.iter().filter(|(_, version)| !version.is_empty()).map(|(name, version)| {
        // What is compatible is told by the first number of some, by two of the others.
        let numbers = if matches!(name.as_str(), "gcc" | "clang" | "java" | "node") { 1 } else { 2 };
        let version: Vec<_> = version.split('.').take(numbers).collect();
        (format!("toolchain.{name}"), version.join("."))
    });
    toolchains.chain(facts.gpus.first().map(|driver| ("gpu".to_owned(), driver.clone()))).collect()
}

fn pair(value: &str) -> Option<(String, String)> {
    value.split_once(' ').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// `<what> <host>:<port> <how> <words>`.
fn unreachable(value: &str) -> Option<Unreachable> {
    let mut words = value.splitn(4, ' ').map(str::to_owned);
    let (what, place, how) = (words.next()?, words.next()?, words.next()?);
    Some(Unreachable { what, place, how, words: words.next().unwrap_or_default() })
}

/// `<port> <process> <unit> <name>`.
fn listener(value: &str) -> Option<Listener> {
    let mut words = value.splitn(4, ' ').map(str::to_owned);
    Some(Listener { port: words.next()?, process: words.next()?, unit: words.next()?, name: words.next()? })
}

/// `<sha256> <mode in octal> <path>`.
fn file(value: &str) -> Option<(String, FileFact)> {
    let mut words = value.splitn(3, ' ');
    let (sha256, mode, path) = (words.next()?, words.next()?, words.next()?);
    let mode = u32::from_str_radix(mode, 8).ok()?;
    (sha256.len() == 64).then(|| (path.to_owned(), FileFact { sha256: sha256.to_owned(), mode }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_facts_and_half_an_answer_none() {
        let hash = "a".repeat(64);
        let text = format!(
            "kernel=Linux\nsystemd=252\nglibc=2.36\nmemory_kib=2048000\nfile={hash} 755 /usr/bin/agentd\n\
             file=short 755 /x\nmissing_package=xrdp\nunheard=of\nno line\nunreachable=NATS x:1 tcp Connection refused\n\
             toolchain=node 20.19.2\ntoolchain=java \ntoolchain=go 1.22.3\nport=3030 17 x.service python3\nend=1\n"
        );
        let facts = Facts::parse(&text).expect("whole");
        assert_eq!((facts.systemd, facts.glibc, facts.memory_mib), (252, Some(Version(2, 36)), 2000));
        assert_eq!(facts.files["/usr/bin/agentd"], FileFact { sha256: hash, mode: 0o755 });
        assert_eq!(facts.files.len(), 1);
        assert_eq!(facts.missing_packages, ["xrdp"]);
        let refused = Unreachable {
            what: "NATS".to_owned(),
            place: "x:1".to_owned(),
            how: "tcp".to_owned(),
            words: "Connection refused".to_owned(),
        };
        assert_eq!(facts.unreachable, [refused]);
        let expected = [("toolchain.go", "1.22"), ("toolchain.node", "20")];
        let expected = expected.map(|(name, version)| (name.to_owned(), version.to_owned()));
        assert_eq!(labels(&facts), expected.into());
        assert_eq!(facts.port.map(|port| port.name).as_deref(), Some("python3"));
        assert_eq!(Facts::parse("kernel=Linux\n"), None);
        assert!(Version::parse("2.36") < Version::parse("2.100") && Version::parse("x").is_none());
    }
}
