//! The documents' REST contract: their curl lines verbatim, but for host and token.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::external_agents::{Logs, RdpConnection, Stats, ZedAgentResponse};
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::Socket;
use helix_tests::process::run;
use helix_tests::runner::RunnerSpec;
use helix_tests::{Cluster, ports, programs};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

const HOST: &str = "http://localhost:8080";
const CREATE: &str = r#"curl -X POST http://localhost:8080/api/v1/external-agents \
  -H "Content-Type: application/json" \
  -d '{
    "session_id": "session_123",
    "user_id": "user_456", 
    "input": "Help me implement a new feature",
    "project_path": "/workspace/my-project",
    "instance_id": "spec_task_789"
  }'"#;
const LIST: &str = "curl http://localhost:8080/api/v1/external-agents";
const ONE: &str = "curl http://localhost:8080/api/v1/external-agents/session_123";
const RDP: &str = "curl http://localhost:8080/api/v1/external-agents/session_123/rdp";
const FLEET: &str = "curl http://localhost:8080/api/v1/external-agents | jq '.[] | {id, status, active_tasks}'";
const HEALTH: &str = "curl http://localhost:3030/health";

/// A shell in which `curl` adds the token, from a file and not from the command line.
struct Shell {
    config: PathBuf,
    base: String,
}

impl Shell {
    fn new(cluster: &Cluster) -> Result<Self> {
        programs::installed("jq")?;
        let config = cluster.dir().join("curlrc");
        std::fs::write(
            &config,
            format!("silent\nshow-error\nheader = \"Authorization: Bearer {}\"\n", cluster.admin_token()),
        )?;
        Ok(Self { config, base: cluster.api()?.base().to_owned() })
    }

    async fn line(&self, line: &str) -> Result<String> {
        let line = line.replace(HOST, &self.base);
        let script =
            format!("set -o pipefail\ncurl() {{ command curl -K '{}' \"$@\"; }}\n{line}", self.config.display());
        let output = run(&programs::installed("bash")?, &["-c", &script], &[], secs(60)).await?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn json(&self, line: &str) -> Result<Value> {
        let text = self.line(line).await?;
        serde_json::from_str(&text).with_context(|| format!("{line}: {text}"))
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_curl_lines_work() -> Result<()> {
    let mut spec = RunnerSpec::new("external-zed-box");
    spec.health_port = ports::free()?;
    let health = HEALTH.replace("3030", &spec.health_port.to_string());
    let cluster = Cluster::builder().runner(spec).start().await?;
    let api = cluster.api()?;
    let shell = Shell::new(&cluster)?;

    // An idle fleet is a line per runner.
    eventually("the idle runner is shown", secs(20), || async {
        let fleet = shell.json(FLEET).await?;
        ensure!(fleet == json!({"id": "external-zed-box", "status": "available", "active_tasks": 0}), "{fleet}");
        Ok(())
    })
    .await?;
    shell.line(&health).await?;

    let created = shell.json(CREATE).await?;
    let shape: ZedAgentResponse = serde_json::from_value(created.clone())?;
    ensure!(shape.session_id == "session_123" && shape.id == "session_123", "{created}");
    ensure!(["queued", "assigned"].contains(&shape.status.as_str()), "{created}");
    let token = shape.auth_token.clone().context("no auth_token")?;
    ensure!(token.starts_with("ext_token_") && token.len() > 40, "weak token");
    ensure!(shape.rdp_url.is_none(), "an address that nothing answers: {created}");
    let password = shape.rdp_password.context("no rdp_password")?;
    ensure!(password.len() == 8, "{created}");
    let sync = shape.websocket_url.context("no websocket_url")?;
    ensure!(sync.starts_with("ws://") && sync.ends_with("/external-agents/sync?session_id=session_123"), "{sync}");
    let again = shell.json(CREATE).await?;
    ensure!(again["session_id"] == "session_123" && again["rdp_password"] == password.as_str(), "{again}");
    api.post("/api/v1/external-agents", &json!({"session_id": "session_123", "input": "something else"}))
        .await?
        .problem(409, "session_exists")?;

    api.wait_phase("session_123", SessionPhase::Ready, READY).await?;
    let one = shell.json(ONE).await?;
    ensure!(one["status"] == "running" && one["runner_id"] == "external-zed-box", "{one}");
    ensure!(one["pid"].as_u64().is_some_and(|pid| pid > 0), "{one}");
    ensure!(keys(&one) == keys(&created), "keys differ: {one} {created}");
    let list = shell.json(LIST).await?;
    let elements = list.as_array().context("not an array")?;
    ensure!(elements.len() == 2, "not the session and the runner: {list}");
    for element in elements {
        ensure!(keys(element) == keys(&created), "keys differ in {element}");
    }
    eventually("the runner shows its task", secs(20), || async {
        let fleet = shell.line(FLEET).await?;
        ensure!(fleet.contains("\"active_tasks\": 1"), "{fleet}");
        Ok(())
    })
    .await?;

    let rdp = shell.json(RDP).await?;
    let shape: RdpConnection = serde_json::from_value(rdp.clone())?;
    ensure!(shape.status == "running" && shape.reason.is_none() && shape.username == "zed", "{rdp}");
    ensure!(shape.rdp_url.is_none() && shape.rdp_password.is_some_and(|another| another != password), "{rdp}");
    ensure!(shape.proxy_url.is_some_and(|url| url.ends_with("/external-agents/session_123/rdp/proxy")), "{rdp}");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_other_routes_answer_as_written() -> Result<()> {
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1").slots(1)).start().await?;
    let api = cluster.api()?;
    let base = "/api/v1/external-agents";
    // Unknown fields are ignored here.
    let body = json!({"session_id": "a", "user_id": "u", "input": "echo out; echo err >&2; exit 4", "env": ["K=V"],
                      "work_dir": "/tmp/elsewhere", "rdp_port": 5900, "rdp_user": "root", "surprise": true});
    let created = api.post(base, &body).await?.expect(200)?;
    let secret = created["auth_token"].as_str().context("no auth_token")?.to_owned();
    api.wait_result("a", READY).await?;
    let known = api.get(&format!("{base}/a")).await?.expect(200)?;
    ensure!(known["auth_token"] == secret.as_str(), "the owner is not told the same token again");

    let stats: Stats = api.get(&format!("{base}/a/stats")).await?.json()?;
    ensure!(stats.status == "running" && stats.pid > 0 && stats.display_num.is_some(), "{stats:?}");
    ensure!(stats.start_time.is_some() && stats.workspace_dir.is_some() && stats.rdp_port.is_none(), "{stats:?}");
    let logs: Logs = api.get(&format!("{base}/a/logs?lines=100")).await?.json()?;
    ensure!(logs.lines as usize == logs.logs.len(), "{logs:?}");
    ensure!(logs.logs.iter().any(|line| line.starts_with("display: ")), "{logs:?}");
    ensure!(logs.logs.len() > 2, "{logs:?}");
    let last: Logs = api.get(&format!("{base}/a/logs?lines=2")).await?.json()?;
    ensure!(last.lines == 2 && last.logs == logs.logs[logs.logs.len() - 2..], "{last:?} of {logs:?}");
    let connections = api.get(&format!("{base}/connections")).await?.expect(200)?;
    ensure!(connections[0]["session_id"] == "a" && connections[0]["status"] == "ready", "{connections}");
    let command = json!({"type": "focus", "data": {}});
    api.post(&format!("{base}/a/command"), &command).await?.expect(200)?;

    // PUT changes what has not started yet.
    api.put(&format!("{base}/a"), &json!({"env": ["K=W"]})).await?.problem(409, "session_started")?;
    let queued = api.post(base, &json!({"session_id": "b", "input": "echo $K; pwd"})).await?.expect(200)?;
    ensure!(queued["status"] == "queued" && queued["runner_id"] == "", "{queued}");
    let change = json!({"env": ["K=changed"], "project_path": "/workspace/deep/down"});
    api.put(&format!("{base}/b"), &change).await?.expect(200)?;
    let done = api.delete(&format!("{base}/a")).await?.expect(200)?;
    ensure!(done["session_id"] == "a" && done["message"].is_string(), "{done}");
    let view = api.wait_result("b", READY).await?;
    let output = view.result.map(|result| result.output_tail).unwrap_or_default();
    let workspace = view.workspace.context("no workspace")?;
    ensure!(output == format!("changed\n{workspace}/deep/down\n"), "{output}");

    let nulls = json!({"session_id": null, "user_id": null, "input": "true", "env": null, "work_dir": null,
                       "project_path": null, "instance_id": null, "rdp_port": null, "rdp_user": null});
    let made_up = api.post(base, &nulls).await?.expect(200)?;
    ensure!(made_up["session_id"].as_str().is_some_and(|id| !id.is_empty()), "{made_up}");

    api.get(&format!("{base}/nobody")).await?.problem(404, "session_not_found")?;
    api.get(&format!("{base}/nobody/rdp")).await?.problem(404, "session_not_found")?;
    api.post(base, &json!({"session_id": "c", "input": ""})).await?.problem(400, "invalid_input")?;
    api.post(base, &json!({"session_id": "c", "input": "x".repeat(50_001)})).await?.problem(400, "invalid_input")?;
    api.post(base, &json!({"input": "true", "project_path": "x".repeat(256)}))
        .await?
        .problem(400, "invalid_request")?;
    api.get("/api/v1/ws/external-agent-runner?runnerid=x").await?.problem(410, "gone")?;
    // The session's own token opens its own session and nothing else.
    let known = api.get(&format!("{base}/b")).await?.expect(200)?;
    let own = api.with_token(known["auth_token"].as_str().context("no auth_token")?);
    ensure!(own.get("/api/v1/sessions/b").await?.status == 200, "the session's token does not open its session");
    ensure!(own.post_empty("/api/v1/sessions/b/stop").await?.status == 403, "the session's token may end it");
    cluster.shutdown().await
}

/// What xrdp answers to a client's first message, over a WebSocket of the documents'.
async fn first_answer(mut socket: Socket, user: &str) -> Result<Vec<u8>> {
    let cookie = format!("Cookie: mstshash={user}\r\n");
    let length = u8::try_from(11 + cookie.len() + 8)?;
    let request =
        [&[3, 0, 0, length, length - 5, 0xe0, 0, 0, 0, 0, 0][..], cookie.as_bytes(), &[1, 0, 8, 0, 3, 0, 0, 0]];
    socket.send(Message::Binary(request.concat().into())).await?;
    loop {
        match timeout(secs(20), socket.next()).await?.context("closed without a word")?? {
            Message::Binary(bytes) => return Ok(bytes.to_vec()),
            Message::Ping(_) | Message::Pong(_) => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_rdp_routes_say_what_works() -> Result<()> {
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1").slots(2)).start().await?;
    let api = cluster.api()?;
    let base = "/api/v1/external-agents";
    let rdp: RdpConnection = api.get(&format!("{base}/runners/r1/rdp")).await?.json()?;
    ensure!(rdp.session_id.is_empty() && rdp.status == "unavailable" && rdp.reason.is_some(), "{rdp:?}");
    api.create(&json!({"id": "a", "kind": "command", "input": "true"})).await?;
    api.wait_phase("a", SessionPhase::Ready, READY).await?;

    // The desktop over RDP, of a session, and of a runner that runs one.
    let paths =
        [format!("{base}/a/rdp"), "/api/v1/sessions/a/rdp-connection".to_owned(), format!("{base}/runners/r1/rdp")];
    let mut passwords = std::collections::BTreeSet::new();
    for path in paths {
        let rdp: RdpConnection = api.get(&path).await?.json()?;
        ensure!(rdp.session_id == "a" && rdp.status == "running" && rdp.reason.is_none(), "{path}: {rdp:?}");
        ensure!(rdp.display.is_some() && rdp.rdp_port.is_none() && rdp.host.is_none(), "{path}: {rdp:?}");
        ensure!(rdp.rdp_password_expires_at.is_some(), "{path}: {rdp:?}");
        passwords.extend(rdp.rdp_password);
    }
    ensure!(passwords.len() == 3, "not a new one each time");
    for path in [
        format!("{base}/a/rdp/proxy"),
        "/api/v1/sessions/a/rdp/proxy".to_owned(),
        format!("{base}/runners/r1/rdp/proxy"),
    ] {
        api.get(&path).await?.problem(400, "invalid_request")?;
        // X.224 connection confirm: with the protocol that was chosen, or with a failure.
        let answer = first_answer(api.socket(&path).await?, "zed").await?;
        ensure!(answer.len() == 19 && answer[5] == 0xd0 && answer[11] == 2, "{path}: {answer:?}");
        let answer = first_answer(api.socket(&path).await?, "root").await?;
        ensure!(answer.len() == 19 && answer[5] == 0xd0 && answer[11] == 3, "{path}: {answer:?}");
    }
    for path in [format!("{base}/nobody/rdp/proxy"), "/api/v1/sessions/nobody/rdp/proxy".to_owned()] {
        api.get(&path).await?.problem(404, "session_not_found")?;
    }
    api.get("/api/v1/sessions/nobody/rdp-connection").await?.problem(404, "session_not_found")?;
    for path in ["rdp", "rdp/proxy"] {
        api.get(&format!("{base}/runners/r2/{path}")).await?.problem(404, "runner_not_found")?;
    }
    api.create(&json!({"id": "b", "kind": "command", "input": "true"})).await?;
    api.wait_phase("b", SessionPhase::Ready, READY).await?;
    let rdp: RdpConnection = api.get(&format!("{base}/runners/r1/rdp")).await?.json()?;
    ensure!(rdp.status == "unavailable" && rdp.reason.is_some_and(|why| why.contains("several")), "which of two?");
    api.get(&format!("{base}/runners/r1/rdp/proxy")).await?.problem(503, "service_unavailable")?;

    // The sync socket speaks WebSocket only, and is refused before the upgrade.
    api.get(&format!("{base}/sync?session_id=a")).await?.problem(400, "invalid_request")?;
    api.get(&format!("{base}/sync?session_id=nobody")).await?.problem(404, "session_not_found")?;
    for query in ["", "?session_id=", "?session_id=a.b"] {
        api.get(&format!("{base}/sync{query}")).await?.problem(400, "invalid_request")?;
    }
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_the_documents_is_a_sessions_or_a_runners() -> Result<()> {
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1").slots(1)).start().await?;
    let api = cluster.api()?;
    let base = "/api/v1/external-agents";
    let runner: ZedAgentResponse = api.get(&format!("{base}/r1")).await?.json()?;
    ensure!(runner.id == "r1" && runner.runner_id == "r1" && runner.session_id.is_empty(), "{runner:?}");
    ensure!((runner.status.as_str(), runner.active_tasks, runner.max_tasks) == ("available", 0, 1), "{runner:?}");

    api.get(&format!("{base}/")).await?.problem(400, "invalid_request")?;
    api.put(&format!("{base}/"), &json!({})).await?.problem(400, "invalid_request")?;
    api.delete(&format!("{base}/")).await?.problem(400, "invalid_request")?;
    // Only sessions are changed and ended.
    api.put(&format!("{base}/r1"), &json!({})).await?.problem(404, "session_not_found")?;
    api.delete(&format!("{base}/r1")).await?.problem(404, "session_not_found")?;

    // One runs, one waits: what waits can be changed, within the same limits as a new one.
    api.create(&json!({"id": "a", "kind": "terminal"})).await?;
    api.create(&json!({"id": "b", "kind": "command", "input": "true"})).await?;
    for change in [
        json!({"input": "x".repeat(50_001)}),
        json!({"input": "another"}),
        json!({"project_path": "x".repeat(256)}),
        json!({"project_path": "../up"}),
        json!({"env": ["no value"]}),
        json!({"env": [format!("K={}", "x".repeat(70_000))]}),
    ] {
        api.put(&format!("{base}/b"), &change).await?.problem(400, "invalid_request")?;
    }
    api.put(&format!("{base}/b"), &json!({"input": "true", "env": null})).await?.expect(200)?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_runner_the_documents_post_is_unavailable() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let api = cluster.api()?;
    let answer = api.post("/api/v1/external-agents", &json!({"session_id": "none", "input": "true"})).await?;
    answer.problem(503, "no_runner")?;
    let list = api.get("/api/v1/external-agents").await?.expect(200)?;
    ensure!(list == json!([]), "{list}");
    // The canonical one queues.
    let view = api.create(&json!({"id": "waits", "kind": "terminal"})).await?;
    ensure!(view.phase == SessionPhase::Pending, "{}", view.phase);
    cluster.shutdown().await
}
