//! A root file system that layers make together, with what programs in it need: processes, devices, no network.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use helix_protocol::image::BIND_TARGETS;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

use crate::error::{CliError, Result};

/// Where a step's own files are, seen from within: in a directory that no image keeps.
pub const BUILD: &str = "run/helix-build";
/// Devices that programs expect.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// What a command of a recipe may not do to the machine, even where the build runs as root.
const WITHHELD: &str = "-sys_admin,-sys_module,-sys_rawio,-sys_boot,-sys_time,-sys_ptrace,-mknod,-net_admin,-syslog";

/// A mounted root.
pub struct Root {
    /// Where it is.
    pub path: PathBuf,
    source_date: u64,
}

/// What a program may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// What packages' own scripts need.
    Install,
    /// What a recipe's command needs.
    Build,
    /// That, and use the network.
    UseNetwork,
}

impl Root {
    /// Layers as they are together; nobody writes.
    pub fn read_only(layers: &Path, names: &[String], work: &Path) -> Result<Self> {
        if let [only] = names {
            return Ok(Self { path: layers.join(only).join("fs"), source_date: 0 });
        }
        Self::overlay(layers, names, work, None)
    }

    /// The same with a layer on top that takes what is written.
    pub fn writable(layers: &Path, names: &[String], work: &Path, source_date: u64) -> Result<Self> {
        for part in ["upper", "overlay"] {
            make(&work.join(part))?;
        }
        let top = format!(",upperdir={0}/upper,workdir={0}/overlay", work.display());
        let root = Self { source_date, ..Self::overlay(layers, names, work, Some(&top))? };
        root.furnish(work)?;
        Ok(root)
    }

    /// A tree that is nobody else's, as it is; what is written stays in it.
    pub fn tree(path: PathBuf, work: &Path, source_date: u64) -> Result<Self> {
        let root = Self { path, source_date };
        root.furnish(work)?;
        Ok(root)
    }

    fn overlay(layers: &Path, names: &[String], work: &Path, top: Option<&str>) -> Result<Self> {
        let path = work.join("root");
        make(&path)?;
        let failed = |error: io::Error| {
            CliError::failed("cannot lay the layers over each other")
                .at(layers.display())
                .because(error)
                .next("name a directory on ext4, xfs, btrfs or tmpfs, not on an overlay: --cache-dir DIR")
        };
        // Relative, for all options together must fit into one page.
        std::env::set_current_dir(layers).map_err(failed)?;
        let lower: Vec<_> = names.iter().rev().map(|name| format!("{name}/fs")).collect();
        // Layers go together in many ways, so none may know of another: no redirects, no index.
        let user = if is_in_user_namespace() { ",userxattr" } else { ",redirect_dir=off,metacopy=off" };
        let options = format!("lowerdir={}{},index=off,xino=off{user}", lower.join(":"), top.unwrap_or_default());
        let options = CString::new(options).map_err(|error| failed(error.into()))?;
        mount("helix-image", &path, "overlay", MountFlags::empty(), options.as_c_str())
            .map_err(|e| failed(e.into()))?;
        Ok(Self { path, source_date: 0 })
    }

    /// What programs need, nothing of which is in the layer: the mounts are this process's alone.
    fn furnish(&self, work: &Path) -> Result<()> {
        let at = |name: &str| self.path.join(name);
        let all = || -> io::Result<()> {
            mount("proc", at("proc"), "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?;
            mount("tmpfs", at("dev"), "tmpfs", MountFlags::NOSUID, Some(c"mode=0755"))?;
            for name in DEVICES {
                fs::write(at("dev").join(name), "")?;
                mount_bind(Path::new("/dev").join(name), at("dev").join(name))?;
            }
            for (name, target) in [
                ("fd", "/proc/self/fd"),
                ("stdin", "/proc/self/fd/0"),
                ("stdout", "/proc/self/fd/1"),
                ("stderr", "/proc/self/fd/2"),
            ] {
                symlink(target, at("dev").join(name))?;
            }
            for name in ["shm", "pts"] {
                fs::create_dir(at("dev").join(name))?;
            }
            // What is left in it is not in the layer.
            for (name, from) in [("tmp", "tmp"), (BUILD, "build")] {
                fs::create_dir_all(work.join(from))?;
                fs::create_dir_all(at(name))?;
                mount_bind(work.join(from), at(name))?;
            }
            fs::set_permissions(work.join("tmp"), fs::Permissions::from_mode(0o1777))
        };
        all().map_err(|error| {
            CliError::failed("cannot mount what programs of the image need").at(self.path.display()).because(error)
        })?;
        // Files that say the machine's name would differ between machines.
        rustix::system::sethostname(b"helix-image")
            .map_err(|error| CliError::failed("cannot name the build's own host").because(error))
    }

    /// A program in the root; what it says goes to standard error, which is the log.
    pub fn command(&self, may: May, program: &str) -> Command {
        let mut words: Vec<String> = Vec::new();
        if may != May::UseNetwork {
            words.extend(["unshare", "--net", "--"].map(str::to_owned));
        }
        if may != May::Install {
            words.extend(["setpriv", "--bounding-set", WITHHELD, "--inh-caps", WITHHELD, "--"].map(str::to_owned));
        }
        words.extend(["chroot".to_owned(), self.path.display().to_string(), program.to_owned()]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ]);
        command.env("SOURCE_DATE_EPOCH", self.source_date.to_string());
        command
    }

    /// From now on this process sees nothing but the root: absolute links in it lead nowhere else.
    pub fn enter(self) -> Result<()> {
        let enter = || -> io::Result<()> {
            rustix::process::chroot(&self.path)?;
            std::env::set_current_dir("/")
        };
        enter().map_err(|error| CliError::failed("cannot enter the image").at(self.path.display()).because(error))
    }
}

/// Runs a command to its end; `what` is what failed when it does.
pub fn finish(command: &mut Command, what: &str) -> Result<()> {
    let failed = |why: String| CliError::failed(what).because(why);
    let log = || rustix::io::dup(io::stderr()).map(Stdio::from).map_err(|error| failed(error.to_string()));
    let (out, err) = (log()?, log()?);
    let status = command.stdin(Stdio::null()).stdout(out).stderr(err).status();
    let status = status.map_err(|error| failed(format!("{}: {error}", command.get_program().display())))?;
    if status.success() { Ok(()) } else { Err(failed(format!("it ended with {status}"))) }
}

/// Makes what every session binds something of its own on, where a layer below has none of it.
pub fn make_targets(root: &Path) -> Result<()> {
    for target in BIND_TARGETS {
        let path = root.join(target.trim_start_matches('/'));
        let made = if is_file_target(target) {
            match path.symlink_metadata() {
                Ok(meta) if meta.is_file() => Ok(()),
                Ok(_) => fs::remove_file(&path).and_then(|()| fs::write(&path, "")),
                Err(_) => {
                    fs::write(&path, if *target == "/etc/hosts" { "127.0.0.1 localhost\n::1 localhost\n" } else { "" })
                }
            }
        } else {
            fs::create_dir_all(&path)
        };
        made.map_err(|error| {
            CliError::failed("cannot make a place that sessions need").at(path.display()).because(error)
        })?;
    }
    Ok(())
}

/// An error unless every session finds its places in the image.
pub fn check_targets(root: &Path) -> Result<()> {
    for target in BIND_TARGETS {
        let meta = root.join(target.trim_start_matches('/')).symlink_metadata();
        let right = meta.as_ref().is_ok_and(|meta| if is_file_target(target) { meta.is_file() } else { meta.is_dir() });
        if !right {
            let is = if is_file_target(target) { "a file" } else { "a directory" };
            return Err(CliError::failed(format!("{target} of the image is not {is}"))
                .because("sessions bind something of their own there, and an image is read-only: a step removed or replaced it")
                .next("let no command of the recipe change it"));
        }
    }
    Ok(())
}

/// True where a session binds a file.
pub fn is_file_target(target: &str) -> bool {
    target.starts_with("/etc/")
}

fn is_in_user_namespace() -> bool {
    // Outside of every one, all numbers are their own.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path)
        .map_err(|error| CliError::failed("cannot make a directory of the build").at(path.display()).because(error))
}

/// The machine sees nothing of what is mounted here, whatever it shares.
pub fn alone() -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| CliError::failed("cannot leave the machine's mounts").because(error))
}
