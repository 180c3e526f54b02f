//! What building an image costs: cold, unchanged, with one file changed and with one package more, beside mmdebstrap
//! alone, debootstrap, and buildah on a root that was imported.
//!
//! All of them read the machine's own mirror, and its packages are warm wherever the tool keeps any; rounds alternate. buildah
//! bootstraps nothing: it begins with the root that mmdebstrap made, and from there does the same steps (package, file) with its
//! own cache of layers. What it makes is a local image; ours is packed, hashed and signed as well.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use helix_tests::programs;
use serde_json::Value;

use crate::measure::summary;
use crate::{report, rounds, say};

const SUITE: &str = "bookworm";
/// The package more of each round: a layer with the same one would be found again.
const MORE: [&str; 3] = ["jq", "file", "tree"];

pub async fn run() -> Result<()> {
    tokio::task::spawn_blocking(compare).await?
}

fn compare() -> Result<()> {
    let dir = tempfile::tempdir_in("/var/tmp")?;
    let mirror = mirror()?;
    let ours = Ours::new(dir.path())?;
    let (mut cold, mut unchanged, mut file, mut package) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut alone, mut debootstrap) = (Vec::new(), Vec::new());
    let (mut buildah_cold, mut buildah_unchanged, mut buildah_file, mut buildah_package) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut deltas = Vec::new();
    // What packages there are is had once; every round makes all layers anew.
    ours.build(&[])?;
    let buildah = Buildah::new(dir.path(), &mirror)?;
    for (round, more) in MORE.into_iter().enumerate().take(rounds()) {
        // Its layer of the last round with this package would be found again.
        ours.recipe(&["less"])?;
        cold.push(ours.build(&["--force"])?.0);
        let (took, before) = ours.build(&[])?;
        ensure!(before["unchanged"] == true, "{before}");
        unchanged.push(took);
        std::fs::write(dir.path().join("a.txt"), format!("round {round}\n"))?;
        let (took, after) = ours.build(&[])?;
        file.push(took);
        deltas.push(ours.delta(&before, &after)?);
        ours.recipe(&["less", more])?;
        package.push(ours.build(&[])?.0);
        ours.recipe(&["less"])?;

        let root = dir.path().join("mmdebstrap");
        alone.push(timed(&mut mmdebstrap(&["--include=less"], &root, &mirror))?);
        std::fs::remove_dir_all(&root)?;
        let root = dir.path().join("debootstrap");
        debootstrap.push(timed(
            Command::new("debootstrap").args(["--variant=minbase", "--include=less", SUITE]).arg(&root).arg(&mirror),
        )?);
        std::fs::remove_dir_all(&root)?;

        buildah.steps("less")?;
        buildah_cold.push(buildah.build(&["--no-cache"])?);
        buildah_unchanged.push(buildah.build(&[])?);
        std::fs::write(dir.path().join("a.txt"), format!("round {round} again\n"))?;
        buildah_file.push(buildah.build(&[])?);
        buildah.steps(&format!("less {more}"))?;
        buildah_package.push(buildah.build(&[])?);
        say(&format!("round {round} done"));
    }
    report("\n## Images: minbase, one package, one file\n");
    report(
        "| | helixctl image build | mmdebstrap alone | debootstrap | buildah, on an imported root |\n|---|---|---|---|---|",
    );
    let row = |what: &str, cells: [&[f64]; 4]| {
        let cells: Vec<_> = cells
            .iter()
            .map(|samples| if samples.is_empty() { "–".to_owned() } else { summary(samples, "s") })
            .collect();
        report(&format!("| {what} | {} |", cells.join(" | ")));
    };
    row("everything anew", [&cold, &alone, &debootstrap, &buildah_cold]);
    row("nothing changed", [&unchanged, &[], &[], &buildah_unchanged]);
    row("one file changed", [&file, &[], &[], &buildah_file]);
    row("one package more", [&package, &[], &[], &buildah_package]);
    report(&format!(
        "\nOne file changed: {} of the image's bytes are new to who has the last one.",
        summary(&deltas, "%")
    ));
    Ok(())
}

struct Ours<'a> {
    dir: &'a Path,
}

impl<'a> Ours<'a> {
    fn new(dir: &'a Path) -> Result<Self> {
        let ours = Self { dir };
        std::fs::write(dir.join("a.txt"), "first\n")?;
        ours.recipe(&["less"])?;
        let made = ours.helixctl(&["key", "new", "--out", "sign.key"]).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(ours)
    }

    fn recipe(&self, packages: &[&str]) -> Result<()> {
        let text = format!(
            "name = \"bench\"\npackages = {packages:?}\n[from]\ndistribution = \"debian\"\nsuite = \"{SUITE}\"\n\
             [[files]]\npath = \"/etc/a.txt\"\nsource = \"a.txt\"\n"
        );
        Ok(std::fs::write(self.dir.join("bench.toml"), text)?)
    }

    fn helixctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(programs::ours("helixctl").unwrap_or_default());
        command.args(args).current_dir(self.dir).stdin(Stdio::null());
        command
    }

    fn build(&self, more: &[&str]) -> Result<(f64, Value)> {
        let mut args =
            vec!["image", "build", "./bench.toml", "--cache-dir", "cache", "--key", "sign.key", "--json", "--quiet"];
        args.extend(more);
        let begun = Instant::now();
        let output = self.helixctl(&args).output()?;
        let took = begun.elapsed().as_secs_f64();
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok((took, serde_json::from_slice(&output.stdout)?))
    }

    /// Percent of the image's bytes that the former one does not have.
    fn delta(&self, before: &Value, after: &Value) -> Result<f64> {
        let (before, after) =
            (before["digest"].as_str().context("digest")?, after["digest"].as_str().context("digest")?);
        let output = self
            .helixctl(&["image", "diff", before, after, "--packages", "--cache-dir", "cache", "--json"])
            .output()?;
        let diff: Value = serde_json::from_slice(&output.stdout)?;
        let bytes = |name: &str| diff[name].as_f64().with_context(|| name.to_owned());
        Ok(100.0 * bytes("delta_bytes")? / bytes("stored_bytes")?)
    }
}

fn timed(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let took = begun.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!("{command:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    Ok(took)
}

fn mmdebstrap(options: &[&str], to: &Path, mirror: &str) -> Command {
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=root", "--variant=minbase"]).args(options).arg(SUITE).arg(to).arg(mirror);
    command
}

/// buildah with a storage of its own, and the root that it begins with.
struct Buildah<'a> {
    dir: &'a Path,
}

impl<'a> Buildah<'a> {
    fn new(dir: &'a Path, mirror: &str) -> Result<Self> {
        let buildah = Self { dir };
        // With apt's lists, so that packages can be installed in it.
        let tar = dir.join("root.tar");
        timed(&mut mmdebstrap(&["--include=apt", "--skip=cleanup/apt/lists"], &tar, mirror))?;
        std::fs::write(dir.join("Import"), "FROM scratch\nADD root.tar /\n")?;
        timed(&mut buildah.command(&["bud", "--isolation", "chroot", "-t", "helix-bench-base", "-f", "Import", "."]))?;
        std::fs::remove_file(tar)?;
        Ok(buildah)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.dir.join("buildah")).arg("--runroot").arg(self.dir.join("buildah-run"));
        command.args(["--storage-driver", "overlay"]).args(args).current_dir(self.dir);
        command
    }

    /// The same steps as the recipe's.
    fn steps(&self, packages: &str) -> Result<()> {
        let text = format!(
            "FROM localhost/helix-bench-base\nRUN apt-get install -y --no-install-recommends {packages}\nCOPY a.txt /etc/a.txt\n"
        );
        Ok(std::fs::write(self.dir.join("Containerfile"), text)?)
    }

    fn build(&self, more: &[&str]) -> Result<f64> {
        let mut args = vec!["bud", "--isolation", "chroot", "--layers", "-t", "helix-bench", "-f", "Containerfile"];
        args.extend(more);
        args.push(".");
        timed(&mut self.command(&args))
    }
}

fn mirror() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut mirrors = text.lines().filter_map(|line| line.strip_prefix("Debian "));
    let mirror = mirrors.find(|mirror| !mirror.contains("security"));
    Ok(mirror.context("apt knows no mirror of Debian: run apt-get update")?.to_owned())
}
