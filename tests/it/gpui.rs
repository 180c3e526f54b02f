//! Whether Zed would be seen: the real `helixctl doctor` with the probe of Zed's toolkit, on both X servers, with the
//! Mesa that sessions need and with Debian 12's own; what it says of an editor's program; and that nothing of it is
//! left. The runner offers kind `zed` by the same driver.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::READY;
use helix_tests::eventually::{eventually, secs};
use helix_tests::http::Api;
use helix_tests::process::{exit_code, run, signal_pid};
use helix_tests::up::words;
use helix_tests::{leftovers, ports, programs, x};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

const SERVERS: [(&str, &str); 2] = [("tigervnc", "Xtigervnc"), ("xvfb", "Xvfb")];
/// A program whose file is like an editor's: ours has the feature's name in it, in the kind's settings.
const EDITOR: &str = "agentd";

/// What `doctor --json` tells.
#[derive(Debug, Deserialize)]
struct Told {
    healthy: bool,
    checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
struct Check {
    name: String,
    state: String,
    found: String,
    next: Option<String>,
}

impl Told {
    fn check(&self, name: &str) -> Result<&Check> {
        self.checks.iter().find(|check| check.name == name).with_context(|| format!("no {name} in {self:?}"))
    }
}

/// A place for doctor's files, by which what it leaves is found.
struct Doctor {
    dir: TempDir,
}

impl Doctor {
    fn new() -> Result<Self> {
        helix_tests::init();
        programs::ours("helix-gpui-probe").context("make probe")?;
        Ok(Self { dir: tempfile::Builder::new().prefix("hd").rand_bytes(6).tempdir_in("/tmp")? })
    }

    fn env(&self) -> Result<Vec<(String, String)>> {
        Ok(vec![("TMPDIR".to_owned(), text(self.dir.path())?)])
    }

    /// A look at everything; it must end with `code`, and leave nothing.
    async fn look(&self, code: i32, args: &[&str]) -> Result<Told> {
        let args = [&["doctor", "--json"], args].concat();
        let output = run(&programs::ours("helixctl")?, &args, &self.env()?, secs(60)).await?;
        ensure!(exit_code(output.status) == code, "{args:?}: {}\n{}", exit_code(output.status), words(&output));
        self.nothing_is_left()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn nothing_is_left(&self) -> Result<()> {
        leftovers::none(self.dir.path())?;
        let files: Vec<_> = std::fs::read_dir(self.dir.path())?.flatten().map(|entry| entry.path()).collect();
        ensure!(files.is_empty(), "files left behind: {files:?}");
        Ok(())
    }

    /// Ctrl-C as soon as `program` runs.
    async fn interrupted_at(&self, program: &str, args: &[&str]) -> Result<()> {
        let mut command = Command::new(programs::ours("helixctl")?);
        command.arg("doctor").args(args).envs(self.env()?).kill_on_drop(true);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pid = child.id().context("doctor has ended")?;
        let displays = eventually(&format!("{program} runs"), secs(30), || async {
            let running = leftovers::processes(self.dir.path())?;
            ensure!(running.iter().any(|line| line.contains(program)), "{running:?}");
            let pids = running.iter().filter_map(|line| line.split(' ').next()?.parse().ok());
            // The ones that have ended meanwhile cannot tell.
            let displays = pids.filter_map(|pid| x::environment(pid).ok()?.remove("DISPLAY"));
            Ok(displays.filter_map(|display| display.strip_prefix(':')?.parse().ok()).collect::<Vec<u32>>())
        })
        .await?;
        signal_pid(pid, Signal::INT)?;
        let output = tokio::time::timeout(secs(10), child.wait_with_output()).await.context("it does not end")??;
        let said = words(&output);
        ensure!(exit_code(output.status) == 1 && said.contains("interrupted"), "{program}: {said}");
        self.nothing_is_left().with_context(|| format!("interrupted when {program} ran"))?;
        let stale = leftovers::stale_displays(&displays);
        ensure!(stale.is_empty(), "interrupted when {program} ran: {stale:?}");
        Ok(())
    }
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).context("path is not UTF-8")
}

fn program(dir: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    let path = dir.join(name);
    std::fs::write(&path, content)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[tokio::test]
async fn a_window_is_seen_with_a_new_mesa() -> Result<()> {
    let doctor = Doctor::new()?;
    let editor = text(&programs::ours(EDITOR)?)?;
    for (display, server) in SERVERS {
        let told = doctor.look(0, &["--display", display, "--zed", &editor]).await?;
        ensure!(told.healthy && told.checks.iter().all(|check| check.state == "ok"), "{told:?}");
        let (window, vulkan) = (told.check("zed-window")?, told.check("vulkan")?);
        let mesa = vulkan.found.split(" (").next().unwrap_or_default();
        ensure!(window.found.starts_with(&format!("seen on {server} with {mesa}, ")), "{window:?}");
    }
    Ok(())
}

/// The window opens and stays black, and nothing but its pixels tells.
#[tokio::test]
async fn a_black_window_is_told_with_what_mends_it() -> Result<()> {
    let doctor = Doctor::new()?;
    let (editor, icd) = (text(&programs::ours(EDITOR)?)?, text(&programs::old_vulkan_icd()?)?);
    for (display, server) in SERVERS {
        let told = doctor.look(1, &["--display", display, "--zed", &editor, "--vulkan-icd", &icd]).await?;
        ensure!(!told.healthy, "{told:?}");
        let vulkan = told.check("vulkan")?;
        let mesa = vulkan.found.split(" (").next().unwrap_or_default().to_owned();
        ensure!(mesa.starts_with("Mesa 22."), "{vulkan:?}");
        ensure!(vulkan.state == "warn" && vulkan.found.ends_with("Zed needs Mesa 25 or newer"), "{vulkan:?}");
        let window = told.check("zed-window")?;
        let found =
            format!("Zed would be black: a window of its toolkit shows nothing on {server} with {mesa} ({icd})");
        ensure!(window.state == "fail" && window.found == found, "{window:?}");
        ensure!(window.next.as_deref() == Some("packaging/setup.sh mesa"), "{window:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_interrupted_look_leaves_nothing() -> Result<()> {
    let doctor = Doctor::new()?;
    // With this driver the look lasts: nothing is seen that would end it.
    let icd = text(&programs::old_vulkan_icd()?)?;
    for program in ["Xtigervnc", "openbox", "helix-gpui-probe"] {
        doctor.interrupted_at(program, &["--vulkan-icd", &icd]).await?;
    }
    doctor.interrupted_at("Xvfb", &["--display", "xvfb", "--vulkan-icd", &icd]).await
}

#[tokio::test]
async fn a_program_that_is_no_editor_for_helix_is_told() -> Result<()> {
    let doctor = Doctor::new()?;
    let dir = tempfile::tempdir()?;
    let none = text(&dir.path().join("none"))?;
    // Without a driver no window is looked at.
    let look = |zed: String| {
        let (doctor, none) = (&doctor, &none);
        async move { doctor.look(1, &["--zed", &zed, "--vulkan-icd", none]).await }
    };
    let told = look(none.clone()).await?;
    let check = told.check("zed-binary")?;
    ensure!(
        check.state == "fail" && check.found.starts_with(&format!("{none} cannot be used: No such file")),
        "{check:?}"
    );
    ensure!(check.next.as_deref().is_some_and(|next| next.contains("ZED_BINARY")), "{check:?}");
    let told = look(text(&program(dir.path(), "text", b"no program")?)?).await?;
    let check = told.check("zed-binary")?;
    ensure!(check.state == "fail" && check.found.ends_with("/text is no program"), "{check:?}");
    let cat = std::fs::read(programs::installed("cat")?)?;
    let told = look(text(&program(dir.path(), "cat", &cat)?)?).await?;
    let check = told.check("zed-feature")?;
    ensure!(check.state == "fail" && check.found.starts_with("external_websocket_sync is not in it"), "{check:?}");
    ensure!(check.next.as_deref().is_some_and(|next| next.contains("--features external_websocket_sync")), "{check:?}");
    ensure!(told.check("zed-libraries")?.state == "ok", "{told:?}");
    let told = look(text(&program(dir.path(), "newer", &for_a_newer_glibc(cat)?)?)?).await?;
    let check = told.check("zed-libraries")?;
    ensure!(check.state == "fail" && check.found.starts_with("it needs glibc 2.99, this system has 2."), "{check:?}");
    ensure!(
        check.next.as_deref().is_some_and(|next| next.starts_with("build it on a system with glibc 2.")),
        "{check:?}"
    );
    Ok(())
}

/// The same program, as if it had been built on a system of years to come.
fn for_a_newer_glibc(mut program: Vec<u8>) -> Result<Vec<u8>> {
    const WORD: &[u8] = b"GLIBC_2.";
    let found = program.windows(WORD.len() + 3).position(|text| {
        text.starts_with(WORD)
            && text[WORD.len()..WORD.len() + 2].iter().all(u8::is_ascii_digit)
            && text.ends_with(&[0])
    });
    let at = found.context("it names no version of glibc")? + WORD.len();
    program[at..at + 2].copy_from_slice(b"99");
    Ok(program)
}

/// A `helixctl up` with an editor's stand-in.
struct Up {
    dir: TempDir,
    env: Vec<(String, String)>,
    state: String,
}

impl Up {
    async fn new(env: &[(&str, String)]) -> Result<(Self, Api)> {
        let dir = tempfile::Builder::new().prefix("hg").rand_bytes(6).tempdir_in("/tmp")?;
        let editor = "#!/bin/sh\necho \"$VK_DRIVER_FILES\" >\"$WORKSPACE_DIR/driver\"\nexec xterm -e sleep 1000\n";
        let editor = program(dir.path(), "zed", editor.as_bytes())?;
        let mut env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        env.push(("ZED_BINARY".to_owned(), text(&editor)?));
        let state = text(&dir.path().join("state"))?;
        let up = Self { dir, env, state };
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let args = ["up", "--detach", "--json", "--listen", &listen, "--slots", "2"];
        let told: serde_json::Value = serde_json::from_str(&up.helixctl(0, &args).await?)?;
        let token = std::fs::read_to_string(told["token_file"].as_str().context("no token")?)?;
        let api = Api::new(told["url"].as_str().context("no address")?, token.trim())?;
        Ok((up, api))
    }

    async fn helixctl(&self, code: i32, args: &[&str]) -> Result<String> {
        let args = [&["--state-dir", &self.state], args].concat();
        let output = run(&programs::ours("helixctl")?, &args, &self.env, secs(90)).await?;
        ensure!(exit_code(output.status) == code, "{args:?}: {}\n{}", exit_code(output.status), words(&output));
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn down(self) -> Result<()> {
        self.helixctl(0, &["down"]).await?;
        leftovers::none(self.dir.path())
    }
}

impl Drop for Up {
    /// A failed test.
    fn drop(&mut self) {
        if let Ok(helixctl) = programs::ours("helixctl") {
            let _ = std::process::Command::new(helixctl).args(["--state-dir", &self.state, "down"]).output();
        }
    }
}

#[tokio::test]
async fn a_session_gets_the_driver_that_doctor_names() -> Result<()> {
    let doctor = Doctor::new()?;
    let editor = text(&programs::ours(EDITOR)?)?;
    let told = doctor.look(0, &["--zed", &editor]).await?;
    let (up, api) = Up::new(&[]).await?;
    let id = api.create(&json!({ "kind": "zed" })).await?.id;
    let view = api.wait_phase(id.as_str(), SessionPhase::Ready, READY).await?;
    let file = Path::new(view.workspace.as_deref().context("no workspace")?).join("driver");
    let driver = std::fs::read_to_string(file)?;
    let vulkan = told.check("vulkan")?;
    ensure!(vulkan.found.ends_with(&format!(" ({})", driver.trim())), "{driver:?}, but {vulkan:?}");
    up.down().await
}

/// A session that no runner can take waits, and says what is missing and what brings it.
#[tokio::test]
async fn a_kind_that_cannot_run_says_what_it_lacks() -> Result<()> {
    helix_tests::init();
    let icd = text(&programs::old_vulkan_icd()?)?;
    let (up, api) = Up::new(&[("HELIX_VULKAN_ICD", icd.clone())]).await?;
    let agents = [("goose", "goose"), ("qwen", "qwen"), ("claude", "claude-agent-acp")];
    let absent = agents.iter().find(|(_, program)| programs::installed(program).is_err());
    let (kind, agent) = absent.context("this machine has every agent")?;
    let runner = up.helixctl(0, &["runner", "show", "local"]).await?;
    for (id, kind, lacks) in [
        ("black", "zed", [&format!("with Mesa 22.3.6 ({icd}) Zed's windows stay black"), "packaging/setup.sh mesa"]),
        ("absent", *kind, [&format!("{agent} not found in PATH; install it: "), ""]),
    ] {
        api.create(&json!({ "id": id, "kind": kind })).await?;
        for words in lacks {
            let shown = eventually("the session says why it waits", secs(20), || async {
                let shown = up.helixctl(0, &["session", "show", id]).await?;
                ensure!(shown.contains("Pending") && shown.contains(words), "no {words:?} in {shown}");
                Ok(shown)
            });
            shown.await?;
            ensure!(runner.contains(words), "no {words:?} in {runner}");
        }
    }
    up.down().await
}
