//! Attacks on what agentd does with a session's files and words: links where it removes and hands over, floods where
//! it listens, greed where the machine is shared. Each ends as any session does, and nothing of others has changed.

use anyhow::{Context, Result, ensure};
use helix_protocol::runner::Liveness;
use helix_protocol::session::SessionPhase;
use helix_tests::eventually::{eventually, secs};
use serde_json::json;

use super::replica::Settings;
use super::stage::{Actor, Stage};
use super::table::Pair;
use crate::fleet::STATE_DIR;
use crate::harness::say;
use crate::units::Units;

/// What links lead to, owned by root.
const BAIT: &str = "/var/lib/attack-bait";
/// Lives of the hostile session: each is ended at another moment.
const LIVES: u32 = 3;

/// What fills a file system in memory, where a limit of memory is the only one. A session's /tmp is in memory on a
/// container host alone: on a disk nothing but the disk's size limits it.
const FULL: [&str; 2] = ["shm", "tmp"];

/// Links, races and odd files in all that is a session's own, while agentd ends it and hands its workspace over.
pub async fn agentd_follows_no_session() -> Result<()> {
    let stage = Stage::set().await?;
    let host = &stage.host;
    let victim = stage.victim(Pair::Host).await?;
    let mut known = stage.knowledge(Pair::Host, &victim).await?;
    lay_bait(&stage).await?;
    for life in 0..LIVES {
        let before = untouched(&stage).await?;
        let evil = Actor::enter(&stage.fleet, host, format!("evil{life}"), "host").await?;
        known.insert("A_S".to_owned(), evil.dir());
        let planted = evil.run(host, &format!("plant.py {BAIT}"), &known).await?;
        ensure!(planted.code == 0 && planted.out.contains("planted"), "{planted:?}");
        if life == 0 {
            // The control: somebody as careless as agentd must not be, on what was planted.
            let copy = "/var/lib/attack-copy";
            let careless = format!("cp -a {}/bait {copy} && chown -R -L nobody {copy}; rm -r {copy}", evil.workspace());
            host.run_ok(&careless).await?;
            let caught = untouched(&stage).await?;
            ensure!(caught != before, "the control of the links did not succeed, so they prove nothing");
            lay_bait(&stage).await?;
        }
        let before = untouched(&stage).await?;
        let api = stage.fleet.api()?;
        if life == 1 {
            // Ended by the reaper of another agentd than the one that started it.
            host.run_ok("systemctl kill -s KILL agentd; systemctl start agentd").await?;
        }
        let user = Units::of(host, &evil.id).user().await?;
        api.stop(&evil.id).await?;
        let ended = api.wait_phase(&evil.id, SessionPhase::Stopped, secs(30)).await;
        ended.with_context(|| format!("life {life}"))?;
        ensure!(untouched(&stage).await? == before, "stopping life {life} changed what it must not");
        Units::of(host, &evil.id).gone(&user, secs(10)).await?;
        let own = host.run_ok(&format!("find {} ! -user helix-keep | head -3", evil.workspace())).await?;
        ensure!(own.is_empty(), "a slot user's files are left: {own}");
        api.delete_session(&evil.id, secs(30)).await?;
        ensure!(untouched(&stage).await? == before, "deleting life {life} changed what it must not");
        let left = host.run_ok(&format!("ls -d {0} {0}.* 2>/dev/null; true", evil.workspace())).await?;
        ensure!(left.is_empty(), "left: {left}");
    }
    stage.clear(victim).await?;
    stage.nothing_was_forged().await?;
    stage.close().await
}

/// Floods, fork bombs and full file systems in memory.
pub async fn no_session_starves_the_machine() -> Result<()> {
    let stage = Stage::set().await?;
    let (host, api) = (&stage.host, stage.fleet.api()?);
    let mut known = std::collections::BTreeMap::from([("MUCH".to_owned(), (3_u64 << 29).to_string())]);
    for greed in ["flood", "forks", "shm", "tmp"] {
        let id = format!("greedy-{greed}");
        let evil = Actor::enter(&stage.fleet, host, id.clone(), "host").await?;
        known.insert("TAG".to_owned(), id.clone());
        let user = Units::of(host, &id).user().await?;
        let program = format!("greed.py {greed}");
        if FULL.contains(&greed) {
            let replica = Settings::of(host, &evil.unit("app")).await?;
            let control = host.run(&replica.command("--wait --pipe", &known, &program)).await?;
            ensure!(control.stdout.contains("is full"), "the control of {greed} did not succeed: {control:?}");
            host.run_ok(&format!("rm -f {}/tmp/much", evil.dir())).await?;
        }
        // It may lose its own stage by it.
        let outcome = evil.run(host, &program, &known).await;
        say(&format!("{greed}: {outcome:?}"));
        let full = outcome.is_ok_and(|outcome| outcome.out.contains("is full"));
        ensure!(!full, "{greed} had more than the session's memory");
        let shown = host.run_ok("ps -o rss= -p $(systemctl show --value -p MainPID agentd)").await?;
        let resident: u64 = shown.trim().parse()?;
        ensure!(resident < 200_000, "agentd uses {resident} KiB after {greed}");
        let file = format!("stat -c %s {STATE_DIR}/s/{}/ready/guest 2>/dev/null || echo 0", evil.key);
        let size: u64 = host.run_ok(&file).await?.parse()?;
        ensure!(size <= 4 << 20, "{greed} made a file of agentd's {size} bytes large");
        if greed == "shm" {
            let shm = host.run_ok("du -sm /dev/shm | cut -f1").await?;
            ensure!(shm.parse::<u64>()? < 64, "{shm} MiB in the machine's /dev/shm");
        }
        eventually("the runner is heard", secs(10), || async {
            let runners = api.runners().await?;
            let runner = runners.first().context("no runner")?;
            ensure!(runner.liveness == Liveness::Online, "{runner:?}");
            Ok(())
        })
        .await?;
        // Whoever comes next finds a machine that works.
        let next = json!({"id": format!("after-{greed}"), "kind": "command", "input": "true"});
        stage.fleet.ready(&next, secs(40)).await.with_context(|| format!("after {greed}"))?;
        api.delete_session(&format!("after-{greed}"), secs(30)).await?;
        api.delete_session(&id, secs(40)).await.with_context(|| format!("the end of {greed}"))?;
        Units::of(host, &id).gone(&user, secs(10)).await?;
    }
    stage.nothing_was_forged().await?;
    stage.close().await
}

async fn lay_bait(stage: &Stage) -> Result<()> {
    let lay = format!(
        "rm -rf {BAIT}; mkdir -p {BAIT}/dir; echo bait >{BAIT}/file; echo bait >{BAIT}/dir/file; chmod 644 {BAIT}/file"
    );
    stage.host.run_ok(&lay).await.map(drop)
}

/// Owner, mode, and content of everything that a hostile session's links lead to.
async fn untouched(stage: &Stage) -> Result<String> {
    let actors = stage.pair(Pair::Host);
    let places = [
        BAIT.to_owned(),
        format!("{}/home", actors.victim.dir()),
        format!("{}/tmp", actors.victim.dir()),
        actors.victim.workspace(),
        actors.attacker.workspace(),
        format!("{STATE_DIR}/token"),
        "/etc/passwd".to_owned(),
    ]
    .join(" ");
    let look = format!(
        "find {places} -printf '%p %u %g %m %y %l %n\\n' | sort; find {places} -type f -exec sha256sum {{}} + | sort"
    );
    stage.host.run_ok(&look).await
}
