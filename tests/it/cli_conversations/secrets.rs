//! `secret …`: a value goes in by standard input and comes out in a session's environment, and nowhere else.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use helix_tests::Cluster;
use helix_tests::eventually::{eventually, secs};
use helix_tests::process::signal_pid;
use rustix::process::Signal;
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::json;

use super::Program;
use crate::cli::Cli;

const VALUE: &str = "quite-secret-0451";

/// Ctrl-Z gives the terminal back as it was, and whoever goes on types unseen again.
async fn stopped_and_continued(cli: &Cli) -> Result<()> {
    let mut typed = Program::on_a_terminal(cli, &["secret", "set", "STOPPED"])?;
    typed.out.says("it is not shown").await?;
    let pid = typed.on_it()?;
    let terminal = std::fs::read_link(format!("/proc/{pid}/fd/0"))?;
    let echoes = || -> Result<bool> {
        let terminal = std::fs::OpenOptions::new().read(true).write(true).open(&terminal)?;
        Ok(tcgetattr(terminal)?.local_modes.contains(LocalModes::ECHO))
    };
    ensure!(!echoes()?, "it is shown");
    typed.types("\x1a").await?;
    // What made the terminal stops with it, a moment later: before that it would not be woken.
    eventually("both are stopped", secs(20), || async {
        for pid in [pid, typed.pid()?] {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            ensure!(stat.contains(") T "), "{stat}");
        }
        Ok(())
    })
    .await?;
    ensure!(echoes()?, "the terminal is left without echo");
    typed.signal(Signal::CONT)?;
    signal_pid(pid, Signal::CONT)?;
    typed.out.says("it is not shown").await?;
    typed.types(&format!("{VALUE}\r")).await?;
    ensure!(!typed.ends(0).await?.stdout.contains(VALUE), "it was shown");
    cli.plain(0, &["secret", "delete", "STOPPED"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_the_environment_and_in_no_log_or_view() -> Result<()> {
    let cluster = Cluster::small().await?;
    let (cli, api) = (Cli::new(&cluster)?, cluster.api()?);
    let mut set = Program::piped(&cli, &["secret", "set", "MODEL_KEY"])?;
    set.types(&format!("{VALUE}\n")).await?;
    set.closes_input();
    let done = set.ends(0).await?;
    ensure!(done.stdout == "MODEL_KEY\n" && !done.stderr.contains(VALUE), "{:?} {}", done.stdout, done.stderr);
    // On the command line everybody would see it: refused, and not said again.
    for args in [&["secret", "set", "MODEL_KEY", VALUE][..], &["secret", "set", "MODEL_KEY=quite-secret-0451"]] {
        let done = Program::piped(&cli, args)?.ends(2).await?;
        ensure!(!done.stderr.contains(VALUE) && done.stderr.contains("MODEL_KEY"), "{}", done.stderr);
    }
    let mut empty = Program::piped(&cli, &["secret", "set", "EMPTY"])?;
    empty.closes_input();
    ensure!(empty.ends(2).await?.stderr.contains("there is no value for EMPTY"), "it took nothing for a value");
    // Typed at a terminal, it is not shown.
    let mut typed = Program::on_a_terminal(&cli, &["secret", "set", "TYPED"])?;
    typed.out.says("it is not shown").await?;
    typed.types(&format!("{VALUE}\r")).await?;
    ensure!(!typed.ends(0).await?.stdout.contains(VALUE), "it was shown");
    stopped_and_continued(&cli).await?;
    let list = cli.plain(0, &["secret", "list"]).await?;
    ensure!(list.contains("MODEL_KEY") && list.contains("TYPED") && !list.contains(VALUE), "{list}");

    let create = ["session", "create", "--id", "s", "--kind", "command", "--secret", "MODEL_KEY", "--secret", "TYPED"];
    cli.plain(0, &[&create[..], &["--wait"]].concat()).await?;
    let view = api.session("s").await?;
    cluster.remember(&view);
    // The command tells that it has it, in words of its own.
    let prompt = "[ \"$MODEL_KEY\" = \"$TYPED\" ] && printf %s \"$MODEL_KEY\" | tr a-z b-za";
    let done = Program::piped(&cli, &["session", "prompt", "s", prompt, "--wait"])?.ends(0).await?;
    ensure!(done.stdout.trim() == "rvjuf-tfdsfu-0451", "{:?}", done.stdout);

    let views = [
        cli.plain(0, &["session", "show", "s", "--json"]).await?,
        cli.plain(0, &["session", "logs", "s"]).await?,
        cli.plain(0, &["status", "--json"]).await?,
        api.get("/api/v1/sessions/s/threads").await?.text,
        api.get("/api/v1/external-agents/s").await?.text,
    ];
    ensure!(views.iter().all(|view| !view.contains(VALUE)), "a view tells it: {views:?}");
    // While the session lives its runner keeps what it was ordered, for itself alone; then nobody has it any more but
    // the server, and that one sealed.
    let keeps = cluster.runners[0].state_dir.join("ledger");
    let told = files_with(cluster.dir(), VALUE)?;
    ensure!(told.iter().all(|path| path.starts_with(&keeps) && is_private(path)), "{told:?}");
    cli.plain(0, &["session", "stop", "s", "--wait"]).await?;
    eventually("no file tells it", secs(10), || async {
        let told = files_with(cluster.dir(), VALUE)?;
        ensure!(told.is_empty(), "{told:?}");
        Ok(())
    })
    .await?;
    let missing = ["session", "create", "--kind", "command", "--secret", "NOBODYS"];
    let done = Program::piped(&cli, &missing)?.ends(1).await?;
    ensure!(done.stderr.contains("helixctl secret set"), "it does not say what to do: {}", done.stderr);
    cli.plain(0, &["secret", "delete", "TYPED"]).await?;
    let done = Program::piped(&cli, &["secret", "delete", "TYPED"])?.ends(1).await?;
    ensure!(done.stderr.contains("helixctl secret list"), "{}", done.stderr);
    let left = cli.json(0, &["secret", "list"]).await?;
    ensure!(left["secrets"].as_array().is_some_and(|left| left.len() == 1), "{left}");
    ensure!(json!(left).to_string().contains("MODEL_KEY"), "{left}");
    cluster.shutdown().await
}

fn is_private(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.permissions().mode().trailing_zeros() >= 6)
}

/// Files below `dir` that have these bytes: logs, records, workspaces, and what NATS stores.
fn files_with(dir: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let (mut dirs, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(dir) = dirs.pop() {
        // What is gone by now tells nobody.
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() && std::fs::read(&path).is_ok_and(|bytes| contains(&bytes, text.as_bytes())) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
