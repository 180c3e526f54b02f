//! Images of one's own on one machine: `helixctl up` takes what this user's key has signed and nothing else; `test-agents`
//! on the server that is up and on a Helix of its own; a pull goes on when its server is back.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use helix_protocol::session::SessionPhase;
use helix_tests::cluster::Cluster;
use helix_tests::eventually;
use helix_tests::eventually::secs;
use helix_tests::runner::RunnerSpec;
use helix_tests::up::Machine;
use serde_json::json;

use super::{Lab, command, helixctl, json, lab, refused, words};

/// What kind `command` needs, and a tool that is nowhere else.
pub fn desk(name: &str, more: &str) -> String {
    format!(
        "name = \"{name}\"\ndescription = \"x\"\nparent = \"base.toml\"\npackages = [\"xterm\"]\nkinds = [\"command\"]\n{more}\
         [[files]]\npath = \"/usr/local/bin/only-here\"\nmode = \"0755\"\ncontent = \"#!/bin/sh\\necho from the image\\n\"\n"
    )
}

/// helixctl in a home of one's own, with the lab's cache.
pub async fn own(home: &Path, lab: &Lab, args: &[&str]) -> Result<std::process::Output> {
    let cache = lab.cache();
    helixctl(home, &args.iter().copied().chain(["--cache-dir", &cache]).collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn up_takes_images_of_its_users_own_key_and_no_others() -> Result<()> {
    let lab = lab().await?;
    let other = "[[files]]\npath = \"/etc/other\"\ncontent = \"other\"\n";
    let dir = lab.recipes("own", &[("desk.toml", &desk("desk", "")), ("alien.toml", &desk("alien", other))])?;
    let recipe = |name: &str| dir.join(name).display().to_string();
    // It is up before there is a key, and is not started again.
    let machine = Machine::new()?;
    let told = machine.up().await?;
    let api = machine.api(&told)?;
    let state = machine.state_dir().display().to_string();
    let home = machine.state_dir().parent().context("a home")?.to_owned();

    let key = lab.root.join("sign.key").display().to_string();
    let alien = own(&home, lab, &["image", "build", &recipe("alien.toml"), "--key", &key]).await?;
    ensure!(alien.status.success(), "{}", words(&alien));
    json(&own(&home, lab, &["image", "push", "alien", "--state-dir", &state, "--json"]).await?)?;
    let trusts = async |id: &str, words: &[&str]| -> Result<()> {
        api.create(&json!({ "id": id, "kind": "command", "image": "alien" })).await?;
        let view = api.wait_phase(id, SessionPhase::Failed, secs(30)).await?;
        let cause = view.cause.context("no cause")?;
        ensure!(cause.code == "image_not_trusted", "{cause:?}");
        words.iter().try_for_each(|word| {
            ensure!(cause.message.contains(word), "{word} is not in {cause:?}");
            Ok(())
        })
    };
    trusts("without-key", &["trusts no key", "provision.key.pub", "helixctl key new"]).await?;

    let made = helixctl(&home, &["key", "new"]).await?;
    ensure!(made.status.success(), "{}", words(&made));
    let built = own(&home, lab, &["image", "build", &recipe("desk.toml")]).await?;
    ensure!(built.status.success(), "{}", words(&built));
    json(&own(&home, lab, &["image", "push", "desk", "--state-dir", &state, "--json"]).await?)?;
    let prompt = "only-here; touch /usr/mine; id -u";
    let args = ["run", "--wait", "--kind", "command", "--image", "desk", "--state-dir", &state, prompt];
    let ran = helixctl(&home, &args).await?;
    let said = words(&ran);
    let uid = rustix::process::geteuid().as_raw().to_string();
    ensure!(said.contains("from the image") && said.contains("Read-only file system") && said.contains(&uid), "{said}");
    trusts("of-a-stranger", &["signed by the key SHA256:", "provision.key.pub"]).await?;

    // Each image with the kinds that it is for, on the server that is up.
    let args = ["test-agents", "--image", "desk", "--state-dir", &state, "--json"];
    let tested = json(&helixctl(&home, &args).await?)?;
    ensure!(tested["ok"] == true && tested["tests"][0]["found"] == "a command ran", "{tested}");
    ensure!(tested["tests"][0]["kind"] == "command" && tested["tests"][0]["image"] == "desk:latest", "{tested}");
    // What cannot start is named, and the exit code says so.
    let all = helixctl(&home, &["test-agents", "--kind", "command", "--state-dir", &state, "--json"]).await?;
    refused(&all, 1, &["image_not_trusted"])?;
    let said: serde_json::Value = serde_json::from_slice(&all.stdout)?;
    let found: Vec<_> = said["tests"]
        .as_array()
        .context("tests")?
        .iter()
        .map(|test| (test["image"].as_str(), test["ok"] == true))
        .collect();
    ensure!(found == [(None, true), (Some("alien:latest"), false), (Some("desk:latest"), true)], "{said}");

    // Without a server that is known, on a Helix of its own, which is gone afterwards.
    let apart = tempfile::tempdir_in("/tmp")?;
    std::fs::create_dir_all(apart.path().join(".config/helix"))?;
    for file in ["provision.key", "provision.key.pub"] {
        std::fs::copy(home.join(".config/helix").join(file), apart.path().join(".config/helix").join(file))?;
    }
    let cache = lab.cache();
    let mut scratch = command(apart.path(), &["test-agents", "--image", "desk", "--cache-dir", &cache, "--json"]);
    scratch.env("NATS_SERVER", helix_tests::programs::nats_server()?);
    let tested = tokio::time::timeout(secs(120), scratch.output()).await??;
    ensure!(words(&tested).contains("testing on a Helix of its own"), "{}", words(&tested));
    ensure!(json(&tested)?["ok"] == true, "{}", words(&tested));
    ensure!(of_home(apart.path()).is_empty(), "processes are left: {:?}", of_home(apart.path()));

    let down = machine.down().await?;
    ensure!(down.status.success(), "{}", words(&down));
    machine.nothing_runs()?;
    machine.close()
}

/// Where the kernel gives no namespaces, the runner says that it runs no images, and a session in one why it waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_namespaces_says_that_it_runs_no_images() -> Result<()> {
    let lab = lab().await?;
    let dir = lab.recipes("without", &[])?;
    lab.built(&dir.join("base.toml")).await?;
    let machine = Machine::new()?;
    let told = machine.up_without_namespaces().await?;
    let api = machine.api(&told)?;
    let state = machine.state_dir().display().to_string();
    let why = "this backend needs user and mount namespaces";
    let shown = words(&machine.helixctl(&["runner", "show", "local", "--state-dir", &state]).await?);
    ensure!(shown.contains(&format!("images: {why}")) && shown.contains("run agentd as a systemd service"), "{shown}");
    json(&own(&lab.root, lab, &["image", "push", "base", "--state-dir", &state, "--json"]).await?)?;
    api.create(&json!({ "id": "inside", "kind": "command", "image": "base", "input": "true" })).await?;
    let waits = eventually("it says why it waits", secs(20), || async {
        let view = api.session("inside").await?;
        let cause = view.cause.context("no cause")?;
        ensure!(view.phase == SessionPhase::Pending, "{cause:?}");
        Ok(cause.message)
    })
    .await?;
    ensure!(waits.contains(why), "{waits}");
    let down = machine.down().await?;
    ensure!(down.status.success(), "{}", words(&down));
    machine.nothing_runs()?;
    machine.close()
}

/// Processes that were started in this home.
fn of_home(home: &Path) -> Vec<String> {
    let wanted = format!("HOME={}", home.display());
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let has = |dir: &PathBuf| {
        let environment = std::fs::read(dir.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes())
    };
    let name = |dir: PathBuf| std::fs::read_to_string(dir.join("cmdline")).unwrap_or_default().replace('\0', " ");
    all.filter(has).map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_when_its_server_is_back() -> Result<()> {
    let lab = lab().await?;
    // Many chunks that no other image has, so that the pull takes its time.
    let more = "[[commands]]\nrun = \"head -c 160000000 /dev/urandom >/opt/large\"\n";
    let dir = lab.recipes("large", &[("large.toml", &desk("large", more))])?;
    let built = lab.built(&dir.join("large.toml")).await?;
    let public = lab.root.join("sign.key.pub").display().to_string();
    let spec = RunnerSpec { settings: format!("image_signers = {public:?}\n"), ..RunnerSpec::new("r1") };
    let mut cluster = Cluster::builder().runner(spec).start().await?;
    let api = cluster.api()?;
    let token = cluster.dir().join("admin-for-push");
    std::fs::write(&token, cluster.admin_token())?;
    let (url, token) = (api.base().to_owned(), token.display().to_string());
    let push = ["image", "push", "large", "--url", &url, "--token-file", &token, "--json"];
    json(&own(&lab.root, lab, &push).await?)?;

    let chunks = cluster.runners[0].state_dir.join("images/chunks");
    let here = || -> std::collections::BTreeMap<PathBuf, u64> {
        let dirs = std::fs::read_dir(&chunks).into_iter().flatten().flatten();
        let files = dirs.flat_map(|dir| std::fs::read_dir(dir.path()).into_iter().flatten().flatten());
        let whole = files.filter(|file| file.path().extension().is_none());
        whole.map(|file| (file.path(), std::os::unix::fs::DirEntryExt::ino(&file))).collect()
    };
    api.create(&json!({ "id": "s", "kind": "command", "image": "large", "input": "only-here" })).await?;
    eventually("some chunks are here", secs(60), || async {
        ensure!(here().len() > 20, "{}", here().len());
        Ok(())
    })
    .await?;
    cluster.servers[0].kill().await?;
    let early = here();
    let all = usize::try_from(built["packed"]["chunks"].as_u64().context("chunks")?)?;
    ensure!(early.len() < all * 9 / 10, "it was nearly complete: {} of {all}", early.len());
    cluster.servers[0].start().await?;
    let result = api.wait_result("s", secs(120)).await?.result.context("no result")?;
    ensure!(result.output_tail.contains("from the image"), "{result:?}");
    let late = here();
    let again: Vec<_> = early.iter().filter(|(path, inode)| late.get(*path) != Some(inode)).collect();
    ensure!(again.is_empty(), "fetched again: {again:?}");
    cluster.shutdown().await
}
