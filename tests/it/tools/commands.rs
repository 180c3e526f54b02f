//! Commands: with one request, and on a socket with all their streams.

use anyhow::{Context as _, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_protocol::tools::{Exit, Notice};
use helix_tests::eventually::{eventually, secs};
use helix_tests::leftovers::processes_saying;
use helix_tests::process::runs;
use serde_json::{Value, json};

use super::{Program, Said, desk, workspace};

fn ended(status: i32) -> Exit {
    Exit { exit_status: status, signal: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_runs_a_command_to_its_end() -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let run = async |body: Value| -> Result<Value> { api.post("/api/v1/sessions/desk/exec", &body).await?.expect(200) };
    let done = run(json!({"command": ["sh", "-c", "pwd; echo \"$1\" >&2; exit 3", "sh", "a b"]})).await?;
    let at = workspace(&view)?.canonicalize()?;
    ensure!(done["stdout"] == format!("{}\n", at.display()) && done["stderr"] == "a b\n", "{done}");
    ensure!(done["exit_status"] == 3 && done["timed_out"] == false && done["truncated"] == false, "{done}");
    // What a session has: the spec's environment, its display, and not the secrets of its agent.
    let body = json!({"command": "echo $OWN $MORE; test -n \"$DISPLAY\" && env", "env": {"MORE": "of the caller"}});
    let done = run(body).await?;
    let said = done["stdout"].as_str().context("no text")?;
    ensure!(said.starts_with("of the spec of the caller\n") && said.contains("\nXAUTHORITY="), "{said}");
    ensure!(!said.contains("ZED_HELIX_TOKEN"), "{said}");

    let done = run(json!({"command": ["wc", "-c"], "stdin": "x".repeat(900_000)})).await?;
    ensure!(done["stdout"] == "900000\n", "{done}");
    let done = run(json!({"command": "head -c 3000000 /dev/zero | tr '\\\\0' x; kill -TERM $$"})).await?;
    ensure!(done["truncated"] == true && done["stdout"].as_str().map(str::len) == Some(1 << 20), "not cut");
    ensure!(done["exit_status"] == 143 && done["signal"] == "TERM", "{}", done["signal"]);

    // Its time is over: it is killed, with what it has started.
    let done = run(json!({"command": "echo begun; sleep 7654321 & sleep 7654321", "timeout_ms": 2000})).await?;
    ensure!(done["timed_out"] == true && done["stdout"] == "begun\n" && done.get("exit_status").is_none(), "{done}");
    // What it leaves running ends with it.
    run(json!({"command": "sleep 7654321 >/dev/null 2>&1 &"})).await?;
    eventually("nothing goes on", secs(10), || async {
        let left = processes_saying("sleep 7654321")?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;

    let refused = async |body: Value, status: u16, code: &str| {
        api.post("/api/v1/sessions/desk/exec", &body).await?.problem(status, code)
    };
    let problem = refused(json!({"command": ["no-such-program"]}), 422, "command_not_started").await?;
    ensure!(problem.detail.contains("no-such-program"), "{}", problem.detail);
    refused(json!({"command": []}), 400, "invalid_request").await?;
    refused(json!({"command": "true", "cwd": ".."}), 403, "outside_workspace").await?;
    refused(json!({"command": "true", "cwd": "none"}), 404, "file_not_found").await?;
    refused(json!({"command": "true", "env": {"A=B": "x"}}), 400, "invalid_request").await?;
    refused(json!({"command": "true", "timeout_ms": 0}), 400, "invalid_request").await?;
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_carries_input_output_signals_and_the_end() -> Result<()> {
    let (cluster, api, _) = desk().await?;
    let mut cat = Program::exec(&api, &json!({"command": "cat; echo done >&2; exit 5", "stdin": true})).await?;
    for number in 0..100 {
        cat.send(format!("line {number}\n").as_bytes()).await?;
    }
    cat.say(&json!({"type": "stdin_end"})).await?;
    let (out, errors, exit) = cat.rest().await?;
    ensure!(out.starts_with(b"line 0\n") && out.ends_with(b"line 99\n") && errors == b"done\n", "{out:?}");
    ensure!(exit == ended(5), "{exit:?}");

    // It has ended while its input is under way.
    for _ in 0..20 {
        let mut head = Program::exec(&api, &json!({"command": "head -n 1; exit 4", "stdin": true})).await?;
        head.send(b"line\n").await?;
        for _ in 0..8 {
            head.send(&vec![b'y'; 60_000]).await?;
        }
        let (out, _, exit) = head.rest().await?;
        ensure!(out == b"line\n" && exit == ended(4), "{exit:?}");
    }

    // A signal is heard although much more input is under way than the program will ever take.
    let script = "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.05; done";
    let mut deaf = Program::exec(&api, &json!({"command": script, "stdin": true})).await?;
    ensure!(matches!(deaf.next().await?, Said::Notice(Notice::Started { .. })));
    ensure!(matches!(deaf.next().await?, Said::Bytes(bytes) if bytes == b"\x01up\n"));
    deaf.send(&vec![b'x'; 200_000]).await?;
    deaf.say(&json!({"type": "signal", "signal": "SIGINT"})).await?;
    let (out, _, exit) = deaf.rest().await?;
    ensure!(out == b"caught\n" && exit == ended(9), "{exit:?}");

    // On a terminal.
    let terminal = json!({"cols": 77, "rows": 11});
    let mut tty =
        Program::exec(&api, &json!({"command": "tty; stty size; read x; stty size", "terminal": terminal})).await?;
    let mut seen = String::new();
    while !seen.contains("11 77") {
        if let Said::Bytes(bytes) = tty.next().await? {
            seen.push_str(&String::from_utf8_lossy(&bytes[1..]));
        }
    }
    ensure!(seen.contains("/dev/pts/"), "{seen:?}");
    tty.say(&json!({"type": "resize", "cols": 99, "rows": 22})).await?;
    tty.send(b"\n").await?;
    let (out, _, exit) = tty.rest().await?;
    ensure!(String::from_utf8_lossy(&out).contains("22 99") && exit == ended(0), "{out:?}");

    for (request, code) in [
        (json!({"command": ["no-such-program"]}), "command_not_started"),
        (json!({"command": "true", "terminal": {"cols": 0, "rows": 20_000}}), "invalid_request"),
        (json!({"comand": "true"}), "invalid_request"),
    ] {
        let failure = Program::exec(&api, &request).await?.failure().await?;
        ensure!(failure.code.to_string() == code, "{failure:?}");
    }
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_its_caller_unless_it_is_to_stay() -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let script = |number: u32| format!("trap '' TERM HUP; sleep {number} & sleep {number}; sleep {number}");
    let started = async |request: Value| -> Result<Program> {
        let mut program = Program::exec(&api, &request).await?;
        ensure!(matches!(program.next().await?, Said::Notice(Notice::Started { .. })));
        Ok(program)
    };
    let left = started(json!({"command": script(8_765_431), "stdin": true})).await?;
    let stays = started(json!({"command": format!("{}; true", script(8_765_432)), "detach": true})).await?;
    eventually("both run", secs(10), || async {
        ensure!(processes_saying("sleep 8765431")?.len() >= 2 && processes_saying("sleep 8765432")?.len() >= 2);
        Ok(())
    })
    .await?;
    drop((left, stays));
    eventually("the one that was left is gone", secs(10), || async {
        let left = processes_saying("8765431")?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    ensure!(processes_saying("sleep 8765432")?.len() >= 2, "the one that was to stay is gone");

    // One whose output nobody takes holds up nobody else.
    let mut flood = started(json!({"command": "yes"})).await?;
    flood.next().await?;
    let done = api.post("/api/v1/sessions/desk/exec", &json!({"command": "echo still"})).await?.expect(200)?;
    ensure!(done["stdout"] == "still\n", "{done}");

    // The tools die: what they ran is told, and the next use starts them again.
    let tools = super::tools_of(&view)?;
    helix_tests::process::signal_pid(tools, rustix::process::Signal::KILL)?;
    let failure = loop {
        match flood.next().await? {
            Said::Bytes(_) => {}
            Said::Notice(Notice::Failed(failure)) => break failure,
            Said::Notice(other) => anyhow::bail!("{other:?}"),
        }
    };
    ensure!(failure.code.to_string() == "runner_unavailable", "{failure:?}");
    let done = api.post("/api/v1/sessions/desk/exec", &json!({"command": "echo again"})).await?.expect(200)?;
    ensure!(done["stdout"] == "again\n" && !runs(tools), "{done}");

    api.stop("desk").await?;
    api.wait_phase("desk", SessionPhase::Stopped, secs(60)).await?;
    let left = processes_saying("8765432")?;
    ensure!(left.is_empty(), "{left:?}");
    let left = helix_tests::leftovers::processes(&workspace(&view)?)?;
    ensure!(left.is_empty(), "{left:?}");
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_so_many_streams_and_no_more() -> Result<()> {
    let (cluster, api, _) = desk().await?;
    let mut open = Vec::new();
    for _ in 0..helix_protocol::tools::MAX_STREAMS {
        let mut program = Program::exec(&api, &json!({"command": "sleep 3456789"})).await?;
        ensure!(matches!(program.next().await?, Said::Notice(Notice::Started { .. })));
        open.push(program);
    }
    api.post("/api/v1/sessions/desk/exec", &json!({"command": "true"})).await?.problem(429, "too_many_streams")?;
    open.pop();
    eventually("a place is free", secs(10), || async {
        api.post("/api/v1/sessions/desk/exec", &json!({"command": "true"})).await?.expect(200)
    })
    .await?;
    cluster.shutdown().await
}
