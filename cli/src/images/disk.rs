//! A bootable disk of an image: what the machine's own parts are, where they lie, and what it is told about its server.
//!
//! ```text
//! sector 0       protective MBR with GRUB's first sector; GPT
//! 1 MiB          GRUB for BIOS, 1 MiB
//! 2 MiB          EFI system partition, 16 MiB: GRUB for UEFI
//! 18 MiB         the root file system, ext4; grows with the disk at each boot
//! ```
//!
//! Everything that makes it is a program of the image ([`super::worker`] runs them in its root), so the builder's machine
//! needs none and its versions do not matter; only qcow2 needs `qemu-img` here. The disk is made beside its place and
//! renamed: there is a whole one afterwards, or what was there before.

mod join;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use helix_protocol::RunnerId;
use helix_protocol::image::{Digest, ImageManifest};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::join::JoinWords;
use super::build;
use super::cache::Cache;
use super::sandbox;
use super::worker::Job;
use crate::error::{CliError, Kind, Result};
use crate::provision::wanted::{self, Program, RunnerSettings};
use crate::up::programs;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Where GRUB for BIOS is, and how many sectors it may have.
pub const BIOS: (u64, u64) = (2048, 2048);
/// Where the EFI system partition is, and its sectors.
pub const ESP: (u64, u64) = (4096, 32_768);
/// Where the root file system begins, a sector.
pub const ROOT: u64 = ESP.0 + ESP.1;
/// Sectors behind it: the second GPT, and what makes the end even.
const BEHIND: u64 = 2048;
/// Room for what a machine writes, where nobody names a size.
const ROOM: u64 = 2 << 30;
const GIB: u64 = 1 << 30;
/// Where the machine's own words are on the disk.
const JOIN: &str = "/etc/helix/join.env";
const FIRST_BOOT: &str = include_str!("disk/first-boot.sh");
const FIRST_BOOT_UNIT: &str = include_str!("disk/first-boot.service");

/// Sectors of the root file system on a disk of so many bytes.
pub fn root_sectors(size: u64) -> u64 {
    size / SECTOR - ROOT - BEHIND
}

/// How the disk is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Byte for byte; empty parts take no room.
    Raw,
    /// Of QEMU, compressed.
    Qcow2,
}

/// What is wanted.
pub struct Request {
    /// The image.
    pub image: Digest,
    /// Where the disk goes.
    pub to: PathBuf,
    /// How.
    pub format: Format,
    /// Bytes; what the image needs and some room where absent.
    pub size: Option<u64>,
    /// What every machine of it is told.
    pub join: JoinWords,
}

/// What the worker does: see [`super::worker`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiskJob {
    /// The store.
    pub store: PathBuf,
    /// Which image.
    pub image: Digest,
    /// A directory for it; the disk is its `build/disk`.
    pub work: PathBuf,
    /// Files that are put in: where, mode, and their content's file below `build`.
    pub files: Vec<(PathBuf, u32, String)>,
    /// Bytes of the disk.
    pub size: u64,
    /// Ids of the disk, of its partitions and of the root file system.
    pub ids: Ids,
    /// Nothing is later.
    pub source_date: u64,
}

/// Ids of a disk: those of equal disks are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// The partition table.
    pub disk: String,
    /// Its partitions, in their order.
    pub partitions: [String; 3],
    /// The root file system.
    pub root: String,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Made {
    /// Which image.
    pub digest: Digest,
    /// The file.
    pub out: PathBuf,
    /// Its format.
    pub format: Format,
    /// Bytes that a machine sees.
    pub disk_bytes: u64,
    /// Bytes that the file takes.
    pub file_bytes: u64,
    /// Whether an enrolment token is in it.
    pub has_token: bool,
}

/// Makes the disk; `say` is told what goes on.
pub async fn make(cache: &Cache, request: Request, agentd: &Program, say: &(dyn Fn(&str) + Sync)) -> Result<Made> {
    let manifest = cache.store.manifest(&request.image)?;
    let size = checked(&request, &manifest, agentd)?;
    if request.format == Format::Qcow2 && programs::in_path("qemu-img").is_none() {
        return Err(CliError::failed("cannot write qcow2")
            .because("there is no qemu-img")
            .next("apt-get install -y qemu-utils, or --format raw"));
    }
    // The tree, and the file system of it.
    cache.need(manifest.tar_bytes * 2 + (64 << 20))?;
    sandbox::rights()?;
    build::clean(cache).await?;
    let work = cache.work()?;
    let made = async {
        let files = staged(&work.dir, &request.join, agentd)?;
        let ids = Ids::of(&request.image, agentd, size);
        let job = DiskJob {
            store: cache.store.dir().to_owned(),
            image: request.image,
            work: work.dir.clone(),
            files,
            size,
            ids,
            source_date: manifest.source_date,
        };
        let log = cache.part("logs").join(format!("disk-{}.log", &request.image.hex()[..16]));
        fs::write(&log, "").map_err(|error| super::cache::cannot(&log, &error))?;
        say("unpacking, file system, boot loader");
        sandbox::run(&Job::Disk(Box::new(job)), &log).await.map_err(|mut error| {
            let lines = sandbox::last_lines(&log);
            if !lines.is_empty() {
                error.why = Some(format!("{}\n{lines}", error.why.unwrap_or_default()));
            }
            error.place.get_or_insert_with(|| log.display().to_string());
            error
        })?;
        say("writing the disk");
        placed(&work.dir.join("build/disk"), &request)
    };
    let made = made.await;
    build::remove(cache, vec![work.dir.clone()]).await?;
    let file_bytes = made?;
    Ok(Made {
        digest: request.image,
        out: request.to,
        format: request.format,
        disk_bytes: size,
        file_bytes,
        has_token: request.join.has_token(),
    })
}

/// The size of the disk; an error for what cannot be.
fn checked(request: &Request, manifest: &ImageManifest, agentd: &Program) -> Result<u64> {
    if manifest.arch != "amd64" || agentd.arch != "x86_64" {
        return Err(CliError::failed(format!("no disk is made for {}", manifest.arch))
            .because("the boot loader is put in for x86_64 alone")
            .next("helixctl image export NAME DIR --directory, and a boot loader of your own"));
    }
    // A file system and its reserve take a tenth.
    let least = (manifest.tar_bytes + manifest.tar_bytes / 8 + (128 << 20)).div_ceil(1 << 20) << 20;
    let Some(size) = request.size else { return Ok((least + ROOM).div_ceil(GIB) * GIB) };
    let size = size >> 20 << 20;
    if size >= least {
        return Ok(size);
    }
    Err(CliError::new(Kind::Usage, "the image does not fit on such a disk")
        .at(format!("--size {}", helix_protocol::resources::Bytes(size)))
        .because(format!("it needs {} MiB", least >> 20))
        .next(format!("--size {}MiB or more; without it there is room for what a machine writes", least >> 20)))
}

impl Ids {
    /// By what is on it, but for its secrets.
    fn of(image: &Digest, agentd: &Program, size: u64) -> Self {
        let id = |what: &str| {
            let hash = Sha256::digest(format!("{image} {} {size} {what}", agentd.sha256()));
            let mut bytes: [u8; 16] = std::array::from_fn(|at| hash[at]);
            // As one that is random: version 4.
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            let hex = helix_protocol::ids::hex(&bytes);
            format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
        };
        Self { disk: id("disk"), partitions: [id("bios"), id("esp"), id("part")], root: id("root") }
    }
}

/// Puts what the disk gets beside its image into the work directory: agentd with all that a runner has, its settings, and what
/// enrols it.
fn staged(work: &Path, join: &JoinWords, agentd: &Program) -> Result<Vec<(PathBuf, u32, String)>> {
    let nobody = RunnerSettings {
        id: RunnerId::parse("nobody").map_err(|error| CliError::failed("cannot make settings").because(error))?,
        server: String::new(),
        nats: None,
        slots: 1,
        labels: BTreeMap::new(),
    };
    let runner = wanted::files(agentd, &nobody).into_iter().filter(|file| file.path != wanted::SETTINGS);
    let mut files: Vec<(String, u32, bytes::Bytes)> = runner.map(|file| (file.path, file.mode, file.content)).collect();
    let text = |text: &str| bytes::Bytes::from(text.to_owned());
    files.push((wanted::SETTINGS.to_owned(), 0o600, text(&settings())));
    files.push(("/usr/lib/helix/first-boot".to_owned(), 0o755, text(FIRST_BOOT)));
    files.push(("/usr/lib/systemd/system/helix-first-boot.service".to_owned(), 0o644, text(FIRST_BOOT_UNIT)));
    if !join.is_empty() {
        files.push((JOIN.to_owned(), 0o600, text(&join.text())));
    }
    let dir = work.join("build");
    let stage = || -> io::Result<Vec<(PathBuf, u32, String)>> {
        fs::create_dir_all(&dir)?;
        let mut staged = Vec::with_capacity(files.len());
        for (number, (path, mode, content)) in files.into_iter().enumerate() {
            let name = format!("file-{number}");
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(dir.join(&name))?;
            io::Write::write_all(&mut file, &content)?;
            staged.push((PathBuf::from(path), mode, name));
        }
        Ok(staged)
    };
    stage().map_err(|error| super::cache::cannot(&dir, &error))
}

/// Settings that every machine has; the first boot puts its labels behind them.
fn settings() -> String {
    "# Written by helixctl image export --disk. What a machine was told at its first boot is in agentd.env and wins.\n\
     # What else can stand here: agentd.toml.example in /usr/share/doc/helix.\n\
     concurrency = 8\n\n[labels]\n"
        .to_owned()
}

/// Puts the disk in its place; the bytes that it takes there. Nobody else may read it: a token may be in it.
fn placed(disk: &Path, request: &Request) -> Result<u64> {
    let to = &request.to;
    let failed = |why: &dyn std::fmt::Display| CliError::failed("cannot write the disk").at(to.display()).because(why);
    let dir = to.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    let new = tempfile::Builder::new().prefix(".helix-disk-").tempfile_in(dir).map_err(|error| failed(&error))?;
    let mut command = match request.format {
        Format::Raw => {
            let mut command = Command::new("cp");
            command.args(["--sparse=always", "--reflink=auto", "--"]);
            command
        }
        Format::Qcow2 => {
            let mut command = Command::new("qemu-img");
            command.args(["convert", "-c", "-f", "raw", "-O", "qcow2", "--"]);
            command
        }
    };
    command.arg(disk).arg(new.path()).stdin(Stdio::null());
    let output = command.output().map_err(|error| failed(&error))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(&why).next(format!("make room below {}, or name another place", dir.display())));
    }
    let write = || -> io::Result<u64> {
        let file = File::open(new.path())?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.sync_all()?;
        let meta = file.metadata()?;
        Ok(std::os::unix::fs::MetadataExt::blocks(&meta) * 512)
    };
    let bytes = write().map_err(|error| failed(&error))?;
    new.persist(to).map_err(|error| failed(&error.error))?;
    Ok(bytes)
}
