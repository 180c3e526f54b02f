//! agentd's `/health`: on loopback, for the first runner of a machine, and nowhere where it is switched off.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use helix_tests::runner::RunnerSpec;
use helix_tests::{Api, Cluster, ports};
use serde_json::{Value, json};

fn runner(id: &str, health_port: u16) -> RunnerSpec {
    RunnerSpec { health_port, ..RunnerSpec::new(id) }
}

async fn health(port: u16) -> Result<Value> {
    Api::new(&format!("http://127.0.0.1:{port}"), "")?.get("/health").await?.expect(200)
}

/// TCP addresses on which a process listens, as `/proc/net/tcp` writes them: `0100007F:0BD6`.
fn listens_on(pid: u32) -> Result<BTreeSet<String>> {
    let mut sockets = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed meanwhile is none.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let inode = target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'));
        sockets.extend(inode.map(str::to_owned));
    }
    let mut addresses = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [_, local, _, "0A", .., inode] = fields.get(..10).context("a short line")? else { continue };
            if sockets.contains(*inode) {
                addresses.insert((*local).to_owned());
            }
        }
    }
    Ok(addresses)
}

fn pid(cluster: &Cluster, number: usize) -> Result<u32> {
    cluster.runners[number].pid().context("agentd does not run")
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_the_runner_and_its_link() -> Result<()> {
    let port = ports::free()?;
    let mut cluster = Cluster::builder().runner(runner("r1", port)).start().await?;
    cluster.ready(&json!({"id": "counted", "kind": "terminal"})).await?;
    let body = health(port).await?;
    ensure!(body["status"] == "ok" && body["runner"] == "r1" && body["connected"] == true, "{body}");
    ensure!(body["active"] == 1 && body["slots"] == 4, "{body}");
    let on = listens_on(pid(&cluster, 0)?)?;
    ensure!(on == BTreeSet::from([format!("0100007F:{port:04X}")]), "agentd listens on {on:?}");

    // Alive and not connected: still 200. Not why: sessions can ask, too.
    cluster.nats.kill().await?;
    eventually("/health tells that the bus is away", secs(20), || async {
        let body = health(port).await?;
        ensure!(body["connected"] == false && body["reason"].is_null() && body["active"] == 1, "{body}");
        Ok(())
    })
    .await?;
    cluster.nats.restart().await?;
    eventually("/health tells that it is connected again", secs(40), || async {
        let body = health(port).await?;
        ensure!(body["connected"] == true, "{body}");
        Ok(())
    })
    .await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_or_absent_health_port_hinders_nobody() -> Result<()> {
    let port = ports::free()?;
    let three = Cluster::builder().runner(runner("r1", port)).runner(runner("r2", port)).runner(runner("r3", 0));
    let cluster = three.start().await?;
    let api = cluster.api()?;
    cluster.runners_online(&api, 3).await?;
    ensure!(health(port).await?["runner"] == "r1", "the first runner has the port");
    for number in [1, 2] {
        let on = listens_on(pid(&cluster, number)?)?;
        ensure!(on.is_empty(), "agentd {} listens on {on:?}", cluster.runners[number].spec.id);
    }
    // More than two of them can hold: each has some.
    let mut on = BTreeSet::new();
    for number in 0..9 {
        let view = cluster.ready(&json!({"id": format!("s{number}"), "kind": "command", "input": "true"})).await?;
        on.extend(view.runner.map(|runner| runner.to_string()));
    }
    ensure!(on.len() == 3, "sessions only on {on:?}");
    cluster.shutdown().await
}
