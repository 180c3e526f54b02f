//! The packages: what is in them is the list's, they are made the same again, and dpkg and rpm read them. How they behave on
//! hosts is in `tests/hosts/packages.rs`.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use helix_tests::eventually::secs;
use helix_tests::packages::{Packages, pack, packages};
use helix_tests::process::{exit_code, run};
use helix_tests::up::words;
use helix_tests::{programs, repository};

/// Package, and who needs it by the list.
const ALL: [(&str, &str); 3] = [("helixctl", "machine"), ("helix-agentd", "runner"), ("helix-server", "server")];

async fn said(program: &str, args: &[&str]) -> Result<String> {
    let output = run(&programs::installed(program)?, args, &[], secs(60)).await?;
    ensure!(output.status.success(), "{program} {}: {}", args.join(" "), words(&output));
    Ok(String::from_utf8(output.stdout)?)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}

/// Files of a .deb, with what `ls` says of their modes and owners.
async fn in_deb(made: &Packages, name: &str) -> Result<BTreeSet<(String, String)>> {
    let listed = said("dpkg-deb", &["-c", text(&made.deb(name)?)?]).await?;
    let files = listed.lines().filter(|line| !line.starts_with('d')).map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        (words[5].trim_start_matches('.').to_owned(), format!("{} {}", words[0], words[1]))
    });
    Ok(files.collect())
}

#[tokio::test]
async fn packages_hold_what_the_list_says_and_are_the_same_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let made = packages(&first, "0.1.0").await?;
    packages(&second, "0.1.0").await?;
    let sums = |dir: &Path| std::fs::read_to_string(dir.join("SHA256SUMS"));
    ensure!(sums(&first)? == sums(&second)?, "two packings differ:\n{}{}", sums(&first)?, sums(&second)?);
    ensure!(sums(&first)?.lines().count() == 7, "{}", sums(&first)?);

    // What is there and unchanged is left as it is.
    let before = std::fs::metadata(first.join("mark"))?.modified()?;
    packages(&first, "0.1.0").await?;
    ensure!(std::fs::metadata(first.join("mark"))?.modified()? == before, "it packed again");

    let list = std::fs::read_to_string(repository().join("packaging/files.txt"))?;
    let mut everything = BTreeSet::new();
    for (name, who) in ALL {
        let files = in_deb(&made, name).await?;
        let names: BTreeSet<_> = files.iter().map(|(path, _)| path.clone()).collect();
        for line in list.lines().filter(|line| !line.starts_with('#') && line.ends_with(who)) {
            let words: Vec<_> = line.split_whitespace().collect();
            let target = if words[2].starts_with('/') { words[2].to_owned() } else { format!("/usr/{}", words[2]) };
            let there = names
                .iter()
                .any(|path| if target.ends_with('/') { path.starts_with(&target) } else { *path == target });
            ensure!(there, "{target} is not in {name}: {names:#?}");
        }
        for (path, mode) in &files {
            let program = path.starts_with("/usr/bin/") || path.contains("/scripts/");
            let right = if program { "-rwxr-xr-x root/root" } else { "-rw-r--r-- root/root" };
            ensure!(mode == right, "{path} of {name} is {mode}");
        }
        // rpm's package is the same, and marks the same files as the operator's.
        let rpm = made.file(&format!("{name}-0"), ".rpm")?;
        let listed = said("rpm", &["-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]", text(&rpm)?]).await?;
        let of_rpm: BTreeSet<_> = listed
            .lines()
            .filter_map(|line| line.strip_prefix("-")?.split_once(' '))
            .map(|(_, path)| path.to_owned())
            .collect();
        ensure!(of_rpm == names, "{name}: {:#?}", of_rpm.symmetric_difference(&names));
        let settings = said("rpm", &["-qpc", text(&rpm)?]).await?;
        let conffiles =
            run(&programs::installed("dpkg-deb")?, &["-I", text(&made.deb(name)?)?, "conffiles"], &[], secs(60))
                .await?;
        ensure!(settings == String::from_utf8(conffiles.stdout)?, "{name}: {settings}");
        ensure!((settings == "/etc/helix/server.toml\n") == (name == "helix-server"), "{name}: {settings}");
        let scripts = said("rpm", &["-qp", "--scripts", text(&rpm)?]).await?;
        ensure!(scripts.contains("systemd-sysusers") == (name != "helixctl"), "{name}: {scripts}");
        // A file belongs to one package.
        for path in names {
            ensure!(everything.insert(path.clone()), "{path} is in two packages");
        }
    }
    let archive = made.file("helix-0", ".tar.zst")?;
    let listed = said("tar", &["--zstd", "-tf", text(&archive)?]).await?;
    let of_archive: BTreeSet<_> =
        listed.lines().filter(|line| !line.ends_with('/')).map(|line| format!("/{line}")).collect();
    ensure!(of_archive == everything, "{:#?}", of_archive.symmetric_difference(&everything));

    // A page for each command, and a script for each shell, which its shell reads.
    let root = dir.path().join("root");
    said("dpkg-deb", &["-x", text(&made.deb("helixctl")?)?, text(&root)?]).await?;
    let page = said("zcat", &[text(&root.join("usr/share/man/man1/helixctl-session-create.1.gz"))?]).await?;
    ensure!(page.contains(".TH helixctl-session-create 1") && page.contains("\\-\\-geometry"), "{page}");
    said("bash", &["-n", text(&root.join("usr/share/bash-completion/completions/helixctl"))?]).await?;
    let zsh = std::fs::read_to_string(root.join("usr/share/zsh/vendor-completions/_helixctl"))?;
    let fish = std::fs::read_to_string(root.join("usr/share/fish/vendor_completions.d/helixctl.fish"))?;
    ensure!(zsh.starts_with("#compdef helixctl") && fish.contains("complete -c helixctl"), "completions are others");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_packed_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    std::fs::create_dir(&out)?;
    std::fs::write(out.join("mine"), "")?;
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty)?;
    let new = dir.path().join("new");
    let (taken, free, none) = (text(&out)?, text(&new)?, text(&empty)?);
    for (args, code, why) in [
        (vec!["--out", taken, "--version", "0.1.0"], 1, "holds other things"),
        (vec!["--out", free, "--version", "0.1.0", "--static"], 1, "is not linked statically"),
        (vec!["--out", free, "--version", "0.1.0", "--bin-dir", none], 1, "make build"),
        (vec!["--out", free, "--version", "latest"], 2, "does not begin with a digit"),
        (vec!["--out", free, "--version", "1 2"], 2, "has characters other than"),
        (vec!["--level", "11"], 2, "is none of 0 to 9"),
        (vec!["--frob"], 2, "unknown argument"),
    ] {
        let output = pack(&args).await?;
        ensure!(exit_code(output.status) == code && words(&output).contains(why), "{args:?}: {}", words(&output));
        ensure!(!new.exists() && out.join("mine").exists(), "{args:?} left something");
    }
    // A commit without a tag comes before the version that it leads to.
    said("dpkg", &["--compare-versions", "0.1.0~git20261130000000.f64b2971c0de", "lt", "0.1.0"]).await?;
    Ok(())
}
