//! What only a person knows: passphrases of keys, passwords of logins and the password for sudo. Each is asked once in a run,
//! whatever the number of hosts, and only at a terminal; nothing of it is kept. A login's password goes to its own host alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::stdin;
use crate::ui::Ui;

/// Answers of this run. Cheap to clone.
#[derive(Clone)]
pub struct Prompts {
    ui: Ui,
    answers: Arc<Mutex<BTreeMap<String, String>>>,
    sudo_file: Option<PathBuf>,
}

/// Not the answers.
impl std::fmt::Debug for Prompts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prompts").finish_non_exhaustive()
    }
}

impl Prompts {
    /// Nothing is asked yet. The password for sudo may be in a file.
    pub fn new(ui: &Ui, sudo_file: Option<PathBuf>) -> Self {
        Self { ui: ui.clone(), answers: Arc::default(), sudo_file }
    }

    /// The passphrase of a key.
    pub async fn passphrase(&self, key: &Path) -> Result<String, String> {
        self.ask(&format!("the passphrase of {}", key.display()), "load the key into an agent: ssh-add").await
    }

    /// The password of a login, `user@host:port`.
    pub async fn password(&self, place: &str) -> Result<String, String> {
        self.ask(&format!("the password of {place}"), "log in with a key: ssh-copy-id").await
    }

    /// True when somebody can be asked.
    pub fn somebody(&self) -> bool {
        stdin::is_terminal()
    }

    /// The password for sudo.
    pub async fn sudo(&self) -> Result<String, String> {
        let Some(file) = &self.sudo_file else {
            return self.ask("the password for sudo on the hosts", "give --sudo-password-file FILE").await;
        };
        let text = tokio::fs::read_to_string(file).await.map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }

    async fn ask(&self, what: &str, otherwise: &str) -> Result<String, String> {
        // Held while a person types: everybody else who needs the same waits for the answer.
        let mut answers = self.answers.lock().await;
        if let Some(answer) = answers.get(what) {
            return Ok(answer.clone());
        }
        if !stdin::is_terminal() {
            return Err(format!("{what} is needed and there is no terminal to ask at; {otherwise}"));
        }
        let line = stdin::hidden_line(|| self.ui.warn(&format!("type {what} (it is not shown), then Return"))).await;
        let line = line.map_err(|error| error.why.unwrap_or(error.what))?;
        let answer = line.trim_end_matches(['\n', '\r']).to_owned();
        answers.insert(what.to_owned(), answer.clone());
        Ok(answer)
    }
}
