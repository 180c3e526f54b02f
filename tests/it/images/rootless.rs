//! A user without rights builds the same image as root does: in a user namespace, with numbers of `/etc/subuid`.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use helix_tests::programs;
use tokio::process::Command;

use super::{PATIENCE, TOOLS, digest, json, lab, refused, words};

/// There is such a user on every machine; it owns nothing.
const USER: &str = "nobody";
const UID: u32 = 65_534;

/// `helixctl image build` as that user; `numbers` is `/etc/subuid` for it, in a mount namespace of its own.
fn build(home: &Path, numbers: &str) -> Result<Command> {
    std::fs::write(home.join("subuid"), numbers)?;
    let script = "set -e; mount --bind \"$HOME/subuid\" /etc/subuid; mount --bind \"$HOME/subuid\" /etc/subgid; cd \"$HOME\"; \
        exec setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=-all --ambient-caps=-all -- \
        ./helixctl image build ./tools.toml --cache-dir cache --key sign.key --json";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    command.env("HOME", home).env("USER", USER).kill_on_drop(true);
    Ok(command)
}

#[tokio::test]
async fn a_user_without_rights_builds_the_same_image() -> Result<()> {
    let lab = lab().await?;
    // Layers of its own: others count which of theirs are made.
    let tools = TOOLS.replace("name = \"tools\"", "name = \"rootless\"").replace("\"less\"]", "\"jq\"]");
    let dir = lab.recipes("of-root", &[("tools.toml", &tools), ("in.txt", "in\n"), ("a.txt", "a\n")])?;
    let by_root = lab.built(&dir.join("tools.toml")).await?;

    // The lab's own directory is root's alone.
    let home = tempfile::Builder::new().prefix("helix-rootless-").tempdir_in("/var/tmp")?;
    let at = |name: &str| home.path().join(name);
    std::fs::copy(programs::ours("helixctl")?, at("helixctl"))?;
    std::fs::copy(lab.archive.dir().join("keys.gpg"), at("keys.gpg"))?;
    std::fs::copy(lab.root.join("sign.key"), at("sign.key"))?;
    for (name, text) in [("tools.toml", tools.as_str()), ("in.txt", "in\n"), ("a.txt", "a\n")] {
        std::fs::write(at(name), text)?;
    }
    let base = format!("name = \"base\"\ndescription = \"the smallest\"\n{}", lab.archive.from_with(&at("keys.gpg")));
    std::fs::write(at("base.toml"), base)?;
    for entry in std::fs::read_dir(home.path())? {
        chown(entry?.path(), Some(UID), Some(UID))?;
    }
    chown(home.path(), Some(UID), Some(UID))?;
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755))?;

    // Without numbers it says which command gives some.
    let output = tokio::time::timeout(PATIENCE, build(home.path(), "")?.output()).await??;
    refused(&output, 1, &["/etc/subuid gives this user no numbers", "usermod --add-subuids"])?;

    let output = tokio::time::timeout(PATIENCE, build(home.path(), "nobody:1000000:65536\n")?.output()).await??;
    ensure!(output.status.success(), "{}", words(&output));
    let by_nobody = json(&output)?;
    ensure!(by_nobody["packed"]["tar"].is_string(), "it was not packed here: {by_nobody}");
    ensure!(digest(&by_nobody)? == digest(&by_root)?, "digests differ:\n{by_root}\n{by_nobody}");
    Ok(())
}
