//! Terminals: shells that stay.

use anyhow::{Context as _, Result, ensure};
use helix_protocol::tools::{MAX_TERMINALS, Notice};
use helix_tests::Api;
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::runs;
use serde_json::{Value, json};

use super::{Program, Said, desk};

async fn listed(api: &Api) -> Result<Vec<Value>> {
    let list = api.get("/api/v1/sessions/desk/terminals").await?.expect(200)?;
    list["terminals"].as_array().cloned().context("no list")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_outlives_its_viewers_and_agentd() -> Result<()> {
    let (mut cluster, api, _) = desk().await?;
    let mut first = Program::terminal(&api, "main").await?;
    // The answer is another text than the command line that asks for it.
    first.send(b"echo one-$((20 + 22)); stty size\n").await?;
    let seen = first.until("30 90").await?;
    ensure!(seen.contains("one-42"), "{seen:?}");
    first.say(&json!({"type": "resize", "cols": 100, "rows": 40})).await?;
    first.send(b"mark=kept; stty size\n").await?;
    first.until("40 100").await?;

    // A second viewer sees what was, and both see what comes.
    let mut second = Program::terminal(&api, "main").await?;
    second.until("one-42").await?;
    second.send(b"echo two-$((1 + 1))\n").await?;
    first.until("two-2").await?;
    second.until("two-2").await?;
    let list = listed(&api).await?;
    ensure!(list.len() == 1 && list[0]["name"] == "main" && list[0]["viewers"] == 2, "{list:?}");
    let shell = u32::try_from(list[0]["pid"].as_u64().context("no pid")?)?;
    drop((first, second));
    eventually("nobody looks", secs(10), || async {
        let list = listed(&api).await?;
        ensure!(list[0]["viewers"] == 0, "{list:?}");
        Ok(())
    })
    .await?;

    let mut third = Program::terminal(&api, "main").await?;
    third.send(b"(while [ ! -e go ]; do sleep 0.1; done; echo after-$((3 + 3))) &\n").await?;
    third.until("after-").await?;
    for _ in 0..2 {
        cluster.runners[0].kill().await?;
        ensure!(runs(shell), "the shell died with agentd");
        cluster.runners[0].start().await?;
    }
    std::fs::write(super::workspace(&api.session("desk").await?)?.join("go"), "")?;
    let mut back = eventually("the terminal is there again", secs(30), || Program::terminal(&api, "main")).await?;
    let seen = back.until("after-6").await?;
    ensure!(seen.contains("one-42") && seen.contains("two-2"), "not what it showed: {seen:?}");
    back.send(b"echo $mark-$$\n").await?;
    back.until(&format!("kept-{shell}")).await?;

    back.send(b"exit 4\n").await?;
    loop {
        if let Said::Notice(notice) = back.next().await? {
            ensure!(matches!(&notice, Notice::Exit(exit) if exit.exit_status == 4), "{notice:?}");
            break;
        }
    }
    ensure!(listed(&api).await?.is_empty());
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_with_much_output_and_one_that_is_ended() -> Result<()> {
    let (cluster, api, _) = desk().await?;
    let mut slow = Program::terminal(&api, "slow").await?;
    let mut fast = Program::terminal(&api, "slow").await?;
    // 26 megabytes, twice what all buffers on the way were seen to hold: one of the two looks at nothing meanwhile.
    fast.send(b"seq 3000000; echo end-$((5 + 5))\n").await?;
    fast.until("end-10").await?;
    let seen = slow.until("end-10").await?;
    ensure!(seen.len() < 20_000_000, "{} bytes", seen.len());
    let mut late = Program::terminal(&api, "slow").await?;
    let seen = late.until("end-10").await?;
    ensure!(seen.len() <= 256 * 1024 && seen.contains("\r\n3000000\r\n"), "{} bytes", seen.len());

    late.send(b"trap '' HUP TERM; sleep 5432191\n").await?;
    let sleeps = eventually("it runs", secs(10), || async {
        let found = helix_tests::leftovers::processes_saying("sleep 5432191")?;
        ensure!(!found.is_empty());
        Ok(found)
    })
    .await?;
    let ended = api.delete("/api/v1/sessions/desk/terminals/slow").await?;
    ensure!(ended.status == 204, "{}", ended.text);
    loop {
        if let Said::Notice(notice) = late.next().await? {
            ensure!(matches!(notice, Notice::Exit(_)), "{notice:?}");
            break;
        }
    }
    eventually("nothing of it is left", secs(10), || async {
        ensure!(!sleeps.iter().any(|pid| runs(*pid)), "{sleeps:?}");
        Ok(())
    })
    .await?;
    api.delete("/api/v1/sessions/desk/terminals/slow").await?.problem(404, "terminal_not_found")?;

    let mut open = Vec::new();
    for number in 0..MAX_TERMINALS {
        open.push(Program::terminal(&api, &format!("t{number}")).await?);
    }
    let mut refused = Program { socket: api.socket("/api/v1/sessions/desk/terminals/more").await? };
    ensure!(refused.failure().await?.code.to_string() == "too_many_streams");
    let mut refused = Program { socket: api.socket("/api/v1/sessions/desk/terminals/a.b").await? };
    ensure!(refused.failure().await?.code.to_string() == "invalid_request");
    let mut refused = Program { socket: api.socket("/api/v1/sessions/desk/terminals/t0?cols=0&rows=20000").await? };
    ensure!(refused.failure().await?.code.to_string() == "invalid_request");
    cluster.shutdown().await
}
