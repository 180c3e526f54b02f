//! A session's way out under systemd: a unit of its own that leads to the server, also from a session without a network,
//! and that tells nobody the session's token.

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use serde_json::json;

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case, Host, Suite};
use crate::units::Units;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("an_agent_reaches_the_server_from_any_session", || reaches_the_server(Suite::Bookworm)),
        Case::thorough("an_agent_reaches_the_server_on_trixie", || reaches_the_server(Suite::Trixie)),
    ]
}

/// Writes its environment, then asks the server over and over again and writes down what it answers. bash alone: hosts
/// have no curl.
const AGENT: &str = r#"
env > "$HOME/env"
while :; do
  if exec 3<>"/dev/tcp/${ZED_HELIX_URL%:*}/${ZED_HELIX_URL#*:}"; then
    printf 'GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >&3
    head -1 <&3 >> "$HOME/answers"
    exec 3>&-
  fi
  sleep 0.2
done 2>>"$HOME/errors"
"#;
const KIND: &str = "description = \"Asks the server\"\ncommand = [\"bash\", \"/opt/asks.sh\"]\ninput = \"none\"\n\
    readiness = \"none\"\nrestart = \"no\"\non_exit = \"keep\"\n";
/// In the agent's environment, as its token is.
const SECRET: &str = "a-secret-of-the-test-91cc";

async fn answers(host: &Host, units: &Units<'_>) -> Result<usize> {
    let file = format!("/var/lib/helix/agentd/s/{}/home/answers", units.key()?);
    Ok(host.run_ok(&format!("cat {file} 2>/dev/null | grep -c 'HTTP/1.1 200' || true")).await?.trim().parse()?)
}

async fn more_answers(host: &Host, units: &Units<'_>, when: &str) -> Result<()> {
    let before = answers(host, units).await?;
    eventually(&format!("the server answers {when}"), secs(40), || async {
        ensure!(answers(host, units).await? > before + 1);
        Ok(())
    })
    .await
}

/// A variable of the agent's.
async fn variable(host: &Host, units: &Units<'_>, name: &str) -> Result<String> {
    let file = format!("/var/lib/helix/agentd/s/{}/home/env", units.key()?);
    let value = host.run_ok(&format!("sed -n 's/^{name}=//p' {file}")).await?;
    ensure!(!value.is_empty(), "the agent has no {name}");
    Ok(value)
}

async fn reaches_the_server(suite: Suite) -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().suite(suite).start())?;
    host.write("/opt/asks.sh", AGENT, 0o755).await?;
    host.write("/etc/helix/kinds.d/asks.toml", KIND, 0o644).await?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    for (id, network) in [("host", "host"), ("none", "none")] {
        let body = json!({ "id": id, "kind": "asks", "network": network, "env": { "OWN": SECRET } });
        fleet.ready(&body, secs(60)).await?;
    }
    for id in ["host", "none"] {
        let units = Units::of(&host, id);
        more_answers(&host, &units, "at first").await?;
        let url = variable(&host, &units, "ZED_HELIX_URL").await?;
        ensure!((url == "127.0.0.1:8080") == (id == "none"), "{id}: {url}");
        ensure!(units.property("forward", "User").await? == units.user().await?, "{id}: not the session's user");
        its_socket_is_its_own(&host, &units).await?;

        let (app, forward) = (units.pid("app").await?, units.pid("forward").await?);
        host.run_ok(&format!("kill -9 {forward}")).await?;
        more_answers(&host, &units, "after the death of the forward").await?;
        ensure!(units.pid("forward").await? != forward && units.pid("app").await? == app, "{id}");
    }
    host.run_ok("systemctl kill -s KILL agentd").await?;
    for id in ["host", "none"] {
        more_answers(&host, &Units::of(&host, id), "after the death of agentd").await?;
    }
    another_user_is_let_in_nowhere(&host).await?;
    nobody_is_told_the_secrets(&fleet, &host).await?;
    it_costs_little(&host).await?;
    for id in ["host", "none"] {
        let units = Units::of(&host, id);
        let user = units.user().await?;
        fleet.api()?.stop(id).await?;
        fleet.api()?.wait_phase(id, SessionPhase::Stopped, secs(40)).await?;
        units.gone(&user, secs(10)).await?;
    }
    host.stop().await?;
    fleet.stop().await
}

/// agentd's end is root's and out of everybody's sight but the unit's.
async fn its_socket_is_its_own(host: &Host, units: &Units<'_>) -> Result<()> {
    let dir = format!("/var/lib/helix/agentd/s/{}/sync", units.key()?);
    let owners = host.run_ok(&format!("stat -c '%U %a' {dir} {dir}/sock")).await?;
    let user = units.user().await?;
    ensure!(owners == format!("root 711\n{user} 600"), "{owners}");
    for (word, sees) in [("forward", true), ("app", false), ("display", false)] {
        let pid = units.pid(word).await?;
        let seen = host.run(&format!("test -e /proc/{pid}/root/run/sync/sock")).await?.code == 0;
        ensure!(seen == sees, "{word} sees agentd's socket: {seen}");
    }
    Ok(())
}

/// With the machine's network everybody can knock; only the session's own user is let in.
async fn another_user_is_let_in_nowhere(host: &Host) -> Result<()> {
    let units = Units::of(host, "host");
    let url = variable(host, &units, "ZED_HELIX_URL").await?;
    let port = url.rsplit(':').next().context("no port")?;
    let ask = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET /healthz HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' >&3 && head -1 <&3"
    );
    for user in ["nobody", "root"] {
        let said = host.run(&format!("setpriv --reuid {user} --clear-groups bash -c \"{ask}\"")).await?;
        ensure!(!said.stdout.contains("HTTP"), "{user} was let in: {said:?}");
    }
    let log = host.run_ok(&format!("journalctl -o cat -u {}", units.service("forward")?)).await?;
    ensure!(log.contains("another user"), "{log}");
    Ok(())
}

/// Its agent alone has them.
async fn nobody_is_told_the_secrets(fleet: &Fleet, host: &Host) -> Result<()> {
    let units = Units::of(host, "none");
    let key = units.key()?;
    let told = host
        .run_ok(&format!(
            "systemctl show 'helix-s{key}*'; cat /run/systemd/transient/helix-s{key}*; ps -eo args=; journalctl -o export"
        ))
        .await?;
    let view = serde_json::to_string(&fleet.api()?.session("none").await?.cause)?;
    ensure!(variable(host, &units, "OWN").await? == SECRET);
    for name in ["OWN", "ZED_HELIX_TOKEN"] {
        let secret = variable(host, &units, name).await?;
        ensure!(!told.contains(&secret) && !view.contains(&secret), "{name} is told");
        let files = host.run_ok(&format!("grep -rl --exclude-dir=home -e '{secret}' /var/lib/helix || true")).await?;
        for file in files.lines() {
            let mode = host.run_ok(&format!("stat -c '%U %a' {file}")).await?;
            ensure!(mode == "root 600", "{name} is in {file}: {mode}");
        }
    }
    Ok(())
}

async fn it_costs_little(host: &Host) -> Result<()> {
    for id in ["host", "none"] {
        let pid = Units::of(host, id).pid("forward").await?;
        let used = host
            .run_ok(&format!("awk '/^(Rss)?Anon:?|^VmData|^Threads/ {{ print $1, $2 }}' /proc/{pid}/status"))
            .await?;
        let number = |name: &str| -> Result<u64> {
            let line = used.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            Ok(line.with_context(|| format!("no {name} in {used}"))?.parse()?)
        };
        ensure!(number("RssAnon")? <= 2048 && number("Threads")? == 1, "{used}");
    }
    Ok(())
}
