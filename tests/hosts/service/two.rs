//! Two runners on one machine, as docs/systemd.md sets them up: neither ever touches the other's sessions.

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::secs;

use crate::fleet::{Fleet, RunnerSettings, STATE_DIR};
use crate::harness::{Boot, lab};
use crate::units::Units;

const OTHER_STATE_DIR: &str = "/var/lib/helix/agentd-two";

/// The second runner's settings. Of 32 slot users the first has 1 to 16, the second the rest.
fn settings(fleet: &Fleet) -> Result<String> {
    Ok(format!(
        "api_host = \"http://{at}:{server}\"\nnats_url = \"nats://{at}:{nats}\"\n\
         api_token_file = \"/etc/helix/enrolment.token\"\nrunner_id = \"r2\"\nconcurrency = 4\n\
         slot_user_first = 17\nhealth_port = 0\non_exit = \"stop\"\n\
         display_width = 1024\ndisplay_height = 640\n",
        at = lab::SERVER,
        server = fleet.cluster.servers.first().context("no server")?.port(),
        nats = fleet.cluster.nats.port(),
    ))
}

pub async fn two_runners_on_one_machine() -> Result<()> {
    let (mut fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().start())?;
    // One slot: what comes after its first session goes to the other.
    fleet.join(&host, &RunnerSettings { slots: 1, ..RunnerSettings::default() }).await?;
    let beat = "while :; do date +%s.%N > beat; sleep 0.2; done";
    fleet.command("one", beat, &host).await?;
    host.write("/etc/helix/agentd-two.toml", &settings(&fleet)?, 0o600).await?;
    // The same state directory is refused, and the directory and what to do about it are named.
    let line = format!("timeout 20 agentd run --config /etc/helix/agentd-two.toml --state-dir {STATE_DIR}");
    let refused = host.run(&line).await?;
    ensure!(refused.code == 1 && refused.stderr.contains(STATE_DIR), "{refused:?}");
    ensure!(refused.stderr.contains("--state-dir"), "{refused:?}");
    host.run_ok("systemctl enable -q --now agentd@two.service").await?;
    fleet.online("r2").await?;
    let view = fleet.command("two", beat, &host).await?;
    ensure!(view.runner.as_ref().is_some_and(|runner| runner.as_str() == "r2"), "{view:?}");
    let (one, two) = (Units::of(&host, "one"), Units::of(&host, "two"));
    let users = (one.user().await?, two.user().await?);
    ensure!(users == ("helix-u1".to_owned(), "helix-u17".to_owned()), "{users:?}");
    let dirs = host.run_ok(&format!("ls {STATE_DIR}/s {OTHER_STATE_DIR}/s")).await?;
    ensure!(dirs.matches(&one.key()?).count() == 1 && dirs.matches(&two.key()?).count() == 1, "{dirs}");

    // Either one's end and new start, by force and in good order.
    let before = (one.invocations().await?, two.invocations().await?);
    for line in ["systemctl kill -s KILL agentd agentd@two", "systemctl restart agentd", "systemctl reload agentd@two"]
    {
        host.run_ok(line).await?;
        for id in ["r1", "r2"] {
            fleet.online(id).await?;
        }
        let after = (one.invocations().await?, two.invocations().await?);
        ensure!(after == before, "{line}: a unit was started anew");
    }

    // The second one stops its sessions with itself, and nobody else's.
    host.run_ok("systemctl stop agentd@two").await?;
    two.gone(&users.1, secs(20)).await?;
    ensure!(one.invocations().await? == before.0, "the second runner's end reached the first one's session");
    host.run_ok("systemctl start agentd@two").await?;
    fleet.online("r2").await?;
    let view = fleet.command("three", beat, &host).await?;
    ensure!(view.runner.as_ref().is_some_and(|runner| runner.as_str() == "r2"), "{view:?}");
    let three = Units::of(&host, "three");
    let kept = three.invocations().await?;

    // Without its ledger, and without a server, the first one knows no session: it reaps all that are its own.
    fleet.cluster.servers.first_mut().context("no server")?.kill().await?;
    let away = format!("systemctl stop agentd && mv {STATE_DIR}/ledger /root/ && systemctl start agentd");
    host.run_ok(&away).await?;
    one.gone(&users.0, secs(30)).await.context("a session that is in no ledger")?;
    ensure!(three.invocations().await? == kept, "the first runner reaped the second one's session");
    // By hand, with the tool for it.
    host.run_ok(&format!("systemctl stop agentd && agentd reap --state-dir {STATE_DIR}")).await?;
    ensure!(three.invocations().await? == kept, "`agentd reap` of the first reached the second one's session");
    host.stop().await?;
    fleet.stop().await
}
