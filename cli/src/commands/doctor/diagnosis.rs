//! What `doctor HOST` makes of a machine's facts and of what the server knows of its runner. Pure.
//!
//! What stands in the way of provisioning is [`check`]'s to say; here is what can be wrong with a runner that is there. What
//! is as it should be has a line, too, so that people see what was looked at.

use helix_mesa::OLDEST;
use helix_protocol::api::RunnerView;
use helix_protocol::api::status::StoreStatus;
use helix_protocol::runner::Liveness;

use super::agents;
use crate::checks::Check;
use crate::provision::check::{Standard, check};
use crate::provision::facts::Facts;

/// Names in their order: a name that nothing was found of is as it should be.
const NAMES: [&str; 23] = [
    "system",
    "disk",
    "memory",
    "clock",
    "cgroups",
    "packages",
    "apt",
    "signing-key",
    "agentd",
    "token",
    "runner",
    "server",
    "nats",
    "port",
    "agents",
    "kinds",
    "zed-binary",
    "vulkan",
    "user-namespaces",
    "descriptors",
    "leftovers",
    "toolchains",
    "services",
];
/// A step of the clock that is none of a clock being kept, in seconds.
const CLOCK_STEP: i64 = 60;
const FILES_LEAST: u64 = 65_536;
/// Three for each unit of a session, two for each stream of each viewer.
const DESCRIPTORS_LEAST: u64 = 8192;
/// The oldest nats-server that the server starts with.
const NATS_OLDEST: (u32, u32) = (2, 11);
/// Used space of NATS that is told.
const STORE_NEARLY: u64 = 90;

/// What the server says.
#[derive(Debug, Clone, Default)]
pub struct ServerSide {
    /// Why it was not asked, or did not answer.
    pub silent: Option<String>,
    /// What it knows of the runner.
    pub runner: Option<RunnerView>,
    /// Its own version.
    pub version: String,
    /// Its store.
    pub store: Option<StoreStatus>,
}

/// All that was looked at.
pub fn diagnose(host: &str, facts: &Facts, standard: Standard<'_>, server: &ServerSide) -> Vec<Check> {
    let mut found = check(facts, standard);
    if facts.kernel == "Linux" {
        let host = Subject { host, facts, server };
        host.packages(&mut found);
        host.clock(&mut found);
        host.agentd(&mut found);
        host.runner(&mut found);
        host.store(&mut found);
        host.kinds(&mut found);
        host.limits(&mut found);
        host.leftovers(&mut found);
    }
    let good: Vec<_> = NAMES.into_iter().filter(|name| found.iter().all(|check| check.name != *name)).collect();
    found.extend(good.into_iter().filter_map(|name| as_it_should(name, facts, server)));
    found.sort_by_key(|check| NAMES.iter().position(|name| *name == check.name).unwrap_or(NAMES.len()));
    found
}

struct Subject<'a> {
    host: &'a str,
    facts: &'a Facts,
    server: &'a ServerSide,
}

impl Subject<'_> {
    fn packages(&self, found: &mut Vec<Check>) {
        let list = &self.facts.missing_packages;
        if !list.is_empty() && found.iter().all(|check| check.name != "packages") {
            let what = format!("packages of desktops are missing or half installed: {}", list.join(" "));
            found.push(Check::fail("packages", what).next(format!("helixctl provision {} brings them", self.host)));
        }
        if let Some(who) = &self.facts.symptoms.apt_lock {
            let what = format!("apt is held by {who}: nothing can be installed meanwhile");
            found.push(Check::warn("apt", what).next("wait for it; provisioning waits two minutes"));
        }
    }

    fn clock(&self, found: &mut Vec<Check>) {
        let symptoms = &self.facts.symptoms;
        if let Some(step) = symptoms.clock_step.filter(|step| step.abs() > CLOCK_STEP) {
            let way = if step < 0 { "back" } else { "forward" };
            let what = format!(
                "its clock was set {way} by {} s since it started: times in its journal and of its sessions do not fit",
                step.abs()
            );
            found.push(
                Check::warn("clock", what)
                    .next("timedatectl timesync-status; journalctl -b -t systemd -g 'Time has been changed'"),
            );
        }
        if symptoms.ntp == Some(false) {
            let what = "nobody keeps its clock: it will be off one day";
            found.push(Check::warn("clock", what).next("apt-get install systemd-timesyncd; timedatectl set-ntp true"));
        }
    }

    fn agentd(&self, found: &mut Vec<Check>) {
        let (facts, unit) = (self.facts, &self.facts.unit);
        let provision = format!("helixctl provision {}", self.host);
        if let Some(run) = &facts.pending {
            let what = format!("a change of provisioning was neither confirmed nor undone (run {run})");
            found.push(Check::warn("agentd", what).next(format!("{provision} undoes it first")));
        }
        if !unit.loaded {
            found.push(Check::warn("agentd", "it is no runner: there is no agentd.service").next(provision));
            return;
        }
        if !unit.is_active() {
            let last = facts.symptoms.sick.iter().find_map(|sick| sick.strip_prefix("agentd.service "));
            let words = last.and_then(|last| last.split_once(' ')).map(|(_, words)| format!(": {}", words.trim()));
            let again =
                if unit.restarts > 0 { format!(", started again {} times", unit.restarts) } else { String::new() };
            let how = if unit.result == "success" { String::new() } else { format!(" ({})", unit.result) };
            let what = format!("agentd.service is {}{how}{again}{}", unit.active, words.unwrap_or_default());
            found.push(
                Check::fail("agentd", what).next("on the host: journalctl -u agentd; then: systemctl start agentd"),
            );
            return;
        }
        if !unit.enabled {
            let what = "agentd.service is not started when the machine starts";
            found.push(Check::warn("agentd", what).next("systemctl enable agentd"));
        }
        if unit.status.starts_with("not reloaded") {
            let next = "agentd run --config /etc/helix/agentd.toml --check-config";
            found.push(Check::warn("agentd", unit.status.clone()).next(next));
        }
        let Some((_, why)) = unit.status.split_once("no server: ") else { return };
        // As NATS and the server say it (agentd's link).
        let refused = ["authorization violation", "refuses to enrol", "token"];
        if refused.iter().any(|words| why.to_lowercase().contains(words)) {
            let what = format!("its token is not taken: it is revoked or expired, or the runner was removed ({why})");
            found.push(Check::fail("token", what).next(format!("{provision} enrols it anew")));
        } else {
            let what = format!("agentd runs and has no link to a server: {why}");
            found
                .push(Check::fail("agentd", what).next("see the server's address and way below; journalctl -u agentd"));
        }
    }

    fn runner(&self, found: &mut Vec<Check>) {
        let (facts, server) = (self.facts, self.server);
        if let Some(why) = &server.silent {
            found.push(
                Check::warn("runner", format!("the server was not asked about it: {why}")).next("helixctl status"),
            );
            return;
        }
        let Some(id) = &facts.enrolled else { return };
        let Some(view) = &server.runner else {
            if found.iter().all(|check| check.name != "token") {
                let what = format!("the server knows no runner {id}: it was removed, and its token with it");
                found.push(Check::fail("token", what).next(format!("helixctl provision {} enrols it anew", self.host)));
            }
            return;
        };
        if view.liveness != Liveness::Online {
            let since = view.last_seen_at.map_or_else(|| "never".to_owned(), |seen| format!("last at {seen:.0}"));
            let what = format!("the server does not hear runner {id} ({since})");
            found.push(Check::fail("runner", what).next("see agentd above; journalctl -u agentd"));
        }
        if view.cordoned {
            let what = format!("runner {id} takes no new sessions: it is cordoned");
            found.push(Check::warn("runner", what).next(format!("helixctl runner uncordon {id}")));
        }
        if let Some(its) = view.facts.as_ref().filter(|its| its.version != server.version) {
            let what = format!("agentd is {}, the server {}", its.version, server.version);
            found.push(Check::warn("runner", what).next(format!("helixctl runner upgrade {}", self.host)));
        }
    }

    fn store(&self, found: &mut Vec<Check>) {
        let symptoms = &self.facts.symptoms;
        for sick in symptoms.sick.iter().filter(|sick| !sick.starts_with("agentd.service ")) {
            let unit = sick.split(' ').next().unwrap_or_default();
            found.push(Check::fail("services", sick.clone()).next(format!("journalctl -u {unit}")));
        }
        if let Some(version) = &symptoms.nats_version
            && !is_at_least(version, NATS_OLDEST)
        {
            let (major, minor) = NATS_OLDEST;
            let what = format!("its nats-server is {version}; the server starts with {major}.{minor} or newer only");
            found.push(Check::fail("nats", what).next("install a newer nats-server and restart it"));
        }
        if let Some(unit) = &symptoms.nats_full {
            let what =
                "its NATS could not write: its disk was full; whoever stores gets no answer until it is started anew";
            found.push(
                Check::fail("nats", what)
                    .next(format!("make room (df -h), then: systemctl restart {unit}; sessions run on")),
            );
        }
        let Some(store) = &self.server.store else { return };
        let used = store.limit_bytes.filter(|limit| *limit > 0).map(|limit| store.bytes.saturating_mul(100) / limit);
        if store.full {
            let what =
                format!("NATS refuses to store: its disk or max_file_store is full ({} MiB used)", store.bytes >> 20);
            let fix = "make room on its disk, or raise max_file_store in nats.conf and reload it; old sessions and recordings \
                       can be deleted";
            found.push(Check::fail("nats", what).next(fix));
        } else if let Some(used) = used.filter(|used| *used >= STORE_NEARLY) {
            let what = format!("NATS's store is {used} % full");
            found.push(Check::warn("nats", what).next("raise max_file_store in nats.conf, or delete old sessions"));
        }
    }

    fn kinds(&self, found: &mut Vec<Check>) {
        let symptoms = &self.facts.symptoms;
        if let Some(zed) = symptoms.zed.as_ref().filter(|_| symptoms.zed_missing) {
            let what = format!("{zed} is named as the Zed editor and is no program");
            found.push(
                Check::fail("zed-binary", what).next("put it there, or correct zed_binary (ZED_BINARY in agentd.env)"),
            );
        }
        // Without the editor a missing driver is nothing wrong.
        let vulkan = |what: String| {
            if symptoms.zed.is_some() { Check::fail("vulkan", what) } else { Check::warn("vulkan", what) }
        };
        match (&symptoms.lavapipe, &symptoms.mesa) {
            (None, _) => {
                let what = "no Vulkan driver that draws without a card (lvp_icd*.json): Zed is not offered".to_owned();
                found.push(vulkan(what).next(helix_mesa::FIX));
            }
            (Some(icd), Some(mesa)) if !is_at_least(mesa, (OLDEST, 0)) => {
                let what = format!("Mesa {mesa} ({icd}): Zed's windows stay black with less than {OLDEST}");
                found.push(vulkan(what).next(helix_mesa::FIX));
            }
            _ => {}
        }
        let offered = self.server.runner.as_ref().and_then(|view| view.facts.as_ref());
        let Some(offered) = offered else { return };
        for (kind, reason) in &offered.unavailable_kinds {
            // Nobody needs all that are shipped; what an operator has put there is meant.
            let meant = symptoms.own_kinds.iter().any(|own| own == kind.as_str());
            if meant || kind.as_str() == "zed" && symptoms.zed.is_some() {
                let what = format!("kind {kind} is not offered: {reason}");
                found.push(Check::fail("kinds", what).next("bring what it needs, then: systemctl reload agentd"));
            }
        }
        if let Some(reason) = &offered.no_rdp {
            found.push(Check::warn("kinds", format!("sessions cannot be reached by RDP: {reason}")));
        }
    }

    fn limits(&self, found: &mut Vec<Check>) {
        let symptoms = &self.facts.symptoms;
        let set = |setting: &str| format!("sysctl -w {setting}; echo {setting} >/etc/sysctl.d/60-helix.conf");
        let programs = "browsers and other programs with a sandbox of their own do not start in sessions";
        if symptoms.user_namespaces == Some(0) {
            let what = format!("there are no user namespaces (user.max_user_namespaces=0): {programs}");
            found.push(Check::warn("user-namespaces", what).next(set("user.max_user_namespaces=15000")));
        }
        if let Some(setting) = symptoms.userns_restricted {
            let name = setting.split('=').next().unwrap_or_default();
            let what = format!("user namespaces are kept from users ({name}): {programs}");
            found.push(Check::warn("user-namespaces", what).next(set(setting)));
        }
        if let Some(most) = symptoms.files_max.filter(|most| *most < FILES_LEAST) {
            let what = format!("all programs together may open {most} files (fs.file-max)");
            found.push(Check::warn("descriptors", what).next(set("fs.file-max=1000000")));
        }
        if let Some(most) = symptoms.descriptors.filter(|most| *most < DESCRIPTORS_LEAST) {
            let what = format!("agentd may open {most} files: many sessions with viewers need more");
            let fix = "see LimitNOFILE: systemctl cat agentd; the hard limit of a container is its host's matter";
            found.push(Check::warn("descriptors", what).next(fix));
        }
    }

    fn leftovers(&self, found: &mut Vec<Check>) {
        let left = &self.facts.symptoms.leftovers;
        if !left.is_empty() {
            let what = format!("a dead install left: {}", left.join(", "));
            let fix = format!(
                "helixctl runner remove {host} --force takes it away; helixctl provision {host} takes it over",
                host = self.host
            );
            found.push(Check::fail("leftovers", what).next(fix));
        }
    }
}

/// What is seen where nothing is wrong; None where there is nothing to tell.
fn as_it_should(name: &'static str, facts: &Facts, server: &ServerSide) -> Option<Check> {
    let symptoms = &facts.symptoms;
    let view = server.runner.as_ref();
    let text = match name {
        "system" => {
            let libc = facts.glibc.map_or_else(String::new, |version| format!(", glibc {version}"));
            format!("{}, {}, systemd {}{libc}", facts.distribution_name, facts.arch, facts.systemd)
        }
        "disk" => format!("{} MiB free", facts.disk_mib),
        "memory" => format!("{} MiB, {} processors", facts.memory_mib, facts.processors),
        "clock" => "right".to_owned(),
        "cgroups" => format!("version {}: {}", facts.cgroup, facts.controllers.join(", ")),
        "packages" => "those of desktops are there".to_owned(),
        "apt" => "free".to_owned(),
        "signing-key" => facts.signer.as_ref().map(|_| "pinned".to_owned())?,
        "agentd" => {
            let version = symptoms.agentd_version.as_deref().unwrap_or("of unknown version");
            let others = if facts.other_agents.is_empty() {
                String::new()
            } else {
                format!("; also {}", facts.other_agents.join(", "))
            };
            format!("{version}, {}{others}", facts.unit.status)
        }
        "token" => view.map(|_| "taken".to_owned())?,
        "runner" => {
            view.map(|view| format!("{}, heard, {} of {} slots used", view.id, view.active_tasks, view.slots))?
        }
        "server" => symptoms.server.clone()?,
        "nats" => server.store.as_ref().map(|store| format!("{}, {} MiB stored", store.nats, store.bytes >> 20))?,
        "port" => facts.port.as_ref().map_or_else(|| "free".to_owned(), |port| format!("{} is agentd's", port.port)),
        "agents" => return Some(agents::judge(&|program| symptoms.programs.iter().any(|has| has == program))),
        "kinds" => view
            .and_then(|view| view.facts.as_ref())
            .map(|facts| facts.kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))?,
        "zed-binary" => symptoms.zed.clone()?,
        "vulkan" => format!("Mesa {}", symptoms.mesa.as_deref().unwrap_or("of unknown version")),
        "user-namespaces" => "there are".to_owned(),
        "descriptors" => symptoms.descriptors.map(|most| format!("{most} for agentd"))?,
        "leftovers" => "none".to_owned(),
        "toolchains" => {
            let each = facts.toolchains.iter().map(|(name, version)| format!("{name} {version}"));
            let all: Vec<_> = each.chain(facts.gpus.iter().map(|driver| format!("graphics card ({driver})"))).collect();
            if all.is_empty() { "none".to_owned() } else { all.join(", ") }
        }
        _ => return None,
    };
    Some(Check::ok(name, text))
}

fn is_at_least(version: &str, (major, minor): (u32, u32)) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

#[cfg(test)]
mod tests;
