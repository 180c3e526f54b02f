//! A helixctl that runs: what it has said so far, what is typed into it, and how it ended.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::secs;
use helix_tests::process::{exit_code, signal_pid};
use helix_tests::programs;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cli::{Cli, Done};

/// How long it may take to say something on a loaded machine.
const PATIENCE: Duration = secs(60);
/// What Ctrl-C and Ctrl-D send.
pub const CTRL_C: &str = "\x03";
pub const CTRL_D: &str = "\x04";

/// A running helixctl.
pub struct Program {
    words: String,
    child: Child,
    input: Option<ChildStdin>,
    /// Standard output, and on a terminal everything.
    pub out: Stream,
    /// Standard error.
    pub err: Stream,
}

/// What came on a stream so far.
pub struct Stream {
    text: watch::Receiver<String>,
    seen: usize,
}

impl Program {
    /// With pipes.
    pub fn piped(cli: &Cli, args: &[&str]) -> Result<Self> {
        let words = format!("helixctl {}", args.join(" "));
        let all = [&["--url", &cli.url, "--token-file", &cli.token_file], args].concat();
        Self::start(words, Command::new(programs::ours("helixctl")?).args(all), cli)
    }

    /// On a terminal of its own. Its arguments are words of a shell.
    pub fn on_a_terminal(cli: &Cli, args: &[&str]) -> Result<Self> {
        let words = format!("helixctl {}", args.join(" "));
        let helixctl = programs::ours("helixctl")?;
        let line =
            format!("exec {} --url {} --token-file {} {}", helixctl.display(), cli.url, cli.token_file, args.join(" "));
        let script = programs::installed("script")?;
        Self::start(words, Command::new(script).args(["-qefc", &line, "/dev/null"]), cli)
    }

    fn start(words: String, command: &mut Command, cli: &Cli) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut child = command
            .env_clear()
            .env("PATH", path)
            .env("HOME", &cli.home)
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| words.clone())?;
        let input = child.stdin.take();
        let out = Stream::of(child.stdout.take().context("no standard output")?);
        let err = Stream::of(child.stderr.take().context("no standard error")?);
        Ok(Self { words, child, input, out, err })
    }

    /// Types keys, or writes into the pipe.
    pub async fn types(&mut self, keys: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        input.write_all(keys.as_bytes()).await?;
        Ok(input.flush().await?)
    }

    /// Its input ends.
    pub fn closes_input(&mut self) {
        self.input = None;
    }

    /// Whether it has ended when so long has gone by.
    pub async fn has_ended_within(&mut self, patience: Duration) -> bool {
        timeout(patience, self.child.wait()).await.is_ok()
    }

    /// The process on the terminal: the first child of what made that.
    pub fn on_it(&self) -> Result<u32> {
        let pid = self.pid()?;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(children.split_whitespace().next().context("nothing is on the terminal")?.parse()?)
    }

    /// Its process id; that of what made the terminal, where it is on one.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_pid(self.pid()?, signal)
    }

    /// Waits for its end, which must be this exit code.
    pub async fn ends(mut self, code: i32) -> Result<Done> {
        let status = timeout(PATIENCE, self.child.wait()).await;
        let (stdout, stderr) = (self.out.all(), self.err.all());
        let status = status.with_context(|| format!("{} goes on:\n{stdout}\n{stderr}", self.words))??;
        let done = Done { code: exit_code(status), stdout: self.out.whole().await, stderr: self.err.whole().await };
        ensure!(done.code == code, "{}: exit code {}\n{}\n{}", self.words, done.code, done.stdout, done.stderr);
        Ok(done)
    }
}

impl Stream {
    fn of(mut stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (told, text) = watch::channel(String::new());
        tokio::spawn(async move {
            let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                bytes.extend_from_slice(&buffer[..read]);
                told.send_replace(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"));
            }
        });
        Self { text, seen: 0 }
    }

    /// Everything so far.
    pub fn all(&self) -> String {
        self.text.borrow().clone()
    }

    async fn whole(&mut self) -> String {
        while timeout(PATIENCE, self.text.changed()).await.is_ok_and(|changed| changed.is_ok()) {}
        self.all()
    }

    /// Waits until these words come, behind those that were waited for before.
    pub async fn says(&mut self, words: &str) -> Result<()> {
        let seen = self.seen;
        let place = |text: &String| text.get(seen..).and_then(|new| new.find(words)).map(|at| seen + at + words.len());
        let found = timeout(PATIENCE, self.text.wait_for(|text| place(text).is_some())).await;
        let found = found.ok().and_then(|text| text.ok().and_then(|text| place(&text)));
        self.seen = found.with_context(|| {
            let all = self.all();
            format!("it does not say {words:?} behind\n{}\n--- but\n{}", &all[..seen], &all[seen..])
        })?;
        Ok(())
    }
}
