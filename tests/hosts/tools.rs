//! Files, commands and terminals under systemd: as the session's user, in a unit of its own that outlives agentd, and
//! gone with the session.

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::session::SessionPhase;
use helix_tests::Api;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::Socket;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case, Host, Suite};
use crate::units::Units;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("a_session_is_reached_as_its_user_and_nothing_is_left", || reached(Suite::Bookworm)),
        Case::thorough("a_session_is_reached_as_its_user_on_trixie", || reached(Suite::Trixie)),
    ]
}

async fn exec(api: &Api, id: &str, command: &str) -> Result<Value> {
    api.post(&format!("/api/v1/sessions/{id}/exec"), &json!({ "command": command })).await?.expect(200)
}

async fn terminal(api: &Api, id: &str) -> Result<Socket> {
    api.socket(&format!("/api/v1/sessions/{id}/terminals/main?cols=80&rows=24")).await
}

/// What it shows, until these words are there.
async fn until(socket: &mut Socket, words: &str) -> Result<String> {
    let mut seen = String::new();
    while !seen.contains(words) {
        let message = tokio::time::timeout(secs(30), socket.next()).await;
        match message.with_context(|| format!("no {words:?} in {seen:?}"))?.context("it ended")?? {
            Message::Binary(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Message::Close(close) => bail!("closed: {close:?} in {seen:?}"),
            _ => {}
        }
    }
    Ok(seen)
}

async fn reached(suite: Suite) -> Result<()> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), Boot::container().suite(suite).start())?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    let api = fleet.api()?;
    for (id, network) in [("host", "host"), ("none", "none")] {
        fleet.ready(&json!({ "id": id, "kind": "terminal", "network": network }), secs(60)).await?;
        let units = Units::of(&host, id);
        let user = units.user().await?;
        let done =
            exec(&api, id, "id -un; pwd; test -S /tmp/.X11-unix/X0 && echo display; ls /var/lib/helix 2>&1").await?;
        let said = done["stdout"].as_str().context("no text")?;
        ensure!(said.starts_with(&format!("{user}\n/home/workspace\ndisplay\n")), "{done}");
        ensure!(units.property("tools", "User").await? == user);
        files(&api, &host, id).await?;
        costs_little(&host, &units).await?;

        // Its own descriptor of agentd's socket is no way in for what runs in it.
        let forged = exec(&api, id, "echo x > /run/tools/forged; ls /run/sync 2>&1; exit 0").await?;
        ensure!(!forged["stdout"].as_str().unwrap_or_default().contains("sock"), "{forged}");

        let mut shell = terminal(&api, id).await?;
        shell.send(Message::Binary(b"mark=kept; echo first-$((40 + 2))\n".to_vec().into())).await?;
        until(&mut shell, "first-42").await?;
        let before = units.pid("tools").await?;
        host.run_ok("systemctl kill -s KILL agentd").await?;
        let mut back = eventually("the terminal is there again", secs(40), || async {
            let mut socket = terminal(&api, id).await?;
            until(&mut socket, "first-42").await?;
            Ok(socket)
        })
        .await?;
        back.send(Message::Binary(b"echo $mark-$((1 + 1))\n".to_vec().into())).await?;
        until(&mut back, "kept-2").await?;
        ensure!(units.pid("tools").await? == before, "the tools died with agentd");
    }
    // What runs when they stop does not stay.
    let body = json!({ "command": "setsid -f sleep 1000; (trap '' TERM HUP; sleep 1000) & echo up" });
    api.post("/api/v1/sessions/host/exec", &body).await?.expect(200)?;
    for id in ["host", "none"] {
        let units = Units::of(&host, id);
        let user = units.user().await?;
        api.stop(id).await?;
        api.wait_phase(id, SessionPhase::Stopped, secs(40)).await?;
        units.gone(&user, secs(10)).await?;
    }
    host.stop().await?;
    fleet.stop().await
}

async fn files(api: &Api, host: &Host, id: &str) -> Result<()> {
    let path = |path: &str| format!("/api/v1/sessions/{id}/files?path={path}");
    let put = async |name: &str, text: &str| {
        let body = Some(("application/octet-stream", text.as_bytes().to_vec()));
        api.send(Method::PUT, &path(name), body).await
    };
    put("dir/f", "hello").await?.expect(200)?;
    let inside = exec(api, id, "stat -c '%U %a' dir/f; ln -s dir inner; ln -s /etc out; ln -s ../../etc up").await?;
    ensure!(inside["exit_status"] == 0, "{inside}");
    let user = Units::of(host, id).user().await?;
    ensure!(inside["stdout"] == format!("{user} 644\n"), "{inside}");
    // Links inside are followed here, too, where the kernel does not walk.
    let read = api.get(&path("inner/f")).await?;
    ensure!(read.status == 200 && read.text == "hello", "{}", read.text);
    for name in ["out/passwd", "up/passwd", "/etc/passwd", "../x"] {
        api.get(&path(name)).await?.problem(403, "outside_workspace")?;
        put(name, "x").await?.problem(403, "outside_workspace")?;
    }
    Ok(())
}

/// An idle one: what is its own and not the program's file.
async fn costs_little(host: &Host, units: &Units<'_>) -> Result<()> {
    let pid = units.pid("tools").await?;
    let rollup = host
        .run_ok(&format!("awk '/^Private_(Clean|Dirty)|^Pss:/ {{ print $1, $2 }}' /proc/{pid}/smaps_rollup"))
        .await?;
    let number = |name: &str| -> Result<u64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(line.with_context(|| format!("no {name} in {rollup}"))?.parse()?)
    };
    // Half of it are the program's tables of addresses, which grow with it, and most in a debug build.
    ensure!(number("Private_Dirty")? <= 3072, "{rollup}");
    Ok(())
}
