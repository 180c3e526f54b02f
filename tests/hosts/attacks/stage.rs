//! What attacks happen on: a host with sessions that do what the test asks for, and what everybody knows of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use helix_tests::eventually::{eventually, secs};
use helix_tests::random::secret_hex;
use serde_json::json;

use super::replica::{Settings, quoted};
use super::table::{Edit, Pair};
use crate::fleet::{Fleet, RunnerSettings, STATE_DIR};
use crate::harness::{Boot, Host, ssh};
use crate::units::Units;

/// The programs of attacks, which every session can read.
const PROGRAMS: [&str; 10] = [
    "common.py",
    "stage.py",
    "ask.py",
    "victim.py",
    "desktop.py",
    "processes.py",
    "shared.py",
    "machine.py",
    "plant.py",
    "greed.py",
];
/// A session that runs the stage, with a session bus.
const KIND: &str = "description = \"The stage of attacks\"\n\
    command = [\"/bin/sh\", \"{{ root }}/input\"]\n\
    input = \"required\"\nreadiness = \"none\"\nrestart = \"no\"\non_exit = \"keep\"\ntask = true\ndbus = true\n\
    [[files]]\npath = \"input\"\nmode = \"0600\"\ncontent = \"{{ input }}\"\n";
/// Processes of a session, and how many an attacker asks for.
const TASKS: u32 = 150;
const MANY: u32 = 400;

/// The host and its sessions.
pub struct Stage {
    pub fleet: Fleet,
    pub host: Host,
    host_pair: Actors,
    alone_pair: Actors,
    tokens: BTreeMap<&'static str, String>,
    basics: BTreeMap<String, String>,
}

/// A victim and its attacker.
pub struct Actors {
    pub victim: Actor,
    pub attacker: Actor,
}

/// A session on the stage.
#[derive(Debug, Clone)]
pub struct Actor {
    pub id: String,
    pub key: String,
    user: String,
    uid: String,
    app: u32,
    guest: u32,
    display: u32,
    cookie: String,
    /// A secret of its environment.
    spec: String,
}

/// A program that keeps a secret in every place there is.
#[derive(Debug)]
pub struct Victim {
    secret: String,
    tag: String,
    port: String,
    /// What it told about itself.
    pub said: String,
    unit: bool,
}

/// What an attack answered.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<ssh::Output> for Outcome {
    fn from(output: ssh::Output) -> Self {
        Self { code: output.code, out: output.stdout, err: output.stderr }
    }
}

impl Victim {
    /// True if its secret is in this place.
    pub fn has(&self, place: &str) -> bool {
        place.is_empty() || self.told("up").is_some_and(|up| up.split(',').any(|word| word == place))
    }

    fn told(&self, name: &str) -> Option<&str> {
        self.said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

impl Actor {
    /// Starts a session that waits for what it shall do.
    pub async fn enter(fleet: &Fleet, host: &Host, id: String, network: &str) -> Result<Self> {
        let spec = format!("spec-{}", secret_hex(16)?);
        let mut body = json!({
            "id": id, "kind": "stage", "input": "exec python3 /opt/attacks/stage.py", "network": network,
            "env": {"SPEC_SECRET": spec}, "resources": {"tasks": TASKS, "memory": "1G"},
        });
        if network == "host" {
            // Something to be fetched: it starts a workspace unit.
            body["project"] = json!({"git": "git://127.0.0.1/project"});
        }
        fleet.ready(&body, secs(60)).await?;
        let units = Units::of(host, &id);
        let (key, user) = (units.key()?, units.user().await?);
        let (app, guest, display) = (units.pid("app").await?, units.pid("guest").await?, units.pid("display").await?);
        let uid = host.run_ok(&format!("id -u {user}")).await?;
        let dump = format!("od -An -v -tx1 {STATE_DIR}/s/{key}/Xauthority.agentd | tr -d ' \\n' | tail -c 32");
        let cookie = host.run_ok(&dump).await?;
        ensure!(cookie.len() == 32, "no cookie: {cookie}");
        let actor = Self { id, key, user, uid, app, guest, display, cookie, spec };
        eventually("the stage is open", secs(10), || async {
            host.run_ok(&format!("test -S {}", actor.door())).await.map(drop)
        })
        .await?;
        Ok(actor)
    }

    /// Its directory.
    pub fn dir(&self) -> String {
        format!("{STATE_DIR}/s/{}", self.key)
    }

    /// Its workspace, outside.
    pub fn workspace(&self) -> String {
        format!("{STATE_DIR}/workspaces/{}", self.id)
    }

    /// One of its units.
    pub fn unit(&self, word: &str) -> String {
        format!("helix-s{}-{word}.service", self.key)
    }

    fn door(&self) -> String {
        format!("{}/tmp/stage.sock", self.dir())
    }

    /// Runs a program in its agent.
    pub async fn run(&self, host: &Host, program: &str, environment: &BTreeMap<String, String>) -> Result<Outcome> {
        let mut words = program.split(' ');
        let file = format!("/opt/attacks/{}", words.next().context("no program")?);
        let argv: Vec<_> = ["python3", &file].into_iter().chain(words).collect();
        let job = json!({"argv": argv, "env": environment, "within": 20}).to_string();
        let line = format!("python3 /opt/attacks/ask.py {} {}", self.door(), quoted(&job));
        Ok(host.run(&line).await?.into())
    }
}

impl Stage {
    /// Boots the host and starts the sessions.
    pub async fn set() -> Result<Self> {
        let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
        install(&host).await?;
        fleet.join(&host, &RunnerSettings::default()).await?;
        let name = secret_hex(4)?;
        let actors = [("v", "host"), ("a", "host"), ("vn", "none"), ("an", "none")];
        let actors = actors.map(|(role, network)| Actor::enter(&fleet, &host, format!("{role}{name}"), network));
        let [victim, attacker, victim_alone, attacker_alone]: [Actor; 4] =
            try_join_all(actors).await?.try_into().map_err(|_| anyhow::anyhow!("four sessions"))?;
        ensure!(victim.user != attacker.user, "two sessions of one user");
        let token = host.run_ok(&format!("cat {STATE_DIR}/token")).await?;
        let tokens = BTreeMap::from([("token", token), ("enrolment", fleet.cluster.enrolment_token()?)]);
        let agentd = host.run_ok("systemctl show --value -p MainPID agentd").await?;
        let basics = [
            ("STATE", STATE_DIR.to_owned()),
            ("WORKSPACES", format!("{STATE_DIR}/workspaces")),
            ("RUNNER", "r1".to_owned()),
            ("AGENTD_PID", agentd),
            ("TARGET_UNIT", "attack-target.service".to_owned()),
            ("HOST_ADDRESS", host.address.to_string()),
            ("MANY", MANY.to_string()),
        ];
        let basics = basics.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let host_pair = Actors { victim, attacker };
        let alone_pair = Actors { victim: victim_alone, attacker: attacker_alone };
        Ok(Self { fleet, host, host_pair, alone_pair, tokens, basics })
    }

    /// The sessions of a pair.
    pub fn pair(&self, pair: Pair) -> &Actors {
        match pair {
            Pair::Host => &self.host_pair,
            Pair::Alone => &self.alone_pair,
        }
    }

    /// A fresh victim in the victim's agent.
    pub async fn victim(&self, pair: Pair) -> Result<Victim> {
        let mut victim = Victim::new()?;
        let outcome = self.pair(pair).victim.run(&self.host, "victim.py", &victim.environment("protected")).await?;
        ensure!(outcome.code == 0, "the victim: {outcome:?}");
        victim.said = format!("{}{}", outcome.out, outcome.err);
        Ok(victim)
    }

    /// A fresh victim in a replica of its unit, with changes.
    pub async fn exposed_victim(&self, pair: Pair, edits: &[Edit]) -> Result<Victim> {
        let mut victim = Victim { unit: true, ..Victim::new()? };
        let settings = Settings::of(&self.host, &self.pair(pair).victim.unit("app")).await?;
        let settings = settings.edited(edits, &settings, &self.basics)?;
        let said = "/run/attack-victim";
        let more = format!(
            "--unit=attack-victim -p Type=forking -p StandardOutput=truncate:{said} -p StandardError=append:{said}"
        );
        let line = settings.command(&more, &victim.environment("exposed"), "victim.py");
        let clear = "systemctl stop attack-victim 2>/dev/null";
        victim.said = self.host.run_ok(&format!("{clear}; {line} && cat {said}")).await?;
        Ok(victim)
    }

    /// Ends a victim.
    pub async fn clear(&self, victim: Victim) -> Result<()> {
        let pid = victim.told("V_PID").context("who is the victim?")?;
        let stop = if victim.unit { "; systemctl stop attack-victim" } else { "" };
        // Its main process leads a group of its own; message queues and memory would outlive it.
        let key = u32::from_str_radix(&victim.tag[..7], 16)?;
        let unlink = format!("import ctypes; ctypes.CDLL(None).mq_unlink(b\"/{}\")", victim.tag);
        let ipc =
            format!("nsenter -t {pid} -i sh -c 'ipcrm -M {key} -Q {key}; python3 -c '\\''{unlink}'\\' 2>/dev/null");
        self.host
            .run_ok(&format!(
                "{ipc}; kill -9 -- -{pid}{stop}; rm -rf /tmp/{0}* /var/tmp/{0}* /dev/shm/{0}*",
                victim.tag
            ))
            .await?;
        Ok(())
    }

    /// Everything but secrets.
    pub async fn knowledge(&self, pair: Pair, victim: &Victim) -> Result<BTreeMap<String, String>> {
        let Actors { victim: v, attacker: a } = self.pair(pair);
        let mut known = self.basics.clone();
        for (name, value) in [
            ("V_ID", v.id.clone()),
            ("V_KEY", v.key.clone()),
            ("V_S", v.dir()),
            ("V_UID", v.uid.clone()),
            ("V_WORKSPACE", v.workspace()),
            ("V_APP_PID", v.app.to_string()),
            ("V_DISPLAY_PID", v.display.to_string()),
            ("A_S", a.dir()),
            ("A_WORKSPACE", a.workspace()),
            ("A_DISPLAY_PID", a.display.to_string()),
            ("TAG", victim.tag.clone()),
            ("PORT", victim.port.clone()),
        ] {
            known.insert(name.to_owned(), value);
        }
        let told = victim.said.lines().filter(|line| line.starts_with("V_")).filter_map(|line| line.split_once('='));
        known.extend(told.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let target = "systemctl -q is-active attack-target || systemd-run -q --collect --unit=attack-target sleep 900";
        self.host.run_ok(target).await?;
        Ok(known)
    }

    /// What an attack may not find.
    pub fn secret(&self, name: &str, pair: Pair, victim: &Victim) -> Result<String> {
        let Actors { victim: v, attacker: a } = self.pair(pair);
        Ok(match name {
            "holder" => victim.secret.clone(),
            "cookie" => v.cookie.clone(),
            "id" => format!("desktop {}", v.id),
            "own id" => format!("desktop {}", a.id),
            "key" => format!("helix-s{}", v.key),
            "guest" => format!("guest of pid={}", v.guest),
            "spec" => v.spec.clone(),
            _ => self.tokens.get(name).cloned().with_context(|| format!("no secret {name}"))?,
        })
    }

    /// Lines with a session's fields that others wrote are not in the session's log; the sessions live as before.
    pub async fn nothing_was_forged(&self) -> Result<()> {
        let api = self.fleet.api()?;
        for actor in [&self.host_pair.victim, &self.host_pair.attacker, &self.alone_pair.victim] {
            let view = api.session(&actor.id).await?;
            ensure!(view.phase == helix_protocol::session::SessionPhase::Ready, "{view:#?}");
            let logs = api.get(&format!("/api/v1/sessions/{}/logs", actor.id)).await?;
            ensure!(logs.status.is_success(), "no log of {}: {}", actor.id, logs.text);
            ensure!(!logs.text.contains("forged by"), "a forged line in the log of {}:\n{}", actor.id, logs.text);
        }
        Ok(())
    }

    /// Ends everything, and proves that the sessions leave nothing.
    pub async fn close(self) -> Result<()> {
        self.host.stop().await?;
        self.fleet.stop().await
    }
}

impl Victim {
    fn new() -> Result<Self> {
        let port = 20000 + u32::from_str_radix(&secret_hex(2)?, 16)? % 10000;
        let (secret, tag) = (format!("secret-{}", secret_hex(16)?), secret_hex(6)?);
        Ok(Self { secret, tag, port: port.to_string(), said: String::new(), unit: false })
    }

    fn environment(&self, how: &str) -> BTreeMap<String, String> {
        [("SECRET", &*self.secret), ("TAG", &*self.tag), ("PORT", &*self.port), ("VICTIM", how)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }
}

/// Puts the programs of the attacks and the kind of their sessions on the host.
pub async fn install(host: &Host) -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("hosts/attacks");
    let files = PROGRAMS.map(|name| (dir.join(name), format!("/opt/attacks/{name}"), 0o644));
    let files: Vec<_> = files.iter().map(|(local, remote, mode)| (local.as_path(), remote.as_str(), *mode)).collect();
    host.install(&files).await?;
    let project = "git init -q /opt/git/project && cd /opt/git/project && echo x >x && git add x && \
         git -c user.name=t -c user.email=t@t commit -qm x && \
         systemd-run -q --unit=project -p Type=exec git daemon --base-path=/opt/git --export-all --listen=127.0.0.1";
    host.run_ok(project).await?;
    host.write("/etc/helix/kinds.d/stage.toml", KIND, 0o644).await
}
