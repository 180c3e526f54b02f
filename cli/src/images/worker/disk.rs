//! A bootable disk, made by the image's own programs: its files, then the partition table, the root file system, the EFI
//! system partition, and GRUB for BIOS.
//!
//! Nothing is mounted: `mke2fs -d` and mtools write into the file, GRUB's first sectors are put where grub-bios-setup puts
//! them.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rustix::mount::mount_bind;

use super::root::{self, BUILD, May, Root, finish};
use crate::error::{CliError, Result};
use crate::images::disk::{BIOS, DiskJob, ESP, Ids, ROOT, SECTOR, root_sectors};
use crate::images::export;
use crate::images::store::Store;

/// What the image must have, and the package that brings it.
const NEEDED: [(&str, &str); 11] = [
    ("vmlinuz", "linux-image-cloud-amd64"),
    ("initrd.img", "initramfs-tools"),
    ("usr/sbin/init", "systemd-sysv"),
    ("usr/bin/systemctl", "systemd"),
    ("usr/bin/systemd-repart", "systemd-repart"),
    ("usr/bin/grub-mkimage", "grub-common"),
    ("usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    ("usr/lib/grub/x86_64-efi/moddep.lst", "grub-efi-amd64-bin"),
    ("usr/sbin/mke2fs", "e2fsprogs"),
    ("usr/bin/mformat", "mtools"),
    ("usr/sbin/sfdisk", "fdisk"),
];
/// Of GRUB: it reads its menu and the kernel from the root file system.
const MODULES: [&str; 10] =
    ["part_gpt", "ext2", "search_fs_uuid", "normal", "configfile", "linux", "test", "echo", "reboot", "halt"];
/// The root partition grows to the end of the disk, and its file system with it.
const GROWS: &str = "# Written by helixctl image export --disk.\n[Partition]\nType=root\n";

/// Makes `build/disk`.
pub fn make(job: &DiskJob) -> Result<()> {
    root::alone()?;
    let path = job.work.join("root");
    export::unpack(&Store::open(&job.store)?, &job.image, &path)?;
    require(&path)?;
    let root = Root::tree(path, &job.work, job.source_date)?;
    let run = |program: &str, args: &[&str], what: &str| finish(root.command(May::Install, program).args(args), what);
    furnish(&root, job)?;
    run(
        "/usr/bin/agentd",
        &["--version"],
        "agentd does not run in this image: it needs a newer C library, or a static agentd",
    )?;
    run("systemd-sysusers", &["helix.conf", "helix-slots.conf"], "the users of sessions cannot be made")?;
    let enable = ["enable", "--quiet", "helix-first-boot.service"];
    run("systemctl", &enable, "the first boot cannot be prepared")?;
    let file = Disk { root: &root, job };
    file.partition()?;
    file.root()?;
    file.efi()?;
    file.bios()
}

/// An error that names what is missing, all of it.
fn require(root: &Path) -> Result<()> {
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(path, _)| root.join(path).symlink_metadata().is_err())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(CliError::failed("this image is no whole machine")
        .because(format!("it lacks what boots: {}", missing.join(", ")))
        .next("parent = \"machine\" in its recipe, or these packages; or: helixctl image build machine"))
}

fn furnish(root: &Root, job: &DiskJob) -> Result<()> {
    let at = |path: &str| root.path.join(path);
    let write = || -> io::Result<()> {
        for (path, mode, from) in &job.files {
            let to = root.path.join(path.strip_prefix("/").unwrap_or(path));
            fs::create_dir_all(to.parent().unwrap_or(&root.path))?;
            fs::copy(job.work.join("build").join(from), &to)?;
            fs::set_permissions(&to, fs::Permissions::from_mode(*mode))?;
        }
        fs::create_dir_all(at("boot/grub"))?;
        fs::write(at("boot/grub/grub.cfg"), menu(&job.ids))?;
        fs::write(
            at("etc/fstab"),
            format!("UUID={} / ext4 defaults,errors=remount-ro,x-systemd.growfs 0 1\n", job.ids.root),
        )?;
        fs::create_dir_all(at("usr/lib/repart.d"))?;
        fs::write(at("usr/lib/repart.d/50-root.conf"), GROWS)?;
        if at("usr/lib/systemd/systemd-resolved").exists() {
            fs::remove_file(at("etc/resolv.conf"))?;
            symlink("../run/systemd/resolve/stub-resolv.conf", at("etc/resolv.conf"))?;
        }
        Ok(())
    };
    write().map_err(|error| CliError::failed("cannot put the machine's files into the image").because(error))
}

/// `/vmlinuz` leads to the newest kernel, whichever a later update brings.
fn menu(ids: &Ids) -> String {
    format!(
        "# Written by helixctl image export --disk; yours to change.\n\
         linux /vmlinuz root=UUID={} ro loglevel=4 console=tty0 console=ttyS0,115200\ninitrd /initrd.img\nboot\n",
        ids.root
    )
}

/// The file that becomes the disk.
struct Disk<'a> {
    root: &'a Root,
    job: &'a DiskJob,
}

impl Disk<'_> {
    /// Its name as the image's programs see it.
    fn inside(name: &str) -> String {
        format!("/{BUILD}/{name}")
    }

    fn run(&self, program: &str, args: &[&str], what: &str) -> Result<()> {
        finish(self.root.command(May::Install, program).args(args), what)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.job.work.join("build").join(name);
        fs::write(&path, text)
            .map_err(|error| CliError::failed("cannot write a part of the disk").at(path.display()).because(error))
    }

    fn partition(&self) -> Result<()> {
        let path = self.job.work.join("build/disk");
        let made = fs::File::create(&path).and_then(|file| {
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.set_len(self.job.size)
        });
        made.map_err(|error| CliError::failed("cannot make the disk's file").at(path.display()).because(error))?;
        let [bios, esp, part] = &self.job.ids.partitions;
        let layout = format!(
            "label: gpt\nlabel-id: {}\n\
             start={}, size={}, type=21686148-6449-6E6F-744E-656564454649, uuid={bios}, name=\"bios\"\n\
             start={}, size={}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid={esp}, name=\"esp\"\n\
             start={ROOT}, size={}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid={part}, name=\"root\"\n",
            self.job.ids.disk,
            BIOS.0,
            BIOS.1,
            ESP.0,
            ESP.1,
            root_sectors(self.job.size),
        );
        self.write("layout", &layout)?;
        let line = format!(
            "exec sfdisk --quiet --no-reread --no-tell-kernel {} <{}",
            Self::inside("disk"),
            Self::inside("layout")
        );
        self.run("sh", &["-c", &line], "the disk cannot be partitioned")
    }

    /// The tree as it is, without what is mounted in it, becomes the root file system.
    fn root(&self) -> Result<()> {
        let date = format!("@{}", self.job.source_date);
        let tree = self.root.path.join(BUILD).join("tree");
        let bound = fs::create_dir_all(&tree).and_then(|()| Ok(mount_bind(&self.root.path, &tree)?));
        bound.map_err(|error| CliError::failed("cannot show the tree to mke2fs").at(tree.display()).because(error))?;
        let inside = Self::inside("tree");
        // What making it left behind, and its times.
        let tidy = format!(
            "rm -f {inside}/etc/*- {inside}/etc/.pwd.lock && \
             find {inside} -xdev -newermt {date} -exec touch --no-dereference --date {date} {{}} +"
        );
        self.run("sh", &["-c", &tidy], "the tree cannot be tidied")?;
        let (id, blocks) = (&self.job.ids.root, (root_sectors(self.job.size) / 2).to_string());
        let extended = format!("offset={},hash_seed={id},root_owner=0:0,lazy_itable_init=1,nodiscard", ROOT * SECTOR);
        let args = [
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "1",
            "-L",
            "helix",
            "-U",
            id,
            "-O",
            "^metadata_csum_seed,^orphan_file",
            "-E",
            &extended,
            "-d",
            &inside,
            &Self::inside("disk"),
            &format!("{blocks}k"),
        ];
        self.run("mke2fs", &args, "the root file system cannot be made")
    }

    fn core(&self, target: &str, to: &str) -> Result<()> {
        let early = format!("search.fs_uuid {} root\nset prefix=($root)/boot/grub\n", self.job.ids.root);
        self.write("early.cfg", &early)?;
        let (config, out) = (Self::inside("early.cfg"), Self::inside(to));
        let mut args = vec!["-O", target, "-o", &out, "-c", &config, "-p", "/boot/grub"];
        args.extend(MODULES);
        args.extend(if target == "i386-pc" { ["biosdisk"] } else { ["all_video"] });
        self.run("grub-mkimage", &args, "the boot loader cannot be made")
    }

    fn efi(&self) -> Result<()> {
        self.core("x86_64-efi", "BOOTX64.EFI")?;
        let esp = format!("{}@@{}", Self::inside("disk"), ESP.0 * SECTOR);
        let (sectors, serial) = (ESP.1.to_string(), self.job.ids.partitions[1][..8].to_owned());
        let what = "the EFI system partition cannot be made";
        let format = ["-i", &esp, "-T", &sectors, "-h", "16", "-s", "63", "-N", &serial, "-v", "HELIX", "::"];
        self.run("mformat", &format, what)?;
        self.run("mmd", &["-i", &esp, "::EFI", "::EFI/BOOT"], what)?;
        self.run("mcopy", &["-i", &esp, &Self::inside("BOOTX64.EFI"), "::EFI/BOOT/BOOTX64.EFI"], what)
    }

    /// The first sector loads the second part from its partition; both say where that is, as grub-bios-setup writes it.
    fn bios(&self) -> Result<()> {
        /// What of the first sector is code; behind it is the partition table.
        const CODE: usize = 440;
        /// Where `boot.img` says where the second part is.
        const SECOND: usize = 0x5c;
        /// Where the second part's first sector says where its rest is.
        const REST: usize = 0x1f4;
        self.core("i386-pc", "core.img")?;
        let build = self.job.work.join("build");
        let put = || -> io::Result<()> {
            let mut boot = [0; CODE];
            fs::File::open(self.root.path.join("usr/lib/grub/i386-pc/boot.img"))?.read_exact(&mut boot)?;
            boot[SECOND..SECOND + 8].copy_from_slice(&BIOS.0.to_le_bytes());
            let mut core = fs::read(build.join("core.img"))?;
            if core.len() as u64 > BIOS.1 * SECTOR || core.len() < SECTOR as usize {
                return Err(io::Error::other("GRUB's second part does not fit into its partition"));
            }
            core[REST..REST + 8].copy_from_slice(&(BIOS.0 + 1).to_le_bytes());
            let mut disk = fs::File::options().write(true).open(build.join("disk"))?;
            disk.write_all(&boot)?;
            disk.seek(SeekFrom::Start(BIOS.0 * SECTOR))?;
            disk.write_all(&core)
        };
        put().map_err(|error| CliError::failed("the boot loader cannot be put in").because(error))
    }
}
