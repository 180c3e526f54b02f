//! What differs between two builds of the same things, or is the machine's and not an image's: it is left out of images.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use helix_protocol::image::BIND_TARGETS;

const DAY: u64 = 24 * 60 * 60;

/// Directories of which nothing but bind targets is kept.
const EMPTY_DIRECTORIES: &[&str] = &[
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/tmp",
    // What packages were had from, and when.
    "etc/apt/sources.list.d",
    "var/lib/apt/lists",
    "var/cache/apt",
    "var/cache/man",
    "var/cache/ldconfig",
    "root/.cache",
    "root/.npm",
    // Keys of the machine that the image was built on.
    "etc/ssl/private",
];
/// Files that are left out.
const LEFT_OUT: &[&str] = &[
    "etc/.pwd.lock",
    "etc/apt/sources.list",
    "etc/hostname",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/triggers/Lock",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
];
/// Files that are there, with nothing in them.
const EMPTY_FILES: &[&str] = &["etc/machine-id", "etc/resolv.conf"];

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is kept.
    Yes,
    /// It is kept without its content.
    Empty,
    /// It is left out, with all below it.
    No,
}

/// What becomes of a path (relative to the root).
pub fn keep(path: &Path, is_directory: bool) -> Keep {
    let is_target = BIND_TARGETS.iter().any(|target| Path::new(target.trim_start_matches('/')) == path);
    let is_empty_directory = |dir: &&str| path.starts_with(dir) && path != Path::new(dir);
    if path.file_name().is_some_and(|name| name == "__pycache__") {
        return Keep::No;
    }
    if EMPTY_DIRECTORIES.iter().any(is_empty_directory) && !is_target {
        return Keep::No;
    }
    if is_directory {
        return Keep::Yes;
    }
    if EMPTY_FILES.iter().any(|file| Path::new(file) == path) {
        return Keep::Empty;
    }
    // Directories for logs stay, for programs expect them.
    let is_log = path.starts_with("var/log");
    if is_log || is_backup(path) || is_host_key(path) || LEFT_OUT.iter().any(|file| Path::new(file) == path) {
        return Keep::No;
    }
    Keep::Yes
}

/// What dpkg and the programs for users kept of the last time.
fn is_backup(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match path.parent().and_then(Path::to_str) {
        Some("etc") => ["passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-"].contains(&&*name),
        Some("var/lib/dpkg") => name.ends_with("-old"),
        _ => false,
    }
}

fn is_host_key(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.parent() == Some(Path::new("etc/ssh")) && name.starts_with("ssh_host_")
}

/// The content of a file that says when it was written, without that; None for every other file.
pub fn rewritten(path: &Path, mut file: &File, source_date: u64) -> io::Result<Option<Vec<u8>>> {
    if path != Path::new("etc/shadow") {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(Some(undated_shadow(&text, source_date).into_bytes()))
}

/// `shadow` has the day of each user's last change of password.
fn undated_shadow(text: &str, source_date: u64) -> String {
    let day = source_date / DAY;
    let line = |line: &str| {
        let mut fields: Vec<_> = line.split(':').map(str::to_owned).collect();
        if let Some(changed) = fields.get_mut(2)
            && changed.parse::<u64>().is_ok_and(|changed| changed > day)
        {
            *changed = day.to_string();
        }
        format!("{}\n", fields.join(":"))
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_varies_is_left_out_and_bind_targets_stay() {
        let kept = |path: &str, is_directory| keep(Path::new(path), is_directory);
        for path in [
            "var/log/dpkg.log",
            "var/log/apt/history.log",
            "etc/passwd-",
            "var/lib/dpkg/status-old",
            "etc/ssh/ssh_host_rsa_key",
            "usr/lib/python3/dist-packages/__pycache__",
            "tmp/x",
            "run/lock",
            "etc/apt/sources.list",
            "var/lib/apt/lists/x_InRelease",
        ] {
            assert_eq!(kept(path, path.ends_with("__pycache__")), Keep::No, "{path}");
        }
        for path in ["var/log/apt", "run/session", "tmp", "run", "dev", "var/lib/apt/lists"] {
            assert_eq!(kept(path, true), Keep::Yes, "{path}");
        }
        assert_eq!(kept("etc/machine-id", false), Keep::Empty);
        for path in ["etc/passwd", "var/lib/dpkg/status", "etc/ssh/ssh_config", "usr/bin/passwd-"] {
            assert_eq!(kept(path, false), Keep::Yes, "{path}");
        }
    }

    #[test]
    fn days_of_passwords_are_no_later_than_the_image() {
        let text = "root:*:19000:0:99999:7:::\nagent:!:20001:0:99999:7:::\n";
        assert_eq!(undated_shadow(text, 20_000 * DAY + 5), text.replace("20001", "20000"));
    }
}
