//! `agentd in-image`: a process of the process backend, in the root of an image.
//!
//! The kernel gives it namespaces of its own for mounts and, unless it is root, for users (the same user inside and out); there it puts a root
//! together from the image's directories, read-only, the machine's `/proc`, `/sys`, `/dev` and `/tmp`, and the session's own
//! directories, each where it is outside; then it becomes the program. It ends with that, and leaves nothing: the mounts are
//! its own. Where the machine gives no such namespaces, [`unavailable`] says why.
//!
//! It isolates nothing from the operator, whose user it is: an image is here for its tools, not for a border.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use helix_protocol::image::Digest;
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, mount_remount, unmount,
};
use rustix::process::pivot_root;
use rustix::thread::UnshareFlags;

use super::place::Place;
use super::root::PROGRAM;
use crate::supervisor::{SessionPaths, UnitSpec};

/// Its word on agentd's command line.
pub const WORD: &str = "in-image";
/// Instead of a root: only try whether it could be.
const TRY: &str = "--try";
/// Between where and what.
const END: &str = "--";
/// The machine's own, also in an image.
const OF_THE_MACHINE: [&str; 4] = ["proc", "sys", "dev", "tmp"];
/// Empty but for what is put there.
const EMPTY: [&str; 4] = ["home", "root", "run", "srv"];
/// Files of the machine's in `/etc`: who is who, and where names are found.
const FILES: [&str; 5] = ["passwd", "group", "hosts", "resolv.conf", "machine-id"];

/// Arguments of agentd that put what follows into an image: with these directories of the session's, in this one.
pub fn arguments(state_dir: &Path, image: Digest, program: &Path, dirs: &[&Path], cwd: &Path) -> Vec<String> {
    let place = Place::new(state_dir);
    let (root, new) = (place.root(image), place.mount_point());
    let paths = [root.as_path(), new.as_path(), program, cwd].into_iter().chain(dirs.iter().copied());
    let paths = paths.map(|path| path.to_string_lossy().into_owned());
    [WORD.to_owned()].into_iter().chain(paths).chain([END.to_owned()]).collect()
}

/// The unit as it is started: one that runs in an image enters that first.
pub fn unit(state_dir: &Path, program: &Path, paths: &SessionPaths, unit: &UnitSpec) -> UnitSpec {
    let Some(image) = unit.image else { return unit.clone() };
    let mut argv = vec![program.to_string_lossy().into_owned()];
    argv.extend(arguments(state_dir, image, program, &[&paths.root, &paths.workspace], &unit.cwd));
    argv.extend(unit.argv.iter().cloned());
    UnitSpec { argv, ..unit.clone() }
}

/// Why no process can be put into an image here; none: it can. `program` is agentd.
pub fn unavailable(program: &Path) -> Option<String> {
    // In a process of its own: namespaces are for all of a process.
    match Command::new(program).args([WORD, TRY]).stdin(Stdio::null()).stdout(Stdio::null()).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().last().unwrap_or("it says nothing").trim_start_matches("error: ").to_owned();
            Some(format!("this backend needs user and mount namespaces ({said}); run agentd as a systemd service"))
        }
        Err(error) => Some(format!("agentd cannot be run: {error}")),
    }
}

/// Becomes the program in the image. Called before the process has a second thread.
pub fn main(args: impl Iterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let args: Vec<OsString> = args.collect();
    if args.first().is_some_and(|first| first == TRY) {
        leave_the_machine()?;
        mount("none", "/tmp", "tmpfs", MountFlags::empty(), None).context("no file system can be mounted")?;
        return Ok(ExitCode::SUCCESS);
    }
    let end = args.iter().position(|arg| arg == END).context("no program is named")?;
    let (paths, command) = (args[..end].iter().map(PathBuf::from).collect::<Vec<_>>(), &args[end + 1..]);
    let ([root, new, agentd, cwd, dirs @ ..], [program, arguments @ ..]) = (paths.as_slice(), command) else {
        bail!("a root, a mount point, agentd, a directory and a program are needed");
    };
    leave_the_machine()?;
    build(root, new, agentd, dirs).context("the image's root cannot be put together")?;
    std::env::set_current_dir(new)?;
    // The old root on top of the new one, and away with it.
    pivot_root(".", ".").context("the image's root cannot be entered")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir(cwd).with_context(|| format!("{} cannot be entered in the image", cwd.display()))?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("{} cannot be run in the image", program.to_string_lossy()))
}

/// Namespaces of this process's own, as the same user.
fn leave_the_machine() -> anyhow::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // Root needs no namespace of users, and would miss every other user and group in it: its terminals are of group tty. In a
    // container that may not mount, one is all that there is.
    let is_root = uid == 0 && unshare(UnshareFlags::NEWNS).is_ok();
    if !is_root {
        unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
            .context("the kernel gives no user and mount namespaces")?;
        // Groups cannot be mapped without that.
        fs::write("/proc/self/setgroups", "deny").context("cannot give up groups in the new user namespace")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).context("cannot stay the same user")?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).context("cannot stay in the same group")?;
    }
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    Ok(())
}

#[expect(
    deprecated,
    reason = "its successor is unsafe because of shared descriptor tables, which these flags leave alone"
)]
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    rustix::thread::unshare(flags)
}

fn build(root: &Path, new: &Path, agentd: &Path, dirs: &[PathBuf]) -> anyhow::Result<()> {
    mount("none", new, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?;
    for entry in fs::read_dir(root).with_context(|| root.display().to_string())? {
        let entry = entry?;
        let (name, to) = (entry.file_name(), new.join(entry.file_name()));
        let own = OF_THE_MACHINE.iter().chain(&EMPTY).any(|own| name == *own);
        match entry.file_type()? {
            _ if own => {}
            kind if kind.is_symlink() => symlink(fs::read_link(entry.path())?, to)?,
            kind if kind.is_dir() => {
                fs::create_dir(&to)?;
                bind(&entry.path(), &to, true)?;
            }
            _ => {}
        }
    }
    for name in OF_THE_MACHINE {
        let (from, to) = (Path::new("/").join(name), new.join(name));
        fs::create_dir(&to)?;
        bind(&from, &to, false)?;
    }
    for name in EMPTY {
        fs::create_dir(new.join(name))?;
    }
    for name in FILES {
        let (from, to) = (Path::new("/etc").join(name), new.join("etc").join(name));
        // What the machine has not is the image's.
        if from.is_file() && to.is_file() {
            bind(&from, &to, true)?;
        }
    }
    let program = new.join(PROGRAM.trim_start_matches('/'));
    fs::write(&program, "")?;
    bind(agentd, &program, true)?;
    for dir in dirs {
        put(dir, new)?;
    }
    Ok(())
}

/// Shows a directory of the session's where it is outside.
fn put(dir: &Path, new: &Path) -> anyhow::Result<()> {
    let mut parts = dir.components().filter(|part| matches!(part, Component::Normal(_)));
    let first = parts.next().context("the root is no directory of a session")?;
    let to = new.join(dir.strip_prefix("/").unwrap_or(dir));
    if first.as_os_str() == "tmp" {
        return Ok(());
    }
    if !EMPTY.iter().any(|empty| first.as_os_str() == *empty) && !to.is_dir() && new.join(first).exists() {
        bail!(
            "{} is not there in the image; put state_dir and workspace_dir below /home, /root, /run, /srv or /tmp",
            dir.display()
        );
    }
    fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
    bind(dir, &to, false)
}

fn bind(from: &Path, to: &Path, read_only: bool) -> anyhow::Result<()> {
    let told = || format!("{} cannot be shown as {}", from.display(), to.display());
    mount_bind_recursive(from, to).with_context(told)?;
    if read_only {
        protect(to).with_context(told)?;
    }
    Ok(())
}

/// Makes a mount read-only. What the machine's mount forbids stays forbidden: nobody may take that away here.
fn protect(at: &Path) -> io::Result<()> {
    let kept = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let now = statvfs(at)?.f_flag;
    let kept = kept.into_iter().filter(|(flag, _)| now.contains(*flag)).map(|(_, flag)| flag);
    let flags = kept.fold(MountFlags::BIND | MountFlags::RDONLY, |flags, flag| flags | flag);
    Ok(mount_remount(at, flags, c"")?)
}
