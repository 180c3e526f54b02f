//! The playbook on bare hosts: a control plane with its bus and two runners, from our packages and one inventory. The same
//! state as `helixctl provision` makes, and the second run changes nothing.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_protocol::runner::Liveness;
use helix_tests::certificates::Certificates;
use helix_tests::eventually::secs;
use helix_tests::http::Api;
use helix_tests::{programs, repository};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::{Boot, Case, Host, Suite, lab, start_all};
use crate::packages;
use crate::provision::repository::Repository;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![Case::always("ansible::a_playbook_makes_a_fleet", a_playbook_makes_a_fleet)]
}

/// Who types: a directory of their own, with inventory and keys.
struct Operator {
    dir: PathBuf,
    /// The server, as everybody reaches it.
    server: String,
    bin: PathBuf,
    /// Of the bus.
    certificates: Certificates,
}

/// What a run of the playbook said.
struct Played {
    code: i32,
    said: String,
}

impl Played {
    /// Every host's line of the recap holds this.
    fn expect(&self, code: i32, hosts: &[Host], word: &str) -> Result<()> {
        let recap = self.said.rsplit_once("PLAY RECAP").map_or("", |(_, recap)| recap);
        let all = hosts.iter().all(|host| {
            let address = format!("{} ", host.address);
            recap.lines().any(|line| line.starts_with(&address) && line.contains(word))
        });
        ensure!(self.code == code && all, "exit code {}, not {word} on all hosts\n{}", self.code, self.said);
        Ok(())
    }
}

impl Operator {
    async fn new(hosts: &[Host]) -> Result<Self> {
        let dir = lab::dir().join(format!("ansible-{}", hosts[0].name));
        let bin = dir.join("installed/usr/bin");
        for part in ["inventory", "installed"] {
            std::fs::create_dir_all(dir.join(part))?;
        }
        let mut fleet = "[defaults]\nuser = \"root\"\npool = \"ci\"\nlabels = { site = \"cellar\" }\n".to_owned();
        let mut known = String::new();
        for (number, host) in hosts.iter().enumerate() {
            let _ = write!(fleet, "[[host]]\nhost = \"{}\"\nidentity = \"{}\"\n", host.address, host.key.display());
            if number == 1 {
                fleet.push_str("runner = \"second\"\nslots = 4\nlabels = { rack = \"7\" }\n");
            }
            let _ = writeln!(known, "{} {}", host.address, host.get("/etc/ssh/ssh_host_ed25519_key.pub").await?);
        }
        std::fs::write(dir.join("fleet.toml"), fleet)?;
        std::fs::write(dir.join("known_hosts"), known)?;
        let settings = format!("UserKnownHostsFile {}\nIdentitiesOnly yes\n", dir.join("known_hosts").display());
        std::fs::write(dir.join("ssh_config"), settings)?;
        std::fs::copy(repository().join("ansible/inventory/fleet.py"), dir.join("inventory/fleet.py"))?;
        let first = hosts[0].address;
        let servers = format!("servers:\n  hosts:\n    {first}:\nnats:\n  hosts:\n    {first}:\n");
        std::fs::write(dir.join("inventory/servers.yml"), servers)?;
        let certificates = Certificates::make_for(&dir, "", &[&first.to_string()])?;
        let operator = Self { certificates, server: format!("http://{first}:8080"), bin, dir };
        // helixctl, and the agentd beside it, are those of the packages.
        let packages = packages::of_version("0.1.0").await?;
        for name in ["helixctl", "helix-agentd"] {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(packages.deb(name)?).arg(operator.dir.join("installed"));
            ensure!(unpack.status().await?.success(), "dpkg-deb -x {name}");
        }
        Ok(operator)
    }

    fn secret(&self, name: &str) -> PathBuf {
        self.dir.join("secrets").join(name)
    }

    fn surroundings(&self, command: &mut Command) {
        command.env("HOME", &self.dir).env("HELIX_FLEET", self.dir.join("fleet.toml"));
        command.env("HELIXCTL", self.bin.join("helixctl")).env("HELIX_URL", &self.server);
        for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "HELIX_STATE_DIR", "HELIX_TOKEN", "SSH_AUTH_SOCK"] {
            command.env_remove(name);
        }
        // Before the first run there is none.
        if let Ok(token) = std::fs::read_to_string(self.secret("admin.token")) {
            command.env("HELIX_TOKEN", token.trim());
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
    }

    async fn play(&self, args: &[&str]) -> Result<Played> {
        let packages = packages::of_version("0.1.0").await?;
        let mut command = Command::new(programs::ansible("ansible-playbook")?);
        let variables = serde_json::json!({
            "helix_server": self.server,
            "helix_server_nats": self.server.replace("http", "tls").replace("8080", "4222"),
            "helix_nats_ca": self.certificates.ca,
            "nats_listen": "0.0.0.0",
            "nats_tls_cert": self.certificates.cert,
            "nats_tls_key": self.certificates.key,
            "helix_packages_dir": packages.dir,
            "helix_secrets_dir": self.dir.join("secrets"),
            "helix_token_file": self.secret("admin.token"),
            "nats_program": programs::nats_server()?,
        });
        command.args(["-v", "site.yml", "--inventory"]).arg(self.dir.join("inventory")).arg("--ssh-common-args");
        command.arg(format!("-F {}", self.dir.join("ssh_config").display()));
        command.args(["--extra-vars", &variables.to_string()]).args(args);
        self.surroundings(&mut command);
        command.current_dir(repository().join("ansible")).env("ANSIBLE_NOCOLOR", "1");
        let output = timeout(secs(600), command.output()).await.context("ansible-playbook does not end")??;
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let token = std::fs::read_to_string(self.secret("admin.token")).unwrap_or_default();
        ensure!(token.is_empty() || !said.contains(token.trim()), "it tells the admin's token");
        Ok(Played { code: output.status.code().context("a signal ended it")?, said })
    }

    /// What `helixctl provision` would change on the same hosts, from the same inventory.
    async fn differences(&self) -> Result<Value> {
        let helixctl = self.bin.join("helixctl");
        let mut made = Command::new(&helixctl);
        self.surroundings(made.args(["key", "new"]));
        ensure!(made.output().await?.status.success(), "helixctl key new");
        let mut command = Command::new(&helixctl);
        command.args(["--json", "provision", "--check", "--diff", "--inventory"]).arg(self.dir.join("fleet.toml"));
        command.arg("--ssh-config").arg(self.dir.join("ssh_config"));
        self.surroundings(&mut command);
        let output = timeout(secs(60), command.output()).await.context("helixctl does not end")??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).with_context(|| format!("not JSON; {said}"))
    }
}

/// Where an operator has a proxy with TLS: the server, which listens on loopback, is at the host's address, too.
async fn open_door(host: &Host) -> Result<()> {
    let door = format!(
        "systemd-run -q --unit=door --socket-property=ListenStream={}:8080 \
         /usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:8080",
        host.address
    );
    host.run_ok(&door).await.map(|_| ())
}

async fn a_playbook_makes_a_fleet() -> Result<()> {
    let hosts = start_all([Boot::container().bare(), Boot::container().suite(Suite::Trixie).bare()]).await?;
    open_door(&hosts[0]).await?;
    let _offered = Repository::offer(&hosts).await?;
    for host in &hosts {
        packages::with_documents(host).await?;
    }
    let operator = Operator::new(&hosts).await?;

    // From nothing: packages, secrets, bus, server, and two runners that have each shown a first frame.
    operator.play(&[]).await?.expect(0, &hosts, "failed=0")?;
    let token = std::fs::read_to_string(operator.secret("admin.token"))?;
    let api = Api::new(&operator.server, token.trim())?;
    let runners = api.runners().await?;
    for (id, slots, rack) in [(hosts[0].name.as_str(), 8, None), ("second", 4, Some("7"))] {
        let runner =
            runners.iter().find(|runner| runner.id.as_str() == id).with_context(|| format!("no runner {id}"))?;
        let facts = runner.facts.as_ref().context("an online runner has facts")?;
        let label = |name: &str| facts.labels.get(name).map(String::as_str);
        ensure!(runner.liveness == Liveness::Online && runner.slots == slots, "{runner:?}");
        ensure!(label("pool") == Some("ci") && label("site") == Some("cellar") && label("rack") == rack, "{facts:?}");
    }
    ensure!(api.sessions().await?.is_empty(), "a test session is left");
    for host in &hosts {
        let modes = host.run_ok("stat -c '%a %U' /etc/helix/agentd.toml /etc/helix/agentd.token; ls -A /var/cache/helix /tmp/*.deb 2>/dev/null; true");
        let modes = modes.await?;
        ensure!(modes == "600 root\n600 root", "{modes}");
    }

    // Again: nothing changes.
    operator.play(&[]).await?.expect(0, &hosts, "changed=0 ")?;

    // And nothing is left for `helixctl provision` but its own key.
    let report = operator.differences().await?;
    for number in 0..hosts.len() {
        let host = &report["hosts"][number];
        let changes = host["changes"].as_array().context("changes")?;
        ensure!(changes.len() == 1 && changes[0]["what"] == "key", "{host:#}");
    }

    // The inventory knows what the server knows.
    let mut listed = Command::new(operator.dir.join("inventory/fleet.py"));
    operator.surroundings(listed.arg("--list"));
    let listed: Value = serde_json::from_slice(&listed.output().await?.stdout)?;
    let [first, second] = [hosts[0].address.to_string(), hosts[1].address.to_string()];
    for (group, members) in [
        ("runners", vec![&first, &second]),
        ("online", vec![&second, &hosts[0].name]),
        // The file calls it by its address, and says no other name.
        ("unlisted", vec![&hosts[0].name]),
        ("label_rack_7", vec![&second]),
    ] {
        ensure!(listed[group]["hosts"] == serde_json::json!(members), "{group}: {listed:#}");
    }

    // Each proof can fail: a desktop that does not come up, a server and a bus that are not there.
    let impatient = ["--tags", "verify", "--extra-vars", "helix_patience=2"];
    let broken: [(&Host, &str, &str, &str, &str); 3] = [
        (&hosts[1], "runners", "chmod -x /usr/bin/Xtigervnc", "chmod +x /usr/bin/Xtigervnc", "See that it is ready"),
        (&hosts[0], "nats", "systemctl stop helix-nats", "systemctl start helix-nats", "Wait until it has its store"),
        (&hosts[0], "servers", "systemctl stop helix-server", "systemctl start helix-server", "Wait until it is ready"),
    ];
    for (host, group, spoil, mend, task) in broken {
        host.run_ok(spoil).await?;
        let limit = format!("{group}:&{}", host.address);
        let played = operator.play(&[&impatient[..], &["--limit", &limit]].concat()).await?;
        ensure!(played.code == 2 && played.said.contains("failed=1"), "after {spoil}:\n{}", played.said);
        let failed = played.said.split("TASK [").find(|part| part.contains("fatal: [")).unwrap_or_default();
        ensure!(failed.contains(task), "it failed in another task than {task:?}:\n{}", played.said);
        host.run_ok(mend).await?;
    }
    for host in hosts {
        host.stop().await?;
    }
    Ok(())
}
