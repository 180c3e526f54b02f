//! What happened on the hosts, as their sessions said it: which copy of which session was alive when, and which prompt ran.
//!
//! Sessions of kind `chaos` are of kind `command`, and each copy says five times a second that it is alive, under a
//! name that no other copy has. All hosts have one clock here, so times of two hosts can be compared.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use crate::harness::Host;

/// The kind of its sessions.
pub const KIND: &str = "chaos";
/// What a prompt calls.
const SAY: &str = "/usr/local/bin/say";
const COPY: &str = "/usr/local/bin/copy";
const LOG: &str = "/var/log/witness";
const KIND_FILE: &str = include_str!("../../../packaging/kinds/command.toml");
const UNIT: &str = "[Service]\nExecStart=python3 /usr/local/lib/witness.py\nRestart=always\nRestartSec=0\n\
                    [Install]\nWantedBy=multi-user.target\n";

/// The life of one copy, in seconds of the clock.
#[derive(Debug, Clone)]
pub struct Life {
    /// Where.
    pub host: String,
    /// Another one for each epoch.
    pub mark: String,
    /// Its first word.
    pub first: f64,
    /// Its last word.
    pub last: f64,
}

/// What all hosts have heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// By session and copy.
    lives: BTreeMap<String, BTreeMap<String, Life>>,
    /// By word and name of the prompt.
    prompts: BTreeMap<(String, String), Vec<Word>>,
}

/// Something that a prompt said.
#[derive(Debug, Clone)]
pub struct Word {
    /// In which session.
    pub session: String,
    /// Where.
    pub host: String,
    /// When, in seconds of the clock.
    pub at: f64,
}

/// A prompt of this name, which takes so many milliseconds.
pub fn prompt(name: &str, milliseconds: u64) -> String {
    let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
    format!("{SAY} begins {name}; sleep {seconds}.{rest:03}; echo answer to {name}; {SAY} ends {name}")
}

/// Puts witness and kind on a host, before its agentd starts.
pub async fn install(host: &Host) -> Result<()> {
    let agent = "\"-e\", \"{{ agentd }}\"";
    ensure!(KIND_FILE.contains(agent), "kind command has another form now:\n{KIND_FILE}");
    let kind = KIND_FILE.replace(agent, &format!("\"-e\", \"{COPY}\", \"{{{{ agentd }}}}\""));
    host.write(&format!("/etc/helix/kinds.d/{KIND}.toml"), &kind, 0o644).await?;
    host.write(COPY, include_str!("copy.sh"), 0o755).await?;
    host.write(SAY, include_str!("say.sh"), 0o755).await?;
    host.write("/usr/local/lib/witness.py", include_str!("witness.py"), 0o644).await?;
    host.write("/etc/systemd/system/witness.service", UNIT, 0o644).await?;
    host.run_ok("systemctl daemon-reload && systemctl enable -q --now witness.service").await?;
    Ok(())
}

impl Heard {
    /// Of all these hosts.
    pub async fn of(hosts: &[Host]) -> Result<Self> {
        let mut heard = Self::default();
        for host in hosts {
            for line in host.get(LOG).await?.lines() {
                heard.line(&host.name, line)?;
            }
        }
        Ok(heard)
    }

    fn line(&mut self, host: &str, line: &str) -> Result<()> {
        let words: Vec<_> = line.split(' ').collect();
        match *words.as_slice() {
            ["alive", session, mark, copy, at] => {
                let at: f64 = at.parse().with_context(|| line.to_owned())?;
                let new = Life { host: host.to_owned(), mark: mark.to_owned(), first: at, last: at };
                let copies = self.lives.entry(session.to_owned()).or_default();
                copies.entry(copy.to_owned()).and_modify(|life| life.last = at.max(life.last)).or_insert(new);
            }
            [word @ ("begins" | "ends"), session, name, at] => {
                let at: f64 = at.parse().with_context(|| line.to_owned())?;
                let said = Word { session: session.to_owned(), host: host.to_owned(), at };
                self.prompts.entry((word.to_owned(), name.to_owned())).or_default().push(said);
            }
            _ => anyhow::bail!("the witness of {host} wrote {line:?}"),
        }
        Ok(())
    }

    /// Where and when a prompt began, and where and when it ended.
    pub fn prompt(&self, name: &str) -> (&[Word], &[Word]) {
        let of =
            |word: &str| self.prompts.get(&(word.to_owned(), name.to_owned())).map(Vec::as_slice).unwrap_or_default();
        (of("begins"), of("ends"))
    }

    /// On how many hosts a session lived, and in how many epochs.
    pub fn extent(&self, session: &str) -> (usize, usize) {
        let lives = || self.lives.get(session).into_iter().flat_map(BTreeMap::values);
        let hosts: BTreeSet<_> = lives().map(|life| &life.host).collect();
        let epochs: BTreeSet<_> = lives().map(|life| &life.mark).collect();
        (hosts.len(), epochs.len())
    }

    /// Fails where two copies of a session were alive at once, ever.
    pub fn never_two(&self) -> Result<usize> {
        for (session, copies) in &self.lives {
            let mut lives: Vec<_> = copies.values().collect();
            lives.sort_by(|one, other| one.first.total_cmp(&other.first));
            for pair in lives.windows(2) {
                ensure!(pair[0].last < pair[1].first, "two live copies of {session}: {pair:#?}");
            }
        }
        Ok(self.lives.values().map(BTreeMap::len).sum())
    }
}
