//! Each kind of step, in the root that the layers below make.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::mount_bind;

use super::LayerJob;
use super::packages;
use super::root::{self, BUILD, May, Root, finish};
use crate::error::{CliError, Result};
use crate::images::plan::{PlannedFile, Step};
use crate::images::recipe::User;

/// Makes the layer.
pub fn layer(job: &LayerJob) -> Result<()> {
    root::alone()?;
    if let Step::Root { suite, arch, .. } = &job.step {
        return packages::root(job, suite, arch);
    }
    let root = Root::writable(&job.layers, &job.below, &job.work, job.source_date)?;
    match &job.step {
        Step::Root { .. } => Ok(()),
        Step::Packages { names } => packages::install(job, &root, names),
        Step::Users { users } => users.iter().try_for_each(|user| add_user(&root, user)),
        Step::Npm { npm, before } => install_npm(job, &root, npm, before.as_deref()),
        Step::Download { path, unpack, strip, .. } => place_download(root, path.as_deref(), unpack.as_deref(), *strip),
        Step::Command { run, network, environment, .. } => {
            let may = if *network { May::UseNetwork } else { May::Build };
            if *network {
                resolve_names(&root)?;
            }
            let mut command = root.command(may, "/bin/sh");
            command.args(["-e", "-c", run]).envs(environment).env("INPUTS", format!("/{BUILD}/inputs"));
            finish(&mut command, "a command of the recipe failed")
        }
        Step::Files { files } => {
            root.enter()?;
            let ids = Ids::read()?;
            let inputs = Path::new("/").join(BUILD).join("inputs");
            files.iter().enumerate().try_for_each(|(number, file)| put(&inputs.join(number.to_string()), file, &ids))
        }
    }
}

fn add_user(root: &Root, user: &User) -> Result<()> {
    let home = user.home.clone().unwrap_or_else(|| PathBuf::from("/home").join(&user.name));
    let mut command = root.command(May::Install, "useradd");
    command
        .args(["--no-log-init", "--create-home", "--user-group", "--uid", &user.uid.to_string(), "--home-dir"])
        .arg(home);
    command.arg("--shell").arg(&user.shell);
    if !user.groups.is_empty() {
        command.args(["--groups", &user.groups.join(",")]);
    }
    finish(command.arg("--").arg(&user.name), &format!("user {} cannot be made", user.name))
}

/// npm reaches its registry as this machine's does.
fn install_npm(job: &LayerJob, root: &Root, npm: &str, before: Option<&str>) -> Result<()> {
    resolve_names(root)?;
    let settings = job.work.join("build/npmrc");
    let text: String = job.npm.iter().flat_map(|(name, value)| [name, "=", value, "\n"]).collect();
    fs::write(&settings, text)
        .map_err(|error| CliError::failed("cannot write npm's settings").at(settings.display()).because(error))?;
    let mut command = root.command(May::UseNetwork, "npm");
    command.args(["install", "--global", "--prefix", "/usr/local", "--no-audit", "--no-fund", "--no-update-notifier"]);
    command.args(["--cache", "/tmp/npm", "--userconfig", &format!("/{BUILD}/npmrc")]);
    if let Some(before) = before {
        command.args(["--before", before]);
    }
    finish(command.arg("--").arg(npm), &format!("npm cannot install {npm}")).map_err(|error| {
        if root.path.join("usr/bin/npm").exists() || root.path.join("usr/local/bin/npm").exists() {
            error
        } else {
            error.because("the image has no npm").next("packages = [\"nodejs\", \"npm\"], or parent = \"dev\"")
        }
    })
}

/// Names are resolved as on this machine; the file is bound for as long as the step runs.
fn resolve_names(root: &Root) -> Result<()> {
    mount_bind("/etc/resolv.conf", root.path.join("etc/resolv.conf"))
        .map_err(|error| CliError::failed("cannot give the step the machine's resolver").because(error))
}

fn place_download(root: Root, path: Option<&Path>, unpack: Option<&Path>, strip: u32) -> Result<()> {
    let file = format!("/{BUILD}/inputs/0");
    if let Some(dir) = unpack {
        finish(root.command(May::Build, "mkdir").arg("-p").arg("--").arg(dir), "cannot make the agent's directory")?;
        let mut command = root.command(May::Build, "tar");
        command.args(["--extract", "--no-same-owner", "--file", &file, "--directory"]).arg(dir);
        return finish(command.arg(format!("--strip-components={strip}")), "the agent cannot be unpacked");
    }
    let Some(path) = path else { return Ok(()) };
    root.enter()?;
    let copy = || -> io::Result<()> {
        make_parents(path)?;
        fs::copy(&file, path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    copy().map_err(|error| cannot_put(path, &error))
}

fn put(from: &Path, file: &PlannedFile, ids: &Ids) -> Result<()> {
    let owner = ids.user(&file.owner).map_err(|why| CliError::failed(why).at(file.path.display()))?;
    let group = ids.group(&file.group).map_err(|why| CliError::failed(why).at(file.path.display()))?;
    make_parents(&file.path)
        .and_then(|()| copy(from, &file.path, file.mode, owner, group))
        .map_err(|error| cannot_put(&file.path, &error))
}

fn copy(from: &Path, to: &Path, mode: Option<u32>, owner: u32, group: u32) -> io::Result<()> {
    let meta = from.symlink_metadata()?;
    let there = to.symlink_metadata().ok();
    if meta.is_dir() {
        if !there.is_some_and(|there| there.is_dir()) {
            fs::create_dir(to)?;
            chown(to, Some(owner), Some(group))?;
        }
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), mode, owner, group)?;
        }
        return Ok(());
    }
    // What it replaces may be a link to somewhere else.
    if there.is_some_and(|there| !there.is_dir()) {
        fs::remove_file(to)?;
    }
    if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
        return lchown(to, Some(owner), Some(group));
    }
    fs::copy(from, to)?;
    chown(to, Some(owner), Some(group))?;
    // A changed owner takes the set-user-id bits away, so the mode comes after it.
    let mode = mode.unwrap_or(if meta.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 });
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}

fn make_parents(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

fn cannot_put(path: &Path, error: &io::Error) -> CliError {
    CliError::failed("cannot put a file into the image").at(path.display()).because(error)
}

/// Users and groups of the image.
struct Ids {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Ids {
    fn read() -> Result<Self> {
        let read = |path: &str| -> Result<BTreeMap<String, u32>> {
            let text = fs::read_to_string(path)
                .map_err(|error| CliError::failed("cannot read users of the image").at(path).because(error))?;
            let entry = |line: &str| {
                let mut fields = line.split(':');
                Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
            };
            Ok(text.lines().filter_map(entry).collect())
        };
        Ok(Self { users: read("/etc/passwd")?, groups: read("/etc/group")? })
    }

    fn user(&self, name: &str) -> Result<u32, String> {
        Self::id(&self.users, name).ok_or_else(|| format!("the image has no user {name}"))
    }

    fn group(&self, name: &str) -> Result<u32, String> {
        Self::id(&self.groups, name).ok_or_else(|| format!("the image has no group {name}"))
    }

    fn id(known: &BTreeMap<String, u32>, name: &str) -> Option<u32> {
        name.parse().ok().or_else(|| known.get(name).copied())
    }
}
