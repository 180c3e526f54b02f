//! Kind `zed` with a stand-in for the editor: a script that says what it was given and opens a window.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use helix_protocol::session::{Desired, Geometry, Project, SessionPhase, SessionSpec};

use crate::forward::{ask, start};
use crate::harness::{self, eventually, git};

/// A terminal in the place of the editor. Each start is a line with its time, its address and its arguments, the last
/// thing that it writes.
const EDITOR: &str = "#!/bin/sh\n\
    at=$(date +%s%N)\n\
    env > \"$HOME/env\"\n\
    echo thread >> \"$HOME/.local/share/zed/threads\"\n\
    echo \"$at $ZED_HELIX_URL $HOME $*\" >> \"$WORKSPACE_DIR/.git/starts\"\n\
    exec xterm -e sleep 1000\n";

fn starts(workspace: &Path) -> Vec<(u64, String)> {
    let text = std::fs::read_to_string(workspace.join(".git/starts")).unwrap_or_default();
    let starts = text.lines().map(|line| line.split_once(' ').expect("a time and the rest"));
    starts.map(|(at, rest)| (at.parse().expect("a time"), rest.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_editor_comes_back_as_it_was() {
    let mut runner = start(|config| {
        let dir = config.kinds_dir.parent().expect("a parent").to_owned();
        let (editor, driver) = (dir.join("zed"), dir.join("lvp_icd.json"));
        std::fs::write(&editor, EDITOR).expect("written");
        std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).expect("set");
        let manifest = r#"{"ICD": {"library_path": "./libvulkan_lvp.so"}}"#;
        std::fs::write(&driver, manifest).expect("written");
        std::fs::write(dir.join("libvulkan_lvp.so"), "Mesa 25.0.7 (LLVM").expect("written");
        (config.zed_binary, config.vulkan_icd) = (Some(editor), Some(driver));
    });
    let origin = runner.dir().join("origin");
    git(None, &["init", "-q", "-b", "main", origin.to_str().expect("text")]);
    std::fs::write(origin.join("file"), "one\n").expect("written");
    git(Some(&origin), &["add", "."]);
    git(Some(&origin), &["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "one"]);
    let spec = SessionSpec {
        project: Some(Project { git: origin.to_string_lossy().into_owned(), branch: None }),
        input: Some("the first prompt".to_owned()),
        geometry: Some(Geometry { width: 1280, height: 720 }),
        ..SessionSpec::default()
    };
    // No kind is named: where there is an editor it is the default.
    runner.want("s", 1, Desired::Running, spec.clone());
    let ready = runner.phase("s", SessionPhase::Ready).await;
    assert_eq!(ready.kind.as_str(), "zed");
    let (workspace, home) = (runner.workspace("s"), runner.root("s").join("home"));
    let first = starts(&workspace);
    let (_, given) = first.first().expect("it was started").clone();
    let url = given.split(' ').next().expect("an address").to_owned();
    assert_eq!(
        given,
        format!("{url} {} --allow-multiple-instances --foreground {}", home.display(), workspace.display())
    );

    let env = std::fs::read_to_string(home.join("env")).expect("readable");
    let driver = runner.dir().join("lvp_icd.json").display().to_string();
    for (name, value) in [
        ("ZED_WINDOW_SIZE", "1280,720"),
        ("VK_DRIVER_FILES", &driver),
        ("ZED_HELIX_URL", &url),
        ("RUST_LOG", "external_websocket_sync=info"),
    ] {
        assert!(env.lines().any(|line| line == format!("{name}={value}")), "no {name}={value} in {env}");
    }
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(env.contains("ZED_ALLOW_ROOT=true"), is_root, "{env}");
    assert!(env.contains("DBUS_SESSION_BUS_ADDRESS=") && !env.contains("WAYLAND_DISPLAY"), "{env}");

    // Its settings are where it looks for them, and with its threads in the workspace, where git does not see them.
    let settings = std::fs::read_to_string(home.join(".config/zed/settings.json")).expect("readable");
    let settings: serde_json::Value = serde_json::from_str(&settings).expect("JSON");
    assert_eq!(settings["external_websocket_sync"]["websocket_sync"]["external_url"], url.as_str());
    assert!(workspace.join(".helix-home/.config/zed/settings.json").is_file());
    assert!(workspace.join(".helix-home/.local/share/zed/threads").is_file());
    let status = std::process::Command::new("git").arg("-C").arg(&workspace).args(["status", "--porcelain"]).output();
    assert_eq!(String::from_utf8(status.expect("git runs").stdout).expect("text"), "");

    // Killed, and closed by somebody: it comes back after two seconds, on the same port, with what it had.
    let port: u16 = url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    for round in 1..=2 {
        let editor = runner.unit_pid("s", "app").await.expect("an editor");
        let ended = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        if round == 1 {
            harness::kill(editor);
        } else {
            harness::terminate(editor);
        }
        eventually("it was started again", async || starts(&workspace).len() > round).await;
        let (at, again) = starts(&workspace).pop().expect("a start");
        assert_eq!(again, given);
        let pause = Duration::from_nanos(at).saturating_sub(ended);
        assert!(pause >= Duration::from_secs(2), "it came back after {pause:?}");
        assert_eq!(ask(port, "again").as_deref(), Some("heard again"));
        let threads = std::fs::read_to_string(home.join(".local/share/zed/threads")).expect("readable");
        assert_eq!(threads.lines().count(), round + 1);
        eventually("it runs", async || runner.unit_pid("s", "app").await.is_some_and(|pid| pid != editor)).await;
    }
    assert_eq!(runner.observed("s").phase, SessionPhase::Ready);

    runner.want("s", 1, Desired::Stopped, spec);
    runner.phase("s", SessionPhase::Stopped).await;
    runner.assert_nothing_runs("s");
    assert!(workspace.join(".helix-home/.local/share/zed/threads").is_file(), "its threads are gone with the session");
}
