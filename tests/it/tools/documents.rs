//! The lines of docs/files-and-commands.md, as they are there.

use anyhow::{Context as _, Result, ensure};
use helix_tests::process::run;
use helix_tests::programs;

use super::{PATIENCE, desk, workspace};

/// Every block of shell lines that has curl in it.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = text.split("```").skip(1).step_by(2);
    let shell = blocks.by_ref().filter_map(|block| block.strip_prefix("sh\n").map(str::to_owned));
    shell.filter(|block| block.contains("curl")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_of_the_documentation_work() -> Result<()> {
    let (cluster, api, view) = desk().await?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/files-and-commands.md");
    let text = std::fs::read_to_string(file)?;
    let blocks = blocks(&text);
    ensure!(blocks.len() == 3, "{blocks:?}");
    let here = cluster.dir().join("here");
    std::fs::create_dir(&here)?;
    std::fs::write(here.join("report.csv"), "a,b\n".repeat(100))?;
    std::fs::write(here.join("big.iso"), vec![7; 3_000_000])?;
    let (base, token) = (api.base(), api.token());
    let head = format!(
        "set -eo pipefail; cd {}; S={base}/api/v1/sessions/desk; auth='Authorization: Bearer {token}'; \
         curl() {{ command curl -sS --fail-with-body --noproxy '*' \"$@\"; }}\n",
        here.display()
    );
    let script = head + &blocks.concat();
    let shell = programs::installed("bash")?;
    let done = run(&shell, &["-c", &script], &[], PATIENCE).await?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    ensure!(std::fs::read(here.join("back.csv"))? == std::fs::read(here.join("report.csv"))?);
    ensure!(std::fs::read(workspace(&view)?.join("big.iso"))? == vec![7; 3_000_000]);
    ensure!(!workspace(&view)?.join("data").exists(), "it was to be removed");
    let result = said.rsplit("{\"exit_status\"").next().context("no result")?;
    ensure!(said.contains("{\"exit_status\"") && result.contains("big.iso"), "{said}");
    cluster.shutdown().await
}
