//! `helixctl test-agents`: each kind's own check, passed by what works and failed by what only looks as if it did.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use helix_tests::runner::RunnerSpec;
use helix_tests::{Cluster, programs};
use serde_json::Value;

use crate::cli::Cli;

/// A window without anything in it, as an editor's is that cannot draw: black, with a cursor of black.
const BLACK: &str =
    r#"["xterm", "-bg", "black", "-fg", "black", "-cr", "black", "-b", "0", "+sb", "-e", "sleep", "1000"]"#;
/// A window with letters, and nobody behind it.
const DEAF: &str = r#"["xterm", "-e", "echo letters enough to be seen in this window, and more; exec sleep 1000"]"#;
/// A terminal whose shell does nothing.
const DUMB: &str = r#"["xterm", "-e", "cat"]"#;

fn kind(command: &str) -> String {
    format!(
        "description = \"x\"\ncommand = {command}\ninput = \"optional\"\nreadiness = \"window\"\nrestart = \"no\"\non_exit = \"end\"\ndbus = false\n"
    )
}

/// The browser by the name that the kind calls it by, wherever it is.
fn chromium(dir: &Path) -> Result<()> {
    let file = dir.join("chromium");
    std::fs::write(&file, format!("#!/bin/sh\nexec '{}' \"$@\"\n", programs::chromium()?.display()))?;
    Ok(std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?)
}

/// Tests that are in this state, and what was found by kind.
fn found(told: &Value, ok: bool) -> Result<Vec<(String, String)>> {
    let tests = told["tests"].as_array().context("tests")?;
    let word = |test: &Value, name: &str| test[name].as_str().unwrap_or_default().to_owned();
    let wanted = tests.iter().filter(|test| test["ok"] == ok);
    Ok(wanted.map(|test| (word(test, "kind"), word(test, "found"))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_must_do_what_it_is_for() -> Result<()> {
    helix_tests::init();
    let dir = tempfile::tempdir()?;
    let (kinds, programs) = (dir.path().join("kinds"), dir.path().join("bin"));
    std::fs::create_dir(&kinds)?;
    std::fs::create_dir(&programs)?;
    chromium(&programs)?;
    // An editor that draws nothing and an agent that never reports: their windows are there.
    std::fs::write(kinds.join("zed.toml"), kind(BLACK))?;
    std::fs::write(kinds.join("goose.toml"), kind(DEAF))?;
    std::fs::write(kinds.join("mine.toml"), kind(DEAF))?;
    let settings = format!("kinds_dir = {:?}\n", kinds.display().to_string());
    let works = RunnerSpec { settings, ..RunnerSpec::new("r1") }.programs(programs);
    let broken = dir.path().join("broken");
    std::fs::create_dir(&broken)?;
    std::fs::write(broken.join("terminal.toml"), kind(DUMB).replace("optional", "none"))?;
    let settings = format!("kinds_dir = {:?}\n", broken.display().to_string());
    let cluster =
        Cluster::builder().runner(works).runner(RunnerSpec { settings, ..RunnerSpec::new("r2") }).start().await?;
    let cli = Cli::new(&cluster)?;

    let good = ["test-agents", "--runner", "r1", "--timeout", "90"];
    let kinds = ["--kind", "command", "--kind", "terminal", "--kind", "browser", "--kind", "mine"];
    let told = cli.json(0, &[&good[..], &kinds].concat()).await?;
    let seen = found(&told, true)?;
    let is = |kind: &str, words: &str| seen.contains(&(kind.to_owned(), words.to_owned()));
    ensure!(is("command", "a command ran") && is("terminal", "a command was typed and ran"), "{told}");
    ensure!(is("browser", "a window is seen") && is("mine", "a window is seen"), "{told}");

    let bad = ["test-agents", "--runner", "r1", "--timeout", "12", "--kind", "zed", "--kind", "goose"];
    let told = cli.json(1, &bad).await?;
    let seen = found(&told, false)?;
    let is = |kind: &str, words: &str| seen.contains(&(kind.to_owned(), words.to_owned()));
    ensure!(is("zed", "its window shows nothing: it has one colour"), "{told}");
    ensure!(is("goose", "its agent has no line to the server, or takes no prompts"), "{told}");
    let told = cli.json(1, &["test-agents", "--runner", "r2", "--timeout", "12", "--kind", "terminal"]).await?;
    let silent = ("terminal".to_owned(), "what is typed into the terminal does nothing".to_owned());
    ensure!(found(&told, false)? == [silent], "{told}");
    // Whatever was found, no session goes on.
    for session in cluster.api()?.sessions().await? {
        ensure!(session.phase.is_terminal(), "{session:?}");
    }
    cluster.shutdown().await
}
