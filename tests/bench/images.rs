//! What building an image costs: cold, unchanged, with one file changed and with one package more, beside mmdebstrap
//! alone, debootstrap, and buildah on a root that was imported.
//!
//! All of them read the machine's own mirror, and its packages are warm wherever the tool keeps any; rounds alternate.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use helix_tests::programs;
use serde_json::Value;

use crate::measure::summary;
use crate::{report, rounds, say};

const SUITE: &str = "bookworm";

pub async fn run() -> Result<()> {
    tokio::task::spawn_blocking(compare).await?
}

fn compare() -> Result<()> {
    let dir = tempfile::tempdir_in("/var/tmp")?;
    let mirror = mirror()?;
    let ours = Ours::new(dir.path())?;
    let (mut cold, mut unchanged, mut file, mut package) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut alone, mut debootstrap) = (Vec::new(), Vec::new());
    let (mut buildah_cold, mut buildah_unchanged, mut buildah_file) = (Vec::new(), Vec::new(), Vec::new());
    let mut deltas = Vec::new();
    // What packages there are is had once; every round makes all layers anew.
    ours.build(&[])?;
    for round in 0..rounds().min(3) {
        cold.push(ours.build(&["--force"])?.0);
        let (took, before) = ours.build(&[])?;
        ensure!(before["unchanged"] == true, "{before}");
        unchanged.push(took);
        std::fs::write(dir.path().join("a.txt"), format!("round {round}\n"))?;
        let (took, after) = ours.build(&[])?;
        file.push(took);
        deltas.push(ours.delta(&before, &after)?);
        ours.recipe(&["less", "jq"])?;
        package.push(ours.build(&[])?.0);
        ours.recipe(&["less"])?;

        let root = dir.path().join("mmdebstrap");
        alone.push(timed(
            Command::new("mmdebstrap")
                .args(["--mode=root", "--variant=minbase", "--include=less", SUITE])
                .arg(&root)
                .arg(&mirror),
        )?);
        if round == 0 {
            import(&root)?;
        }
        std::fs::remove_dir_all(&root)?;
        let root = dir.path().join("debootstrap");
        debootstrap.push(timed(
            Command::new("debootstrap").args(["--variant=minbase", "--include=less", SUITE]).arg(&root).arg(&mirror),
        )?);
        std::fs::remove_dir_all(&root)?;

        buildah_cold.push(bud(dir.path(), &["--no-cache"])?);
        buildah_unchanged.push(bud(dir.path(), &[])?);
        std::fs::write(dir.path().join("a.txt"), format!("round {round} again\n"))?;
        buildah_file.push(bud(dir.path(), &[])?);
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
    row("one package more", [&package, &[], &[], &[]]);
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

fn buildah() -> Command {
    let mut command = Command::new("buildah");
    command.args(["--storage-driver", "vfs"]);
    command
}

/// The root that mmdebstrap made, as an image of buildah's.
fn import(root: &Path) -> Result<()> {
    let tar = root.with_extension("tar");
    timed(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&tar).arg("."))?;
    let dir = root.parent().context("a parent")?;
    std::fs::write(dir.join("Import"), "FROM scratch\nADD mmdebstrap.tar /\n")?;
    timed(
        buildah()
            .args(["bud", "--isolation", "chroot", "-t", "helix-bench-base", "-f", "Import", "."])
            .current_dir(dir),
    )?;
    std::fs::write(
        dir.join("Containerfile"),
        "FROM localhost/helix-bench-base\nRUN echo less >/etc/packages\nCOPY a.txt /etc/a.txt\n",
    )?;
    Ok(std::fs::remove_file(tar)?)
}

fn bud(dir: &Path, more: &[&str]) -> Result<f64> {
    timed(
        buildah()
            .args(["bud", "--isolation", "chroot", "--layers", "-t", "helix-bench", "-f", "Containerfile"])
            .args(more)
            .arg(".")
            .current_dir(dir),
    )
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
