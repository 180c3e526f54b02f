//! A session's files, commands and terminals, through the server, as a client and as helixctl have them.

mod commands;
mod copies;
mod documents;
mod files;
mod terminals;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::api::SessionView;
use helix_protocol::tools::{Exit, Failure, Notice};
use helix_tests::eventually::secs;
use helix_tests::http::Socket;
use helix_tests::{Api, Cluster};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = secs(60);

/// A cluster with one session, `desk`, in which nothing but a desktop runs.
async fn desk() -> Result<(Cluster, Api, SessionView)> {
    let cluster = Cluster::small().await?;
    let view = cluster.ready(&json!({"id": "desk", "kind": "terminal", "env": {"OWN": "of the spec"}})).await?;
    let api = cluster.api()?;
    Ok((cluster, api, view))
}

fn workspace(view: &SessionView) -> Result<PathBuf> {
    Ok(PathBuf::from(view.workspace.clone().context("it has no workspace")?))
}

/// A request that the harness's own client is too simple for.
fn request(api: &Api, method: Method, path: &str, query: &[(&str, &str)]) -> Result<RequestBuilder> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = reqwest::Url::parse_with_params(&format!("{}/api/v1/sessions/{path}", api.base()), query)?;
    Ok(client.request(method, url).bearer_auth(api.token()))
}

/// A program's socket.
struct Program {
    socket: Socket,
}

/// What came of it.
#[derive(Debug)]
enum Said {
    Bytes(Vec<u8>),
    Notice(Notice),
}

impl Program {
    async fn exec(api: &Api, request: &Value) -> Result<Self> {
        let mut program = Self { socket: api.socket("/api/v1/sessions/desk/exec").await? };
        program.say(request).await?;
        Ok(program)
    }

    async fn terminal(api: &Api, name: &str) -> Result<Self> {
        let path = format!("/api/v1/sessions/desk/terminals/{name}?cols=90&rows=30");
        let mut program = Self { socket: api.socket(&path).await? };
        match program.next().await? {
            Said::Notice(Notice::Attached(view)) if view.name == name => Ok(program),
            other => bail!("{other:?}"),
        }
    }

    async fn say(&mut self, value: &Value) -> Result<()> {
        Ok(self.socket.send(Message::Text(value.to_string().into())).await?)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.socket.send(Message::Binary(bytes.to_vec().into())).await?)
    }

    async fn next(&mut self) -> Result<Said> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.context("nothing came")?;
            return match message.context("the socket ended")?? {
                Message::Binary(bytes) => Ok(Said::Bytes(bytes.to_vec())),
                Message::Text(text) => match serde_json::from_str(text.as_str())? {
                    Notice::Taken { .. } => continue,
                    notice => Ok(Said::Notice(notice)),
                },
                Message::Ping(_) | Message::Pong(_) => continue,
                other => bail!("{other:?}"),
            };
        }
    }

    /// Everything until the end: standard output, standard error and how it ended.
    async fn rest(&mut self) -> Result<(Vec<u8>, Vec<u8>, Exit)> {
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        loop {
            match self.next().await? {
                Said::Bytes(bytes) => match bytes.split_first() {
                    Some((1, rest)) => out.extend_from_slice(rest),
                    Some((2, rest)) => errors.extend_from_slice(rest),
                    other => bail!("an unmarked frame: {other:?}"),
                },
                Said::Notice(Notice::Started { .. }) => {}
                Said::Notice(Notice::Exit(exit)) => return Ok((out, errors, exit)),
                Said::Notice(other) => bail!("{other:?}"),
            }
        }
    }

    async fn failure(&mut self) -> Result<Failure> {
        match self.next().await? {
            Said::Notice(Notice::Failed(failure)) => Ok(failure),
            other => bail!("{other:?}"),
        }
    }

    /// What a terminal shows, until these words are there.
    async fn until(&mut self, words: &str) -> Result<String> {
        let (mut seen, mut searched) = (String::new(), 0);
        while !seen[searched..].contains(words) {
            // Not all of it again: there may be megabytes.
            searched = seen.len().saturating_sub(2 * words.len());
            while !seen.is_char_boundary(searched) {
                searched -= 1;
            }
            let last = seen.len().saturating_sub(300);
            let tail = || seen.get(last..).unwrap_or_default().to_owned();
            match self.next().await.with_context(|| format!("no {words:?} behind {:?}", tail()))? {
                Said::Bytes(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                Said::Notice(other) => bail!("{other:?} instead of {words:?}"),
            }
        }
        Ok(seen)
    }
}

/// The session's tools, of which there is one.
fn tools_of(view: &SessionView) -> Result<u32> {
    let words = "agentd tools --socket=";
    let workspace = view.workspace.clone().unwrap_or_default();
    let found: Vec<u32> = helix_tests::leftovers::processes_saying(words)?
        .into_iter()
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&format!("--workspace={workspace}")))
        })
        .collect();
    ensure!(found.len() == 1, "{found:?}");
    Ok(found[0])
}
