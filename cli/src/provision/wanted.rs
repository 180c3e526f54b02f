//! What shall be on a runner: files with their modes and digests, packages. Pure.
//!
//! The list of files is that of `packaging/install.sh` (`packaging/files.txt`); their contents are built into helixctl, so
//! that it needs nothing of the sources where it runs. agentd is the one beside helixctl.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use helix_protocol::RunnerId;
use helix_protocol::ids::hex;
use ring::digest::{SHA256, digest};

use super::facts::Version;

const LIST: &str = include_str!("../../../packaging/files.txt");
const PACKAGES: &str = include_str!("../../../packaging/packages.sh");
/// Where install.sh puts things.
const PREFIX: &str = "/usr";
/// The program of the list that is brought.
const AGENTD: &str = "agentd";
/// Pages of the manual, by their name in the list: for people, hence in packages alone.
const MANUAL: &str = "manual/";
/// Settings of the runner.
pub const SETTINGS: &str = "/etc/helix/agentd.toml";
/// The token that it enrols with.
pub const TOKEN: &str = "/etc/helix/agentd.token";
/// Slot users, as install.sh makes without being told how many.
pub const SLOT_USERS: u32 = 32;
/// Slot users: their number is the settings' matter.
pub const SLOTS: &str = "/usr/lib/sysusers.d/helix-slots.conf";

macro_rules! shipped {
    ($($source:literal)*) => { &[$(($source, include_str!(concat!("../../../", $source)))),*] };
}

/// Contents by their name in the list.
const SHIPPED: &[(&str, &str)] = shipped![
    "systemd/agentd.service"
    "systemd/agentd@.service"
    "systemd/agentd-hold@.service"
    "systemd/agentd.slice"
    "systemd/helix.slice"
    "systemd/sysusers.d/helix.conf"
    "systemd/tmpfiles.d/helix.conf"
    "packaging/agentd.toml.example"
    "packaging/external-zed-agent.env.example"
    "docs/systemd.md"
    "packaging/kinds/browser.toml"
    "packaging/kinds/claude.toml"
    "packaging/kinds/codex.toml"
    "packaging/kinds/command.toml"
    "packaging/kinds/gemini.toml"
    "packaging/kinds/goose.toml"
    "packaging/kinds/opencode.toml"
    "packaging/kinds/qwen.toml"
    "packaging/kinds/terminal.toml"
    "packaging/kinds/zed.toml"
];

/// A file as it shall be.
#[derive(Clone, PartialEq, Eq)]
pub struct WantedFile {
    /// Where.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// What is in it.
    pub content: bytes::Bytes,
    /// Its digest, in hex.
    pub sha256: String,
    /// Nothing but people of this machine may read it, nor may a difference be shown.
    pub secret: bool,
}

/// Not the content: it may be a secret, and is long.
impl std::fmt::Debug for WantedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WantedFile").field("path", &self.path).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// agentd as it was built.
#[derive(Clone)]
pub struct Program {
    content: bytes::Bytes,
    sha256: String,
    /// The machine that it was built for, as `uname -m` says it.
    pub arch: &'static str,
    /// The oldest glibc that it runs with; None for a static one.
    pub glibc: Option<Version>,
}

/// Not its megabytes.
impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("arch", &self.arch).field("glibc", &self.glibc).finish_non_exhaustive()
    }
}

/// Settings of one runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerSettings {
    /// Its id.
    pub id: RunnerId,
    /// The server as runners reach it.
    pub server: String,
    /// NATS as this runner reaches it, where that is not what the server says.
    pub nats: Option<String>,
    /// Sessions at once.
    pub slots: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl WantedFile {
    /// A file with this content.
    pub fn new(path: &str, mode: u32, content: impl Into<bytes::Bytes>) -> Self {
        let content = content.into();
        let sha256 = hex(digest(&SHA256, &content).as_ref());
        Self { path: path.to_owned(), mode, content, sha256, secret: false }
    }
}

impl Program {
    /// Looks at a program; None for what is none of a 64-bit Linux.
    pub fn new(content: bytes::Bytes) -> Option<Self> {
        let arch = match (content.get(..5)?, content.get(18..20)?) {
            (b"\x7fELF\x02", [0x3e, 0]) => "x86_64",
            (b"\x7fELF\x02", [0xb7, 0]) => "aarch64",
            _ => return None,
        };
        let sha256 = hex(digest(&SHA256, &content).as_ref());
        Some(Self { glibc: needs_glibc(&content), arch, sha256, content })
    }

    /// Its digest, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// The newest version of glibc that a program names among those of the functions it is linked with.
fn needs_glibc(content: &[u8]) -> Option<Version> {
    const PREFIX: &[u8] = b"GLIBC_2.";
    memchr::memmem::find_iter(content, PREFIX)
        .filter_map(|at| {
            let digits = &content[at + PREFIX.len()..];
            let length = digits.iter().take(3).take_while(|byte| byte.is_ascii_digit()).count();
            std::str::from_utf8(&digits[..length]).ok()?.parse().ok().map(|minor| Version(2, minor))
        })
        .max()
}

/// Every file of a runner, in the order in which they are put; its token is not among them.
pub fn files(agentd: &Program, settings: &RunnerSettings) -> Vec<WantedFile> {
    let mut files = Vec::new();
    for (mode, source, target) in list() {
        let path = format!("{PREFIX}/{target}");
        if source == AGENTD {
            let (content, sha256) = (agentd.content.clone(), agentd.sha256.clone());
            files.push(WantedFile { path, mode, content, sha256, secret: false });
        } else if let Some((_, content)) = SHIPPED.iter().find(|(name, _)| *name == source) {
            files.push(WantedFile::new(&path, mode, content.as_bytes()));
        }
    }
    files.push(WantedFile::new(SLOTS, 0o644, slot_users()));
    files.push(WantedFile::new(SETTINGS, 0o600, settings_text(settings)));
    files
}

/// Where all of it is, the token too.
pub fn paths() -> Vec<String> {
    let listed = list().map(|(_, _, target)| format!("{PREFIX}/{target}"));
    listed.chain([SLOTS, SETTINGS, TOKEN].map(str::to_owned)).collect()
}

/// The token that a runner enrols with.
pub fn token_file(token: &str) -> WantedFile {
    WantedFile { secret: true, ..WantedFile::new(TOKEN, 0o600, format!("{token}\n")) }
}

/// Lines of the list that a runner needs: mode, source, target below the prefix.
fn list() -> impl Iterator<Item = (u32, &'static str, &'static str)> {
    LIST.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (mode, source, target, who) = (words.next()?, words.next()?, words.next()?, words.next()?);
        (who == "runner" && !source.starts_with(MANUAL)).then_some((u32::from_str_radix(mode, 8).ok()?, source, target))
    })
}

fn slot_users() -> String {
    let mut text = format!(
        "# Slot users: each session runs as one of them. Written by packaging/install.sh --slots {SLOT_USERS}.\n"
    );
    for number in 1..=SLOT_USERS {
        let _ = writeln!(text, "u helix-u{number} - \"Helix session slot {number}\"");
    }
    text
}

fn settings_text(settings: &RunnerSettings) -> String {
    // A TOML string is a JSON string wherever text is printable, which all of these are.
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut text = format!(
        "# Written by helixctl provision or by Ansible; their next run undoes changes. What else can stand here: agentd.toml.example in\n\
         # /usr/share/doc/helix. Environment variables in /etc/helix/agentd.env win over this file and are yours.\n\
         api_host = [{}]\napi_token_file = {}\nrunner_id = {}\nconcurrency = {}\n",
        quoted(&settings.server),
        quoted(TOKEN),
        quoted(settings.id.as_str()),
        settings.slots,
    );
    if let Some(nats) = &settings.nats {
        let _ = writeln!(text, "nats_url = {}", quoted(nats));
    }
    if !settings.labels.is_empty() {
        text.push_str("\n[labels]\n");
        for (name, value) in &settings.labels {
            let _ = writeln!(text, "{} = {}", quoted(name), quoted(value));
        }
    }
    text
}

/// Packages of desktops, each with what proves that it is there: lines "proof package".
pub fn package_proofs() -> String {
    let begin = "\nruntime_packages=\"\n";
    let set = PACKAGES.split_once(begin).and_then(|(_, rest)| rest.split_once('"')).map_or("", |(set, _)| set);
    set.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_on_the_list_of_a_runner_is_built_in_and_nothing_else() {
        let listed: Vec<_> = list().map(|(_, source, _)| source).filter(|source| *source != AGENTD).collect();
        let built_in: Vec<_> = SHIPPED.iter().map(|(source, _)| *source).collect();
        assert_eq!(listed, built_in);
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for entry in std::fs::read_dir(root.join("packaging/kinds")).expect("kinds") {
            let name = format!("packaging/kinds/{}", entry.expect("kind").file_name().to_string_lossy());
            assert!(built_in.contains(&name.as_str()), "{name} is not in packaging/files.txt");
        }
    }

    #[test]
    fn packages_are_those_of_the_runtime_set() {
        let proofs = package_proofs();
        assert!(proofs.starts_with("Xtigervnc tigervnc-standalone-server\n") && proofs.contains("\nxrdp xrdp\n"));
        assert!(!proofs.contains("build-essential"), "{proofs}");
    }

    #[test]
    fn a_program_says_where_it_runs() {
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0".to_vec();
        assert_eq!(Program::new(elf.clone().into()).expect("a program").glibc, None);
        elf.extend(b"..GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.17\0GLIBC_PRIVATE");
        let program = Program::new(elf.into()).expect("a program");
        assert_eq!((program.arch, program.glibc), ("x86_64", Some(Version(2, 34))));
        assert!(Program::new(bytes::Bytes::from_static(b"#!/bin/sh\n and so on and on")).is_none());
    }

    #[test]
    fn settings_are_what_agentd_reads() {
        let settings = RunnerSettings {
            id: RunnerId::parse("r1").expect("valid"),
            server: "https://helix.example".to_owned(),
            nats: Some("nats://10.0.0.1:4222".to_owned()),
            slots: 8,
            labels: [("pool".to_owned(), "a \"b\"".to_owned())].into(),
        };
        insta::assert_snapshot!(settings_text(&settings), @r#"
        # Written by helixctl provision or by Ansible; their next run undoes changes. What else can stand here: agentd.toml.example in
        # /usr/share/doc/helix. Environment variables in /etc/helix/agentd.env win over this file and are yours.
        api_host = ["https://helix.example"]
        api_token_file = "/etc/helix/agentd.token"
        runner_id = "r1"
        concurrency = 8
        nats_url = "nats://10.0.0.1:4222"

        [labels]
        "pool" = 'a "b"'
        "#);
    }
}
