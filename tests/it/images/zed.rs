//! `build zed` and `build-all`. The fork's own source needs a network that tests do not have: a small project with the
//! same crate name and cargo feature stands in for it.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::{command, helixctl, json, lab, refused, words};

/// A crate `zed` that has the feature's word in it only when it is built with the feature.
fn project(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("zed-source");
    std::fs::create_dir_all(root.join("src"))?;
    std::fs::write(
        root.join("Cargo.toml"),
        "[package]\nname = \"zed\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[features]\nexternal_websocket_sync = []\n[workspace]\n",
    )?;
    std::fs::write(
        root.join("src/main.rs"),
        "fn main() {\n    #[cfg(feature = \"external_websocket_sync\")]\n    println!(\"external_websocket_sync is on\");\n}\n",
    )?;
    Ok(root)
}

#[tokio::test]
async fn zed_is_built_with_its_feature_or_taken_once_it_was_looked_at() -> Result<()> {
    let lab = lab().await?;
    let dir = tempfile::tempdir_in(&lab.root)?;
    let cache = dir.path().join("cache").display().to_string();
    let source = project(dir.path())?.display().to_string();
    // Programs of the build are the machine's own; the home of the test has none.
    let home = PathBuf::from(std::env::var("HOME")?);
    let built = json(
        &helixctl(&home, &["build", "zed", "--source", &source, "--profile", "dev", "--cache-dir", &cache, "--json"])
            .await?,
    )?;
    let notes = built["notes"].to_string();
    ensure!(notes.contains("needs glibc 2.") && notes.contains("libc.so.6"), "{built}");
    let program = built["files"][0].as_str().unwrap_or_default().to_owned();
    ensure!(Path::new(&program).is_file(), "{built}");

    // It is taken by its path, too; what would not do is refused, and what is there stays.
    let taken = helixctl(&home, &["build", "zed", "--binary", &program, "--cache-dir", &cache]).await?;
    ensure!(taken.status.success(), "{}", words(&taken));
    refused(
        &helixctl(&home, &["build", "zed", "--binary", "/bin/ls", "--cache-dir", &cache]).await?,
        1,
        &["external_websocket_sync is not in it"],
    )?;
    refused(
        &helixctl(&home, &["build", "zed", "--binary", "/nowhere", "--cache-dir", &cache]).await?,
        1,
        &["would not do", "/nowhere"],
    )?;
    ensure!(Path::new(&program).is_file());
    // From a repository, by its revision: what is checked out is that, whatever the branch says now.
    let git = |args: &[&str]| -> Result<String> {
        let output = std::process::Command::new("git").arg("-C").arg(&source).args(args).output()?;
        ensure!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let commit = ["-c", "user.name=t", "-c", "user.email=t@test", "commit", "-q", "-m"];
    git(&["init", "-q", "-b", "fork"])?;
    git(&["add", "-A"])?;
    git(&[&commit[..], &["good"]].concat())?;
    git(&["tag", "good"])?;
    std::fs::remove_file(dir.path().join("zed-source/Cargo.toml"))?;
    git(&[&commit[..], &["no crate any more", "-a"]].concat())?;
    let url = format!("file://{source}");
    let from_git = async |rev: &str| {
        let args =
            ["build", "zed", "--source", &url, "--rev", rev, "--profile", "dev", "--cache-dir", &cache, "--json"];
        helixctl(&home, &args).await
    };
    let built = json(&from_git("good").await?)?;
    ensure!(built["notes"].to_string().contains("external_websocket_sync is in it"), "{built}");
    refused(&from_git("fork").await?, 2, &["no source of Zed", "Cargo.toml"])?;
    refused(&from_git("no-such-rev").await?, 1, &["cannot be fetched", "no-such-rev", "--binary PATH"])?;
    git(&["checkout", "-q", "good"])?;
    let broken = dir.path().join("zed-source/src/main.rs");
    std::fs::write(broken, "fn main() { this does not compile }\n")?;
    refused(
        &helixctl(&home, &["build", "zed", "--source", &source, "--profile", "dev", "--cache-dir", &cache]).await?,
        1,
        &["zed cannot be built", "error: ", "--binary PATH"],
    )?;
    Ok(())
}

#[tokio::test]
async fn build_all_names_a_zed_that_it_cannot_build_and_builds_the_rest() -> Result<()> {
    let lab = lab().await?;
    let with_zed = "name = \"with-zed\"\ndescription = \"x\"\nparent = \"base.toml\"\n[[files]]\npath = \"/usr/local/bin/zed\"\nartifact = \"zed\"\n";
    let config = "images = [\"base.toml\", \"with-zed.toml\"]\n[zed]\nsource = \"/nowhere/zed\"\n";
    let dir = lab.recipes("all", &[("with-zed.toml", with_zed), ("build.toml", config)])?;
    let key = lab.root.join("sign.key").display().to_string();
    let config = dir.join("build.toml").display().to_string();
    let cache = lab.cache();
    let home = PathBuf::from(std::env::var("HOME")?);
    let args = ["build-all", "--config", &config, "--key", &key, "--cache-dir", &cache, "--json"];
    let output = helixctl(&home, &args).await?;
    refused(&output, 1, &["not built: zed, image with-zed", "--binary PATH"])?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let ok = |name: &str| {
        said["built"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == name && one["ok"] == true))
    };
    ensure!(ok("image base") && !ok("zed") && !ok("image with-zed"), "{said}");
    let logs = json(&helixctl(&home, &["logs", "--cache-dir", &cache, "--json"]).await?)?;
    ensure!(logs["logs"]["zed"].is_string(), "{logs}");
    Ok(())
}

/// A program with windows that starts, with the word that tells of the feature.
pub fn program(dir: &Path) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let openbox = std::env::split_paths(&path).map(|dir| dir.join("openbox")).find(|file| file.is_file());
    let mut bytes = std::fs::read(openbox.unwrap_or_default())?;
    bytes.extend_from_slice(b"external_websocket_sync");
    let file = dir.join("zed");
    std::fs::write(&file, bytes)?;
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(file)
}

#[tokio::test]
async fn the_documents_verbs_take_their_options() -> Result<()> {
    let lab = lab().await?;
    let dir = tempfile::tempdir_in(&lab.root)?;
    let (home, at) = (dir.path(), |name: &str| dir.path().join(name).display().to_string());
    std::fs::write(at("empty.toml"), "")?;
    let zed = program(home)?.display().to_string();
    // A program is signed by nobody: no key is asked for.
    let script = ["--force", "--verbose", "--agents", "2", "--tag", "v1"];
    let args = ["build-zed", "--binary", &zed, "--config", &at("empty.toml"), "--cache-dir", &at("cache"), "--json"];
    let built = helixctl(home, &[&args[..], &script].concat()).await?;
    ensure!(json(&built)?["built"][0]["name"] == "zed", "{}", words(&built));
    ensure!(words(&built).contains("start-agents"), "{}", words(&built));
    // Images are signed.
    let recipes = lab.recipes("verbs", &[("build.toml", "images = [\"base.toml\"]\n")])?;
    let config = recipes.join("build.toml").display().to_string();
    let agents = ["build-agents", "--config", &config, "--json", "--cache-dir"];
    refused(&helixctl(home, &[&agents[..], &[&at("cache")]].concat()).await?, 2, &["signing key", "helixctl key new"])?;
    let (cache, key) = (lab.cache(), lab.root.join("sign.key").display().to_string());
    let mut tagged = command(home, &[&agents[..], &[&cache, "--key", &key]].concat());
    let tagged = tagged.env("DOCKER_TAG_VERSION", "v7").env("NUM_AGENTS", "3").output().await?;
    let digest = json(&tagged)?["built"][0]["digest"].clone();
    let shown = json(&lab.image(&["show", "base:v7", "--json"]).await?)?;
    ensure!(shown["digest"] == digest, "{digest} {shown}");

    let logs = |args: &'static [&'static str]| {
        let cache = cache.clone();
        async move { helixctl(home, &[&["logs", "--cache-dir", &cache], args].concat()).await }
    };
    let all = json(&logs(&["--json"]).await?)?;
    let pack = all["logs"].as_object().and_then(|logs| logs.keys().find(|name| !name.starts_with("pack-")).cloned());
    let pack = pack.unwrap_or_default();
    let shown = helixctl(home, &["logs", "--cache-dir", &cache, "--lines", "1", "--agents", "2", &pack]).await?;
    ensure!(shown.status.success() && String::from_utf8_lossy(&shown.stdout).lines().count() <= 1, "{}", words(&shown));
    ensure!(words(&shown).contains("does not depend on it"), "{}", words(&shown));
    refused(&logs(&["no-such-build"]).await?, 2, &["there is no log no-such-build", "there are: "])?;

    let cleaned =
        json(&helixctl(home, &["clean", "--force", "--verbose", "--cache-dir", &at("cache"), "--json"]).await?)?;
    ensure!(cleaned["removed"].as_array().is_some_and(|parts| parts.contains(&"artifacts".into())), "{cleaned}");
    ensure!(!dir.path().join("cache/artifacts/zed/zed").exists());
    Ok(())
}
