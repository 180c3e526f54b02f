//! A join of a machine that was joined before, and one whose server is away for a moment.

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use serde_json::{Value, json};

use super::BRIEF;
use super::stage::Stage;
use crate::fleet::start_time;
use crate::harness::{Boot, lab};

pub async fn a_second_join_changes_what_differs() -> Result<()> {
    let stage = Stage::start(Boot::container()).await?;
    let (host, server) = (&stage.host, &stage.server);
    let token = stage.operator(&["token", "create", "--runner"]).await?;
    host.write("/root/token", &token, 0o600).await?;
    let join = |more: &str| {
        format!("helixctl --json runner join --server {server} --container-name one --runner-id one {more}")
    };
    let outcome = async |line: String| -> Result<Value> { Ok(serde_json::from_str(&stage.types(&line).await?)?) };
    let joined = outcome(join("--token-file token")).await?;
    ensure!(joined["outcome"] == "joined" && joined["runner"] == "one", "{joined}");
    // The token was for one use; nobody needs it any more.
    host.run_ok("rm token").await?;
    let pid = "systemctl show --value -p MainPID agentd@one";
    let before = host.run_ok(pid).await?;
    let again = outcome(join("")).await?;
    ensure!(again["outcome"] == "unchanged" && again["changes"].as_array().is_some_and(Vec::is_empty), "{again}");
    ensure!(host.run_ok(pid).await? == before, "an unchanged agentd was restarted");

    // One difference is one change, the rest stays, and a session lives through it.
    stage.fleet.command("lives", "while :; do date >> ticks; sleep 0.2; done", host).await?;
    let changed = outcome(join("--concurrency 3 -e LOG_LEVEL=debug --workspace-dir /srv/work")).await?;
    ensure!(changed["outcome"] == "changed", "{changed}");
    stage.is_online("one").await?;
    ensure!(stage.runner("one").await?.slots == 3, "concurrency");
    let session = stage.fleet.api()?.session("lives").await?;
    ensure!(session.phase.to_string() == "Ready", "{session:#?}");
    let kept = outcome("helixctl --json runner join --container-name one".to_owned()).await?;
    ensure!(kept["outcome"] == "unchanged", "what was not named changed: {kept}");
    let id = json!({"id": "there", "kind": "command", "input": "pwd > where"});
    stage.fleet.ready(&id, start_time(host)).await?;
    host.run_ok("test -e /srv/work/there").await.context("workspaces are not where they shall be")?;

    // A change that does not work is undone.
    let (code, why) = stage.refused(&format!("NATS_URL=nats://{}:1 {} {BRIEF}", lab::SERVER, join(""))).await?;
    ensure!(code == 5 && why.contains("does not hear") && why.contains("--nats"), "{code} {why}");
    stage.fleet.online("one").await?;
    let kept = outcome("helixctl --json runner join --container-name one".to_owned()).await?;
    ensure!(kept["outcome"] == "unchanged", "not put back: {kept}");

    // Stopped by hand, it is started.
    host.run_ok("systemctl disable -q --now agentd@one").await?;
    let started = outcome(join("")).await?;
    ensure!(started["outcome"] == "changed" && started["changes"] == json!(["agentd@one.service"]), "{started}");
    host.run_ok("systemctl is-enabled agentd@one").await?;
    // Its own token was taken away there: with a new enrolment token it comes again under its id.
    stage.operator(&["runner", "remove", "--server-only", "one", "--force"]).await?;
    let (code, why) = stage.refused(&join("")).await?;
    ensure!(code == 2 && why.contains("token create --runner"), "{why}");
    let token = stage.operator(&["token", "create", "--runner=one"]).await?;
    outcome(join(&format!("--token {token}"))).await?;
    stage.is_online("one").await?;
    stage.stop().await
}

pub async fn a_server_that_is_away_for_a_moment_is_waited_for() -> Result<()> {
    let mut stage = Stage::start(Boot::container()).await?;
    let token = stage.reusable().await?;
    let nats = stage.fleet.cluster.nats.port();
    // agentd comes to NATS when the server has been away: until then there is something to wait for.
    stage
        .host
        .run_ok(&format!(
            "nft 'add table ip lab; add chain ip lab out {{ type filter hook output priority 0 ; policy accept ; }}; \
             add rule ip lab out tcp dport {nats} drop'"
        ))
        .await?;
    let line = format!(
        "{}; helixctl --json runner join --server {} --token {token} --runner-id one --container-name one 2>said",
        stage.exports, stage.server
    );
    let (host, server) = (&stage.host, &mut stage.fleet.cluster.servers[0]);
    let goes_away = async {
        // What is left to be done then is to wait for the server's word.
        eventually("agentd runs", secs(30), || host.run_ok("systemctl is-active agentd@one")).await?;
        server.kill().await?;
        // Nobody answers, and this is noticed: agentd enrols over HTTP, and so does whoever asks the server.
        let port = server.port();
        let asks = format!("bash -c 'exec 3<>/dev/tcp/{}/{port}; cat <&3'; true", lab::SERVER);
        host.run_ok(&asks).await?;
        server.start().await?;
        host.run_ok("nft delete table ip lab").await
    };
    let (joined, away) = tokio::join!(host.run(&line), goes_away);
    away?;
    let joined = joined?;
    ensure!(joined.code == 0, "{joined:?}\n{}", host.run_ok("cat said").await?);
    let joined: Value = serde_json::from_str(&joined.stdout)?;
    ensure!(joined["outcome"] == "joined" && joined["runner"] == "one", "{joined}");
    stage.is_online("one").await?;
    stage.stop().await
}

/// An agentd that is not the one that was installed: it says that it is ready, and ends.
pub async fn an_agentd_that_does_not_stay_up_is_told_with_its_words() -> Result<()> {
    let stage = Stage::start(Boot::container()).await?;
    let host = &stage.host;
    let token = stage.reusable().await?;
    let script = "#!/bin/sh\nsystemd-notify --ready\necho 'lab: I end here'\nsleep 0.2\nexit 7\n";
    host.write("/usr/local/sbin/lab-crash", script, 0o755).await?;
    let text = "[Service]\nNotifyAccess=all\nExecStart=\nExecStart=/usr/local/sbin/lab-crash\n";
    host.write("/etc/systemd/system/agentd@one.service.d/lab.conf", text, 0o644).await?;
    let join = format!(
        "helixctl runner join --server {} --token {token} --runner-id one --container-name one {BRIEF}",
        stage.server
    );
    let (code, why) = stage.refused(&join).await?;
    for words in ["agentd does not stay up", "exit status 7", "lab: I end here", "journalctl -u agentd@one.service"] {
        ensure!(code == 1 && why.contains(words), "{words:?} is not in {code} {why}");
    }
    ensure!(stage.fleet.api()?.runners().await?.is_empty(), "a failed join left a runner at the server");
    stage.stop().await
}
