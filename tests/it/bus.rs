//! NATS away, emptied, restarted; what an observer sees; credentials that expire.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use futures::StreamExt;
use helix_protocol::external_agents::{AgentHeartbeat, AgentResponse, Register, Task};
use helix_protocol::session::SessionPhase;
use helix_protocol::subject;
use helix_tests::Cluster;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs, throughout};
use helix_tests::process::runs;
use helix_tests::runner::RunnerSpec;
use helix_tests::server::Times;
use serde_json::json;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_requests_are_503_and_sessions_run_on() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let view = cluster.ready(&json!({"id": "stays", "kind": "terminal"})).await?;
    let pid = view.pid.context("no pid")?;
    cluster.nats.kill().await?;

    let answer = eventually("a creation is refused", secs(20), || async {
        let answer = api.post("/api/v1/sessions", &json!({"kind": "terminal"})).await?;
        ensure!(answer.status == 503, "{} {}", answer.status, answer.text);
        Ok(answer)
    })
    .await?;
    ensure!(answer.headers.contains_key("retry-after"), "no Retry-After");
    answer.problem(503, "store_unavailable")?;
    ensure!(api.get("/healthz").await?.status == 200, "the server itself is well");
    ensure!(api.get("/readyz").await?.status == 503, "it says to be ready");
    throughout("the session runs on", secs(2), || async {
        ensure!(runs(pid), "the agent ended");
        Ok(())
    })
    .await?;

    cluster.nats.restart().await?;
    eventually("the server serves again", secs(30), || async {
        let view = api.session("stays").await?;
        ensure!(view.phase == SessionPhase::Ready && view.pid == Some(pid), "{view:?}");
        Ok(())
    })
    .await?;
    cluster.runners_online(&api, 1).await?;
    cluster.ready(&json!({"id": "next", "kind": "terminal"})).await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_nats_ends_nothing() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let api = cluster.api()?;
    let adopted = cluster.ready(&json!({"id": "adopted", "kind": "terminal", "labels": {"a": "b"}})).await?;
    let ended = cluster.ready(&json!({"id": "ended", "kind": "terminal"})).await?;
    let pids = [adopted.pid.context("no pid")?, ended.pid.context("no pid")?];
    cluster.nats.empty().await?;

    for id in ["adopted", "ended"] {
        eventually("the session is shown as unclaimed", secs(60), || async {
            let view = api.session(id).await?;
            ensure!(view.unclaimed && view.phase == SessionPhase::Ready, "{view:?}");
            Ok(())
        })
        .await?;
    }
    ensure!(pids.iter().all(|pid| runs(*pid)), "an emptied store ended a session");
    ensure!(api.sessions().await?.iter().all(|view| view.unclaimed), "not all are unclaimed");

    let answer = api.post_empty("/api/v1/sessions/adopted/adopt").await?;
    ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text);
    eventually("the adopted session is managed again", secs(30), || async {
        let view = api.session("adopted").await?;
        ensure!(!view.unclaimed && view.phase == SessionPhase::Ready && view.pid == adopted.pid, "{view:?}");
        Ok(())
    })
    .await?;
    api.stop("ended").await?;
    api.wait_phase("ended", SessionPhase::Stopped, READY).await?;
    ensure!(runs(pids[0]) && !runs(pids[1]), "the wrong one was stopped");
    // The adopted one can be seen and ended like any other.
    helix_tests::rfb::Rfb::ticket(&api.ticket("adopted").await?.url).await?.full_frame().await?;
    api.stop("adopted").await?;
    api.wait_phase("adopted", SessionPhase::Stopped, READY).await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_sees_the_fleet_live_and_changes_nothing() -> Result<()> {
    let mut cluster = Cluster::builder().runner(RunnerSpec::new("seen")).start().await?;
    let api = cluster.api()?;
    let observer = cluster.observer().await?;
    let mut all = observer.subscribe("external_agents.>").await?;
    observer.flush().await?;

    // What `nats stream info EXTERNAL_AGENTS` asks for.
    let info = timeout(secs(10), observer.request("$JS.API.STREAM.INFO.EXTERNAL_AGENTS", "".into())).await??;
    let info: serde_json::Value = serde_json::from_slice(&info.payload)?;
    ensure!(info["config"]["name"] == "EXTERNAL_AGENTS" && info["config"]["storage"] == "file", "{info}");
    let mut subjects: Vec<String> = serde_json::from_value(info["config"]["subjects"].clone())?;
    subjects.sort();
    let mut expected = subject::EXTERNAL_AGENTS_STORED.map(str::to_owned).to_vec();
    expected.sort();
    ensure!(subjects == expected, "{subjects:?}");

    cluster.runners[0].terminate().await?;
    cluster.runners[0].start().await?;
    let secret =
        json!({"id": "watched", "kind": "command", "input": "echo the outcome", "env": {"KEY": "s3cret-value"}});
    cluster.ready(&secret).await?;
    // Ready does not wait for the command: stopped earlier, it would have no outcome to tell.
    api.wait_result("watched", READY).await?;
    api.stop("watched").await?;
    api.wait_phase("watched", SessionPhase::Stopped, READY).await?;

    let mut seen: BTreeMap<String, Vec<bytes::Bytes>> = BTreeMap::new();
    let complete = |seen: &BTreeMap<String, Vec<bytes::Bytes>>| -> bool {
        let tasks = seen.get("external_agents.agent.seen").map_or(0, Vec::len);
        let finished = seen.get(subject::RESPONSE).is_some_and(|all| {
            all.iter()
                .any(|one| serde_json::from_slice::<AgentResponse>(one).is_ok_and(|one| one.status == "completed"))
        });
        [subject::REGISTER, subject::HEARTBEAT].iter().all(|subject| seen.contains_key(*subject))
            && tasks >= 2
            && finished
    };
    let collect = async {
        while !complete(&seen) {
            let message = all.next().await.context("the subscription ended")?;
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            ensure!(!text.contains("s3cret-value"), "a secret goes to observers on {}: {text}", message.subject);
            seen.entry(message.subject.to_string()).or_default().push(message.payload);
        }
        Ok(())
    };
    timeout(secs(20), collect).await.with_context(|| "not everything was published")??;

    let register: Register = serde_json::from_slice(&seen[subject::REGISTER][0])?;
    ensure!(
        register.agent_id == "seen" && register.agent_type == "zed_external" && register.max_tasks == 4,
        "{register:?}"
    );
    ensure!(register.reply_subject == "external_agents.agent.seen", "{register:?}");
    let heartbeat: AgentHeartbeat = serde_json::from_slice(&seen[subject::HEARTBEAT][0])?;
    ensure!(
        heartbeat.agent_id == "seen" && ["available", "busy"].contains(&heartbeat.status.as_str()),
        "{heartbeat:?}"
    );
    for task in &seen["external_agents.agent.seen"] {
        let task: Task = serde_json::from_slice(task)?;
        if let Task::ZedTask { auth_token, .. } = task {
            ensure!(auth_token.is_none(), "a token goes to observers");
        }
    }
    let outcome = seen[subject::RESPONSE]
        .iter()
        .filter_map(|one| serde_json::from_slice::<AgentResponse>(one).ok())
        .find_map(|response| response.result)
        .context("no response carries the result")?;
    ensure!(outcome.exit_status == 0 && outcome.output_tail == "the outcome\n", "{outcome:?}");

    // It may look, and nothing else.
    for subject in [
        "external_agents.register",
        "up.seen.report",
        "down.seen.sync",
        "$KV.helix_sessions.watched",
        "$JS.API.STREAM.DELETE.EXTERNAL_AGENTS",
        "$JS.API.STREAM.PURGE.EXTERNAL_AGENTS",
    ] {
        let answer = timeout(secs(3), observer.request(subject, "{}".into())).await;
        ensure!(!matches!(answer, Ok(Ok(_))), "the observer's {subject} was answered");
    }
    let bus = jetstream::new(cluster.bus().await?);
    ensure!(
        bus.get_stream(subject::STREAM_EXTERNAL_AGENTS).await?.cached_info().state.messages > 0,
        "the stream was purged"
    );
    cluster.shutdown().await
}

/// Number of the runner's connection at the bus, among what the system account tells.
async fn connection_of(operator: &async_nats::Client, runner: &str) -> Result<u64> {
    let subject = format!("$SYS.REQ.SERVER.{}.CONNZ", operator.server_info().server_id);
    let answer = timeout(secs(5), operator.request(subject, "{}".into())).await??;
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
    let connections = answer["data"]["connections"].as_array().with_context(|| answer.to_string())?;
    let name = format!("agentd {runner}");
    let of_runner = connections.iter().find(|connection| connection["name"] == name.as_str());
    of_runner.and_then(|connection| connection["cid"].as_u64()).with_context(|| format!("{name} is not connected"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_runner_is_back_within_seconds() -> Result<()> {
    let mut cluster = Cluster::small().await?;
    let operator = cluster.nats.restart_with_operator().await?;
    let api = cluster.api()?;
    eventually("the server has found NATS again", secs(30), || async {
        ensure!(api.get("/readyz").await?.status == 200, "not ready");
        Ok(())
    })
    .await?;
    let view = cluster.ready(&json!({"id": "untouched", "kind": "terminal"})).await?;
    let agentd = cluster.runners[0].pid().context("agentd does not run")?;
    let kicked = connection_of(&operator, "r1").await?;

    let subject = format!("$SYS.REQ.SERVER.{}.KICK", operator.server_info().server_id);
    let answer = timeout(secs(5), operator.request(subject, json!({"cid": kicked}).to_string().into())).await??;
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload)?;
    ensure!(answer.get("error").is_none(), "{answer}");
    eventually("the runner has another connection", secs(10), || async {
        let now = connection_of(&operator, "r1").await?;
        ensure!(now != kicked, "still {now}");
        Ok(())
    })
    .await?;
    let mut heartbeats = cluster.observer().await?.subscribe(subject::HEARTBEAT).await?;
    timeout(secs(5), heartbeats.next()).await.context("no heartbeat after the kick")?;

    ensure!(cluster.runners[0].pid() == Some(agentd) && runs(agentd), "agentd was started anew");
    let now = api.session("untouched").await?;
    ensure!(now.phase == SessionPhase::Ready && now.pid == view.pid && now.epoch == view.epoch, "{now:?}");
    ensure!(now.pid.is_some_and(runs), "the agent ended");
    cluster.ready(&json!({"id": "new", "kind": "terminal"})).await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_credentials_are_renewed_without_notice() -> Result<()> {
    let times = Times { credential: "5s", ..Times::default() };
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1")).times(times).start().await?;
    let api = cluster.api()?;
    let mut heartbeats = cluster.observer().await?.subscribe(subject::HEARTBEAT).await?;
    let view = cluster.ready(&json!({"id": "kept", "kind": "terminal"})).await?;
    // Thirteen heartbeats at one a second: the credentials expired twice in between.
    for number in 0..13 {
        timeout(secs(8), heartbeats.next()).await.with_context(|| format!("no heartbeat after {number}"))?;
        let runners = api.runners().await?;
        ensure!(runners.iter().all(|runner| runner.liveness != helix_protocol::runner::Liveness::Lost), "{runners:?}");
    }
    let now = api.session("kept").await?;
    ensure!(now.phase == SessionPhase::Ready && now.pid == view.pid && now.epoch == view.epoch, "{now:?}");
    cluster.ready(&json!({"id": "new", "kind": "terminal"})).await?;
    cluster.shutdown().await
}
