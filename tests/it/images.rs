//! Images: real roots built by mmdebstrap and apt from an archive that the tests serve; equal digests, exact
//! invalidation, and what bad input, kills and full disks leave.

mod agents;
mod ahead;
mod own;
mod rootless;
mod verbs;
mod zed;

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use helix_tests::archive::{Archive, SNAPSHOT, SUITE};
use helix_tests::eventually;
use helix_tests::eventually::secs;
use helix_tests::programs;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::OnceCell;

/// For one build on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(400);

/// One archive, and one cache that most tests share: layers are built once.
struct Lab {
    _remover: std::process::ChildStdin,
    archive: Archive,
    root: PathBuf,
}

static LAB: OnceCell<Lab> = OnceCell::const_new();

/// The archive is served by a runtime that lives as long as the process: each test's own ends with it.
async fn lab() -> Result<&'static Lab> {
    LAB.get_or_try_init(|| async {
        let (made, lab) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let root = tempfile::Builder::new().prefix("helix-images-").tempdir()?.keep();
                let remover = remove_at_the_end(&root)?;
                let archive = Archive::serve(&root.join("archive")).await;
                let _ = made.send(archive.map(|archive| Lab { _remover: remover, archive, root }));
                std::future::pending::<Result<()>>().await
            })
        });
        let lab = lab.await??;
        let made =
            helixctl(&lab.root, &["key", "new", "--out", &lab.root.join("sign.key").display().to_string()]).await?;
        ensure!(made.status.success(), "{}", words(&made));
        Ok(lab)
    })
    .await
}

/// What is static is never dropped: a process removes the directory once this one has ended, however it did.
fn remove_at_the_end(dir: &Path) -> Result<std::process::ChildStdin> {
    let mut remover = std::process::Command::new("sh")
        .args(["-c", "cat >/dev/null; exec rm -rf -- \"$1\"", "sh"])
        .arg(dir)
        .stdin(std::process::Stdio::piped())
        .process_group(0)
        .spawn()?;
    remover.stdin.take().context("no pipe")
}

impl Lab {
    fn cache(&self) -> String {
        self.root.join("cache").display().to_string()
    }

    /// A directory of recipes: `base` from the archive, and more.
    fn recipes(&self, name: &str, more: &[(&str, &str)]) -> Result<PathBuf> {
        self.recipes_from(name, &self.archive.from(), more)
    }

    /// The same with a `base` from somewhere else.
    fn recipes_from(&self, name: &str, from: &str, more: &[(&str, &str)]) -> Result<PathBuf> {
        let dir = self.root.join("recipes").join(name);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("base.toml"), format!("name = \"base\"\ndescription = \"the smallest\"\n{from}"))?;
        for (file, text) in more {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().context("a parent")?)?;
            std::fs::write(path, text)?;
        }
        Ok(dir)
    }

    fn build_command(&self, cache: &str, recipe: &Path, more: &[&str]) -> Command {
        let key = self.root.join("sign.key").display().to_string();
        let recipe = recipe.display().to_string();
        let mut args = vec!["image", "build", &recipe, "--cache-dir", cache, "--key", &key, "--json"];
        args.extend(more);
        command(&self.root, &args)
    }

    async fn build(&self, cache: &str, recipe: &Path, more: &[&str]) -> Result<Output> {
        Ok(tokio::time::timeout(PATIENCE, self.build_command(cache, recipe, more).output()).await??)
    }

    /// A build that must succeed; what it printed.
    async fn built(&self, recipe: &Path) -> Result<Value> {
        json(&self.build(&self.cache(), recipe, &[]).await?)
    }

    async fn image(&self, args: &[&str]) -> Result<Output> {
        let cache = self.cache();
        let mut all = vec!["image"];
        all.extend(args);
        all.extend(["--cache-dir", &cache]);
        helixctl(&self.root, &all).await
    }
}

fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(programs::ours("helixctl").expect("helixctl was built"));
    command
        .args(args)
        .env("HOME", home)
        .env_remove("XDG_CACHE_HOME")
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("HELIX_STATE_DIR");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).current_dir(home);
    command
}

async fn helixctl(home: &Path, args: &[&str]) -> Result<Output> {
    Ok(tokio::time::timeout(PATIENCE, command(home, args).output()).await??)
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The last line of what a command printed.
fn json(output: &Output) -> Result<Value> {
    ensure!(output.status.success(), "{}", words(output));
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(serde_json::from_str(text.lines().last().context("it printed nothing")?)?)
}

fn made(built: &Value) -> Vec<&str> {
    let steps = built["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    steps.iter().filter(|step| step["made"] == true).filter_map(|step| step["step"].as_str()).collect()
}

fn digest(built: &Value) -> Result<String> {
    Ok(built["digest"].as_str().context("no digest")?.to_owned())
}

/// An error that says what, where, why and next, with this exit code and these words.
fn refused(output: &Output, code: i32, wanted: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{:?}: {}", output.status, words(output));
    for word in wanted.iter().chain(&["error: "]) {
        ensure!(said.contains(word), "{word:?} is not in: {said}");
    }
    Ok(())
}

const TOOLS: &str = "name = \"tools\"\ndescription = \"tools\"\nparent = \"base.toml\"\npackages = [\"fontconfig\", \"less\"]\nkinds = [\"terminal\"]\n\
    [[users]]\nname = \"builder\"\nuid = 1500\n\
    [[commands]]\nrun = \"test ! -e /etc/late; cp $INPUTS/in.txt /opt/out; date >/var/log/when; id -un >>/opt/out; ip link 2>/dev/null || true; mkdir -p /usr/local/share/fonts/own\"\ninputs = [\"in.txt\"]\n\
    [[files]]\npath = \"/usr/local/share/a.txt\"\nsource = \"a.txt\"\nowner = \"builder\"\nmode = \"0640\"\n\
    [[files]]\npath = \"/etc/late\"\ncontent = \"late\\n\"\n";

#[tokio::test]
async fn the_same_inputs_are_the_same_image_and_a_change_rebuilds_what_depends_on_it() -> Result<()> {
    let lab = lab().await?;
    // Of a moment of the archive, as whoever wants the same image next year writes it.
    let from = lab.archive.from_snapshot(SNAPSHOT);
    let files = [("tools.toml", TOOLS), ("in.txt", "in\n"), ("a.txt", "a\n")];
    let dir = lab.recipes_from("same", &from, &files)?;
    // The same packages as of another moment are something else, of which nothing is taken.
    lab.built(&lab.recipes("same-of-now", &files)?.join("base.toml")).await?;
    let first = lab.built(&dir.join("tools.toml")).await?;
    ensure!(made(&first).len() >= 4, "{first}");

    // Another clone at another place and time, another cache.
    let clone = lab.recipes_from("same-but-elsewhere/deep", &from, &files)?;
    let other = lab.root.join("other cache-2").display().to_string().replace(' ', "-");
    let second = json(&lab.build(&other, &clone.join("tools.toml"), &[]).await?)?;
    ensure!(second["packed"]["tar"] == first["packed"]["tar"], "tars differ: {first}\n{second}");
    ensure!(digest(&second)? == digest(&first)?, "digests differ:\n{first}\n{second}");

    let shown = json(&lab.image(&["show", &digest(&first)?, "--json"]).await?)?;
    ensure!(shown["source_date"] == 1_747_699_200, "not of that moment: {}", shown["source_date"]);

    // Nothing changed.
    let begun = Instant::now();
    let again = lab.built(&dir.join("tools.toml")).await?;
    ensure!(again["unchanged"] == true && digest(&again)? == digest(&first)?, "{again}");
    println!("no-op rebuild: {} ms", begun.elapsed().as_millis());

    // One file: its own step alone, and few bytes.
    std::fs::write(dir.join("a.txt"), "another\n")?;
    let begun = Instant::now();
    let changed = lab.built(&dir.join("tools.toml")).await?;
    println!("one changed file: {} ms, {}", begun.elapsed().as_millis(), changed["packed"]);
    ensure!(made(&changed) == ["2 files"], "{changed}");
    let diff = json(&lab.image(&["diff", &digest(&first)?, &digest(&changed)?, "--json"]).await?)?;
    let (delta, all) =
        (diff["delta_bytes"].as_u64().context("delta")?, diff["stored_bytes"].as_u64().context("stored")?);
    println!("delta of one file: {delta} of {all} bytes");
    ensure!(delta * 20 <= all, "{delta} of {all} bytes differ");
    let files: Vec<_> =
        diff["files"].as_array().context("files")?.iter().filter_map(|file| file["name"].as_str()).collect();
    ensure!(files == ["/usr/local/share/a.txt"], "{files:?}");

    // The command's input: the command and what is above it.
    std::fs::write(dir.join("in.txt"), "other\n")?;
    let changed = lab.built(&dir.join("tools.toml")).await?;
    ensure!(made(&changed).len() == 2 && made(&changed)[0].starts_with("command"), "{changed}");

    // A package more: from packages upwards; the root stays.
    std::fs::write(dir.join("tools.toml"), TOOLS.replace("\"less\"]", "\"less\", \"jq\"]"))?;
    let begun = Instant::now();
    let more = lab.built(&dir.join("tools.toml")).await?;
    println!("one added package: {} ms", begun.elapsed().as_millis());
    ensure!(made(&more).first() == Some(&"3 packages"), "{more}");
    let diff = json(&lab.image(&["diff", &digest(&changed)?, &digest(&more)?, "--packages", "--json"]).await?)?;
    let names: Vec<_> =
        diff["packages"].as_array().context("packages")?.iter().filter_map(|change| change["name"].as_str()).collect();
    ensure!(names.contains(&"deb jq") && !names.contains(&"deb less"), "{names:?}");
    let (delta, all) =
        (diff["delta_bytes"].as_u64().context("delta")?, diff["stored_bytes"].as_u64().context("stored")?);
    println!("delta of one package: {delta} of {all} bytes");

    // Back to the first recipe: everything is there.
    std::fs::write(dir.join("tools.toml"), TOOLS)?;
    std::fs::write(dir.join("in.txt"), "in\n")?;
    std::fs::write(dir.join("a.txt"), "a\n")?;
    let back = lab.built(&dir.join("tools.toml")).await?;
    ensure!(back["unchanged"] == true && digest(&back)? == digest(&first)?, "{back}");

    // What is in it, and where sessions bind.
    let root = lab.root.join("root-of-tools");
    let exported = lab.image(&["export", "tools", &root.display().to_string(), "--directory"]).await?;
    ensure!(exported.status.success(), "{}", words(&exported));
    let text = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    ensure!(text("opt/out")? == "in\nroot\n", "{}", text("opt/out")?);
    ensure!(text("etc/late")? == "late\n" && text("etc/machine-id")?.is_empty());
    let meta = std::fs::metadata(root.join("usr/local/share/a.txt"))?;
    ensure!((meta.uid(), meta.gid(), meta.mode() & 0o7777) == (1500, 0, 0o640), "{meta:?}");
    ensure!(
        root.join("usr/bin/less").exists()
            && !root.join("var/log/when").exists()
            && !root.join("usr/sbin/policy-rc.d").exists()
    );
    // Sessions need not read its fonts again: what fontconfig remembers is of the times that directories have here.
    let fonts = Command::new("chroot").arg(&root).args(["fc-cache", "--verbose", "--system-only"]).output().await?;
    let said = words(&fonts);
    ensure!(said.contains("dejavu: skipping, existing cache is valid"), "{said}");
    ensure!(!said.contains("caching, new cache contents"), "{said}");
    let linted = lab.image(&["lint", "--built", "tools"]).await?;
    ensure!(linted.status.success(), "{}", words(&linted));
    let sbom = json(&lab.image(&["show", "tools", "--sbom"]).await?)?;
    ensure!(
        sbom["spdxVersion"] == "SPDX-2.3" && sbom["packages"].as_array().is_some_and(|list| list.len() > 50),
        "{sbom}"
    );
    Ok(())
}

#[tokio::test]
async fn recipes_that_are_wrong_are_told_and_change_nothing() -> Result<()> {
    let lab = lab().await?;
    let base = "name = \"x\"\ndescription = \"x\"\nparent = \"base.toml\"\n";
    let dir = lab.recipes(
        "wrong",
        &[
            ("typo.toml", &format!("{base}pakages = [\"less\"]\n")),
            ("package.toml", &format!("{base}packages = [\"no-such-package\"]\n")),
            ("broken.toml", &format!("{base}[[commands]]\nrun = \"echo before; echo it broke >&2; exit 3\"\n")),
            ("suite.toml", &format!("name = \"y\"\n{}", lab.archive.from().replace(SUITE, "bookwurm"))),
            ("moment.toml", &format!("name = \"z\"\n{}", lab.archive.from_snapshot("20200101T000000Z"))),
            ("input.toml", &format!("{base}[[files]]\npath = \"/etc/x\"\nsource = \"is-not-there\"\n")),
            ("a.toml", "name = \"a\"\nparent = \"b.toml\"\n"),
            ("b.toml", "name = \"b\"\nparent = \"a.toml\"\n"),
            ("target.toml", &format!("{base}[[commands]]\nrun = \"rm -rf /home/agent\"\n")),
            (
                "net.toml",
                &format!(
                    "{base}[[commands]]\nrun = \"cat /proc/net/dev | tail -n +3 | grep -v lo: && exit 1 || true\"\n"
                ),
            ),
            (
                "agent.toml",
                &format!(
                    "{base}[[agents]]\nurl = \"{}\"\nsha256 = \"{}\"\npath = \"/usr/local/bin/x\"\n",
                    agent_url(lab),
                    "0".repeat(64)
                ),
            ),
        ],
    )?;
    let built = lab.built(&dir.join("base.toml")).await?;
    let cases: [(&str, i32, &[&str]); 10] = [
        ("typo.toml", 2, &["typo.toml, line 4, column 1", "did you mean `packages`?"]),
        ("package.toml", 2, &["there is no package no-such-package", "recipe x"]),
        ("broken.toml", 1, &["it broke", "exit status: 3", ".log"]),
        ("suite.toml", 2, &["no suite \"bookwurm\""]),
        ("moment.toml", 2, &["20200101T000000Z/debian", "correct suite, snapshot or mirror"]),
        ("input.toml", 2, &["is-not-there"]),
        ("a.toml", 2, &["a → b → a"]),
        ("nowhere.toml", 2, &["cannot read the recipe"]),
        ("target.toml", 1, &["/home/agent of the image is not a directory"]),
        ("agent.toml", 1, &["its digest is sha256:"]),
    ];
    for (file, code, words) in cases {
        refused(&lab.build(&lab.cache(), &dir.join(file), &[]).await?, code, words).with_context(|| file.to_owned())?;
    }
    lab.built(&dir.join("net.toml")).await?;
    let again = lab.built(&dir.join("base.toml")).await?;
    ensure!(again["unchanged"] == true && digest(&again)? == digest(&built)?, "{again}");
    Ok(())
}

fn agent_url(lab: &Lab) -> String {
    let from = lab.archive.from();
    let mirror = from.lines().find_map(|line| line.strip_prefix("mirror = \"")).unwrap_or_default();
    format!("{}/dists/{SUITE}/Release", mirror.trim_end_matches('"'))
}

#[tokio::test]
async fn a_killed_build_leaves_no_process_and_no_mount_and_the_next_one_cleans_up() -> Result<()> {
    let lab = lab().await?;
    let text = "name = \"slow\"\ndescription = \"x\"\nparent = \"base.toml\"\n[[commands]]\nrun = \"echo begun; touch /opt/half; exec sleep 987654\"\n";
    let dir = lab.recipes("killed", &[("slow.toml", text)])?;
    // A cache of its own: every build in the shared one removes what was left there.
    let cache = lab.root.join("cache-of-killed").display().to_string();
    let base = || async { json(&lab.build(&cache, &dir.join("base.toml"), &[]).await?) };
    base().await?;
    let work = Path::new(&cache).join("work");
    let sleeps = || -> Vec<u32> {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x00987654\0"))
            .collect()
    };
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::INT] {
        let mut child = lab.build_command(&cache, &dir.join("slow.toml"), &[]).spawn()?;
        eventually("the command runs", PATIENCE, || async {
            ensure!(!sleeps().is_empty(), "it does not");
            Ok(())
        })
        .await?;
        // Nothing of what it is about to use may go.
        let gc = helixctl(&lab.root, &["image", "gc", "--cache-dir", &cache]).await?;
        refused(&gc, 1, &["the store is being used", "a build, a push or a pull runs"])?;
        let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).context("a pid")?;
        rustix::process::kill_process(pid, signal)?;
        // A shell's background jobs ignore SIGINT, and so would this one.
        tokio::time::timeout(PATIENCE, child.wait()).await.context("it goes on: is SIGINT ignored here?")??;
        eventually("everything of it is gone", secs(20), || async {
            ensure!(sleeps().is_empty(), "{:?}", sleeps());
            Ok(())
        })
        .await?;
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        ensure!(!mounts.contains(&cache), "{mounts}");
        ensure!(std::fs::read_dir(&work)?.count() > 0, "nothing was left to clean");
    }
    // What is left is removed, the layers that were there stay.
    let again = base().await?;
    ensure!(again["unchanged"] == true, "{again}");
    eventually("leftovers are gone", secs(60), || async {
        base().await?;
        let left: Vec<_> =
            std::fs::read_dir(&work)?.flatten().filter(|entry| entry.path().join("upper/opt/half").exists()).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_builds_at_once_share_what_they_make() -> Result<()> {
    let lab = lab().await?;
    let text = |name: &str| {
        format!(
            "name = \"{name}\"\ndescription = \"x\"\nparent = \"middle.toml\"\n[[files]]\npath = \"/etc/{name}\"\ncontent = \"x\"\n"
        )
    };
    let middle = "name = \"middle\"\ndescription = \"x\"\nparent = \"base.toml\"\n[[commands]]\nrun = \"sleep 2; echo once >>/opt/once\"\n";
    let dir =
        lab.recipes("both", &[("middle.toml", middle), ("left.toml", &text("left")), ("right.toml", &text("right"))])?;
    let (left, right) = tokio::try_join!(lab.built_at(&dir, "left.toml"), lab.built_at(&dir, "right.toml"))?;
    let commands =
        [&left, &right].iter().filter(|built| made(built).iter().any(|step| step.starts_with("command"))).count();
    ensure!(commands == 1, "the shared layer was made {commands} times: {left} {right}");
    ensure!(digest(&left)? != digest(&right)?);
    // The same image twice at once, too.
    let (one, two) = tokio::try_join!(lab.built_at(&dir, "left.toml"), lab.built_at(&dir, "left.toml"))?;
    ensure!(digest(&one)? == digest(&two)?);
    Ok(())
}

impl Lab {
    async fn built_at(&self, dir: &Path, recipe: &str) -> Result<Value> {
        self.built(&dir.join(recipe)).await
    }
}

#[tokio::test]
async fn a_full_disk_is_told_beforehand_or_when_it_happens() -> Result<()> {
    let lab = lab().await?;
    let text = "name = \"large\"\ndescription = \"x\"\nparent = \"base.toml\"\n[[commands]]\nrun = \"head -c 900000000 /dev/urandom >/opt/large\"\n";
    let dir = lab.recipes("full", &[("large.toml", text)])?;
    for (size, recipe, code, wanted) in [
        ("100m", "base.toml", 1, vec!["not enough room", "MiB are free", "image gc"]),
        ("1100m", "large.toml", 1, vec!["No space left on device", "image gc"]),
    ] {
        let mount = tempfile::tempdir_in(&lab.root)?;
        let mounted = Mounted::tmpfs(mount.path(), size).await?;
        let cache = mount.path().join("cache").display().to_string();
        refused(&lab.build(&cache, &dir.join(recipe), &[]).await?, code, &wanted)?;
        let left = std::fs::read_dir(mount.path().join("cache/work"))?.count();
        ensure!(left == 0, "{left} directories are left");
        drop(mounted);
    }
    Ok(())
}

/// A small file system, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    async fn tmpfs(at: &Path, size: &str) -> Result<Self> {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "helix-test"])
            .arg(at)
            .status()
            .await?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test]
async fn tags_roll_back_and_rubbish_goes() -> Result<()> {
    let lab = lab().await?;
    let text = |word: &str| {
        format!(
            "name = \"tagged\"\ndescription = \"x\"\nparent = \"base.toml\"\n[[files]]\npath = \"/etc/word\"\ncontent = \"{word}\"\n"
        )
    };
    let dir = lab.recipes("tagged", &[("tagged.toml", &text("one"))])?;
    let recipe = dir.join("tagged.toml");
    // A cache of its own: others build in the shared one, and then nothing is removed.
    let cache = lab.root.join("cache-of-tags").display().to_string();
    let build = async |word: &str| -> Result<String> {
        std::fs::write(&recipe, text(word))?;
        digest(&json(&lab.build(&cache, &recipe, &[]).await?)?)
    };
    let image = async |args: &[&str]| {
        let all: Vec<_> =
            ["image"].into_iter().chain(args.iter().copied()).chain(["--cache-dir", &cache, "--json"]).collect();
        helixctl(&lab.root, &all).await
    };
    let (one, two) = (build("one").await?, build("two").await?);
    ensure!(json(&image(&["rollback", "tagged"]).await?)?["digest"] == one);
    refused(&image(&["rollback", "tagged"]).await?, 1, &["it has never named another image"])?;
    ensure!(build("two").await? == two);
    let three = build("three").await?;
    let removed = json(&image(&["gc", "--keep", "0"]).await?)?;
    ensure!(removed["images"] == 2 && removed["layers"] == 2, "{removed}");
    refused(&image(&["rollback", "tagged"]).await?, 1, &["cannot roll tagged:latest back"])?;
    ensure!(json(&image(&["show", "tagged"]).await?)?["digest"] == three);
    let linted = image(&["lint", "--built", "tagged"]).await?;
    ensure!(linted.status.success(), "{}", words(&linted));
    // The image is whole: a build finds it unchanged.
    let again = json(&lab.build(&cache, &recipe, &[]).await?)?;
    ensure!(again["unchanged"] == true, "{again}");
    Ok(())
}
