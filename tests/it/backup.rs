//! Backups: what a destroyed store held comes back, whoever is killed meanwhile, and nothing half-done is taken for a fleet.

mod earlier;
mod trouble;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::runs;
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster};
use serde_json::{Value, json};

use crate::cli::{Cli, Done};
use crate::recording::complete;

/// `helixctl backup` and `restore` of a cluster.
pub struct Copies {
    cli: Cli,
    config: String,
}

impl Copies {
    pub fn of(cluster: &Cluster) -> Result<Self> {
        Ok(Self { cli: Cli::new(cluster)?, config: cluster.servers[0].settings().to_owned() })
    }

    /// Makes a backup; what it told.
    pub async fn save(&self, to: &Path) -> Result<Value> {
        self.cli.json(0, &["backup", text(to)?, "--config", &self.config]).await
    }

    /// Restores one; what it told.
    pub async fn restore(&self, file: &Path, more: &[&str]) -> Result<Value> {
        self.cli.json(0, &[&["restore", text(file)?, "--config", &self.config], more].concat()).await
    }

    /// A command that must end with `code`; what it said.
    pub async fn fails(&self, code: i32, args: &[&str]) -> Result<String> {
        let Done { code: found, stdout, stderr } = self.cli.run(&[args, &["--config", &self.config]].concat()).await?;
        ensure!(found == code && stdout.is_empty(), "{args:?}: exit code {found}\n{stdout}{stderr}");
        Ok(stderr)
    }
}

pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

/// Waits until the server serves.
pub async fn serves(api: &Api) -> Result<()> {
    eventually("the server serves", secs(60), || async {
        let answer = api.get("/readyz").await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
        Ok(())
    })
    .await
}

/// What changes by itself: usage, and when somebody was heard or connected.
const CHANGING: &[&str] = &["usage", "last_seen_at", "registered_at", "connected_at"];

/// What the API says of everything, but for that.
async fn everything(api: &Api, paths: &[String]) -> Result<Vec<(String, Value)>> {
    let mut all = Vec::new();
    for path in paths {
        let mut answer = api.get(path).await?.expect(200)?;
        without(&mut answer, CHANGING);
        all.push((path.clone(), answer));
    }
    Ok(all)
}

fn without(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !keys.contains(&key.as_str()));
            map.values_mut().for_each(|value| without(value, keys));
        }
        Value::Array(all) => all.iter_mut().for_each(|value| without(value, keys)),
        _ => {}
    }
}

/// A prompt in a new thread, to its end: the thread.
async fn thread(api: &Api, session: &str, prompt: &str) -> Result<String> {
    let created = api.post(&format!("/api/v1/sessions/{session}/threads"), &json!({"prompt": prompt})).await?;
    let created: Value = created.json()?;
    let id = created["id"].as_str().context("no thread")?.to_owned();
    answers(api, session, &id, prompt.trim_start_matches("echo ")).await?;
    Ok(id)
}

/// Waits until the thread has this answer.
async fn answers(api: &Api, session: &str, thread: &str, answer: &str) -> Result<()> {
    eventually(&format!("{answer:?} is answered"), READY, || async {
        let shown = api.get(&format!("/api/v1/sessions/{session}/threads/{thread}")).await?.expect(200)?;
        // The prompt names it, too.
        let count = shown.to_string().matches(answer).count();
        ensure!(count >= 2 && shown.to_string().contains("completed"), "{shown}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_store_comes_back_whole() -> Result<()> {
    let mut cluster = Cluster::builder().servers(2).runner(RunnerSpec::new("r1")).start().await?;
    let (api, copies) = (cluster.api()?, Copies::of(&cluster)?);
    let works = cluster.ready(&json!({"id": "works", "kind": "terminal", "labels": {"a": "b"}})).await?;
    cluster.ready(&json!({"id": "talks", "kind": "command"})).await?;
    let talk = thread(&api, "talks", "echo before").await?;
    let stored = api.put("/api/v1/secrets/MODEL_KEY", &json!({"value": "sealed-and-secret"})).await?;
    ensure!(stored.status.is_success(), "{} {}", stored.status, stored.text);
    let filmed = cluster.ready(&json!({"id": "filmed", "kind": "terminal", "recording": {}})).await?;
    let recording = filmed.recording.context("it is not recorded")?.to_string();
    let detail = complete(&api, "filmed", &recording).await?;
    let join: Value = api.post("/api/v1/tokens", &json!({"scope": "enrol", "runner": "r2"})).await?.json()?;
    let join = join["token"].as_str().context("no join token")?.to_owned();
    let own_token = cluster.runners[0].token()?;

    let paths = [
        "/api/v1/sessions",
        "/api/v1/sessions/works",
        "/api/v1/sessions/talks",
        "/api/v1/sessions/filmed",
        "/api/v1/runners",
        "/api/v1/secrets",
        "/api/v1/recordings",
        &format!("/api/v1/recordings/{recording}"),
        &format!("/api/v1/recordings/{recording}/events"),
        &format!("/api/v1/recordings/{recording}/heads"),
        "/api/v1/sessions/talks/threads",
        &format!("/api/v1/sessions/talks/threads/{talk}"),
    ];
    let paths = paths.map(str::to_owned);
    let before = everything(&api, &paths).await?;
    let file: PathBuf = cluster.dir().join("fleet.backup");
    let made = copies.save(&file).await?;
    ensure!(made["file"] == text(&file)? && made["streams"].as_array().is_some_and(|all| all.len() >= 12), "{made}");
    let permissions = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file)?.permissions());
    ensure!(permissions & 0o777 == 0o600, "{permissions:o}");

    // One server sees it happen, the other begins in the middle.
    cluster.servers[1].kill().await?;
    cluster.nats.empty().await?;
    serves(&api).await?;
    // The runner enrols with an emptied store, which then is none that is replaced without being asked for.
    cluster.runners_online(&api, 1).await?;
    let said = copies.fails(4, &["restore", text(&file)?]).await?;
    ensure!(said.contains("not empty") && said.contains("KV_helix_runners: 1") && said.contains("--force"), "{said}");
    copies.restore(&file, &["--force"]).await?;
    cluster.servers[1].start().await?;
    serves(&api).await?;
    serves(&cluster.api_of(1)?).await?;
    cluster.runners_online(&api, 1).await?;

    eventually("every answer is the same", secs(60), || async {
        for ((path, was), (_, now)) in before.iter().zip(everything(&api, &paths).await?) {
            ensure!(*was == now, "{path}:\nwas {was}\nnow {now}");
        }
        Ok(())
    })
    .await?;
    // Sessions ran on and are managed; tokens, conversations, recordings and secrets work.
    let now = api.session("works").await?;
    ensure!(!now.unclaimed && now.pid == works.pid && now.pid.is_some_and(runs), "{now:?}");
    helix_tests::rfb::Rfb::ticket(&api.ticket("works").await?.url).await?.full_frame().await?;
    ensure!(cluster.runners[0].token()? == own_token, "the runner had to enrol again");
    let path = format!("/api/v1/sessions/talks/threads/{talk}/prompts");
    api.post(&path, &json!({"prompt": "echo after"})).await?.expect(202)?;
    answers(&api, "talks", &talk, "after").await?;
    let body = json!({"id": "r2", "token_hash": helix_protocol::ids::secret_hash("another machine")});
    let enrolled = api.with_token(&join).post("/api/v1/runners/enrol", &body).await?;
    ensure!(enrolled.status.is_success(), "the join token: {} {}", enrolled.status, enrolled.text);
    ensure!(crate::recording::play(&api, &detail).await? > 0, "the recording shows nothing");
    let keyed = json!({"id": "keyed", "kind": "command", "input": "printf %s \"$MODEL_KEY\" | tr a-z A-Z",
                       "secrets": {"MODEL_KEY": null}});
    cluster.ready(&keyed).await?;
    let told = api.wait_result("keyed", READY).await?;
    ensure!(told.result.is_some_and(|result| result.output_tail == "SEALED-AND-SECRET"), "the secret does not open");
    api.stop("works").await?;
    api.wait_phase("works", SessionPhase::Stopped, READY).await?;
    cluster.shutdown().await
}
