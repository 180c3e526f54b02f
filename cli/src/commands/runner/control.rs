//! `helixctl runner start|stop|restart`: an agentd, where it runs. Its sessions outlive it.

use serde::Serialize;

use super::place::Service;
use crate::error::{CliError, Result};
use crate::ui::Ui;

/// Last lines of the journal that an error shows.
const LINES: &str = "15";

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
    /// One verb of systemctl. An error has the last lines of its journal.
    pub async fn systemctl(&self, verb: &str) -> Result<()> {
        let unit = self.name.unit();
        let said = self.place.ask(&["systemctl", verb, "--", &unit]).await?;
        if said.code == 0 {
            return Ok(());
        }
        let why = [said.stderr.trim().to_owned(), self.last_lines().await?].join("\n");
        Err(CliError::failed(format!("cannot {verb} {unit}"))
            .at(&self.place)
            .because(why.trim())
            .next(format!("systemctl status {unit}; as root, where this was not")))
    }

    /// `active`, `inactive`, `failed`, …
    pub async fn state(&self) -> Result<String> {
        let said = self.place.ask(&["systemctl", "is-active", "--", &self.name.unit()]).await?;
        Ok(said.stdout.trim().to_owned())
    }

    /// The end of its journal.
    pub async fn last_lines(&self) -> Result<String> {
        let unit = self.name.unit();
        let said = self.place.ask(&["journalctl", "--no-pager", "-o", "cat", "-n", LINES, "-u", &unit]).await?;
        Ok(said.stdout.trim_end().to_owned())
    }
}
