//! `helixctl runner join` and what follows it: document 001's quick start, typed as it is written but for the script's place
//! and Docker, the management of a runner by hand, what bad input gets, and that nothing is left.

use anyhow::{Context, Result, ensure};
use helix_protocol::api::RunnerView;
use helix_protocol::runner::Liveness;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::run;
use helix_tests::programs;
use serde_json::{Value, json};

use crate::fleet::{self, Fleet, start_time};
use crate::harness::{Boot, Case, Host, Suite, lab};

/// Where the documents' reader stands: a clone has it in packaging/.
const SCRIPT: &str = "./scripts/run-external-zed-agent.sh";
/// How long nobody is waited for in vain.
const BRIEF: &str = "--within 8s";

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("join::the_documents_quick_start", quick_start_of_bookworm),
        Case::thorough("join::the_documents_quick_start_on_trixie", quick_start_of_trixie),
        Case::always("join::a_second_join_changes_what_differs", a_second_join_changes_what_differs),
        Case::always("join::what_bad_input_gets", what_bad_input_gets),
    ]
}

async fn quick_start_of_bookworm() -> Result<()> {
    the_documents_quick_start(Boot::container()).await
}

async fn quick_start_of_trixie() -> Result<()> {
    the_documents_quick_start(Boot::container().suite(Suite::Trixie)).await
}

/// A server, and a host with Helix installed that belongs to no fleet.
struct Stage {
    fleet: Fleet,
    host: Host,
    server: String,
    /// What the documents' reader exports.
    exports: String,
}

impl Stage {
    async fn start(boot: Boot) -> Result<Self> {
        let (fleet, host) = tokio::try_join!(Fleet::start(), boot.start())?;
        fleet::install(&host).await?;
        host.run_ok("mkdir -p scripts && cp /usr/share/helix/scripts/run-external-zed-agent.sh scripts/").await?;
        let port = fleet.cluster.servers.first().context("no server")?.port();
        let server = format!("http://{}:{port}", lab::SERVER);
        let exports = format!("export NATS_URL=nats://{}:{}", lab::SERVER, fleet.cluster.nats.port());
        Ok(Self { fleet, host, server, exports })
    }

    /// What somebody types on the host.
    async fn types(&self, line: &str) -> Result<String> {
        self.host.run_ok(&format!("{}; {line}", self.exports)).await
    }

    /// The same of a line that is refused: exit code, and what it says.
    async fn refused(&self, line: &str) -> Result<(i32, String)> {
        let said = self.host.run(&format!("{}; {line}", self.exports)).await?;
        ensure!(said.code != 0, "{line}: {said:?}");
        Ok((said.code, said.stderr))
    }

    /// helixctl where the operator is.
    async fn operator(&self, args: &[&str]) -> Result<String> {
        let api = self.fleet.api()?;
        let env = [("HELIX_TOKEN".to_owned(), api.token().to_owned()), ("HOME".to_owned(), "/nonexistent".to_owned())];
        let args = [&["--url", api.base()], args].concat();
        let output = run(&programs::ours("helixctl")?, &args, &env, READY).await?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A token for any number of runners.
    async fn reusable(&self) -> Result<String> {
        self.operator(&["token", "create", "--runner", "--reusable"]).await
    }

    async fn runner(&self, id: &str) -> Result<RunnerView> {
        self.fleet.api()?.get(&format!("/api/v1/runners/{id}")).await?.json()
    }

    async fn is_online(&self, id: &str) -> Result<()> {
        let view = self.runner(id).await?;
        ensure!(view.liveness == Liveness::Online && view.facts.is_some(), "the join said so: {view:?}");
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.host.stop().await?;
        self.fleet.stop().await
    }
}

/// systemd forgets a unit that is gone in its own time, a moment.
async fn nothing_is_left(host: &Host, bare: &str) -> Result<()> {
    eventually("nothing is left", secs(5), || async {
        let left = traces(host).await?;
        ensure!(left == bare, "left:\n{left}\nbefore:\n{bare}");
        Ok(())
    })
    .await
}

/// A line that fetches a page; hosts have no curl.
fn get(server: &str, port: u16, path: &str) -> String {
    format!(
        "bash -c 'exec 3<>/dev/tcp/{server}/{port} && printf \"GET {path} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n\" >&3 \
         && tail -n 1 <&3'"
    )
}

/// All that a join could leave.
async fn traces(host: &Host) -> Result<String> {
    let look = "find /etc /var/lib /run /tmp /srv -xdev \\( -path /run/systemd -o -path /srv/inbox \\) -prune -o \
                \\( -name '*helix*' -o -name '*agentd*' -o -path '*helix*' \\) ! -name join.lock -print | sort; \
                systemctl list-units --all --plain --no-legend 'agentd@*' 'agentd-hold@*' 'helix-s*'; \
                pgrep -a agentd; true";
    host.run_ok(look).await
}

async fn the_documents_quick_start(boot: Boot) -> Result<()> {
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

async fn a_second_join_changes_what_differs() -> Result<()> {
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

async fn what_bad_input_gets() -> Result<()> {
    let mut stage = Stage::start(Boot::container()).await?;
    let (host, server) = (&stage.host, &stage.server);
    let bare = traces(host).await?;
    let single = stage.operator(&["token", "create", "--runner"]).await?;
    let brief = stage.operator(&["token", "create", "--runner", "--reusable", "--ttl", "1s"]).await?;
    let good = stage.reusable().await?;
    // Taken elsewhere, with the token for one use.
    let taken = json!({"id": "taken", "token_hash": "0".repeat(64)});
    stage.fleet.api()?.with_token(&single).post("/api/v1/runners/enrol", &taken).await?.expect(200)?;
    let join = |token: &str, more: &str| {
        format!("helixctl runner join --server {server} --token {token} --container-name bad {more}")
    };
    let unreachable = format!("http://{}:1", lab::SERVER);
    let table: Vec<(String, i32, Vec<&str>)> = vec![
        (join("nonsense", ""), 4, vec!["unknown, expired or revoked", "token create --runner"]),
        (join("oh-hallo-insecure-token", ""), 2, vec!["sample token"]),
        (join(&single, "--runner-id other"), 4, vec!["used by another machine", "token create --runner"]),
        (join(&brief, ""), 4, vec!["expired at", "token create --runner"]),
        (join(&good, "--runner-id taken"), 4, vec!["enrolled with another token", "runner remove --server-only taken"]),
        (join(&good, "--runner-id 'no id'"), 2, vec!["id of a runner"]),
        (
            join(&good, "--container-name ../x").replace("--container-name bad ", ""),
            2,
            vec!["cannot be the name of an agentd"],
        ),
        (join(&good, "--concurrency 99"), 1, vec!["not 99 free slot users", "install.sh --slots"]),
        (join(&good, "--concurrency many"), 2, vec!["--concurrency"]),
        (join(&good, "--session-timeout soon"), 2, vec!["session_timeout", "is not a duration"]),
        (join(&good, "--workspace-dir relative"), 2, vec!["absolute path"]),
        (join(&good, "--workspace-dir /etc/passwd"), 2, vec!["no directory"]),
        (join(&good, "-e 'A B=c'"), 2, vec!["cannot be a variable"]),
        (
            join(&good, &format!("--nats nats://{}:1 {BRIEF}", lab::SERVER)),
            5,
            vec!["does not hear", "cannot be reached", "--nats"],
        ),
        (
            format!("helixctl runner join --server {unreachable} --token {good} --container-name bad"),
            3,
            vec!["cannot be reached", "refused"],
        ),
        (format!("helixctl runner join --server ftp://x --token {good} --container-name bad"), 2, vec!["ftp://x"]),
        (
            format!("helixctl runner join --server {server} --container-name bad"),
            2,
            vec!["no enrolment token", "token create --runner"],
        ),
        (
            format!("helixctl runner join --server {server} --token-file /nowhere --container-name bad"),
            2,
            vec!["/nowhere"],
        ),
        (format!("{SCRIPT} --unknown"), 2, vec!["--unknown"]),
    ];
    for (line, code, words) in table {
        let (found, why) = stage.refused(&line).await?;
        ensure!(found == code && words.iter().all(|word| why.contains(word)), "{line}\nexit code {found}\n{why}");
        nothing_is_left(host, &bare).await.with_context(|| line.clone())?;
    }
    ensure!(stage.fleet.api()?.runners().await?.len() == 1, "a failed join left a runner at the server");

    // Not root; nothing installed; a settings file of somebody else's.
    let denied = host.run_as("ops", &format!("/usr/bin/helixctl runner join --server {server} --token {good}")).await?;
    ensure!(denied.code == 4 && denied.stderr.contains("needs root") && denied.stderr.contains("sudo"), "{denied:?}");
    host.write("/etc/helix/agentd-own.toml", "runner_id = \"own\"\n", 0o600).await?;
    let (code, why) = stage.refused(&join(&good, "").replace("--container-name bad", "--container-name own")).await?;
    ensure!(code == 1 && why.contains("not set up by a join"), "{why}");
    let (code, why) = stage.refused("helixctl runner leave own").await?;
    ensure!(code == 1 && why.contains("not set up by a join"), "{why}");
    host.run_ok("rm /etc/helix/agentd-own.toml").await?;

    // Two joins at once, of one name and of two: they take turns.
    let (one, two) = (join(&good, "--runner-id a"), join(&good, "--runner-id b").replace(" bad ", " good "));
    let at_once = format!("({one}) & a=$!; ({one}) & b=$!; ({two}) & c=$!; wait $a && wait $b && wait $c");
    stage.types(&at_once).await?;
    for id in ["a", "b"] {
        stage.is_online(id).await?;
    }
    for name in ["bad", "good"] {
        stage.types(&format!("helixctl runner leave {name}")).await?;
    }
    // The server is gone when it leaves: said, and nothing is left here.
    stage.types(&two).await?;
    stage.fleet.cluster.servers[0].kill().await?;
    let away = stage.host.run("helixctl runner leave good").await?;
    ensure!(
        away.code == 0
            && away.stderr.contains("still knows b")
            && away.stderr.contains("runner remove --server-only b"),
        "{away:?}"
    );
    nothing_is_left(&stage.host, &bare).await?;
    let host = &stage.host;
    host.run_ok("mv /usr/lib/systemd/system/agentd@.service /root/ && systemctl daemon-reload").await?;
    let (code, why) = stage.refused(&join(&good, "")).await?;
    ensure!(code == 1 && why.contains("not installed") && why.contains("make install"), "{why}");
    stage.stop().await
}
