//! Document 001's quick start, typed as it is written but for the script's place and Docker, and the management of a runner
//! by hand.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::SCRIPT;
use super::stage::{Stage, get, nothing_is_left, traces};
use crate::fleet::start_time;
use crate::harness::{Boot, lab};

pub async fn the_documents_quick_start(boot: Boot) -> Result<()> {
    let stage = Stage::start(boot).await?;
    let (host, server) = (&stage.host, &stage.server);
    let bare = traces(host).await?;
    let token = stage.reusable().await?;

    // Quick Start.
    stage.types(&format!("{SCRIPT} --api-host {server} --api-token {token}")).await?;
    let named = host.run_ok("hostname").await?.replace('.', "-");
    let first = format!("external-zed-{named}");
    stage.is_online(&first).await?;
    // Method 1, for one more.
    let more = format!(
        "{SCRIPT} --api-host {server} --api-token {token} --runner-id my-dev-machine --concurrency 2 --container-name dev"
    );
    stage.types(&more).await?;
    ensure!(stage.runner("my-dev-machine").await?.slots == 2, "concurrency");
    // Method 2, and Scaling: two with the same token.
    host.write("/root/scripts/external-zed-agent.env", &format!("API_HOST={server}\nMAX_TASKS=0\n"), 0o600).await?;
    stage
        .types(&format!("{SCRIPT} --runner-id external-zed-1 --container-name helix-zed-agent-1 --api-token {token}"))
        .await?;
    stage
        .types(&format!("{SCRIPT} --runner-id external-zed-2 --container-name helix-zed-agent-2 --api-token {token}"))
        .await?;
    host.run_ok("rm scripts/external-zed-agent.env").await?;
    for id in ["external-zed-1", "external-zed-2"] {
        stage.is_online(id).await?;
    }
    // Each has slot users, a health port and state of its own, and no secret of the server's.
    let settings = host.run_ok("cat /etc/helix/agentd-*.toml").await?;
    for line in ["slot_user_first = 1\n", "slot_user_first = 2\n", "slot_user_first = 4\n", "slot_user_first = 5\n"] {
        ensure!(format!("{settings}\n").contains(line), "{line} is missing:\n{settings}");
    }
    for port in 3030..3034 {
        let health: Value = serde_json::from_str(&host.run_ok(&get("127.0.0.1", port, "/health")).await?)?;
        ensure!(health["connected"] == true, "{health}");
    }
    let leaked = host
        .run(&format!("grep -rlF {token} /etc /var/lib /run /root 2>/dev/null; journalctl | grep -F {token}"))
        .await?;
    ensure!(leaked.stdout.is_empty(), "the enrolment token is left: {}", leaked.stdout);
    let open = host
        .run_ok("find /etc/helix -name 'agentd-*' -perm /077; find /var/lib/helix/agentd-* -maxdepth 0 -perm /077")
        .await?;
    ensure!(open.is_empty(), "others can read: {open}");

    // Managing the runner: sessions run on whatever becomes of agentd.
    let api = stage.fleet.api()?;
    let session = json!({"id": "s", "kind": "terminal", "runner": "external-zed-2"});
    let before = stage.fleet.ready(&session, start_time(host)).await?;
    let name = "helix-zed-agent-2";
    let stats = stage.types(&format!("helixctl runner stats {name}")).await?;
    ensure!(stats.contains("(agentd)") && stats.contains("MEMORY"), "{stats}");
    let all: Value = serde_json::from_str(&stage.types("helixctl --json runner stats").await?)?;
    ensure!(all["runners"].as_array().is_some_and(|runners| runners.len() == 4), "{all}");
    let used = &all["runners"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|runner| runner["name"] == name)
        .context("not told")?["sessions"][0];
    ensure!(
        used["session"] == "s" && used["tasks"].as_u64() > Some(0) && used["memory_bytes"].as_u64() > Some(0),
        "{used}"
    );
    let logs = host.run(&format!("timeout 5 helixctl runner logs -f {name} | grep -m 1 -F registered")).await?;
    ensure!(logs.stdout.contains("registered"), "{logs:?}");
    ensure!(
        host.run_ok(&format!("helixctl runner logs -n 5 {name} --json | head -n 1")).await?.contains("\"MESSAGE\""),
        "no JSON"
    );
    for (verb, state) in [("stop", "inactive"), ("start", "active"), ("restart", "active"), ("stop", "inactive")] {
        // By its runner's id, too.
        let whom = if verb == "restart" { "external-zed-2" } else { name };
        let done: Value = serde_json::from_str(&stage.types(&format!("helixctl --json runner {verb} {whom}")).await?)?;
        ensure!(done["state"] == state && done["sessions"] == 1, "{verb}: {done}");
    }
    let told = host.run(&format!("helixctl runner start {name}")).await?;
    ensure!(told.code == 0 && told.stderr.contains("1 sessions ran on"), "{told:?}");
    stage.fleet.online("external-zed-2").await?;
    let after = api.session("s").await?;
    ensure!(after.pid == before.pid && after.phase == before.phase, "{after:?}");
    // docker exec: a command, another user, a shell, and its exit code.
    ensure!(stage.types(&format!("helixctl runner exec {name} pgrep -af helix")).await?.contains(name), "pgrep");
    ensure!(stage.types(&format!("helixctl runner exec -u helix-u5 {name} id -un")).await? == "helix-u5", "user");
    let shell = host.run(&format!("echo 'exit 7' | helixctl runner exec {name}")).await?;
    ensure!(shell.code == 7, "{shell:?}");
    let port = stage.fleet.cluster.servers[0].port();
    let page = get(&lab::SERVER.to_string(), port, "/healthz").replace('\'', "'\\''");
    stage.types(&format!("helixctl runner exec {name} sh -c '{page}'")).await?;
    // Not here, so it could be a machine, and there is none of that name either.
    for verb in ["stop", "logs", "stats", "exec"] {
        let (code, why) = stage.refused(&format!("helixctl runner {verb} nobody")).await?;
        ensure!(code == 3 && why.contains("nor is there an agentd nobody on this machine"), "{verb}: {why}");
    }
    let (code, why) = stage.refused("helixctl runner leave nobody").await?;
    ensure!(code == 1 && why.contains("there is no agentd nobody") && why.contains("runner join"), "{why}");

    // Debug mode.
    let debug =
        stage.types(&format!("{SCRIPT} --api-host {server} --api-token {token} -e LOG_LEVEL=debug --json")).await?;
    let debug: Value = serde_json::from_str(&debug)?;
    ensure!(debug["outcome"] == "changed", "{debug}");
    let environment =
        "tr '\\0' '\\n' </proc/$(systemctl show --value -p MainPID agentd@helix-external-zed-agent)/environ";
    ensure!(host.run_ok(environment).await?.contains("LOG_LEVEL=debug"), "agentd does not have it");

    // docker rm: refused while something runs, then nothing is left, here and there.
    let (code, why) = stage.refused(&format!("helixctl runner leave {name}")).await?;
    ensure!(code == 1 && why.contains("1 sessions run") && why.contains("--force"), "{why}");
    stage.types(&format!("helixctl runner leave --force {name}")).await?;
    for name in ["helix-external-zed-agent", "dev", "external-zed-1"] {
        stage.types(&format!("helixctl runner leave {name}")).await?;
    }
    ensure!(api.runners().await?.is_empty(), "the server knows one still");
    nothing_is_left(host, &bare).await?;
    let users = host.run_ok("pgrep -u $(seq -s, -f 'helix-u%.0f' 32) || true").await?;
    ensure!(users.is_empty(), "processes of slot users: {users}");
    stage.stop().await
}
