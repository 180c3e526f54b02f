//! `image new`, `lint`, `list` and `pull`, and `build` of Helix's own programs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use helix_protocol::image::{Digest, FORMAT, ImageManifest, SignedManifest};
use helix_tests::cluster::Cluster;
use helixctl::images::pack::pack;
use helixctl::images::store::Store;

use super::{digest, helixctl, json, lab, refused, words};

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_is_begun_looked_at_built_and_pulled_elsewhere() -> Result<()> {
    let lab = lab().await?;
    let bad = "name = \"bad\"\nparent = \"base.toml\"\npackages = [\"less\"]\n\
        [[agents]]\nnpm = \"thing@1.0.0\"\n\
        [[commands]]\nrun = \"true\"\ninputs = [\"nowhere.sh\"]\nnetwork = true\n\
        [[files]]\npath = \"/etc/x\"\nsource = \"not-there\"\n";
    let child = "name = \"child\"\ndescription = \"x\"\nparent = \"bad.toml\"\npackages = [\"less\"]\n";
    let dir = lab.recipes("verbs-of-images", &[("bad.toml", bad), ("child.toml", child)])?;
    let at = |name: &str| dir.join(name).display().to_string();

    // Begun with a parent beside it; never over a file that is there, and not with a name that is none.
    let made =
        json(&lab.image_here(&dir, &["new", "mine", "--parent", "base.toml", "--out", "mine.toml", "--json"]).await?)?;
    ensure!(made["file"].as_str().is_some_and(|file| file.ends_with("mine.toml")), "{made}");
    let again = lab.image_here(&dir, &["new", "mine", "--parent", "base.toml", "--out", "mine.toml"]).await?;
    refused(&again, 1, &["cannot write the recipe", "--out FILE"])?;
    refused(&lab.image_here(&dir, &["new", "No Name", "--out", "x.toml"]).await?, 2, &["x.toml"])?;
    ensure!(!dir.join("x.toml").exists());

    // What reading does not refuse, each with its file.
    let linted = lab.image_here(&dir, &["lint", &at("child.toml"), "--json"]).await?;
    ensure!(linted.status.code() == Some(1), "{}", words(&linted));
    for word in [
        "nowhere.sh is not there",
        "not-there is not there",
        "it has no description",
        "a command uses the network",
        "thing@1.0.0 has no `before`",
        "package less is in its parent bad already",
    ] {
        ensure!(words(&linted).contains(word), "{word:?} is not in {}", words(&linted));
    }

    // Pushed, and had on another machine: the same image, whole.
    let built = lab.built(&dir.join("base.toml")).await?;
    let cluster = Cluster::builder().start().await?;
    let (url, token) = (cluster.servers[0].url(), cluster.secrets.admin.display().to_string());
    let server = ["--url", &url, "--token-file", &token, "--json"];
    let wanted = digest(&built)?;
    json(&lab.image(&[&["push", &wanted, "--as", "shared:one"], &server[..]].concat()).await?)?;
    let elsewhere = tempfile::tempdir_in(&lab.root)?;
    let cache = elsewhere.path().display().to_string();
    let there = async |args: &[&str]| helixctl(&lab.root, &[&["image"], args, &["--cache-dir", &cache]].concat()).await;
    let pulled = json(&there(&[&["pull", "shared:one"], &server[..]].concat()).await?)?;
    ensure!(pulled["digest"] == wanted && pulled["pulled_chunks"].as_u64() > Some(10), "{pulled}");
    let again = json(&there(&[&["pull", "shared:one"], &server[..]].concat()).await?)?;
    ensure!(again["pulled_chunks"] == 0 && again["pulled_bytes"] == 0, "{again}");
    refused(&there(&[&["pull", "shared:two"], &server[..4]].concat()).await?, 1, &["shared", "one"])?;
    let kept_here = json(&there(&["list", "--json"]).await?)?;
    ensure!(kept_here.to_string().contains(&wanted) && kept_here.to_string().contains("shared"), "{kept_here}");
    let sound = there(&["lint", "--built", "shared:one"]).await?;
    ensure!(sound.status.success(), "{}", words(&sound));
    let bare = bare(elsewhere.path())?.to_string();
    let unsound = there(&["lint", "--built", &bare, "--json"]).await?;
    ensure!(unsound.status.code() == Some(1), "{}", words(&unsound));
    for target in ["/home/agent", "/run/session", "/etc/passwd"] {
        ensure!(
            words(&unsound).contains(&format!("sessions need {target}, and it is not there")),
            "{}",
            words(&unsound)
        );
    }
    cluster.shutdown().await
}

/// An image that no build makes: without the places that sessions bind something of their own to.
fn bare(cache: &Path) -> Result<Digest> {
    let tree = tempfile::tempdir()?;
    std::fs::create_dir_all(tree.path().join("usr/bin"))?;
    let store = Store::open(cache)?;
    let packed = pack(tree.path(), 1_700_000_000, &store)?;
    let manifest = ImageManifest {
        format: FORMAT,
        name: "bare".to_owned(),
        arch: helix_protocol::image::own_arch().to_owned(),
        distribution: "debian".to_owned(),
        suite: "none".to_owned(),
        source_date: 1_700_000_000,
        kinds: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        recipe: Digest::of(b"bare"),
        tar_bytes: packed.tar_bytes,
        tar: packed.tar,
        index: packed.index,
        sbom: store.put_chunk(b"{}")?.chunk.digest,
    };
    let manifest = serde_json::to_string(&manifest)?;
    Ok(store.put_manifest(&SignedManifest { manifest, signature: String::new() })?)
}

impl super::Lab {
    /// `image` in a directory.
    async fn image_here(&self, dir: &Path, args: &[&str]) -> Result<std::process::Output> {
        let all = [&["image"], args].concat();
        Ok(super::command(&self.root, &all).current_dir(dir).output().await?)
    }
}

/// A source tree with crates of the same names, and a `make package` that says where its files are.
fn source(dir: &Path) -> Result<()> {
    let write = |path: &str, text: &str| -> Result<()> {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().context("a parent")?)?;
        Ok(std::fs::write(path, text)?)
    };
    write("Cargo.toml", "[workspace]\nmembers = [\"agentd\", \"server\"]\nresolver = \"2\"\n")?;
    for (member, name, program) in [("agentd", "helix-agentd", "agentd"), ("server", "helix-server", "helix-server")] {
        write(
            &format!("{member}/Cargo.toml"),
            &format!(
                "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[[bin]]\nname = \"{program}\"\npath = \"main.rs\"\n"
            ),
        )?;
        write(&format!("{member}/main.rs"), &format!("fn main() {{ println!(\"{name} of a stand-in\"); }}\n"))?;
    }
    write(
        "Cargo.lock",
        "version = 3\n\n[[package]]\nname = \"helix-agentd\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"helix-server\"\nversion = \"0.1.0\"\n",
    )?;
    write("packaging/package.sh", "")?;
    write("Makefile", "package:\n\t@echo made; echo dist/helix_1_amd64.deb; echo dist/helix-1.x86_64.rpm\n")
}

#[tokio::test]
async fn helixs_own_programs_are_built_from_a_source_tree() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (tree, cache) = (dir.path().join("helix"), dir.path().join("cache").display().to_string());
    source(&tree)?;
    // Programs of the build are the machine's own; the home of the test has none.
    let home = std::path::PathBuf::from(std::env::var("HOME")?);
    let from = tree.display().to_string();
    let build = async |what: &str, from: &str| {
        helixctl(&home, &["build", what, "--source", from, "--cache-dir", &cache, "--json"]).await
    };
    for (what, word) in [("agentd", "helix-agentd"), ("server", "helix-server")] {
        let made = json(&build(what, &from).await?)?;
        let file = made["files"][0].as_str().with_context(|| made.to_string())?;
        let said = std::process::Command::new(file).output()?;
        ensure!(words(&said) == format!("{word} of a stand-in\n"), "{made}: {}", words(&said));
    }
    let made = json(&build("packages", &from).await?)?;
    ensure!(made["files"] == serde_json::json!(["dist/helix_1_amd64.deb", "dist/helix-1.x86_64.rpm"]), "{made}");
    // What fails shows its log; what is no source tree is told.
    std::fs::write(tree.join("agentd/main.rs"), "fn main() { not rust }\n")?;
    refused(&build("agentd", &from).await?, 1, &["agentd cannot be built", "error"])?;
    let empty = dir.path().display().to_string();
    for what in ["agentd", "packages"] {
        refused(&build(what, &empty).await?, 2, &["this is no source tree of Helix", "--source DIR"])?;
    }
    Ok(())
}
