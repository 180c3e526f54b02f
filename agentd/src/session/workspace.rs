//! `agentd workspace`: fills a session's workspace. Runs as unit `workspace`, as the session's user.
//!
//! Clones what was asked for, then makes the directory where the agent starts. That directory comes from the request
//! and the tree around it from a foreign repository, whose symbolic links may point anywhere: each step is resolved
//! by the kernel beneath the workspace. Directories of HOME that a kind keeps are put into [`KEPT`] there, which git does
//! not see, and linked from HOME. git's own messages go to standard error, hence to the unit's log.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use clap::Parser as _;
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2};
use rustix::io::Errno;

/// What to prepare. Nothing of it is secret.
#[derive(Debug, clap::Parser)]
#[command(name = "agentd workspace", about = "Fills a session's workspace (internal)")]
struct Args {
    /// The workspace; exists and is empty.
    #[arg(long)]
    dir: PathBuf,
    /// What to clone.
    #[arg(long)]
    git: Option<String>,
    /// Branch or tag to check out.
    #[arg(long)]
    branch: Option<String>,
    /// Directory to make, relative to the workspace.
    #[arg(long)]
    project: Option<PathBuf>,
    /// Directory of HOME to keep in the workspace; may be given again.
    #[arg(long)]
    keep: Vec<PathBuf>,
}

/// Directory of the workspace with what of HOME is kept there.
pub(crate) const KEPT: &str = ".helix-home";

/// Arguments of the unit, after the program's own path.
pub(super) fn arguments(
    dir: &Path,
    git: Option<(&str, Option<&str>)>,
    project: Option<&Path>,
    keep: &[PathBuf],
) -> Vec<String> {
    // With "=", so that no value can be taken for a flag.
    let mut arguments = vec!["workspace".to_owned(), format!("--dir={}", dir.display())];
    if let Some((url, branch)) = git {
        arguments.push(format!("--git={url}"));
        arguments.extend(branch.map(|branch| format!("--branch={branch}")));
    }
    arguments.extend(project.map(|project| format!("--project={}", project.display())));
    arguments.extend(keep.iter().map(|keep| format!("--keep={}", keep.display())));
    arguments
}

/// Runs `agentd workspace`; `args` are the arguments after that word. Exits as git did when git failed.
pub fn main(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let args = Args::parse_from(std::iter::once(OsString::from("agentd workspace")).chain(args));
    if let Some(url) = &args.git {
        let status = git_clone(url, args.branch.as_deref(), &args.dir)
            .status()
            .context("cannot run git; install it on this runner: apt-get install git")?;
        if !status.success() {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            return Ok(ExitCode::from(code.max(1)));
        }
    }
    if let Some(project) = &args.project {
        make_beneath(&args.dir, project)?;
    }
    if !args.keep.is_empty() {
        let home = PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?);
        make_beneath(&args.dir, Path::new(KEPT))?;
        hide_from_git(&args.dir.join(KEPT)).context("cannot hide what is kept of HOME from git")?;
        for kept in &args.keep {
            make_beneath(&args.dir, &Path::new(KEPT).join(kept))?;
            let target = args.dir.join(KEPT).join(kept);
            move_and_link(&home.join(kept), &target)
                .with_context(|| format!("cannot keep {} of HOME in the workspace", kept.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn git_clone(url: &str, branch: Option<&str>, dir: &Path) -> Command {
    let mut git = Command::new("git");
    // No hard links into a repository of this machine: the session could change the original's objects.
    git.args(["clone", "--no-hardlinks"]);
    git.args(branch.map(|branch| format!("--branch={branch}")));
    git.arg("--").arg(url).arg(dir).stdin(Stdio::null());
    git
}

/// So that it is no part of anybody's repository, now or later: it ignores itself.
fn hide_from_git(dir: &Path) -> io::Result<()> {
    // A link in its place is not followed.
    match fs::OpenOptions::new().write(true).create_new(true).open(dir.join(".gitignore")) {
        Ok(mut file) => file.write_all(b"*\n"),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts what is in `dir` into `target`, replacing what a former life left there under the same names, and a link to
/// `target` in the place of `dir`. May be repeated.
fn move_and_link(dir: &Path, target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(dir) {
        Ok(found) if found.is_symlink() => return Ok(()),
        Ok(_) => {
            copy(dir, target)?;
            fs::remove_dir_all(dir)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    symlink(target, dir)
}

/// Copied and not renamed: HOME and workspace are different mounts.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&source, &target)?;
        } else {
            // A link there is replaced, not followed.
            match fs::remove_file(&target) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::copy(&source, &target)?,
            };
        }
    }
    Ok(())
}

/// Makes `relative` in `dir` with its parents. A link that leads out of `dir` is refused.
fn make_beneath(dir: &Path, relative: &Path) -> anyhow::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = open(dir, flags, Mode::empty()).with_context(|| format!("cannot open workspace {}", dir.display()))?;
    let beneath = |path: &Path| -> Result<OwnedFd, Errno> {
        match openat2(&top, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
            // systemd's RestrictSUIDSGID= takes the call away, since its filter cannot look into it.
            Err(Errno::NOSYS) => beneath_without_links(&top, path, flags),
            result => result,
        }
    };
    let mut path = PathBuf::new();
    let mut parent = top.try_clone()?;
    for part in relative.components() {
        let Component::Normal(name) = part else { bail!("{} is not a path inside the workspace", relative.display()) };
        path.push(name);
        let step = match beneath(&path) {
            Err(Errno::NOENT) => mkdirat(parent.as_fd(), name, Mode::RWXU).and_then(|()| beneath(&path)),
            other => other,
        };
        parent = match step {
            Ok(step) => step,
            Err(Errno::XDEV) => bail!("project path {} leaves the workspace through a link", relative.display()),
            Err(error) => bail!("cannot make {} in the workspace: {error}", path.display()),
        };
    }
    Ok(())
}

/// The same without the kernel's help: no link is followed at all.
fn beneath_without_links(top: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut dir = top.try_clone().map_err(|_| Errno::MFILE)?;
    for part in path.components() {
        dir = match openat(&dir, part.as_os_str(), flags | OFlags::NOFOLLOW, Mode::empty()) {
            // What a link gives with O_DIRECTORY | O_NOFOLLOW.
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Errno::XDEV),
            opened => opened?,
        };
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_made_inside_only() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let workspace = dir.path().join("w");
        std::fs::create_dir_all(workspace.join("real")).expect("made");
        std::fs::create_dir(dir.path().join("outside")).expect("made");
        symlink("../outside", workspace.join("out")).expect("linked");
        symlink("/etc", workspace.join("etc")).expect("linked");
        symlink("real", workspace.join("in")).expect("linked");

        make_beneath(&workspace, Path::new("a/b/c")).expect("made");
        make_beneath(&workspace, Path::new("a/b/c")).expect("there already");
        make_beneath(&workspace, Path::new("in/x")).expect("a link that stays inside is fine");
        assert!(workspace.join("a/b/c").is_dir() && workspace.join("real/x").is_dir());

        for bad in ["out/x", "etc/x", "out", "../x"] {
            let error = make_beneath(&workspace, Path::new(bad)).expect_err(bad).to_string();
            assert!(error.contains("workspace"), "{error}");
        }
        assert!(std::fs::read_dir(dir.path().join("outside")).expect("readable").next().is_none());

        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = open(&workspace, flags, Mode::empty()).expect("opened");
        let step = |path: &str| beneath_without_links(&top, Path::new(path), flags).map(|_| ());
        assert_eq!(step("a/b"), Ok(()));
        assert_eq!(step("a/missing"), Err(Errno::NOENT));
        for link in ["out", "out/x", "etc", "in"] {
            assert_eq!(step(link), Err(Errno::XDEV), "{link} was followed");
        }
    }

    #[test]
    fn what_is_kept_of_home_is_in_the_workspace_and_not_in_git() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (home, workspace) = (dir.path().join("home"), dir.path().join("w"));
        std::fs::create_dir_all(home.join(".config/zed/themes")).expect("made");
        std::fs::write(home.join(".config/zed/settings.json"), "new").expect("written");
        std::fs::write(home.join(".config/zed/themes/x"), "theme").expect("written");
        let kept = workspace.join(KEPT);
        std::fs::create_dir_all(kept.join(".config/zed")).expect("made");
        std::fs::write(kept.join(".config/zed/settings.json"), "of a former life").expect("written");
        std::fs::write(kept.join(".config/zed/keymap.json"), "stays").expect("written");

        for _ in 0..2 {
            hide_from_git(&kept).expect("hidden");
            for name in [".config/zed", ".local/share/zed"] {
                make_beneath(&workspace, &Path::new(KEPT).join(name)).expect("made");
                move_and_link(&home.join(name), &kept.join(name)).expect("linked");
            }
        }
        std::fs::write(home.join(".local/share/zed/threads.db"), "db").expect("written through the link");
        let read = |path: &str| std::fs::read_to_string(kept.join(path)).expect("readable");
        assert_eq!(read(".config/zed/settings.json"), "new");
        assert_eq!(read(".config/zed/keymap.json"), "stays");
        assert_eq!(read(".config/zed/themes/x"), "theme");
        assert_eq!(read(".local/share/zed/threads.db"), "db");

        let git = |args: &[&str]| {
            let mut git = Command::new("git");
            let output = git.arg("-C").arg(&workspace).args(args).output().expect("git runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        };
        git(&["init", "-q"]);
        assert_eq!(git(&["status", "--porcelain"]), "");
        git(&["add", "."]);
        assert_eq!(git(&["ls-files"]), "");
    }

    #[test]
    fn no_value_becomes_a_flag_of_git() {
        let command = git_clone("--upload-pack=touch /tmp/x", Some("-b"), Path::new("/w"));
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert_eq!(args, ["clone", "--no-hardlinks", "--branch=-b", "--", "--upload-pack=touch /tmp/x", "/w"]);
    }
}
