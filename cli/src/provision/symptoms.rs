//! What `doctor.sh` asks a host beyond its [`super::facts`]: how a runner fares there. Pure.

/// What one host said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symptoms {
    /// The login became root by sudo.
    pub by_sudo: bool,
    /// Its clock is kept by somebody.
    pub ntp: Option<bool>,
    /// Seconds by which its clock was set since it started.
    pub clock_step: Option<i64>,
    /// `user.max_user_namespaces`.
    pub user_namespaces: Option<u64>,
    /// AppArmor or the kernel keeps them from users.
    pub userns_restricted: Option<&'static str>,
    /// Open files in all.
    pub files_max: Option<u64>,
    /// Open files of agentd, or of a service.
    pub descriptors: Option<u64>,
    /// Who holds apt's lock.
    pub apt_lock: Option<String>,
    /// Version of agentd.
    pub agentd_version: Option<String>,
    /// The server in its settings.
    pub server: Option<String>,
    /// Services that do not run, with their last words: `agentd.service failed …`.
    pub sick: Vec<String>,
    /// Version of a nats-server on it.
    pub nats_version: Option<String>,
    /// Unit of a nats-server whose disk was full since it was started.
    pub nats_full: Option<String>,
    /// Kinds of its operator.
    pub own_kinds: Vec<String>,
    /// Programs of agents that are there.
    pub programs: Vec<String>,
    /// The Zed editor.
    pub zed: Option<String>,
    /// It is named in the settings and not there.
    pub zed_missing: bool,
    /// Manifest of the Vulkan driver that draws without a card.
    pub lavapipe: Option<String>,
    /// Version of its Mesa.
    pub mesa: Option<String>,
    /// What a dead install left: `unit helix-s1.slice`.
    pub leftovers: Vec<String>,
}

impl Symptoms {
    /// Takes one line.
    pub fn hear(&mut self, key: &str, value: &str) {
        let text = || Some(value.to_owned()).filter(|value| !value.is_empty());
        match key {
            "by" => self.by_sudo = value == "sudo",
            "ntp" => self.ntp = text().map(|value| value == "yes"),
            "clock_step" => self.clock_step = value.parse().ok(),
            "user_namespaces" => self.user_namespaces = value.parse().ok(),
            "userns_apparmor" if value == "1" => {
                self.userns_restricted = Some("kernel.apparmor_restrict_unprivileged_userns=0");
            }
            "userns_clone" if value == "0" => self.userns_restricted = Some("kernel.unprivileged_userns_clone=1"),
            "files_max" => self.files_max = value.parse().ok(),
            "descriptors" => self.descriptors = value.parse().ok(),
            "apt_lock" => self.apt_lock = text(),
            "agentd_version" => self.agentd_version = text(),
            "server" => self.server = text(),
            "sick" => self.sick.push(value.trim().to_owned()),
            "nats_version" => self.nats_version = text(),
            "nats_full" => self.nats_full = text(),
            "own_kind" => self.own_kinds.push(value.to_owned()),
            "program" => self.programs.push(value.to_owned()),
            "zed" => self.zed = text(),
            "zed_missing" => self.zed_missing = true,
            "lavapipe" => self.lavapipe = text(),
            "mesa" => self.mesa = text(),
            "leftover" => self.leftovers.push(value.to_owned()),
            _ => {}
        }
    }
}
