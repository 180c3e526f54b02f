//! helixctl against a real server: what each command answers, for people and as JSON, and its exit codes.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use helix_tests::cluster::READY;
use helix_tests::process::{exit_code, run};
use helix_tests::runner::RunnerSpec;
use helix_tests::{Cluster, ports, programs};
use serde_json::Value;

/// helixctl with a server and a token.
pub struct Cli {
    pub url: String,
    pub token_file: String,
    pub home: String,
}

/// What a command did.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Cli {
    pub fn new(cluster: &Cluster) -> Result<Self> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("path is not UTF-8");
        Ok(Self {
            url: cluster.servers[0].url(),
            token_file: text(&cluster.secrets.admin)?,
            home: text(cluster.dir())?,
        })
    }

    pub async fn run(&self, args: &[&str]) -> Result<Done> {
        let all = [&["--url", &self.url, "--token-file", &self.token_file], args].concat();
        self.done(&programs::ours("helixctl")?, &all).await
    }

    async fn done(&self, program: &Path, args: &[&str]) -> Result<Done> {
        let output = run(program, args, &[("HOME".to_owned(), self.home.clone())], READY * 2).await?;
        Ok(Done {
            code: exit_code(output.status),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// The command's answer, if it ends with `code`.
    pub async fn plain(&self, code: i32, args: &[&str]) -> Result<String> {
        let done = self.run(args).await?;
        ensure!(done.code == code, "{args:?}: exit code {}\n{}{}", done.code, done.stdout, done.stderr);
        Ok(done.stdout)
    }

    /// The same with `--json`: one compact object.
    pub async fn json(&self, code: i32, args: &[&str]) -> Result<Value> {
        let text = self.plain(code, &[args, &["--json"]].concat()).await?;
        ensure!(text.lines().count() == 1, "{args:?}: not one line: {text}");
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// The same on a terminal.
    async fn on_a_terminal(&self, args: &[&str]) -> Result<String> {
        let helixctl = programs::ours("helixctl")?;
        let words = [&["--url", &self.url, "--token-file", &self.token_file], args].concat().join(" ");
        let line = format!("{} {words}", helixctl.display());
        let done = self.done(&programs::installed("script")?, &["-qec", &line, "/dev/null"]).await?;
        ensure!(done.code == 0, "{line}: {}\n{}", done.code, done.stdout);
        Ok(done.stdout)
    }
}

fn create<'a>(id: &'a str, input: &'a str, wait: &'a str) -> Vec<&'a str> {
    vec!["session", "create", "--id", id, "--kind", "command", "--input", input, wait]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_people_and_programs() -> Result<()> {
    let cluster = Cluster::builder().runner(RunnerSpec::new("r1").slots(2)).start().await?;
    let cli = Cli::new(&cluster)?;
    let said = cli.plain(0, &create("told", "echo the outcome", "--wait=result")).await?;
    ensure!(said == "told\n", "{said}");
    let view = cli.json(0, &create("meant", "echo the outcome", "--wait=result")).await?;
    ensure!(view["id"] == "meant" && view["result"]["output_tail"] == "the outcome\n", "{view}");
    for id in ["told", "meant"] {
        cluster.remember(&cluster.api()?.session(id).await?);
    }

    for (args, id) in [
        (&["session", "show", "told"][..], "told"),
        (&["session", "open", "told", "--print"], "told"),
        (&["session", "list"], "told"),
        (&["runner", "list"], "r1"),
        (&["runner", "show", "r1"], "r1"),
        (&["status"], "told"),
    ] {
        let said = cli.plain(0, args).await?;
        ensure!(said.contains(id) && !said.contains('─'), "{args:?}: {said}");
        let answer = cli.json(0, args).await?;
        ensure!(answer.to_string().contains(id), "{args:?}: {answer}");
    }
    let table = cli.on_a_terminal(&["session", "list"]).await?;
    ensure!(table.contains('─') && table.contains("told") && table.contains("phase"), "no table: {table}");

    // Both slots are taken: the wait ends, the session stays in the queue.
    cli.plain(5, &["session", "create", "--id", "late", "--kind", "terminal", "--wait", "--timeout", "1"]).await?;
    let view = cli.json(0, &["session", "show", "late"]).await?;
    ensure!(view["phase"] == "Pending", "{view}");
    cli.plain(0, &["session", "stop", "late", "--wait"]).await?;

    let said = cli.plain(0, &["session", "stop", "told", "--wait"]).await?;
    ensure!(said == "told\n", "{said}");
    let view = cli.json(0, &["session", "stop", "meant", "--wait"]).await?;
    ensure!(view["id"] == "meant" && view["phase"] == "Stopped", "{view}");

    // The command's own failure is exit code 1, with its status in the answer.
    let said = cli.plain(1, &create("fails", "exit 3", "--wait=result")).await?;
    ensure!(said == "fails\n", "{said}");
    let view = cli.json(1, &create("misses", "exit 3", "--wait=result")).await?;
    ensure!(view["id"] == "misses" && view["result"]["exit_status"] == 3, "{view}");
    for id in ["fails", "misses"] {
        cluster.remember(&cluster.api()?.session(id).await?);
    }
    cluster.shutdown().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_4_and_no_server_is_3() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let mut cli = Cli::new(&cluster)?;
    let wrong = cluster.dir().join("wrong.token");
    std::fs::File::options().write(true).create_new(true).mode(0o600).open(&wrong)?.write_all(b"wrong-token\n")?;
    let right = std::mem::replace(&mut cli.token_file, wrong.to_str().context("path is not UTF-8")?.to_owned());
    for args in [&["session", "list"][..], &["runner", "list"], &["status"], &["session", "create", "--input=true"]] {
        let said = cli.plain(4, args).await?;
        ensure!(said.is_empty(), "{args:?} answered: {said}");
    }
    cli.token_file = right;
    cli.url = format!("http://127.0.0.1:{}", ports::free()?);
    for args in [&["session", "list"][..], &["status"], &["session", "create", "--wait", "--input=true"]] {
        let said = cli.plain(3, args).await?;
        ensure!(said.is_empty(), "{args:?} answered: {said}");
    }
    cluster.shutdown().await
}
