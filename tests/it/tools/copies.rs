//! helixctl's verbs: cp, exec, shell.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use helix_tests::eventually::{eventually, secs};
use helix_tests::{Cluster, programs};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{PATIENCE, desk, workspace};
use crate::cli::Cli;

fn helixctl(cli: &Cli, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(programs::ours("helixctl")?);
    command.args(["--url", &cli.url, "--token-file", &cli.token_file]).args(args);
    command.env("HOME", &cli.home).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    Ok(command)
}

fn text(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

fn scratch(cluster: &Cluster, name: &str) -> Result<std::path::PathBuf> {
    let dir = cluster.dir().join(name);
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn cp_copies_files_and_directories_both_ways() -> Result<()> {
    let (cluster, _, view) = desk().await?;
    let (cli, at) = (Cli::new(&cluster)?, workspace(&view)?);
    let here = scratch(&cluster, "here")?;
    std::fs::create_dir_all(here.join("tree/sub"))?;
    std::fs::write(here.join("tree/a"), "a")?;
    std::fs::write(here.join("tree/empty"), "")?;
    std::fs::write(here.join("tree/sub/tool"), "#!/bin/sh\necho works\n")?;
    std::fs::set_permissions(here.join("tree/sub/tool"), std::fs::Permissions::from_mode(0o755))?;
    let big: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 255) as u8).collect();
    std::fs::write(here.join("big"), &big)?;

    let copied = cli.json(0, &["session", "cp", text(&here.join("tree"))?, "desk:copy"]).await?;
    ensure!(copied["files"] == 3, "{copied}");
    ensure!(cli.plain(0, &["session", "exec", "desk", "--", "copy/sub/tool"]).await? == "works\n");
    cli.plain(0, &["session", "cp", text(&here.join("big"))?, "desk:"]).await?;
    ensure!(std::fs::read(at.join("big"))? == big);

    let back = here.join("back");
    cli.plain(0, &["session", "cp", "desk:copy", text(&back)?]).await?;
    ensure!(std::fs::read(back.join("a"))? == b"a" && std::fs::read(back.join("empty"))? == b"");
    ensure!(std::fs::metadata(back.join("sub/tool"))?.permissions().mode() & 0o100 != 0);
    cli.plain(0, &["session", "cp", "desk:/workspace/big", text(&back)?]).await?;
    ensure!(std::fs::read(back.join("big"))? == big);

    // What a former call has got is not got again: its part is gone on with.
    let part = std::fs::read_dir(&back)?.count();
    ensure!(part == 4, "parts are left: {part}");
    let done = cli.run(&["session", "cp", "desk:none", text(&back)?]).await?;
    ensure!(done.code == 1 && done.stderr.contains("file_not_found"), "{}", done.stderr);
    let done = cli.run(&["session", "cp", "desk:../x", text(&back)?]).await?;
    ensure!(done.code == 4 && done.stderr.contains("outside_workspace"), "{}", done.stderr);
    let done = cli.run(&["session", "cp", "a", "b"]).await?;
    ensure!(done.code == 2, "{}", done.stderr);
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cp_goes_on_where_a_killed_one_stood() -> Result<()> {
    let (cluster, _, view) = desk().await?;
    let (cli, at) = (Cli::new(&cluster)?, workspace(&view)?);
    let here = scratch(&cluster, "here")?;
    let file = here.join("big");
    std::fs::File::create(&file)?.set_len(400 << 20)?;
    let parts = at.join(".helix-parts");
    let part_size = || -> Result<u64> {
        let parts = std::fs::read_dir(&parts)?.flatten().filter(|entry| entry.file_name() != ".gitignore");
        parts.map(|part| Ok(part.metadata()?.len())).sum()
    };
    let mut copying = helixctl(&cli, &["session", "cp", text(&file)?, "desk:big"])?.spawn()?;
    eventually("something has come", secs(30), || async {
        ensure!(part_size()? > 1 << 20);
        Ok(())
    })
    .await?;
    copying.kill().await?;
    ensure!(!at.join("big").exists(), "it was faster than its death");
    let stood = part_size()?;
    ensure!(stood > 0);
    cli.plain(0, &["session", "cp", text(&file)?, "desk:big"]).await?;
    ensure!(std::fs::metadata(at.join("big"))?.len() == 400 << 20);
    ensure!(part_size()? == 0);

    let back = here.join("back");
    let mut copying = helixctl(&cli, &["session", "cp", "desk:big", text(&back)?])?.spawn()?;
    let part = eventually("something has come", secs(30), || async {
        let mut entries = std::fs::read_dir(&here)?.flatten();
        let part = entries.find(|entry| entry.file_name().to_string_lossy().ends_with(".helix-part"));
        let part = part.context("no part")?.path();
        ensure!(std::fs::metadata(&part)?.len() > 1 << 20);
        Ok(part)
    })
    .await?;
    copying.kill().await?;
    ensure!(!back.exists() && part.exists());
    cli.plain(0, &["session", "cp", "desk:big", text(&back)?]).await?;
    ensure!(std::fs::metadata(&back)?.len() == 400 << 20 && !part.exists());
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_is_as_if_the_command_ran_here() -> Result<()> {
    let (cluster, _, view) = desk().await?;
    let cli = Cli::new(&cluster)?;
    let mut cat =
        helixctl(&cli, &["session", "exec", "desk", "-e", "A=b c", "--", "sh", "-c", "cat; echo $A >&2; exit 7"])?;
    let mut cat = cat.spawn()?;
    let mut input = cat.stdin.take().context("no input")?;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 253) as u8).collect();
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move { input.write_all(&sent).await }
    });
    let output = tokio::time::timeout(PATIENCE, cat.wait_with_output()).await??;
    writing.await??;
    ensure!(
        output.stdout == sent && output.stderr == b"b c\n" && output.status.code() == Some(7),
        "{:?}",
        output.status
    );

    // Its input has no end, and it ends all the same.
    for _ in 0..20 {
        let mut head = helixctl(&cli, &["session", "exec", "desk", "--", "sh", "-c", "head -n 1; exit 6"])?;
        let mut yes = Command::new("yes").stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        head.stdin(TryInto::<Stdio>::try_into(yes.stdout.take().context("no output")?)?);
        let output = tokio::time::timeout(PATIENCE, head.output()).await??;
        ensure!(output.stdout == b"y\n" && output.status.code() == Some(6), "{output:?}");
    }
    // It has closed both outputs, and takes more than the window.
    let script = "exec cat >big 2>/dev/null";
    let mut cat = helixctl(&cli, &["session", "exec", "desk", "--", "sh", "-c", script])?.spawn()?;
    let mut input = cat.stdin.take().context("no input")?;
    tokio::time::timeout(PATIENCE, input.write_all(&sent)).await??;
    drop(input);
    let output = tokio::time::timeout(PATIENCE, cat.wait_with_output()).await??;
    ensure!(output.status.success() && std::fs::read(workspace(&view)?.join("big"))? == sent, "{output:?}");

    let killed = cli.run(&["session", "exec", "desk", "-n", "--", "sh", "-c", "kill -KILL $$"]).await?;
    ensure!(killed.code == 137, "{}", killed.code);
    let tty = cli.run(&["session", "exec", "desk", "--tty", "--", "tty"]).await?;
    ensure!(tty.code == 0 && tty.stdout.contains("/dev/pts/"), "{}{}", tty.stdout, tty.stderr);
    let none = cli.run(&["session", "exec", "desk", "--", "no-such-program"]).await?;
    ensure!(none.code == 1 && none.stderr.contains("command_not_started"), "{}", none.stderr);

    // Ctrl-C is the command's.
    let script = "trap 'echo caught; exit 3' INT; echo up; while :; do sleep 0.05; done";
    let mut ctl = helixctl(&cli, &["session", "exec", "desk", "--", "sh", "-c", script])?.spawn()?;
    let mut output = ctl.stdout.take().context("no output")?;
    let mut up = [0; 3];
    tokio::time::timeout(PATIENCE, output.read_exact(&mut up)).await??;
    helix_tests::process::signal_pid(ctl.id().context("it ended")?, rustix::process::Signal::INT)?;
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, output.read_to_string(&mut rest)).await??;
    ensure!(rest == "caught\n" && ctl.wait().await?.code() == Some(3), "{rest:?}");
    cluster.shutdown().await
}

/// helixctl on a terminal of its own, which `script` makes.
#[tokio::test(flavor = "multi_thread")]
async fn shell_is_left_and_come_back_to_and_the_terminal_is_as_before() -> Result<()> {
    let (cluster, ..) = desk().await?;
    let cli = Cli::new(&cluster)?;
    let program = programs::ours("helixctl")?;
    let line = format!(
        "stty cols 120 rows 33; before=$(stty -g); {} --url {} --token-file {} session shell desk --name s; \
         code=$?; test \"$(stty -g)\" = \"$before\" && echo same-$code",
        program.display(),
        cli.url,
        cli.token_file
    );
    let on_terminal = || -> Result<tokio::process::Child> {
        let mut command = Command::new(programs::installed("script")?);
        command.args(["-qec", &line, "/dev/null"]).env("HOME", &cli.home).env("SHELL", "/bin/sh");
        Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?)
    };
    let until = async |output: &mut tokio::process::ChildStdout, words: &str| -> Result<String> {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(words) {
            let read = tokio::time::timeout(PATIENCE, output.read_buf(&mut seen)).await;
            let count = read.with_context(|| format!("no {words:?}: {}", String::from_utf8_lossy(&seen)))??;
            ensure!(count > 0, "no {words:?}: {}", String::from_utf8_lossy(&seen));
        }
        Ok(String::from_utf8_lossy(&seen).into_owned())
    };
    for (round, (leave, words)) in [(&b"\x1d"[..], "same-0"), (b"exit 6\n", "same-6")].into_iter().enumerate() {
        let mut child = on_terminal()?;
        let (mut input, mut output) =
            (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
        if round == 1 {
            until(&mut output, "size-33 120").await?;
        }
        input.write_all(b"echo size-$(stty size)\n").await?;
        until(&mut output, "size-33 120").await?;
        input.write_all(leave).await?;
        until(&mut output, words).await?;
    }
    let refused = cli.run(&["session", "shell", "desk"]).await?;
    ensure!(refused.code == 2 && refused.stderr.contains("session exec"), "{}", refused.stderr);
    cluster.shutdown().await
}
