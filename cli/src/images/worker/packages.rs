//! The distribution's packages: its smallest root by mmdebstrap, more by its own apt.
//!
//! Packages are had from the network by the machine's apt, which proves them by lists that were signed; what installs
//! them runs in the image and has no network.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::LayerJob;
use super::root::{BUILD, May, Root, finish, make_targets};
use crate::error::{CliError, Result};

/// Documentation that nobody reads in an image is left out; licences stay. It holds for the layers above, too.
const LEAN: [&str; 4] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];
/// No service is started in an image.
const POLICY: &str = "#!/bin/sh\nexit 101\n";

/// The smallest root, as it comes from the archive.
pub fn root(job: &LayerJob, suite: &str, arch: &str) -> Result<()> {
    let target = job.work.join("upper");
    // What runs before packages are had, and after all is there. Hard links cost nothing.
    let before = "set -e; mkdir -p \"$1/var/lib/apt/lists\" \"$1/var/cache/apt/archives\"; \
        cp -al \"$HELIX_LISTS\"/. \"$1/var/lib/apt/lists/\"; \
        find \"$HELIX_DEBS\" -name '*.deb' -exec cp -alf -t \"$1/var/cache/apt/archives\" {} +";
    let after = "set -e; find \"$1/var/cache/apt/archives\" -maxdepth 1 -name '*.deb' -exec cp -alf -t \"$HELIX_DEBS\" {} +; \
        rm -rf \"$1\"/var/cache/apt/archives/*.deb \"$1\"/var/cache/apt/*.bin \"$1\"/var/lib/apt/lists/* \"$1/etc/apt/apt.conf.d/99mmdebstrap\" \
        \"$1\"/etc/apt/sources.list.d/*";
    let mut command = Command::new("mmdebstrap");
    command.args([
        "--mode=root",
        "--variant=minbase",
        // What installs the packages of recipes; not every archive has it among what is required.
        "--include=apt",
        "--skip=update,cleanup/apt,essential/unlink",
        "--format=directory",
    ]);
    command.arg(format!("--architectures={arch}"));
    for setting in job.settings.lines().filter(|line| line.starts_with("Acquire::") || line.starts_with("APT::Sandbox"))
    {
        command.arg(format!("--aptopt={}", setting.trim_end_matches(';')));
    }
    command.args(LEAN.map(|rule| format!("--dpkgopt={rule}")));
    command.arg(format!("--setup-hook={before}")).arg(format!("--customize-hook={after}"));
    command.arg(suite).arg(&target).arg(job.archive.join("sources.list"));
    command.env("SOURCE_DATE_EPOCH", job.source_date.to_string()).env("LC_ALL", "C.UTF-8");
    command.env("HELIX_LISTS", job.archive.join("lists")).env("HELIX_DEBS", &job.debs);
    // mmdebstrap wants its temporary files where programs may run.
    command.env("TMPDIR", &job.work);
    finish(&mut command, &format!("mmdebstrap cannot make a root of {suite}"))?;
    make_targets(&target)
}

/// More packages in a root.
pub fn install(job: &LayerJob, root: &Root, names: &[String]) -> Result<()> {
    let build = job.work.join("build");
    let archives = build.join("archives");
    let prepare = || -> io::Result<()> {
        fs::create_dir_all(archives.join("partial"))?;
        for entry in fs::read_dir(&job.debs)? {
            let entry = entry?;
            // Another build may have replaced it in this moment.
            let _ = fs::hard_link(entry.path(), archives.join(entry.file_name()));
        }
        fs::create_dir_all(build.join("lists/partial"))?;
        for entry in fs::read_dir(job.archive.join("lists"))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::hard_link(entry.path(), build.join("lists").join(entry.file_name()))?;
            }
        }
        let sources = fs::read_to_string(job.archive.join("sources.list"))?;
        fs::write(build.join("sources.list"), &sources)?;
        let root = root.path.display();
        fs::write(
            build.join("outside.conf"),
            settings(
                &job.settings,
                &build,
                &format!("{root}/var/lib/dpkg/status"),
                &format!("{root}/var/lib/apt/extended_states"),
            ),
        )?;
        let inside = Path::new("/").join(BUILD);
        fs::write(
            build.join("inside.conf"),
            settings(&job.settings, &inside, "/var/lib/dpkg/status", "/var/lib/apt/extended_states"),
        )
    };
    prepare().map_err(|error| {
        CliError::failed("cannot prepare the installation of packages").at(build.display()).because(error)
    })?;
    let install = ["install", "-y", "-q", "--no-install-recommends"];
    let mut download = Command::new("apt-get");
    download
        .args(install)
        .arg("--download-only")
        .args(names)
        .env("APT_CONFIG", build.join("outside.conf"))
        .env("LC_ALL", "C");
    finish(&mut download, "packages cannot be had")?;
    let policy = root.path.join("usr/sbin/policy-rc.d");
    write_program(&policy, POLICY)?;
    let mut command = root.command(May::Install, "apt-get");
    command.args(install).arg("--no-download").args(names).env("APT_CONFIG", format!("/{BUILD}/inside.conf"));
    finish(&mut command, "packages cannot be installed")?;
    let keep = || -> io::Result<()> {
        fs::remove_file(&policy)?;
        for entry in fs::read_dir(&archives)? {
            let entry = entry?;
            let kept = job.debs.join(entry.file_name());
            if entry.path().extension().is_some_and(|ending| ending == "deb") && !kept.exists() {
                // Of two builds that had the same one, either's is right.
                let _ = fs::hard_link(entry.path(), kept);
            }
        }
        Ok(())
    };
    keep().map_err(|error| CliError::failed("cannot keep packages").at(job.debs.display()).because(error))
}

fn settings(common: &str, build: &Path, status: &str, extended: &str) -> String {
    format!(
        "{common}Dir::Etc::sourcelist \"{0}/sources.list\";\nDir::State::lists \"{0}/lists\";\nDir::State::status \"{status}\";\n\
         Dir::State::extended_states \"{extended}\";\nDir::Cache::archives \"{0}/archives\";\nAPT::Keep-Downloaded-Packages \"true\";\n\
         Binary::apt-get::APT::Keep-Downloaded-Packages \"true\";\nDPkg::Use-Pty \"false\";\n\
         Dpkg::Options {{ \"--force-unsafe-io\"; \"--force-confdef\"; \"--force-confold\"; }};\n",
        build.display()
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .map_err(|error| CliError::failed("cannot write a file of the image").at(path.display()).because(error))
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|error| CliError::failed("cannot write a file of the image").at(path.display()).because(error))
}
