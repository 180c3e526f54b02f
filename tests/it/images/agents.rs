//! Agents that no package has: from a URL by digest, from npm as of a day, and the program that a build made; in an image of
//! Ubuntu. Archive, downloads and npm's registry are served by the test; npm is the machine's own, put into the image.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use helix_tests::archive::UBUNTU_SUITE;
use helix_tests::programs;
use serde_json::json;

use super::zed::program;
use super::{Lab, command, helixctl, json as answer, lab, refused, words};

/// Dependencies as of this day: one version of them is newer.
const BEFORE: &str = "2026-06-01";

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A tar of one directory, as npm and projects of programs have it.
fn tarball(dir: &Path, top: &str, files: &[(&str, &str)], to: &Path) -> Result<String> {
    let root = dir.join(top);
    std::fs::create_dir_all(&root)?;
    for (name, text) in files {
        std::fs::write(root.join(name), text)?;
        std::fs::set_permissions(root.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    said(Command::new("tar").arg("-czf").arg(to).arg("-C").arg(dir).arg(top))?;
    std::fs::remove_dir_all(root)?;
    let sum = said(Command::new("sha256sum").arg(to))?;
    Ok(sum.split_whitespace().next().context("no digest")?.to_owned())
}

/// A registry with `helix-hello`, which depends on `helix-word`, of which a version came out after [`BEFORE`].
fn registry(lab: &Lab) -> Result<()> {
    let dir = lab.archive.dir().join("npm");
    std::fs::create_dir_all(&dir)?;
    let publish = |name: &str, versions: &[(&str, &str, serde_json::Value, &str)]| -> Result<()> {
        let (mut all, mut time) = (json!({}), json!({ "created": "2026-01-01T00:00:00.000Z" }));
        for (version, day, more, code) in versions {
            let file = format!("{name}-{version}.tgz");
            let mut package = json!({ "name": name, "version": version, "main": "index.js" });
            for (key, value) in more.as_object().into_iter().flatten() {
                package[key] = value.clone();
            }
            let text = package.to_string();
            tarball(&dir, "package", &[("package.json", &text), ("index.js", code)], &dir.join(&file))?;
            package["dist"] = json!({ "tarball": lab.archive.url(&format!("npm/{file}")) });
            all[*version] = package;
            time[*version] = json!(format!("{day}T00:00:00.000Z"));
        }
        let latest = versions.last().context("no version")?.0;
        let packument = json!({ "name": name, "dist-tags": { "latest": latest }, "versions": all, "time": time });
        Ok(std::fs::write(dir.join(name), packument.to_string())?)
    };
    let hello = json!({ "bin": { "helix-hello": "index.js" }, "dependencies": { "helix-word": "^1.0.0" } });
    publish(
        "helix-hello",
        &[("1.0.0", "2026-02-01", hello, "#!/usr/bin/env node\nconsole.log('hello', require('helix-word'))\n")],
    )?;
    publish(
        "helix-word",
        &[
            ("1.0.0", "2026-02-01", json!({}), "module.exports = 'early'\n"),
            ("1.1.0", "2026-07-01", json!({}), "module.exports = 'late'\n"),
        ],
    )
}

/// The machine's node and npm as files of a recipe. Those of nodejs.org and NodeSource need the C++ library alone.
fn node(dir: &Path) -> Result<()> {
    let npm = programs::installed("npm")?.canonicalize()?;
    let npm =
        npm.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "npm")).context("npm's directory")?;
    std::fs::copy(programs::installed("node")?.canonicalize()?, dir.join("node"))?;
    said(Command::new("cp").arg("-a").arg(npm).arg(dir.join("npm"))).map(drop)
}

const NODE: &str = "name = \"node\"\ndescription = \"x\"\nparent = \"base.toml\"\n\
    [[files]]\npath = \"/usr/local/bin/node\"\nsource = \"node\"\nmode = \"0755\"\n\
    [[files]]\npath = \"/usr/local/lib/node_modules/npm\"\nsource = \"npm\"\n\
    [[files]]\npath = \"/usr/local/bin/npm\"\nmode = \"0755\"\ncontent = '''\n#!/bin/sh\nexec node /usr/local/lib/node_modules/npm/bin/npm-cli.js \"$@\"\n'''\n";

#[tokio::test]
async fn agents_come_from_npm_and_by_url_into_an_image_of_ubuntu() -> Result<()> {
    let lab = lab().await?;
    registry(lab)?;
    let served = lab.archive.dir().join("agents");
    std::fs::create_dir_all(&served)?;
    std::fs::write(served.join("agent"), "#!/bin/sh\necho by its url\n")?;
    let sum = said(Command::new("sha256sum").arg(served.join("agent")))?;
    let single = sum.split_whitespace().next().context("no digest")?;
    let whole = tarball(&served, "agent-2.0", &[("run", "#!/bin/sh\necho unpacked\n")], &served.join("agent.tgz"))?;
    let agents = format!(
        "name = \"agents\"\ndescription = \"x\"\nparent = \"node.toml\"\n\
         [[agents]]\nurl = \"{}\"\nsha256 = \"{single}\"\npath = \"/usr/local/bin/agent\"\n\
         [[agents]]\nurl = \"{}\"\nsha256 = \"{whole}\"\nunpack = \"/opt/agent\"\nstrip = 1\n\
         [[agents]]\nnpm = \"helix-hello@1.0.0\"\nbefore = \"{BEFORE}\"\n\
         [[commands]]\nrun = \"(agent; /opt/agent/run; helix-hello; cat /etc/hostname || true) >/opt/said\"\n\
         [[files]]\npath = \"/usr/local/bin/zed\"\nartifact = \"zed\"\nmode = \"0755\"\n",
        lab.archive.url("agents/agent"),
        lab.archive.url("agents/agent.tgz"),
    );
    let missing =
        "name = \"missing\"\ndescription = \"x\"\nparent = \"node.toml\"\n[[agents]]\nnpm = \"helix-nothing@1.0.0\"\n";
    let files = [("node.toml", NODE), ("agents.toml", &agents), ("missing.toml", missing)];
    let dir = lab.recipes_from("agents", &lab.archive.from_ubuntu(), &files)?;
    node(&dir)?;

    // What no build has made is told before anything is built.
    let cache = lab.cache();
    let (registry, key) = (lab.archive.url("npm/"), lab.root.join("sign.key").display().to_string());
    let build = async |recipe: PathBuf| {
        let recipe = recipe.display().to_string();
        let args = ["image", "build", &recipe, "--cache-dir", &cache, "--key", &key, "--json"];
        Ok::<_, anyhow::Error>(command(&lab.root, &args).env("npm_config_registry", &registry).output().await?)
    };
    let zed = program(&served)?.display().to_string();
    let taken = helixctl(&lab.root, &["build", "zed", "--binary", &zed, "--cache-dir", &cache]).await?;
    ensure!(taken.status.success(), "{}", words(&taken));
    answer(&build(dir.join("agents.toml")).await?)?;
    refused(&build(dir.join("missing.toml")).await?, 1, &["npm cannot install helix-nothing@1.0.0", "404"])?;

    let shown = answer(&lab.image(&["show", "agents", "--json"]).await?)?;
    ensure!(shown["distribution"] == "ubuntu" && shown["suite"] == UBUNTU_SUITE, "{shown}");
    let names: Vec<_> =
        shown["packages"].as_array().context("packages")?.iter().filter_map(|one| one["name"].as_str()).collect();
    ensure!(names.contains(&"helix-hello") && names.contains(&"helix-word"), "{names:?}");
    // The tar that anybody can have of it.
    let tar = lab.root.join("agents.tar");
    let exported = answer(&lab.image(&["export", "agents", &tar.display().to_string(), "--json"]).await?)?;
    ensure!(exported["tar_bytes"] == std::fs::metadata(&tar)?.len(), "{exported}");
    let list = said(Command::new("tar").arg("-tf").arg(&tar))?;
    let path = |end: &str| list.lines().find(|line| line.ends_with(end)).with_context(|| format!("no {end}"));
    let read = |end: &str| said(Command::new("tar").arg("-xOf").arg(&tar).arg(path(end)?));
    let ran = read("opt/said")?;
    ensure!(ran.starts_with("by its url\nunpacked\nhello early\n"), "{ran}");
    let zed_in_it = Command::new("tar").arg("-xOf").arg(&tar).arg(path("usr/local/bin/zed")?).output()?.stdout;
    ensure!(zed_in_it == std::fs::read(&zed)?, "another program");
    std::fs::remove_file(tar)?;
    Ok(())
}
