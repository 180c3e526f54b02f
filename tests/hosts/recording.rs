//! Recordings under systemd: the recorder is another user, in a unit that sees nothing of its session but the display, and a
//! session can neither read nor write what is recorded of it, nor is anything of it left.

use anyhow::{Context, Result, ensure};
use helix_protocol::recording::{RecordingDetail, RecordingState};
use helix_protocol::session::SessionPhase;
use helix_tests::Api;
use helix_tests::eventually::{eventually, secs};
use serde_json::{Value, json};

use crate::harness::{Boot, Case, Suite};
use crate::sessions::one_runner;
use crate::units::Units;

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::always("a_recorder_is_nobody_of_its_session", || recorded(Suite::Bookworm)),
        Case::thorough("a_recorder_is_nobody_of_its_session_on_trixie", || recorded(Suite::Trixie)),
    ]
}

async fn exec(api: &Api, command: &str) -> Result<String> {
    let done: Value = api.post("/api/v1/sessions/desk/exec", &json!({ "command": command })).await?.expect(200)?;
    Ok(done["stdout"].as_str().context("no text")?.to_owned())
}

async fn recorded(suite: Suite) -> Result<()> {
    let (fleet, host) = one_runner(Boot::container().suite(suite)).await?;
    let api = fleet.api()?;
    let view = fleet.ready(&json!({ "id": "desk", "kind": "terminal", "recording": true }), secs(60)).await?;
    let recording = view.recording.context("it is not recorded")?;
    let units = Units::of(&host, "desk");
    let user = units.user().await?;
    ensure!(units.property("recorder", "User").await? == "helix-recorder");
    let pid = units.pid("recorder").await?;
    ensure!(host.run_ok(&format!("stat -c %U /proc/{pid}")).await? == "helix-recorder");

    // On the host: the recorder's alone, behind root's directory.
    let place = format!("/var/lib/helix/agentd/recordings/{recording}");
    ensure!(host.run_ok(&format!("stat -c '%U %a' {place} {place}/spool")).await? == "root 700\nhelix-recorder 700");
    // The session sees neither spool, socket nor process; the recorder nothing of the session's.
    let look =
        format!("ls -d /run/spool /run/notes /run/display {place} 2>/dev/null; pgrep -u helix-recorder; echo end");
    ensure!(exec(&api, &look).await? == "end\n", "the session sees something of its recorder");
    for command in [format!("kill -9 {pid}"), format!("cat /proc/{pid}/maps"), format!("ls /proc/{pid}/root/run/spool")]
    {
        ensure!(exec(&api, &format!("{command} >/dev/null 2>&1 && echo done; exit 0")).await?.is_empty(), "{command}");
    }
    ensure!(units.pid("recorder").await? == pid, "its session ended the recorder");
    let inside = host.run_ok(&format!("ls /proc/{pid}/root/run /proc/{pid}/root/home /proc/{pid}/root/tmp")).await?;
    for word in ["session", "sync", "tools", "agent", "workspace", ".X11-unix"] {
        ensure!(!inside.lines().any(|line| line == word), "the recorder sees {word}: {inside}");
    }

    // Killed, it is another one, and the same recording.
    host.run_ok(&format!("kill -9 {pid}")).await?;
    eventually("another recorder tells that one was killed", secs(20), || async {
        ensure!(units.pid("recorder").await? != pid, "the same");
        host.run_ok(&format!("grep -aq '\"type\":\"gap\"' {place}/spool/*.open {place}/spool/*.chunk 2>/dev/null"))
            .await
    })
    .await?;
    exec(&api, "echo drawn").await?;
    api.stop("desk").await?;
    api.wait_phase("desk", SessionPhase::Stopped, secs(30)).await?;
    units.gone(&user, secs(10)).await?;
    let complete = eventually("the recording is complete", secs(30), || async {
        let complete: RecordingDetail = api.get(&format!("/api/v1/recordings/{recording}")).await?.json()?;
        let complete = complete.recording;
        ensure!(complete.state == RecordingState::Complete, "{complete:?}");
        Ok(complete)
    })
    .await?;
    ensure!(complete.width > 0 && complete.gaps >= 1, "{complete:?}");
    eventually("nothing of it is left on the runner", secs(10), || async {
        let left = host.run_ok("ls /var/lib/helix/agentd/recordings; pgrep -u helix-recorder || true").await?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await?;
    host.stop().await?;
    fleet.stop().await
}
