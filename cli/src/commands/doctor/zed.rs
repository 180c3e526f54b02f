//! The Zed editor's program: whether it is there, speaks with Helix, and can be loaded.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::elf::{self, Kind, Lacks};
use crate::checks::{Check, Report};
use crate::up::programs;

/// The crate of the fork that keeps an editor in touch with Helix; its log lines carry the name.
const FEATURE: &[u8] = b"external_websocket_sync";
const CHUNK: usize = 1 << 20;
const BINARY: &str = "zed-binary";
const LIBRARIES: &str = "zed-libraries";
const SUPPLY: &str = "set ZED_BINARY=/path/to/zed (zed_binary in agentd.toml), or: helixctl doctor --zed PATH";

/// Looks at the editor that was named, else at `zed` in PATH. True when there is one, good or bad.
pub async fn check(named: Option<PathBuf>, report: &mut Report) -> bool {
    let named = named.unwrap_or_else(|| PathBuf::from("zed"));
    let by_name = named.components().count() == 1 && !named.is_absolute();
    let path = if by_name { programs::in_path(&named.to_string_lossy()) } else { Some(named.clone()) };
    let Some(path) = path else {
        let check = if named == Path::new("zed") {
            Check::warn(BINARY, "not supplied; kind zed is not offered")
        } else {
            Check::fail(BINARY, format!("{} is not in PATH", named.display()))
        };
        report.add(check.next(SUPPLY));
        return false;
    };
    let shown = path.display().to_string();
    let bad = |why: &str| Check::fail(BINARY, format!("{shown} {why}")).next(SUPPLY);
    match std::fs::metadata(&path) {
        Err(error) => return told(report, bad(&format!("cannot be used: {error}"))),
        Ok(meta) if !meta.is_file() => return told(report, bad("is no file")),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => {
            return told(report, bad("is not executable").next(format!("chmod 755 {shown}")));
        }
        Ok(_) => {}
    }
    let loader = match elf::kind(&path) {
        Err(error) => return told(report, bad(&format!("cannot be read: {error}"))),
        Ok(Kind::Other) => return told(report, bad("is no program")),
        Ok(Kind::Foreign(machine)) => {
            let why = format!("was built for {machine}; this machine is {}", std::env::consts::ARCH);
            return told(report, bad(&why));
        }
        Ok(Kind::Script) => {
            let check = Check::warn(BINARY, format!("{shown} is a script: what it starts cannot be looked at"));
            return told(report, check.next("helixctl doctor --zed PATH of the program that it starts"));
        }
        Ok(Kind::Program(loader)) => loader,
    };
    report.add(Check::ok(BINARY, shown));
    report.add(feature(&path).await);
    report.add(libraries(loader.as_deref(), &path).await);
    true
}

fn told(report: &mut Report, check: Check) -> bool {
    report.add(check);
    true
}

async fn feature(path: &Path) -> Check {
    let word = String::from_utf8_lossy(FEATURE);
    let (program, deadline) = (path.to_owned(), Instant::now() + super::PATIENCE);
    let found = tokio::task::spawn_blocking(move || contains(&program, FEATURE, deadline)).await;
    let found = found.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    let check = match found {
        Ok(true) => return Check::ok("zed-feature", format!("{word} is in it")),
        Ok(false) => Check::fail(
            "zed-feature",
            format!(
                "{word} is not in it: no build of the Helix fork, or only the launcher of one; it would never hear of a prompt"
            ),
        ),
        Err(error) => Check::fail("zed-feature", format!("{} cannot be read: {error}", path.display())),
    };
    check.next("build the fork with --features external_websocket_sync, or name its program: helixctl doctor --zed .../libexec/zed-editor")
}

/// Whether a file contains these bytes.
fn contains(path: &Path, needle: &[u8], deadline: Instant) -> io::Result<bool> {
    let finder = memchr::memmem::Finder::new(needle);
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK];
    // What of the last chunk may be the beginning of the needle.
    let mut kept = 0;
    loop {
        let count = file.read(&mut chunk[kept..])?;
        if count == 0 {
            return Ok(false);
        }
        let length = kept + count;
        if finder.find(&chunk[..length]).is_some() {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        kept = length.min(needle.len() - 1);
        chunk.copy_within(length - kept..length, 0);
    }
}

async fn libraries(loader: Option<&Path>, program: &Path) -> Check {
    let Some(loader) = loader else { return Check::ok(LIBRARIES, "it needs none") };
    let lacks = match elf::lacks(loader, program).await {
        Ok(lacks) => lacks,
        Err(why) => return Check::fail(LIBRARIES, why).next("supply a Zed that was built for this system"),
    };
    let glibc = elf::glibc(loader).await.unwrap_or_else(|| "an unknown version".to_owned());
    judge(&lacks, &glibc)
}

fn judge(lacks: &Lacks, glibc: &str) -> Check {
    let needed = |prefix: &str| {
        let versions = lacks.versions.iter().filter_map(|(_, version)| version.strip_prefix(prefix));
        versions.max_by_key(|version| numbers(version)).map(str::to_owned)
    };
    let mut found = Vec::new();
    let mut next = Vec::new();
    if !lacks.libraries.is_empty() {
        found.push(format!("not found: {}", lacks.libraries.join(", ")));
        let packages: Vec<_> = lacks.libraries.iter().map(|library| package(library)).collect();
        next.push(format!("apt-get install -y {} (names of Debian 12; some end in t64 later)", packages.join(" ")));
    }
    if let Some(needed) = needed("GLIBC_") {
        found.push(format!("it needs glibc {needed}, this system has {glibc}"));
        next.push(format!("build it on a system with glibc {glibc} or older, or run it on a newer system"));
    }
    let others: Vec<_> = lacks.versions.iter().filter(|(_, version)| !version.starts_with("GLIBC_")).collect();
    if !others.is_empty() {
        let others: Vec<_> = others.iter().map(|(library, version)| format!("{version} of {library}")).collect();
        found.push(format!("it needs {}, which is newer than this system's", others.join(", ")));
        next.push("build it on this system, or run it on a newer one".to_owned());
    }
    if found.is_empty() {
        return Check::ok(LIBRARIES, format!("all found; glibc {glibc}"));
    }
    next.dedup();
    Check::fail(LIBRARIES, found.join("; ")).next(next.join("; "))
}

/// The numbers of a version, to compare by.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or_default()).collect()
}

/// Debian's package of a library: its policy forms the name from the library's.
fn package(library: &str) -> String {
    let Some((name, version)) = library.split_once(".so") else { return library.to_owned() };
    let version = version.trim_start_matches('.').split('.').next().unwrap_or_default();
    let name = match name {
        "libgobject-2.0" | "libgio-2.0" | "libgmodule-2.0" => "libglib-2.0",
        "libcrypto" => "libssl",
        "libgdk-3" => "libgtk-3",
        name => name,
    };
    let (name, is_numbered) = match name.rsplit_once('-') {
        // libglib-2.0.so.0 is in libglib2.0-0, but libgtk-3.so.0 in libgtk-3-0.
        Some((name, number)) if number.contains('.') => (format!("{name}{number}"), true),
        _ => (name.to_owned(), name.ends_with(|c: char| c.is_ascii_digit())),
    };
    format!("{}{}{version}", name.to_lowercase(), if is_numbered { "-" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_libraries_come_with_their_packages() {
        let names = [
            "libasound.so.2",
            "libxcb-dri3.so.0",
            "libX11-xcb.so.1",
            "libglib-2.0.so.0",
            "libgtk-3.so.0",
            "libcrypto.so.3",
            "libsqlite3.so.0",
            "libatk-1.0.so.0",
        ];
        assert_eq!(
            names.map(package).join(" "),
            "libasound2 libxcb-dri3-0 libx11-xcb1 libglib2.0-0 libgtk-3-0 libssl3 libsqlite3-0 libatk1.0-0"
        );
    }

    #[test]
    fn the_newest_version_that_is_needed_is_named() {
        let version = |library: &str, version: &str| (library.to_owned(), version.to_owned());
        let lacks = Lacks {
            libraries: vec!["libasound.so.2".to_owned()],
            versions: vec![
                version("libc.so.6", "GLIBC_2.38"),
                version("libm.so.6", "GLIBC_2.100"),
                version("libc.so.6", "GLIBC_2.39"),
                version("libstdc++.so.6", "GLIBCXX_3.4.32"),
            ],
        };
        let check = judge(&lacks, "2.36");
        insta::assert_snapshot!(check.found, @"not found: libasound.so.2; it needs glibc 2.100, this system has 2.36; it needs GLIBCXX_3.4.32 of libstdc++.so.6, which is newer than this system's");
        insta::assert_snapshot!(check.next.unwrap_or_default(), @"apt-get install -y libasound2 (names of Debian 12; some end in t64 later); build it on a system with glibc 2.36 or older, or run it on a newer system; build it on this system, or run it on a newer one");
        assert_eq!(judge(&Lacks::default(), "2.36").found, "all found; glibc 2.36");
    }

    #[test]
    fn words_are_found_across_chunks() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("zed");
        let late = Instant::now() + super::super::PATIENCE;
        for (before, there) in [(0, true), (CHUNK - 5, true), (CHUNK * 2 - FEATURE.len(), true), (CHUNK, false)] {
            let mut bytes = vec![b'.'; before];
            bytes.extend(if there { FEATURE } else { &FEATURE[1..] });
            std::fs::write(&file, bytes).expect("written");
            assert_eq!(contains(&file, FEATURE, late).expect("readable"), there, "after {before} bytes");
        }
    }
}
