//! What a session's units may do: the sandbox of each, and the limits of their slice. Pure; the snapshots show each
//! unit as systemd gets it.
//!
//! The rule is to show little and to add what a desktop turned out to need. Without care, these break:
//! - `SystemCallFilter=` without `SystemCallErrorNumber=EPERM` kills Xtigervnc, which probes for what it may do.
//! - Without `setuid` and `setgid` the X server cannot run xkbcomp, finds no keyboard and ends. Without `setresuid` and
//!   `setresgid` it cannot read its cookie file, says so in its log, and lets everybody in who reaches its socket.
//! - `MemoryDenyWriteExecute=` breaks every just-in-time compiler (node, browsers, lavapipe), `ProcSubset=pid` those
//!   who read `/proc/meminfo` and `/proc/cpuinfo`: only the desktop's own units have them.
//! - Denying `@resources` takes `prlimit` from debuggers, browsers and build tools; `ptrace` is theirs, too. It
//!   reaches the unit's own processes only, as every unit has a user namespace and a session has its own uid.
//! - `RestrictNamespaces=yes` is lost at the next `systemctl daemon-reload` (252): one harmless kind is left allowed.
//! - Without `StandardError=` a unit's complaints follow its standard output into its readiness file.
//! - `PrivateTmp=` alone would give each unit a `/tmp` of its own; the bind of the session's wins over it. It stays for
//!   the namespaces that units join, and because tools look for it.
//! - `/run` is empty but for a name server's `resolv.conf`: no system bus, no systemd, no journal, no other session.
//! - `/sys/fs/cgroup` names every session of the machine with its processes: hidden.
//!
//! The tools unit runs what people and programs start in the session: it has what the agent has, and no namespaces of its
//! own, and sees the socket that leads to agentd, which believes its main process alone.
//!
//! The recorder is no part of the session: another user, who sees nothing of it but the display's socket, and nothing else
//! of the machine but its own spool and the socket that leads to agentd. It signals nobody: other recorders have its uid.
//!
//! The forward unit has what the desktop's units have, and the session's network: it passes bytes on, and alone sees the
//! socket that leads out.
//!
//! The rdp unit has what the desktop's units have, a network of its own with nothing but a loopback, which it shares with
//! nobody, and a directory for its files that is gone with it.
//!
//! In an image (agent and tools alone) the unit's root is the image's, which every session shares: read-only, as the system's
//! is otherwise, with the session's own directories bound into it. `/run` and `/home` are replaced there, too.
//!
//! Units that need no network have a namespace with nothing but a loopback. The window manager shares the display's,
//! with `network = none` the agent and its forward, too; the agent always shares its System V memory, for pictures (MIT-SHM).

mod value;

use std::path::{Path, PathBuf};

use helix_protocol::resources::{Network, Resources};

pub use self::value::Value;
use super::layout::{ETC, GUEST, Layout, inside};
use super::slots::SlotUser;
use crate::images::root::PROGRAM;
use crate::supervisor::{Stdout, UnitName};

/// "No limit" in systemd's numbers.
const INFINITY: u64 = u64::MAX;
/// Most that a unit may write into its readiness file.
const OUTPUT_BYTES: u64 = 2 * 1024 * 1024;
/// `EPERM`.
const EPERM: i32 = 1;
/// The only namespaces that a unit may ask for, `CLONE_NEWUTS`. None at all cannot be said: systemd 252 writes it to
/// the unit's file as an empty list, which after the next daemon-reload means every kind. Making this one takes a
/// capability that no unit has.
const NO_NAMESPACES: u64 = 0x0400_0000;
/// Those that Chromium's sandbox makes: user, pid, network.
const SANDBOX_NAMESPACES: u64 = 0x1000_0000 | 0x2000_0000 | 0x4000_0000;
/// Asynchronous calls around the filter: desktops do without them, and they are a wide way into the kernel.
const IO_URING: [&str; 3] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];

/// Not for sessions, where there is such a thing.
const HIDDEN: [&str; 15] = [
    "/boot",
    "/efi",
    "/etc/helix",
    "/lost+found",
    "/media",
    "/mnt",
    "/sys/fs/bpf",
    "/sys/fs/cgroup",
    "/sys/kernel/security",
    "/var/backups",
    "/var/lib/private",
    "/var/lib/systemd",
    "/var/log",
    "/var/mail",
    "/var/spool",
];
/// What `/etc/resolv.conf` may be a link to.
const NAME_SERVICE: [&str; 4] =
    ["/run/systemd/resolve", "/run/NetworkManager/resolv.conf", "/run/resolvconf", "/run/connman"];
/// Replaced in the session's view, so that nothing below them needs hiding.
const REPLACED: [&str; 5] = ["/home", "/root", "/run", "/tmp", "/var/tmp"];
/// Where a unit says that it is ready (`Type=notify`).
const NOTIFY: &str = "/run/systemd/notify";

/// What the sandbox of a unit depends on.
#[derive(Debug, Clone, Copy)]
pub struct ServiceContext<'a> {
    /// `display`, `app`, `guest` …
    pub word: &'a str,
    /// Its session.
    pub layout: &'a Layout,
    /// Whom it runs as.
    pub user: &'a SlotUser,
    /// The session's network.
    pub network: Network,
    /// The agent makes namespaces of its own (Chromium).
    pub own_sandbox: bool,
    /// Where its standard output goes; not looked at for the guest, whose output is the task's outcome.
    pub stdout: Stdout,
    /// Directories that no session may see: state, workspaces, settings.
    pub hidden: &'a [PathBuf],
    /// Programs that it needs although they may be in a hidden place: agentd.
    pub programs: &'a [PathBuf],
    /// Root of the image that it runs in; the machine's own where absent.
    pub image: Option<&'a Path>,
    /// Where it spools a recording: of the recorder alone.
    pub spool: Option<&'a Path>,
}

/// One property of a unit.
pub type Property = (&'static str, Value);

/// Whom it runs as, what it sees and what it may do.
pub fn service_properties(context: &ServiceContext<'_>) -> Vec<Property> {
    let mut properties = identity(context);
    properties.extend(privileges(context));
    properties.extend(file_system(context));
    properties.extend(network(context));
    properties.extend(system_calls(context));
    properties
}

/// Limits of a session's slice. Complete: what is not limited is said to be unlimited, so that a limit can be lifted.
pub fn slice_properties(resources: &Resources) -> Vec<Property> {
    let bytes = |amount: Option<helix_protocol::resources::Bytes>| Value::U64(amount.map_or(INFINITY, |bytes| bytes.0));
    // Thousandths of a processor: microseconds of it in each millisecond, a thousand times as much in each second.
    let quota = resources.cpu.map_or(INFINITY, |cpus| u64::from(cpus.0) * 1000);
    vec![
        ("CPUAccounting", Value::Bool(true)),
        ("MemoryAccounting", Value::Bool(true)),
        ("TasksAccounting", Value::Bool(true)),
        ("CPUQuotaPerSecUSec", Value::U64(quota)),
        ("MemoryMax", bytes(resources.memory)),
        ("MemoryHigh", bytes(resources.memory_high)),
        // A limit that swap escapes is none.
        ("MemorySwapMax", Value::U64(if resources.memory.is_some() { 0 } else { INFINITY })),
        ("TasksMax", Value::U64(resources.tasks.map_or(INFINITY, u64::from))),
        ("IOWeight", Value::U64(resources.io_weight.map_or(INFINITY, u64::from))),
    ]
}

/// The desktop's own programs: they need no network, no compiler and nothing of the machine.
fn is_desktop(word: &str) -> bool {
    [UnitName::Display, UnitName::Dbus, UnitName::Wm].iter().any(|unit| unit.as_str() == word)
}

/// Ours, and therefore known to need little.
fn is_small(word: &str) -> bool {
    is_desktop(word) || is_forward(word) || is_recorder(word) || is_rdp(word)
}

fn is_recorder(word: &str) -> bool {
    word == UnitName::Recorder.as_str()
}

fn is_rdp(word: &str) -> bool {
    word == UnitName::Rdp.as_str()
}

fn is_forward(word: &str) -> bool {
    word == UnitName::Forward.as_str()
}

fn identity(context: &ServiceContext<'_>) -> Vec<Property> {
    let ServiceContext { word, layout, user, .. } = *context;
    let ready = || text(&layout.ready_file(word));
    // The guest is started anew when it fails, and must not lose what it has written.
    let stdout = if word == GUEST {
        ("StandardOutputFileToAppend", Value::Text(ready()))
    } else if context.stdout == Stdout::Ready {
        ("StandardOutputFileToTruncate", Value::Text(ready()))
    } else {
        ("StandardOutput", Value::text("journal"))
    };
    // At its memory limit a session loses its agent, not its desktop.
    let oom = match UnitName::parse(word) {
        Some(UnitName::App) => 500,
        Some(UnitName::Workspace | UnitName::Tools | UnitName::Rdp) => 300,
        _ => 0,
    };
    let mut properties = vec![
        ("User", Value::text(&user.name)),
        ("Group", Value::text(&user.name)),
        ("UMask", Value::U32(0o077)),
        ("EnvironmentFiles", Value::Files(vec![text(&layout.env_file(word))])),
        stdout,
        ("StandardError", Value::text("journal")),
        ("OOMScoreAdjust", Value::I32(oom)),
    ];
    // Their output is a file of agentd's, which a session must not be able to fill. Not for the display, whose
    // pictures in memory are files, too; its output is its own word alone.
    if word == GUEST || word == UnitName::Dbus.as_str() || is_forward(word) || is_recorder(word) {
        properties.extend([("LimitFSIZE", Value::U64(OUTPUT_BYTES)), ("LimitFSIZESoft", Value::U64(OUTPUT_BYTES))]);
    }
    properties
}

fn privileges(context: &ServiceContext<'_>) -> Vec<Property> {
    let namespaces = if owns_sandbox(context) { SANDBOX_NAMESPACES } else { NO_NAMESPACES };
    let mut properties = vec![
        ("NoNewPrivileges", Value::Bool(true)),
        ("CapabilityBoundingSet", Value::U64(0)),
        ("AmbientCapabilities", Value::U64(0)),
        ("PrivateUsers", Value::Bool(true)),
        ("RestrictNamespaces", Value::Namespaces(namespaces)),
        ("RestrictSUIDSGID", Value::Bool(true)),
        ("RestrictRealtime", Value::Bool(true)),
        ("LockPersonality", Value::Bool(true)),
        ("KeyringMode", Value::text("private")),
        ("RemoveIPC", Value::Bool(true)),
        ("PrivateIPC", Value::Bool(true)),
        ("ProtectClock", Value::Bool(true)),
        ("ProtectHostname", Value::Bool(true)),
        ("ProtectKernelLogs", Value::Bool(true)),
        ("ProtectKernelModules", Value::Bool(true)),
        ("ProtectKernelTunables", Value::Bool(true)),
        ("ProtectControlGroups", Value::Bool(true)),
    ];
    if is_small(context.word) {
        properties.push(("MemoryDenyWriteExecute", Value::Bool(true)));
    }
    properties
}

fn file_system(context: &ServiceContext<'_>) -> Vec<Property> {
    let ServiceContext { word, layout, .. } = *context;
    let display = (text(&layout.at("display")), inside::DISPLAY.to_owned(), false);
    let mut binds = Vec::new();
    if !is_recorder(word) {
        binds.extend([
            (text(&layout.at("tmp")), inside::TMP.to_owned(), false),
            (text(&layout.at("tmp")), inside::VAR_TMP.to_owned(), false),
            (text(&layout.at("run")), inside::RUN.to_owned(), false),
            (text(&layout.at("home")), inside::HOME.to_owned(), false),
        ]);
        binds.extend(layout.workspace().map(|workspace| (text(workspace), inside::WORKSPACE.to_owned(), false)));
    }
    binds.extend(context.spool.map(|spool| (text(spool), inside::SPOOL.to_owned(), false)));
    // The RFB socket has no password: nobody but its server, agentd and the recorder comes near it.
    if word == UnitName::Display.as_str() {
        binds.push(display.clone());
    }
    let same = |path: &str, optional| (path.to_owned(), path.to_owned(), optional);
    let mut shown: Vec<_> = if context.image.is_some() {
        shown_in_image(layout)
    } else {
        NAME_SERVICE.iter().map(|path| same(path, true)).collect()
    };
    if word == GUEST {
        shown.push(same(NOTIFY, true));
    }
    if is_recorder(word) {
        shown.push(display);
    }
    if let Some((dir, seen)) = UnitName::parse(word).and_then(|unit| layout.agentd_dir(unit)) {
        shown.push((text(&dir), seen.to_owned(), false));
    }
    shown.extend(context.programs.iter().map(|program| match context.image {
        Some(_) => (text(program), PROGRAM.to_owned(), false),
        None => same(&text(program), false),
    }));
    let own = context.hidden.iter().filter(|path| !REPLACED.iter().any(|replaced| path.starts_with(replaced)));
    let hidden: Vec<String> = match context.image {
        // Of the machine's file system nothing is there. `+`: as the unit sees it.
        Some(_) => HIDDEN.iter().filter(|path| path.starts_with("/sys/")).map(|path| format!("-+{path}")).collect(),
        None => {
            HIDDEN.iter().map(|path| format!("-{path}")).chain(own.map(|path| format!("-{}", text(path)))).collect()
        }
    };
    let mut temporary = vec![
        ("/run".to_owned(), "ro,nosuid,nodev,mode=0755".to_owned()),
        ("/dev/shm".to_owned(), "nosuid,nodev,mode=1777".to_owned()),
    ];
    if is_rdp(word) {
        temporary.push((inside::RDP_FILES.to_owned(), "nosuid,nodev,noexec,mode=1777,size=4M".to_owned()));
    }
    let mut properties = vec![
        ("ProtectSystem", Value::text("strict")),
        ("ProtectHome", Value::text("tmpfs")),
        ("ProtectProc", Value::text("invisible")),
        ("PrivateTmp", Value::Bool(true)),
        ("PrivateDevices", Value::Bool(true)),
        ("DevicePolicy", Value::text("closed")),
        ("TemporaryFileSystem", Value::Mounts(temporary)),
        ("BindPaths", Value::Binds(binds)),
        ("BindReadOnlyPaths", Value::Binds(shown)),
        ("InaccessiblePaths", Value::Texts(hidden)),
    ];
    if is_small(word) {
        properties.push(("ProcSubset", Value::text("pid")));
    }
    if let Some(root) = context.image {
        properties.extend([("RootDirectory", Value::Text(text(root))), ("MountAPIVFS", Value::Bool(true))]);
    }
    properties
}

/// What a unit in an image sees of its session and of the machine in `/etc`.
fn shown_in_image(layout: &Layout) -> Vec<(String, String, bool)> {
    let users = ["passwd", "group"].map(|name| (text(&layout.at(ETC).join(name)), format!("/etc/{name}"), false));
    let machine =
        ["/etc/hosts", "/etc/resolv.conf", "/etc/machine-id"].map(|path| (path.to_owned(), path.to_owned(), true));
    users.into_iter().chain(machine).collect()
}

fn network(context: &ServiceContext<'_>) -> Vec<Property> {
    let ServiceContext { word, layout, .. } = *context;
    let alone = is_desktop(word) || is_recorder(word) || is_rdp(word) || word == GUEST;
    let families: &[&str] = match word {
        // libvnc asks for the newer family first.
        word if is_rdp(word) => &["AF_UNIX", "AF_INET", "AF_INET6"],
        _ if alone => &["AF_UNIX"],
        word if is_forward(word) => &["AF_UNIX", "AF_INET"],
        _ => &["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"],
    };
    let mut properties = vec![
        ("PrivateNetwork", Value::Bool(alone || context.network == Network::None)),
        ("RestrictAddressFamilies", Value::list(true, families)),
    ];
    if joins_display(context) {
        let display = layout.unit_name(UnitName::Display.as_str());
        properties.push(("JoinsNamespaceOf", Value::Texts(vec![display])));
    }
    properties
}

/// Who shares the display's network and shared memory. Only the display is ever named: a unit that another one names
/// stays loaded when it has stopped, and cannot be started anew. And only by who comes after it or has a private
/// network, too: namespaces that were first made without a network of their own give none to those who join.
fn joins_display(context: &ServiceContext<'_>) -> bool {
    match UnitName::parse(context.word) {
        Some(UnitName::Wm | UnitName::App | UnitName::Tools) => true,
        Some(UnitName::Workspace | UnitName::Display | UnitName::Dbus | UnitName::Recorder | UnitName::Rdp) => false,
        Some(UnitName::Forward) | None => context.network == Network::None,
    }
}

fn system_calls(context: &ServiceContext<'_>) -> Vec<Property> {
    let mut allowed = vec!["@system-service"];
    let mut denied = vec!["@keyring"];
    let mut again = Vec::new();
    if is_small(context.word) {
        denied.extend(["@privileged", "@resources"]);
    }
    if is_desktop(context.word) {
        again.extend(["setuid", "setgid", "setresuid", "setresgid"]);
    } else if is_recorder(context.word) {
        denied.extend(["kill", "pidfd_send_signal"]);
    } else if !is_small(context.word) {
        allowed.push("ptrace");
    }
    if owns_sandbox(context) {
        allowed.push("chroot");
    }
    denied.extend(IO_URING);
    let mut properties = vec![
        ("SystemCallArchitectures", Value::Texts(vec!["native".to_owned()])),
        ("SystemCallErrorNumber", Value::I32(EPERM)),
        ("SystemCallFilter", Value::list(true, &allowed)),
        ("SystemCallFilter", Value::list(false, &denied)),
    ];
    if !again.is_empty() {
        properties.push(("SystemCallFilter", Value::list(true, &again)));
    }
    properties
}

/// Only the agent brings one.
fn owns_sandbox(context: &ServiceContext<'_>) -> bool {
    context.own_sandbox && context.word == UnitName::App.as_str()
}

/// Paths of ours are UTF-8: they come from settings and from ids.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
