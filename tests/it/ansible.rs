//! The Ansible roles: what their linter says, and the inventory. What they do on hosts is in `tests/hosts/ansible.rs`.

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::secs;
use helix_tests::up::words;
use helix_tests::{programs, repository};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

#[tokio::test]
async fn the_linter_finds_nothing() -> Result<()> {
    let linter = programs::ansible("ansible-lint")?;
    let bin = linter.parent().context("a folder of programs")?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let home = tempfile::tempdir()?;
    let mut command = Command::new(&linter);
    command.args(["--offline", "--strict", "--nocolor"]).current_dir(repository().join("ansible"));
    command.env("PATH", path).env("HOME", home.path()).kill_on_drop(true);
    let output = timeout(secs(180), command.output()).await.context("ansible-lint does not end")??;
    ensure!(output.status.success(), "{}", words(&output));
    Ok(())
}

#[tokio::test]
async fn the_inventory_is_that_of_provision() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let fleet = "[defaults]\nuser = \"ops\"\npool = \"ci\"\nlabels = { site = \"cellar\" }\n\
                 [[host]]\nhost = \"one.example\"\n\
                 [[host]]\nhost = \"root@two:2222\"\nrunner = \"big-one\"\nslots = 16\nlabels = { rack = \"7\" }\n\
                 [[host]]\nhost = \"root@[fe80::1]:22\"\npool = \"gpu\"\n";
    std::fs::write(dir.path().join("fleet.toml"), fleet)?;
    let mut command = Command::new(repository().join("ansible/inventory/fleet.py"));
    // There is no server yet.
    command.arg("--list").current_dir(dir.path()).env("HELIXCTL", "/nowhere/helixctl").env_remove("HELIX_FLEET");
    let output = command.output().await?;
    let listed: Value = serde_json::from_slice(&output.stdout).with_context(|| words(&output))?;
    ensure!(words(&output).contains("without what the server knows"), "{}", words(&output));
    let of = |host: &str, name: &str| listed["_meta"]["hostvars"][host][name].clone();
    ensure!(
        of("one.example", "ansible_user") == "ops" && of("one.example", "helix_labels")["pool"] == "ci",
        "{listed:#}"
    );
    ensure!(of("two", "ansible_user") == "root" && of("two", "ansible_port") == 2222, "{listed:#}");
    ensure!(of("two", "helix_runner") == "big-one" && of("two", "helix_slots") == 16, "{listed:#}");
    ensure!(of("fe80::1", "ansible_port") == 22 && of("fe80::1", "helix_labels")["pool"] == "gpu", "{listed:#}");
    for (group, members) in
        [("runners", 3), ("pool_ci", 2), ("pool_gpu", 1), ("label_rack_7", 1), ("label_site_cellar", 3)]
    {
        ensure!(listed[group]["hosts"].as_array().is_some_and(|hosts| hosts.len() == members), "{group}: {listed:#}");
    }
    Ok(())
}
