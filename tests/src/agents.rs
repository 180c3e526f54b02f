//! A real ACP agent from npm, and a model on loopback that says what the test's prompts say (`tests/agents/model.mjs`).

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::{programs, repository};

/// The model starts within this time.
const PATIENCE: Duration = Duration::from_mins(1);

/// Directory with the program `opencode`, as `packaging/setup.sh test` brings it.
pub fn opencode() -> Result<PathBuf> {
    let dir = repository().join("tests/agents/node_modules/.bin");
    ensure!(dir.join("opencode").is_file(), "{} has no opencode: run packaging/setup.sh test", dir.display());
    Ok(dir)
}

/// Environment of a session whose OpenCode asks before it writes, talks to the model at `url`, with the key that is in
/// the variable `key`, and to nobody else.
pub fn opencode_environment(url: &str, key: &str) -> Value {
    let config = json!({
        "model": "test/scripted",
        "permission": {"edit": "ask", "bash": "ask"},
        "provider": {"test": {
            "npm": "@ai-sdk/openai-compatible", "name": "Test",
            "options": {"baseURL": url, "apiKey": format!("{{env:{key}}}")},
            "models": {"scripted": {"name": "Scripted", "limit": {"context": 100_000, "output": 4000}}},
        }},
        "autoupdate": false,
        "share": "disabled",
    });
    json!({
        "OPENCODE_CONFIG_CONTENT": config.to_string(),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        // Nobody is there: what would go to the Internet fails at once.
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1",
    })
}

/// A running model.
pub struct Model {
    /// Its base address, `http://…/v1`.
    pub url: String,
    requests: Arc<Mutex<Vec<Value>>>,
    _child: Child,
}

impl Model {
    /// Starts it.
    pub async fn start() -> Result<Self> {
        let mut child = Command::new(programs::installed("node")?)
            .arg(repository().join("tests/agents/model.mjs"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start node")?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let url = timeout(PATIENCE, lines.next_line()).await.context("the model does not start")??;
        let url = url.context("the model ended")?;
        let requests: Arc<Mutex<Vec<Value>>> = Arc::default();
        let heard = requests.clone();
        // Ends with the model.
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(request) = serde_json::from_str(&line) {
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                }
            }
        });
        Ok(Self { url, requests, _child: child })
    }

    /// What was asked of it: `key`, and `asked`, the last message.
    pub fn requests(&self) -> Vec<Value> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
