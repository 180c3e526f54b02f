//! `helixctl runner start|stop|restart`: an agentd, where it runs. Its sessions outlive it.

use std::time::Duration;

use serde::Serialize;

use super::place::Service;
use crate::error::{CliError, Result};
use crate::provision::last_words::{LastWords, SCRIPT};
use crate::ui::Ui;

/// Of the journal so much is told when it does not start, which systemctl waits for at most two minutes.
const OF_LATE: Duration = Duration::from_mins(3);

/// What is done.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Starts it.
    Start,
    /// Ends it, and it does not come again by itself before the machine starts anew.
    Stop,
    /// Ends and starts it.
    Restart,
}

/// What it prints with `--json`.
#[derive(Serialize)]
struct Done<'a> {
    name: &'a str,
    unit: String,
    state: String,
    /// Live sessions of it.
    sessions: usize,
}

/// Does it, by systemctl, and says what becomes of its sessions.
pub async fn run(service: &Service, action: Action, ui: &Ui) -> Result<()> {
    let verb = match action {
        Action::Start => "start",
        Action::Stop => "stop",
        Action::Restart => "restart",
    };
    service.systemctl(verb).await?;
    let sessions = service.sessions().await?;
    let state = service.state().await?;
    let done = Done { name: service.name.as_str(), unit: service.name.unit(), state, sessions: sessions.len() };
    ui.answer(&done, || ui.line(service.name.as_str()))?;
    if !ui.json {
        ui.note(&told(action, sessions.len()));
    }
    Ok(())
}

fn told(action: Action, sessions: usize) -> String {
    match (action, sessions) {
        (Action::Stop, 0) => "stopped; no session runs".to_owned(),
        (Action::Stop, _) => format!(
            "stopped; {sessions} sessions run on, the next start takes them over, and those with on_lost = restart are held \
             still when a server may call the runner lost"
        ),
        (_, 0) => "started".to_owned(),
        _ => format!("started; {sessions} sessions ran on and are taken over"),
    }
}

impl Service {
    /// One verb of systemctl. An error has what the service said.
    pub async fn systemctl(&self, verb: &str) -> Result<()> {
        let unit = self.name.unit();
        let said = self.place.ask(&["systemctl", verb, "--", &unit]).await?;
        if said.code == 0 {
            return Ok(());
        }
        let words = self.last_words(OF_LATE).await?;
        let why = [said.stderr.trim(), words.as_ref().map(LastWords::text).unwrap_or_default()].join("\n");
        Err(CliError::failed(format!("cannot {verb} {unit}"))
            .at(&self.place)
            .because(why.trim())
            .next(format!("systemctl status {unit}; as root, where this was not")))
    }

    /// Ends it for good, and what holds its sessions still while it is away.
    pub async fn end(&self) -> Result<()> {
        let hold = format!("agentd-hold@{}.service", self.name.stem());
        let said = self.place.ask(&["systemctl", "disable", "--now", "--quiet", "--", &self.name.unit()]).await?;
        if said.code != 0 {
            return Err(CliError::failed(format!("cannot end {}", self.name.unit()))
                .at(&self.place)
                .because(said.stderr.trim()));
        }
        self.place.ask(&["systemctl", "stop", "--", &hold]).await?;
        // What failed at some time stays in systemd's lists otherwise.
        self.place.ask(&["systemctl", "reset-failed", "--", &self.name.unit(), &hold]).await?;
        Ok(())
    }

    /// `active`, `inactive`, `failed`, …
    pub async fn state(&self) -> Result<String> {
        let said = self.place.ask(&["systemctl", "is-active", "--", &self.name.unit()]).await?;
        Ok(said.stdout.trim().to_owned())
    }

    /// How it fares, and what it said in a time that has passed; None where that cannot be told.
    pub async fn last_words(&self, passed: Duration) -> Result<Option<LastWords>> {
        let script = format!("{SCRIPT}\nlast_words \"$1\" \"$2\"");
        let since = format!("-{} s", passed.as_secs());
        let said = self.place.ask(&["sh", "-c", &script, "sh", &self.name.unit(), &since]).await?;
        Ok(LastWords::parse(&said.stdout))
    }
}
