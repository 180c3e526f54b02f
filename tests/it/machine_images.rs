//! Machine images: a disk of the shipped recipe boots under QEMU, by BIOS and by UEFI; its clones enrol by themselves with a
//! real server, each as a runner of its own, and run sessions.

mod vm;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_protocol::api::RunnerView;
use helix_protocol::runner::Liveness;
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::Cluster;
use helix_tests::eventually::eventually;
use helix_tests::programs;
use serde_json::json;
use tokio::process::Command;

use self::vm::{Firmware, Seed, Vm};

/// For a build that has everything to fetch, on a machine that does much else.
const PATIENCE: Duration = Duration::from_mins(10);
/// A processor that is emulated boots in half a minute of another one's time.
const BOOT: Duration = Duration::from_secs(400);
/// Of a session there, until it is ready, done, or gone: each takes a minute.
const SESSION: Duration = Duration::from_mins(5);
/// This machine's loopback, as a guest sees it.
const HOST: &str = "10.0.2.2";

/// Where images and their key are kept from run to run: only what changed is built again.
fn kept() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let dir = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("helix-test-machine-images");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

pub async fn image(args: &[&str]) -> Result<Output> {
    let mut command = Command::new(programs::ours("helixctl")?);
    let cache = kept()?.join("cache");
    command.arg("image").args(args).arg("--cache-dir").arg(cache).stdin(Stdio::null()).kill_on_drop(true);
    Ok(tokio::time::timeout(PATIENCE, command.output()).await??)
}

pub fn succeeded(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The key that signs all of them.
pub async fn key() -> Result<PathBuf> {
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one_makes_it = ONE.lock().await;
    let key = kept()?.join("sign.key");
    if !key.exists() {
        let mut command = Command::new(programs::ours("helixctl")?);
        succeeded(&command.args(["key", "new", "--out"]).arg(&key).output().await?)?;
    }
    Ok(key)
}

/// A recipe of real packages, built.
pub async fn build(recipe: &Path) -> Result<()> {
    let (name, key) = (recipe.display().to_string(), key().await?.display().to_string());
    let built = image(&["build", &name, "--key", &key]).await?;
    succeeded(&built).with_context(|| format!("{name} is not built"))
}

/// The shipped recipe, built. One test at a time asks for it.
async fn machine() -> Result<()> {
    build(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/machine.toml")).await
}

fn new_runners(all: Vec<RunnerView>) -> Vec<RunnerView> {
    all.into_iter().filter(|runner| runner.facts.is_some() && runner.liveness == Liveness::Online).collect()
}

/// What cannot be a disk is said so, and nothing is written.
async fn refusals(dir: &Path) -> Result<()> {
    let disk = dir.join("none.raw").display().to_string();
    let wrong = dir.join("wrong.env");
    std::fs::write(&wrong, "API_HOST=https://a\nAPI_TOKNE=x\n")?;
    let wrong = wrong.display().to_string();
    for (args, code, words) in [
        (vec!["machien", "--disk", &disk], 1, vec!["machien", "image list"]),
        (vec!["machine", "--disk", &disk, "--size", "64MiB"], 2, vec!["does not fit", "--size"]),
        (vec!["machine", "--disk", &disk, "--join", &wrong], 2, vec!["line 2", "API_TOKNE", "API_TOKEN"]),
        (vec!["machine", "--disk", &disk, "--format", "vmdk"], 2, vec!["vmdk", "qcow2"]),
    ] {
        let output = image(&[&["export"], &args[..]].concat()).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(code), "{args:?}: {:?} {said}", output.status);
        for word in words {
            ensure!(said.contains(word), "{args:?}: {word} is missing: {said}");
        }
    }
    ensure!(!Path::new(&disk).exists());
    Ok(())
}

#[tokio::test]
async fn two_clones_of_a_disk_become_two_runners_that_run_sessions() -> Result<()> {
    machine().await?;
    let cluster = Cluster::builder().seen_at(HOST.parse::<IpAddr>()?).start().await?;
    let api = cluster.api()?;
    let dir = tempfile::Builder::new().prefix("helix-vm-").tempdir()?;
    // What all of them are told; the token comes to each another way.
    let join = dir.path().join("join.env");
    let (port, nats) = (cluster.servers[0].port(), cluster.nats.port());
    std::fs::write(
        &join,
        format!("API_HOST=http://{HOST}:{port}\nNATS_URL=nats://{HOST}:{nats}\nLABELS=pool=clones\nCONCURRENCY=2\n"),
    )?;
    refusals(dir.path()).await?;
    let disk = dir.path().join("machine.qcow2");
    let raw = disk.with_extension("raw");
    let join = join.display().to_string();
    for disk in [&disk, &raw] {
        let disk = disk.display().to_string();
        succeeded(&image(&["export", "machine", "--disk", &disk, "--join", &join, "--size", "6GiB"]).await?)?;
    }

    let token = cluster.enrolment_token()?;
    let one = Vm::start(dir.path(), "one", &disk, Firmware::Bios, &Seed::Credential(format!("API_TOKEN={token}\n")))?;
    let seed = Seed::NoCloud { user_data: format!("#helix\nAPI_TOKEN={token}\nLABELS=pool=clones,site=b\n") };
    let two = Vm::start(dir.path(), "two", &raw, Firmware::Uefi, &seed)?;
    let runners = eventually("both clones are online", BOOT, || async {
        one.lives()?;
        two.lives()?;
        let runners = new_runners(api.runners().await?);
        ensure!(runners.len() == 2, "{runners:?}\n{}\n{}", one.console(), two.console());
        Ok(runners)
    })
    .await?;
    ensure!(runners[0].id != runners[1].id, "{runners:?}");
    ensure!(runners.iter().all(|runner| runner.labels.get("pool").is_some_and(|pool| pool == "clones")), "{runners:?}");
    ensure!(runners.iter().filter(|runner| runner.labels.contains_key("site")).count() == 1, "{runners:?}");
    for vm in [&one, &two] {
        ensure!(vm.console().contains("is enrolled") && !vm.console().contains(&token), "{}", vm.console());
    }

    // A session on each, of the pool by their label alone. What it sees: who the machine is, a root file system that has
    // grown (the clone is larger than the disk), and nothing that it was told.
    let script = "cat /etc/machine-id; hostname; df --output=size -m / | tail -n 1; ls /etc/helix 2>&1; cat /etc/helix/* /proc/cmdline 2>&1";
    let mut outputs = Vec::new();
    for (number, runner) in runners.iter().enumerate() {
        let id = format!("on-clone-{number}");
        let body = json!({ "id": id, "kind": "command", "pool": "clones", "runner": runner.id, "input": script });
        api.create(&body).await?;
        api.wait_phase(&id, SessionPhase::Ready, SESSION).await?;
        let view = api.wait_result(&id, SESSION).await?;
        outputs.push(view.result.context("no result")?.output_tail);
        api.delete_session(&id, SESSION).await?;
    }
    println!("{outputs:?}");
    let lines: Vec<Vec<&str>> = outputs.iter().map(|text| text.lines().map(str::trim).collect()).collect();
    ensure!(lines.iter().all(|lines| lines.len() > 3 && lines[0].len() == 32), "{outputs:?}");
    ensure!(lines[0][0] != lines[1][0] && lines[0][1] != lines[1][1], "clones are one machine: {outputs:?}");
    ensure!(outputs.iter().all(|text| !text.contains(&token) && !text.contains("join.env")), "{outputs:?}");
    for lines in &lines {
        let size: u64 = lines[2].parse().with_context(|| format!("{outputs:?}"))?;
        ensure!(size > 7000, "the root file system has {size} MiB of a disk with 8 GiB");
    }
    one.stop()?;
    two.stop()?;

    // A token that is good for nothing is told on the console, with what to do, and not tried for ever.
    let seed = Seed::Credential("API_TOKEN=no-token-of-anybody\n".to_owned());
    let three = Vm::start(dir.path(), "three", &disk, Firmware::Bios, &seed)?;
    eventually("the refusal is told", BOOT, || async {
        three.lives()?;
        let said = three.console();
        ensure!(said.contains("this machine is no runner yet") && said.contains("helixctl token create"), "{said}");
        Ok(())
    })
    .await?;
    ensure!(!three.console().contains("no-token-of-anybody"), "{}", three.console());
    ensure!(api.runners().await?.len() == 2, "{:?}", api.runners().await?);
    three.stop()?;
    cluster.shutdown().await
}
