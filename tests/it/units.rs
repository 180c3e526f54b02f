//! What a distribution would install: the installer itself, units as systemd's own tools judge them, examples that load.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use helix_tests::process::run;
use helix_tests::programs;

const PATIENCE: Duration = Duration::from_mins(1);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Runs a program; its whole output. Fails unless it ends with 0.
async fn good(program: impl AsRef<Path>, args: &[&str]) -> Result<String> {
    let program = program.as_ref();
    let output = run(program, args, &[], PATIENCE).await?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    ensure!(output.status.success(), "{} {}: {}\n{said}", program.display(), args.join(" "), output.status);
    Ok(said)
}

async fn installer(root: &Path, args: &[&str]) -> Result<String> {
    let agentd = programs::ours("agentd")?;
    let bin = agentd.parent().context("a folder of programs")?;
    let mut all = vec![args[0], "--destdir", text(root)?, "--bin-dir", text(bin)?];
    all.extend(&args[1..]);
    good(repository().join("packaging/install.sh"), &all).await
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { found.extend(files(&entry.path())?) } else { found.push(entry.path()) }
    }
    Ok(found)
}

#[tokio::test]
async fn units_expose_little() -> Result<()> {
    for (unit, threshold) in [
        ("agentd.service", "35"),
        ("agentd@.service", "35"),
        ("agentd-hold@.service", "35"),
        ("helix-server.service", "18"),
        ("helix-nats.service", "18"),
    ] {
        let file = repository().join("systemd").join(unit);
        let threshold = format!("--threshold={threshold}");
        // Says why when it fails: the table of what is exposed.
        good("systemd-analyze", &["security", "--no-pager", "--offline=true", &threshold, text(&file)?]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_template_is_the_service_with_other_paths() -> Result<()> {
    let read = |name: &str| std::fs::read_to_string(repository().join("systemd").join(name));
    let body = |text: String| text.split_once("[Unit]").map(|(_, body)| body.to_owned()).context("no [Unit]");
    let service = body(read("agentd.service")?)?
        .replace("Description=Helix runner", "Description=Helix runner %i")
        .replace("/etc/helix/agentd.toml", "/etc/helix/agentd-%i.toml")
        .replace("agentd-hold@agentd.service", "agentd-hold@agentd-%i.service")
        .replace("/etc/helix/agentd.env", "/etc/helix/agentd-%i.env")
        .replace("StateDirectory=helix/agentd", "StateDirectory=helix/agentd-%i");
    ensure!(service == body(read("agentd@.service")?)?, "change agentd@.service as agentd.service");
    Ok(())
}

#[tokio::test]
async fn what_is_installed_is_valid_and_goes_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("root");
    installer(&root, &["install", "--slots", "3"]).await?;
    let first = files(&root)?;
    // The number of slots stays.
    installer(&root, &["install"]).await?;
    ensure!(files(&root)? == first, "installing twice is not installing once");
    let slots = std::fs::read_to_string(root.join("usr/lib/sysusers.d/helix-slots.conf"))?;
    ensure!(slots.lines().filter(|line| line.starts_with("u helix-u")).count() == 3, "{slots}");

    // As installed, but with programs that are there.
    let units = dir.path().join("units");
    std::fs::create_dir(&units)?;
    let mut verify = vec!["verify".to_owned(), "--man=no".to_owned()];
    for file in first.iter().filter(|file| file.starts_with(root.join("usr/lib/systemd/system"))) {
        let unit = units.join(file.file_name().context("a name")?);
        let bus = format!("ExecStart={} ", text(&programs::nats_server()?)?);
        let there = std::fs::read_to_string(file)?.replace("/usr/bin/", text(&root.join("usr/bin/"))?);
        std::fs::write(&unit, there.replace("ExecStart=nats-server ", &bus))?;
        verify.push(text(&unit)?.to_owned());
    }
    ensure!(verify.len() == 9, "{verify:?}");
    let args: Vec<_> = verify.iter().map(String::as_str).collect();
    let said = good("systemd-analyze", &args).await?;
    ensure!(!said.contains(text(&units)?), "systemd-analyze verify: {said}");
    // In a tree of its own: no user of this machine is made.
    let tree = format!("--root={}", text(&root)?);
    let users = ["helix.conf", "helix-slots.conf", "helix-server.conf", "helix-nats.conf"];
    good("systemd-sysusers", &[&["--dry-run", &tree], &users[..]].concat()).await?;

    installer(&root, &["uninstall"]).await?;
    let left = files(&root)?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[tokio::test]
async fn the_examples_load() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let example = |name: &str| std::fs::read_to_string(repository().join("packaging").join(format!("{name}.example")));
    let agentd = dir.path().join("agentd.toml");
    let secrets = dir.path().join("secrets");
    // The commands of the example's header, but for the owner.
    let made = "mkdir -m 700 \"$1\" && cd \"$1\" && umask 077 && head -c 32 /dev/urandom >server.key && \
                for name in admin.token enrolment.token nats.password observer.password; do \
                head -c 32 /dev/urandom | base64 >$name; done";
    good("/bin/sh", &["-c", made, "sh", text(&secrets)?]).await?;
    let token = secrets.join("enrolment.token");
    let given = example("agentd.toml")?.replace("/etc/helix/agentd.token", text(&token)?);
    std::fs::write(&agentd, &given)?;
    let check = ["run", "--config", text(&agentd)?, "--check-config"];
    let said = good(programs::ours("agentd")?, &check).await?;
    ensure!(said.contains("agentd.toml is good"), "{said}");
    // Every line that is commented out is valid, too.
    let whole: String = given.lines().map(uncommented).collect::<Vec<_>>().join("\n") + "\n";
    std::fs::write(&agentd, &whole)?;
    good(programs::ours("agentd")?, &check).await.context(whole)?;
    // A fault has an exit code of its own: systemd does not start it again and again.
    std::fs::write(&agentd, "concurrency = \"many\"\n")?;
    let refused = run(&programs::ours("agentd")?, &check, &[], PATIENCE).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(78) && said.contains("agentd.toml line 1"), "{} {said}", refused.status);

    let server = dir.path().join("server.toml");
    std::fs::write(dir.path().join("nats-ca.pem"), NO_CA)?;
    let check = ["--config", text(&server)?, "--check-config"];
    let given = example("server.toml")?;
    std::fs::write(&server, &given)?;
    good(programs::ours("helix-server")?, &check).await?;
    let whole: String = given.lines().map(uncommented).collect::<Vec<_>>().join("\n") + "\n";
    std::fs::write(&server, &whole)?;
    good(programs::ours("helix-server")?, &check).await.context(whole)?;
    Ok(())
}

/// What has the form of a certificate.
const NO_CA: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// `#key = value` and `#[table]` without the sign; comments for people begin with a space.
fn uncommented(line: &str) -> &str {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase())).unwrap_or(line)
}
