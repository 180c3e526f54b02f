//! `helixctl doctor HOST`: each fault is made on a host, found, and gone when it is mended.
//!
//! What a container cannot have (another C library, 32 bits, no systemd, cgroup version 2 without a controller of the
//! kernel's) is proved on recorded facts, beside the judgement (`cli/src/provision/check.rs`, `commands/doctor/diagnosis.rs`).

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use serde_json::Value;

use super::stage::{self, Stage};
use crate::harness::{Boot, Host, lab};

/// Holds apt's lock until it is stopped.
const HOLD: &str = "systemd-run --quiet --unit=holder -p Type=notify -p NotifyAccess=all python3 -c 'import fcntl, os, time\n\
                    file = open(\"/var/lib/dpkg/lock-frontend\", \"w\"); fcntl.lockf(file, fcntl.LOCK_EX)\n\
                    os.system(\"systemd-notify --ready\"); time.sleep(600)'";
/// Listens on the port of `/health`.
const LISTEN: &str = "systemd-run --quiet --unit=squatter -p Type=notify -p NotifyAccess=all python3 -c 'import _socket, os, time\n\
                      it = _socket.socket(); it.setsockopt(1, 2, 1); it.bind((\"0.0.0.0\", 3030)); it.listen(1)\n\
                      os.system(\"systemd-notify --ready\"); time.sleep(600)'";

/// What a look found.
pub struct Look {
    pub code: i32,
    checks: Vec<Value>,
}

impl Look {
    pub async fn at(stage: &Stage, args: &[&str], user: &str) -> Result<Self> {
        let destination = format!("{user}@{}", stage.hosts[0].address);
        let settings = stage.ssh_config();
        let mut all = args.to_vec();
        all.extend(["doctor", "--ssh-config", &settings, &destination]);
        let (code, json) = stage.json(&all).await?;
        let checks = json["hosts"][0]["checks"].as_array().with_context(|| format!("no checks: {json}"))?.clone();
        Ok(Self { code, checks })
    }

    /// What is not as it should be.
    pub fn wrong(&self) -> String {
        let wrong = self.checks.iter().filter(|check| check["state"] != "ok");
        wrong.map(|check| format!("{check}\n")).collect::<Vec<_>>().concat()
    }

    /// Fails unless a check of this name and state says these words, and what to do.
    pub fn says(&self, state: &str, name: &str, words: &str) -> Result<()> {
        let found = self.checks.iter().any(|check| {
            let has = |key: &str, words: &str| check[key].as_str().is_some_and(|text| text.contains(words));
            check["name"] == name && check["state"] == state && has("found", words) && has("next", "")
        });
        ensure!(found, "no {state} of {name} with {words:?} in\n{}", self.wrong());
        Ok(())
    }
}

pub async fn doctor_tells_ways_apart() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    let bare = stage::traces(host).await?;

    // Who is not let in learns why, as in provisioning.
    let look = Look::at(&stage, &[], "nobody").await?;
    ensure!(look.code == 4, "{}: {}", look.code, look.wrong());
    look.says("fail", "login", "takes no key of ours for user nobody")?;
    let settings = std::fs::read_to_string(stage.ssh_config())?;
    let another = stage.dir.join(".config/helix/provision.key").display().to_string();
    std::fs::write(stage.ssh_config(), settings.replace(&host.key.display().to_string(), &another))?;
    let look = Look::at(&stage, &[], "root").await?;
    look.says("fail", "login", "takes no key of ours for user root")?;
    std::fs::write(stage.ssh_config(), settings)?;
    let known = std::fs::read_to_string(stage.known_hosts())?;
    let other = std::fs::read_to_string(stage.dir.join(".config/helix/provision.key.pub"))?;
    std::fs::write(stage.known_hosts(), format!("{} {other}", host.address))?;
    let look = Look::at(&stage, &[], "root").await?;
    ensure!(look.code == 4, "{}: {}", look.code, look.wrong());
    look.says("fail", "login", "line 1 names another key")?;
    std::fs::write(stage.known_hosts(), known)?;
    host.run_ok("mv /etc/sudoers.d/ops /root/sudoers.ops").await?;
    let look = Look::at(&stage, &[], "ops").await?;
    ensure!(look.code == 4, "{}: {}", look.code, look.wrong());
    look.says("fail", "login", "cannot become root")?;
    host.run_ok("mv /root/sudoers.ops /etc/sudoers.d/ops").await?;

    // A bare host is told of what it lacks, and of the way to the server: each break of it is another one.
    let look = Look::at(&stage, &[], "ops").await?;
    look.says("warn", "agentd", "it is no runner")?;
    look.says("fail", "packages", "tigervnc-scraping-server")?;
    look.says("warn", "cgroups", "cgroup version 1")?;
    look.says("warn", "vulkan", "no Vulkan driver")?;
    ensure!(look.checks.iter().any(|check| check["name"] == "server" && check["state"] == "ok"), "{}", look.wrong());
    ensure!(look.checks[0]["found"].as_str().is_some_and(|found| found.contains("root by sudo")), "{}", look.checks[0]);
    host.run_ok(
        "nft 'add table ip lab; add chain ip lab out { type filter hook output priority 0 ; policy accept ; }; \
         add rule ip lab out tcp dport 81 drop'",
    )
    .await?;
    let port = stage.fleet.cluster.servers.first().context("no server")?.port();
    let ways = [
        ("http://no-such-name.invalid".to_owned(), "finds no address for that name"),
        (format!("http://{}:1", lab::SERVER), "nothing listens there"),
        (format!("http://{}:81", lab::SERVER), "packets are dropped on the way"),
        (format!("https://{}:{port}", lab::SERVER), "TLS fails"),
    ];
    for (url, words) in &ways {
        let look = Look::at(&stage, &["--url", url], "root").await?;
        ensure!(look.code == 1, "{}: {}", look.code, look.wrong());
        look.says("fail", "server", words)?;
        look.says("warn", "runner", "the server was not asked")?;
    }
    host.run_ok("nft delete table ip lab").await?;
    stage::same(&bare, &stage::traces(host).await?)?;
    stage.stop().await
}

pub async fn doctor_finds_what_is_wrong() -> Result<()> {
    let stage = Stage::start([Boot::container()]).await?;
    let host = &stage.hosts[0];
    // The one program of desktops that hosts of tests lack.
    host.run_ok("ln -s /bin/true /usr/bin/X0tigervnc").await?;
    stage.provision(&[]).await?.expect(0, "changed")?;
    let well = Look::at(&stage, &[], "root").await?;
    ensure!(well.code == 0, "a runner that is well is not:\n{}", well.wrong());
    ensure!(well.checks.len() > 18, "it was hardly looked at: {:?}", well.checks);

    at_once(&stage, host).await?;
    let mended = Look::at(&stage, &[], "root").await?;
    ensure!(mended.wrong() == well.wrong(), "mended, it has\n{}\nit had\n{}", mended.wrong(), well.wrong());
    agentd(&stage, host).await?;
    dead_install(&stage, host).await?;
    stage.stop().await
}

/// Faults that do not hide each other.
async fn at_once(stage: &Stage, host: &Host) -> Result<()> {
    // By itself: a full disk over /var/lib hides the lock.
    host.run_ok(HOLD).await?;
    let look = Look::at(stage, &[], "root").await?;
    look.says("warn", "apt", "apt is held by /usr/bin/python3")?;
    host.run_ok("systemctl stop holder").await?;
    host.run_ok(
        "mkdir -p /tmp/full/helix && mount -t tmpfs -o size=200m,nr_inodes=60 tmpfs /tmp/full && \
         cp -a /var/lib/helix /tmp/full/ && mount --bind /tmp/full /var/lib && \
         mount --bind /usr /usr && mount -o remount,ro,bind /usr",
    )
    .await?;
    // The machine's clock is not ours to set: what tells the time there is an hour ahead.
    let ahead = "#!/bin/sh\nif [ \"$1\" = +%s ]; then echo $(($(/usr/bin/date +%s) + 3600)); else exec /usr/bin/date \"$@\"; fi\n";
    // /usr is read-only by now.
    host.run_ok("mount -t tmpfs -o size=1m tmpfs /usr/local/bin").await?;
    host.write("/usr/local/bin/date", ahead, 0o755).await?;
    host.write("/usr/local/bin/nats-server", "#!/bin/sh\necho 'nats-server: v2.9.25'\n", 0o755).await?;
    let old = "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'systemd 247 (247.3)'; else exec /usr/bin/systemctl \"$@\"; fi\n";
    host.write("/usr/local/bin/systemctl", old, 0o755).await?;
    host.run_ok(
        "sed 's/^memory/unknown/' /proc/cgroups >/tmp/cgroups && mount --bind /tmp/cgroups /proc/cgroups && \
         echo 0 >/tmp/zero && mount --bind /tmp/zero /proc/sys/user/max_user_namespaces && \
         echo 1000 >/tmp/files && mount --bind /tmp/files /proc/sys/fs/file-max",
    )
    .await?;
    host.run_ok("mkdir -p /etc/vulkan/icd.d && printf 'ELF Mesa 22.3.6 (LLVM 15)' >/etc/vulkan/old.so").await?;
    let icd = r#"{"file_format_version": "1.0.0", "ICD": {"library_path": "/etc/vulkan/old.so"}}"#;
    host.write("/etc/vulkan/icd.d/lvp_icd.x86_64.json", icd, 0o644).await?;
    host.write("/etc/helix/agentd.env", "ZED_BINARY=/opt/zed/none\n", 0o600).await?;

    let look = Look::at(stage, &[], "root").await?;
    ensure!(look.code == 1, "{}", look.code);
    for (state, name, words) in [
        ("fail", "disk", "MiB of disk are free"),
        ("fail", "disk", "more files fit"),
        ("fail", "disk", "/usr is read-only"),
        ("fail", "clock", "s ahead of this machine's"),
        ("warn", "clock", "was set forward by"),
        ("fail", "system", "its systemd is 247"),
        ("fail", "cgroups", "its cgroups lack memory"),
        ("fail", "nats", "its nats-server is 2.9.25"),
        ("warn", "user-namespaces", "max_user_namespaces=0"),
        ("warn", "descriptors", "1000 files (fs.file-max)"),
        ("fail", "vulkan", "Mesa 22.3.6"),
        ("fail", "zed-binary", "/opt/zed/none is named"),
    ] {
        look.says(state, name, words)?;
    }
    host.run_ok(
        "umount /proc/cgroups /proc/sys/user/max_user_namespaces /proc/sys/fs/file-max; \
         umount /usr/local/bin; mount -o remount,rw,bind /usr; umount --lazy /usr; umount --lazy /var/lib; umount --lazy /tmp/full; \
         rm -r /etc/vulkan /etc/helix/agentd.env",
    )
    .await?;
    Ok(())
}

/// Faults of the runner itself, one after the other.
async fn agentd(stage: &Stage, host: &Host) -> Result<()> {
    // Stopped, somebody takes its port, and it runs with fewer descriptors than it wants.
    host.run_ok("systemctl stop agentd").await?;
    let look = Look::at(stage, &[], "root").await?;
    look.says("fail", "agentd", "agentd.service is inactive")?;
    host.run_ok(LISTEN).await?;
    host.run_ok(
        "mkdir -p /run/systemd/system/agentd.service.d && printf '[Service]\\nLimitNOFILE=512\\n' \
         >/run/systemd/system/agentd.service.d/low.conf && systemctl daemon-reload && systemctl start agentd",
    )
    .await?;
    let look = Look::at(stage, &[], "root").await?;
    look.says("warn", "port", "port 3030 is taken by python3")?;
    look.says("warn", "port", "squatter.service")?;
    look.says("warn", "descriptors", "agentd may open 512 files")?;
    host.run_ok(
        "systemctl stop squatter && rm -r /run/systemd/system/agentd.service.d && systemctl daemon-reload && \
         systemctl restart agentd",
    )
    .await?;

    // A kind of the operator's whose program is not there, as the server hears of it.
    let kind = host.run_ok("cat /usr/share/helix/kinds/goose.toml").await?;
    host.run_ok("mkdir -p /etc/helix/kinds.d").await?;
    host.write("/etc/helix/kinds.d/mine.toml", &kind.replace("goose", "mine"), 0o644).await?;
    host.run_ok("systemctl restart agentd").await?;
    eventually("the kind is told of", secs(30), || async {
        Look::at(stage, &[], "root").await?.says("fail", "kinds", "kind mine is not offered")
    })
    .await?;
    host.run_ok("rm -r /etc/helix/kinds.d").await?;

    // Settings that it does not take.
    host.run_ok("cp -a /etc/helix/agentd.toml /root/ && sed -i '1i speed = 3' /etc/helix/agentd.toml").await?;
    host.run("systemctl restart agentd").await?;
    let look = Look::at(stage, &[], "root").await?;
    look.says("fail", "agentd", "agentd.service is failed")?;
    look.says("fail", "agentd", "speed")?;
    host.run_ok("mv /root/agentd.toml /etc/helix/ && systemctl disable -q agentd && systemctl start agentd").await?;
    Look::at(stage, &[], "root").await?.says("warn", "agentd", "not started when the machine starts")?;

    // The server takes its token back.
    host.run_ok("systemctl enable -q agentd && systemctl stop agentd").await?;
    let api = stage.fleet.api()?;
    eventually("the runner can be removed", secs(60), || async {
        api.delete(&format!("/api/v1/runners/{}", host.name)).await?.expect(204).map(drop)
    })
    .await?;
    let look = Look::at(stage, &[], "root").await?;
    look.says("fail", "token", "the server knows no runner")?;
    host.run_ok("systemctl start agentd").await?;
    eventually("agentd says why", secs(30), || async {
        Look::at(stage, &[], "root").await?.says("fail", "token", "its token is not taken")
    })
    .await?;
    // And a run that never came to its end.
    host.run_ok(
        "mkdir -p /var/lib/helix/provision/runs/17-dead && echo armed >/var/lib/helix/provision/runs/17-dead/state",
    )
    .await?;
    Look::at(stage, &[], "root").await?.says("warn", "agentd", "neither confirmed nor undone (run 17-dead)")?;
    host.run_ok("rm -r /var/lib/helix/provision/runs/17-dead").await?;
    Ok(())
}

/// The program is gone, and what it ran is not.
async fn dead_install(stage: &Stage, host: &Host) -> Result<()> {
    host.run_ok(
        "systemctl stop agentd; rm /usr/bin/agentd; \
         systemd-run --quiet --uid=helix-u1 --unit=helix-sdead-app --slice=helix-sdead.slice sleep 600",
    )
    .await?;
    let look = Look::at(stage, &[], "root").await?;
    ensure!(look.code == 1, "{}", look.code);
    for left in [
        "unit helix-sdead-app.service",
        "link /etc/systemd/system/multi-user.target.wants/agentd.service",
        "helix-u1 (1)",
    ] {
        look.says("fail", "leftovers", left)?;
    }
    host.run_ok("systemctl stop helix-sdead-app").await?;
    Ok(())
}

/// A guest has a kernel, and so a clock, of its own.
pub async fn doctor_sees_a_clock_that_was_set() -> Result<()> {
    let stage = Stage::start([Boot::guest()]).await?;
    let host = &stage.hosts[0];
    let look = Look::at(&stage, &[], "root").await?;
    ensure!(!look.wrong().contains("was set"), "{}", look.wrong());
    ensure!(!look.wrong().contains("cgroup version 1"), "{}", look.wrong());
    host.run_ok("date -s @$(($(date +%s) - 3600))").await?;
    let look = Look::at(&stage, &[], "root").await?;
    look.says("fail", "clock", "behind this machine's")?;
    look.says("warn", "clock", "was set back by 3")?;
    host.run_ok("date -s @$(($(date +%s) + 3600)) && sysctl -q -w user.max_user_namespaces=0 fs.file-max=2000").await?;
    let look = Look::at(&stage, &[], "root").await?;
    ensure!(!look.wrong().contains("was set"), "{}", look.wrong());
    look.says("warn", "user-namespaces", "max_user_namespaces=0")?;
    look.says("warn", "descriptors", "fs.file-max")?;
    stage.stop().await
}
