//! Every attack: what it is after, the walls that the control run takes down, and how its success is told.
//!
//! Add a line for whatever a session could newly reach. The control must differ from the protected run in the
//! protection concerned and in nothing else, as far as walls that stand behind each other allow: where a file is kept
//! from others by its owner *and* by what can be seen, both are given to the control.

use self::Edit::{Drop, Omit, Set, Victims};
use self::Proof::{Done, Finds, Host};

/// One attack.
pub struct Attack {
    /// In the report, and to find it here.
    pub name: &'static str,
    /// Class, as the security model lists them.
    pub class: &'static str,
    /// Program in `/opt/attacks`, and its argument.
    pub script: &'static str,
    /// Where the victim must have left its secret for the attack to mean anything; empty: nothing special.
    pub needs: &'static str,
    /// Changes to the victim's unit for the control; none: the victim's real session.
    pub victim: &'static [Edit],
    /// Changes to the attacker's unit for the control.
    pub attacker: &'static [Edit],
    /// What success is.
    pub proof: Proof,
    /// Between which sessions.
    pub pair: Pair,
}

/// A change to a unit.
#[derive(Debug, Clone, Copy)]
pub enum Edit {
    /// Without this setting.
    Drop(&'static str),
    /// With this value alone. `{NAME}` is what the attacker knows under that name.
    Set(&'static str, &'static str),
    /// Without those words of a setting that end so.
    Omit(&'static str, &'static str),
    /// With the victim's value of this setting.
    Victims(&'static str),
}

/// What an attack that succeeded leaves behind.
#[derive(Debug, Clone, Copy)]
pub enum Proof {
    /// Its output has this secret of [`super::stage::Stage::secrets`].
    Finds(&'static str),
    /// It says so, for a system call was let through.
    Done,
    /// This command succeeds on the host, as root.
    Host(&'static str),
}

/// Sessions that attack each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// Both on the host's network.
    Host,
    /// Both with `network = none`.
    Alone,
}

/// The victim's user, in the victim's directories.
const AS_VICTIM_AT_HOME: &[Edit] = &[Victims("User"), Victims("Group"), Victims("BindPaths")];
const AS_VICTIM: &[Edit] = &[Victims("User"), Victims("Group")];
const AS_VICTIM_WITHOUT_NAMESPACE: &[Edit] = &[Victims("User"), Victims("Group"), Drop("PrivateUsers")];
const WITHOUT_NAMESPACE: &[Edit] = &[Drop("PrivateUsers")];
const AS_ROOT: &[Edit] = &[Set("User", "root"), Set("Group", "root")];
const AS_ROOT_SEEING_ALL: &[Edit] = &[Set("User", "root"), Set("Group", "root"), Drop("InaccessiblePaths")];
const WITHOUT_RUN: &[Edit] = &[Set("TemporaryFileSystem", "/dev/shm:nosuid,nodev,mode=1777")];
const AS_ROOT_WITHOUT_RUN: &[Edit] =
    &[Set("User", "root"), Set("Group", "root"), Set("TemporaryFileSystem", "/dev/shm:nosuid,nodev,mode=1777")];
const COMMON_SHM: &[Edit] = &[Set("TemporaryFileSystem", "/run:ro,nosuid,nodev,mode=0755")];
const COMMON_IPC: &[Edit] = &[Drop("PrivateIPC")];
const COMMON_TMP: &[Edit] = &[
    Omit("BindPaths", ":/tmp"),
    Omit("BindPaths", ":/var/tmp"),
    Drop("PrivateTmp"),
    Set("ReadWritePaths", "/tmp /var/tmp"),
];
const COMMON_NETWORK: &[Edit] = &[Set("PrivateNetwork", "no")];
const COMMON_KEYS: &[Edit] = &[Drop("SystemCallFilter")];

const fn attack(class: &'static str, name: &'static str, script: &'static str, proof: Proof) -> Attack {
    Attack { name, class, script, needs: "", victim: &[], attacker: &[], proof, pair: Pair::Host }
}

impl Attack {
    const fn needs(self, needs: &'static str) -> Self {
        Self { needs, ..self }
    }

    /// Only the attacker is without the protection.
    const fn without(self, attacker: &'static [Edit]) -> Self {
        Self { attacker, ..self }
    }

    /// Neither has the protection, each in its own way.
    const fn both(self, victim: &'static [Edit], attacker: &'static [Edit]) -> Self {
        Self { victim, attacker, ..self }
    }

    const fn alone(self) -> Self {
        Self { pair: Pair::Alone, ..self }
    }
}

/// All of them.
pub const ATTACKS: &[Attack] = &[
    // The desktop.
    attack("x", "x socket", "desktop.py x", Finds("holder")).needs("x").without(AS_VICTIM_AT_HOME),
    attack("x", "x cookie", "desktop.py cookie", Finds("cookie")).without(AS_VICTIM_AT_HOME),
    // In the control the victim's X listens at an abstract socket, as it does without `-nolisten local`.
    attack("x", "abstract x socket", "desktop.py abstract", Finds("holder")).both(COMMON_NETWORK, COMMON_NETWORK),
    attack("x", "x socket without network", "desktop.py x", Finds("holder"))
        .needs("x")
        .without(AS_VICTIM_AT_HOME)
        .alone(),
    attack("vnc", "vnc socket", "desktop.py rfb", Finds("id")).without(&[
        Victims("User"),
        Victims("Group"),
        Set("BindPaths", "{V_S}/display:/run/display"),
    ]),
    attack("vnc", "own vnc socket", "desktop.py own-rfb", Finds("own id"))
        .without(&[Set("BindPaths", "{A_S}/display:/run/display")]),
    attack("dbus", "session bus", "desktop.py bus", Finds("holder")).needs("bus").without(AS_VICTIM_AT_HOME),
    attack("workspace", "sockets of programs", "desktop.py sockets", Finds("holder"))
        .needs("sockets")
        .without(AS_VICTIM_AT_HOME),
    attack("agentd", "guest socket", "desktop.py task", Finds("guest")).without(AS_VICTIM_AT_HOME),
    // Processes.
    attack("proc", "environment", "processes.py environ", Finds("holder"))
        .both(WITHOUT_NAMESPACE, AS_VICTIM_WITHOUT_NAMESPACE),
    attack("proc", "command line", "processes.py cmdline", Finds("holder"))
        .needs("argv")
        .without(&[Drop("ProtectProc")]),
    attack("proc", "files of processes", "processes.py files", Finds("holder"))
        .needs("files")
        .both(WITHOUT_NAMESPACE, AS_VICTIM_WITHOUT_NAMESPACE),
    attack("ptrace", "memory", "processes.py ptrace", Finds("holder"))
        .needs("memory")
        .both(WITHOUT_NAMESPACE, AS_VICTIM_WITHOUT_NAMESPACE),
    attack("signals", "kill", "processes.py signal", Done).needs("target").without(AS_VICTIM),
    attack("signals", "priority and limits", "processes.py adjust", Done).needs("target").without(AS_VICTIM),
    attack("signals", "signals to agentd", "processes.py signal-agentd", Done).without(AS_ROOT),
    attack("cgroup", "list of groups", "processes.py list-groups", Finds("key")).without(&[Drop("InaccessiblePaths")]),
    attack("cgroup", "escape", "processes.py join-group", Done).without(&[
        Set("User", "root"),
        Set("Group", "root"),
        Drop("InaccessiblePaths"),
        Set("ProtectControlGroups", "no"),
    ]),
    attack("limits", "fork bomb", "processes.py multiply", Done),
    // What a machine shares.
    attack("shm", "shared memory files", "shared.py shm", Finds("holder")).needs("shm").both(COMMON_SHM, COMMON_SHM),
    attack("shm", "system v memory", "shared.py sysv", Finds("holder")).needs("sysv").both(COMMON_IPC, COMMON_IPC),
    attack("shm", "message queues", "shared.py mqueue", Finds("holder")).needs("mqueue").both(COMMON_IPC, COMMON_IPC),
    attack("tmp", "/tmp and /var/tmp", "shared.py tmp", Finds("holder")).needs("files").both(COMMON_TMP, COMMON_TMP),
    attack("workspace", "home", "shared.py home", Finds("holder")).needs("files").without(AS_VICTIM_AT_HOME),
    attack("workspace", "workspace", "shared.py workspace", Finds("holder")).needs("files").without(AS_VICTIM_AT_HOME),
    attack("workspace", "hard and symbolic links", "shared.py links", Finds("holder")).needs("files").without(&[
        Set("User", "root"),
        Set("Group", "root"),
        Set("CapabilityBoundingSet", "CAP_DAC_OVERRIDE CAP_FOWNER"),
        Drop("PrivateUsers"),
        Drop("InaccessiblePaths"),
        Drop("BindPaths"),
        Set("ReadWritePaths", "{WORKSPACES}"),
    ]),
    attack("keyring", "keyring", "shared.py keyring", Finds("holder")).needs("keyring").both(COMMON_KEYS, COMMON_KEYS),
    attack("loopback", "abstract sockets", "shared.py abstract", Finds("holder"))
        .needs("abstract")
        .both(COMMON_NETWORK, COMMON_NETWORK)
        .alone(),
    attack("loopback", "loopback ports", "shared.py loopback", Finds("holder"))
        .needs("loopback")
        .both(COMMON_NETWORK, COMMON_NETWORK)
        .alone(),
    attack("loopback", "out of network = none", "shared.py outside", Done).without(COMMON_NETWORK).alone(),
    // agentd and the machine.
    attack("agentd", "environment files", "machine.py environments", Finds("spec")).without(AS_ROOT_SEEING_ALL),
    attack("agentd", "state and token", "machine.py state", Finds("token")).without(AS_ROOT_SEEING_ALL),
    attack("agentd", "settings", "machine.py settings", Finds("enrolment")).without(AS_ROOT_SEEING_ALL),
    attack("agentd", "planted files", "machine.py plant", Done).without(&[
        Set("User", "root"),
        Set("Group", "root"),
        Drop("InaccessiblePaths"),
        Set("ProtectSystem", "no"),
    ]),
    attack("agentd", "agentd's process", "machine.py agentd", Done).without(&[
        Set("User", "root"),
        Set("Group", "root"),
        Set("CapabilityBoundingSet", "CAP_SYS_PTRACE"),
        Drop("ProtectProc"),
        Drop("PrivateUsers"),
    ]),
    attack("nats", "credentials of the bus", "machine.py bus-credentials", Finds("token")).without(AS_ROOT_SEEING_ALL),
    attack("dbus", "units of others", "machine.py units", Finds("key")).without(WITHOUT_RUN),
    attack("dbus", "stop a unit", "machine.py stop-unit", Host("! systemctl -q is-active {TARGET_UNIT}"))
        .without(AS_ROOT_WITHOUT_RUN),
    attack("dbus", "start a unit", "machine.py start-unit", Done).without(AS_ROOT_WITHOUT_RUN),
    attack(
        "journal",
        "forged lines",
        "machine.py forge-log",
        Host("journalctl --sync; journalctl -q -o cat HELIX_SESSION={V_ID} | grep -q 'forged by {TAG}'"),
    )
    .without(WITHOUT_RUN),
    attack("journal", "log of the machine", "machine.py read-log", Done).without(&[
        Set("TemporaryFileSystem", "/dev/shm:nosuid,nodev,mode=1777"),
        Set("SupplementaryGroups", "systemd-journal"),
        Drop("InaccessiblePaths"),
        Drop("PrivateUsers"),
    ]),
    attack("agentd", "notify socket", "machine.py notify", Host("systemctl show -p StatusText agentd | grep -q {TAG}"))
        .without(&[
            Set("User", "root"),
            Set("Group", "root"),
            Set("TemporaryFileSystem", "/dev/shm:nosuid,nodev,mode=1777"),
            Set("CapabilityBoundingSet", "CAP_SYS_ADMIN"),
            Drop("PrivateUsers"),
        ]),
];
