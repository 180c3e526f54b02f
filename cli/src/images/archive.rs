//! What apt knows of a distribution's packages: its lists, as they were signed at one moment.
//!
//! They are fetched once, proved by apt, and kept by the digest of what was signed; every layer of an image is made
//! with the same ones. Another moment means another digest, and with it other layers: `--update`, or a recipe's snapshot.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use helix_protocol::image::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::cache::{Cache, cannot, replace};
use super::recipe::{Distribution, From};
use crate::error::{CliError, Kind, Result};

/// How this machine's apt reaches archives; the rest of its settings is its own affair.
const HOST_SETTINGS: [&str; 5] =
    ["Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-Valid-Until", "Acquire::Check-Date"];

/// Lists of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// Of what was signed.
    pub digest: Digest,
    /// Nothing in an image is later, seconds since 1970.
    pub source_date: u64,
    /// Settings of apt for whoever uses the lists.
    pub settings: String,
}

/// Seconds since 1970 of `20250520T000000Z`.
pub fn snapshot_time(text: &str) -> Option<u64> {
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    u64::try_from(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second()).ok()
}

impl Archive {
    /// Its directory.
    pub fn dir(&self, cache: &Cache) -> PathBuf {
        cache.part("archives").join(Cache::layer_name(&self.digest))
    }

    /// The archive that a recipe means: the one that was had last, or a new one with `update`.
    pub async fn of(cache: &Cache, from: &From, beside: Option<&Path>, update: bool) -> Result<Self> {
        let keyring = keyring(from, beside)?;
        let keys = std::fs::read(&keyring).map_err(|error| {
            CliError::failed(format!("cannot read the keys of {}'s archive", from.distribution.name()))
                .at(keyring.display())
                .because(error)
                .next(format!(
                    "apt-get install -y {}-archive-keyring, or name the file: keyring = \"FILE\" in [from]",
                    from.distribution.name()
                ))
        })?;
        let arch = architecture().await?;
        let source = serde_json::to_vec(&(from, Digest::of(&keys), &arch)).unwrap_or_default();
        let pointer = cache.part("archives/by-source").join(Digest::of(&source).hex());
        if !update && let Some(known) = read(cache, &pointer) {
            return Ok(known);
        }
        let places = sources(from, &keyring).await?;
        let made = fetch(cache, from, &places, &arch).await?;
        replace(&pointer, made.digest.to_string().as_bytes()).map_err(|error| cannot(&pointer, &error))?;
        Ok(made)
    }
}

/// `amd64`, `arm64`: this machine's.
pub async fn architecture() -> Result<String> {
    let output = Command::new("dpkg").arg("--print-architecture").stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| missing_program("dpkg", &error))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A program that builds need is not there.
pub fn missing_program(name: &str, error: &std::io::Error) -> CliError {
    CliError::failed(format!("cannot run {name}"))
        .because(error)
        .next("packaging/setup.sh images, or: apt-get install -y apt mmdebstrap util-linux uidmap")
}

fn read(cache: &Cache, pointer: &Path) -> Option<Archive> {
    let digest: Digest = std::fs::read_to_string(pointer).ok()?.trim().parse().ok()?;
    let file = cache.part("archives").join(Cache::layer_name(&digest)).join("archive.json");
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn keyring(from: &From, beside: Option<&Path>) -> Result<PathBuf> {
    let path = match &from.keyring {
        Some(keyring) => beside.unwrap_or(Path::new(".")).join(keyring),
        None => PathBuf::from(from.distribution.keyring()),
    };
    std::path::absolute(&path).map_err(|error| cannot(&path, &error))
}

/// The lines of `sources.list`.
async fn sources(from: &From, keyring: &Path) -> Result<Vec<String>> {
    let suite = &from.suite;
    let places: Vec<(String, String)> = if let Some(mirror) = &from.mirror {
        let mirror = mirror.replace("{snapshot}", from.snapshot.as_deref().unwrap_or_default());
        vec![(mirror, suite.clone())]
    } else {
        let (main, security) = machine_mirrors(from.distribution, suite).await?;
        vec![(main.clone(), suite.clone()), (main, format!("{suite}-updates")), (security, format!("{suite}-security"))]
    };
    let components =
        if from.components.is_empty() { from.distribution.components().join(" ") } else { from.components.join(" ") };
    let line = |(mirror, suite): (String, String)| {
        format!("deb [signed-by={}] {mirror} {suite} {components}\n", keyring.display())
    };
    Ok(places.into_iter().map(line).collect())
}

/// The archive that this machine's own apt uses, and the one of security updates; on a machine of another distribution
/// those that mmdebstrap knows.
async fn machine_mirrors(distribution: Distribution, suite: &str) -> Result<(String, String)> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| missing_program("apt-get", &error))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let origin = match distribution {
        Distribution::Debian => "Debian ",
        Distribution::Ubuntu => "Ubuntu ",
    };
    let known: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(origin)).collect();
    let main = known.iter().find(|mirror| !mirror.contains("security")).map(|mirror| (*mirror).to_owned());
    if main.is_none()
        && let Some(known) = mirrors_of_mmdebstrap(suite).await
    {
        return Ok(known);
    }
    let main = main.ok_or_else(|| {
        CliError::failed(format!("no archive of {} is known", distribution.name()))
            .at("apt-get indextargets")
            .because("this machine's apt uses none, or has no lists yet (apt-get update), and mmdebstrap knows none")
            .next("name one in the recipe: mirror = \"http://HOST/PATH\" in [from]")
    })?;
    let security = known.iter().find(|mirror| mirror.contains("security")).map(|mirror| (*mirror).to_owned());
    // Ubuntu has both in one place.
    Ok((main.clone(), security.unwrap_or(main)))
}

/// What mmdebstrap takes for a suite where it is told nothing: it writes its sources, and is stopped then.
async fn mirrors_of_mmdebstrap(suite: &str) -> Option<(String, String)> {
    let dir = tempfile::tempdir().ok()?;
    let list = dir.path().join("sources.list");
    let mode = if rustix::process::geteuid().is_root() { "--mode=root" } else { "--mode=chrootless" };
    let hook = format!("--setup-hook=cp \"$1\"/etc/apt/sources.list '{}'; exit 1", list.display());
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", mode, "--variant=custom", &hook, suite, "/dev/null"]).stdin(Stdio::null());
    command.output().await.ok()?;
    mirrors_in(&std::fs::read_to_string(list).ok()?, suite)
}

/// The archive of a suite and the one of its security updates.
fn mirrors_in(list: &str, suite: &str) -> Option<(String, String)> {
    let mirror = |wanted: &str| {
        list.lines().find_map(|line| {
            let mut words = line.strip_prefix("deb ")?.split_whitespace().skip_while(|word| word.starts_with('['));
            let mirror = words.next()?;
            (words.next()? == wanted).then(|| mirror.to_owned())
        })
    };
    let main = mirror(suite)?;
    let security = mirror(&format!("{suite}-security")).unwrap_or_else(|| main.clone());
    Some((main, security))
}

async fn fetch(cache: &Cache, from: &From, sources: &[String], arch: &str) -> Result<Archive> {
    let work = cache.work()?;
    let dir = work.dir.join("archive");
    let make = || -> std::io::Result<()> {
        std::fs::create_dir_all(dir.join("lists/partial"))?;
        std::fs::write(dir.join("sources.list"), sources.concat())?;
        std::fs::write(dir.join("status"), "")
    };
    make().map_err(|error| cannot(&dir, &error))?;
    let mut settings = host_settings().await;
    if from.snapshot.is_some() {
        // What is meant is the past.
        settings.push_str("Acquire::Check-Valid-Until \"false\";\n");
    }
    let _ = write!(
        settings,
        "APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\nAPT::Sandbox::User \"root\";\n\
         APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\nDir::Cache::pkgcache \"\";\n\
         Dir::Cache::srcpkgcache \"\";\nDir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\nDir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n"
    );
    let config = dir.join("apt.conf");
    let text = format!(
        "{settings}APT::Update::Error-Mode \"any\";\nDir::Etc::sourcelist \"{0}/sources.list\";\nDir::State \"{0}\";\n\
         Dir::State::lists \"{0}/lists\";\nDir::State::status \"{0}/status\";\nDir::Cache \"{0}\";\n",
        dir.display()
    );
    std::fs::write(&config, text).map_err(|error| cannot(&config, &error))?;
    let output = Command::new("apt-get")
        .args(["update", "-q"])
        .env("APT_CONFIG", &config)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| missing_program("apt-get", &error))?;
    if !output.status.success() {
        return Err(refused(from, sources, &String::from_utf8_lossy(&output.stderr)));
    }
    let (lists, date) = signed(&dir.join("lists"))?;
    let source_date = from.snapshot.as_deref().and_then(snapshot_time).unwrap_or(date);
    // What is built as of another date is something else: packages write it into their files.
    let digest =
        if source_date == date { lists } else { Digest::of(format!("{} {source_date}", lists.hex()).as_bytes()) };
    let archive = Archive { digest, source_date, settings };
    let json = serde_json::to_vec(&archive).unwrap_or_default();
    let place = archive.dir(cache);
    let keep = || -> std::io::Result<()> {
        std::fs::write(dir.join("archive.json"), json)?;
        let _ = std::fs::remove_dir_all(dir.join("lists/partial"));
        let _ = std::fs::remove_file(dir.join("lists/lock"));
        match std::fs::rename(&dir, &place) {
            // The same lists are there already.
            Err(_) if place.join("archive.json").exists() => std::fs::remove_dir_all(&dir),
            other => other,
        }
    };
    keep().map_err(|error| cannot(&place, &error))?;
    let _ = std::fs::remove_dir_all(&work.dir);
    Ok(archive)
}

async fn host_settings() -> String {
    let output = Command::new("apt-config").args(["dump", "Acquire"]).stdin(Stdio::null()).output().await;
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let ours = |line: &&str| HOST_SETTINGS.iter().any(|name| line.starts_with(name)) && !line.ends_with(" \"\";");
    text.lines().filter(ours).flat_map(|line| [line, "\n"]).collect()
}

/// Digest and latest time of all that was signed, whatever the mirror's name is.
fn signed(lists: &Path) -> Result<(Digest, u64)> {
    let bad =
        |why: &dyn std::fmt::Display| CliError::failed("cannot read apt's lists").at(lists.display()).because(why);
    let mut releases = Vec::new();
    let mut date = 0;
    for entry in std::fs::read_dir(lists).map_err(|error| bad(&error))? {
        let path = entry.map_err(|error| bad(&error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.ends_with("Release") {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|error| bad(&error))?;
        let said = text.lines().find_map(|line| line.strip_prefix("Date: "));
        date = date.max(said.and_then(release_time).ok_or_else(|| bad(&format!("{name} has no date")))?);
        releases.push(Digest::of(text.as_bytes()).hex());
    }
    releases.sort_unstable();
    Ok((Digest::of(releases.concat().as_bytes()), date))
}

/// Seconds since 1970 of `Sat, 17 May 2025 08:54:31 UTC`.
fn release_time(text: &str) -> Option<u64> {
    let text = text.trim().replace(" UTC", " +0000").replace(" GMT", " +0000");
    // Ubuntu writes hours before ten with a blank.
    let text = text.replace("  ", " 0");
    let time: Timestamp = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(&text).ok()?;
    u64::try_from(time.as_second()).ok()
}

fn refused(from: &From, sources: &[String], said: &str) -> CliError {
    let place: Vec<_> =
        sources.iter().filter_map(|line| line.split_once("] ")).map(|(_, place)| place.trim()).collect();
    let errors: Vec<_> =
        said.lines().filter(|line| line.starts_with("E: ") || line.starts_with("W: ")).take(4).collect();
    let why = if errors.is_empty() { said.trim().to_owned() } else { errors.join("\n") };
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let suite = format!("{} has no suite {:?} there", from.distribution.name(), from.suite);
    let (kind, what, next) = if has(&["NO_PUBKEY", "is not signed", "signatures couldn't be verified"]) {
        (
            Kind::Refused,
            "the archive is not signed by the keys that it must be".to_owned(),
            "name its keys: keyring = \"FILE\" in [from]",
        )
    } else if has(&["404", "does not have a Release file"]) {
        (Kind::Usage, suite, "correct suite, snapshot or mirror in [from]")
    } else if has(&["Could not resolve", "Could not connect", "Connection timed out", "Connection failed"]) {
        (
            Kind::Unreachable,
            "the archive cannot be reached".to_owned(),
            "try again, or name another one: mirror = \"URL\" in [from]",
        )
    } else {
        (Kind::Failed, "apt cannot read the archive".to_owned(), "correct [from] of the recipe")
    };
    CliError::new(kind, what).at(place.join("; ")).because(why).next(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_found_in_a_list_of_sources() {
        let list = "deb [signed-by=\"/a.gpg\"] http://a/debian trixie main\ndeb http://a/debian trixie-updates main\n\
                    deb [signed-by=\"/a.gpg\"] http://s/debian-security trixie-security main\n";
        let pair = |main: &str, security: &str| Some((main.to_owned(), security.to_owned()));
        assert_eq!(mirrors_in(list, "trixie"), pair("http://a/debian", "http://s/debian-security"));
        assert_eq!(mirrors_in("deb http://u/ubuntu noble main\n", "noble"), pair("http://u/ubuntu", "http://u/ubuntu"));
        assert_eq!(mirrors_in(list, "noble"), None);
    }

    #[test]
    fn moments_are_read_as_archives_write_them() {
        assert_eq!(snapshot_time("20250520T000000Z"), Some(1_747_699_200));
        assert_eq!(release_time("Sat, 17 May 2025 08:54:31 UTC"), Some(1_747_472_071));
        assert_eq!(release_time("Sun, 29 Nov 2026  3:21:46 UTC"), Some(1_795_922_506));
        for bad in ["", "2025", "20251320T000000Z", "20250520T000000"] {
            assert_eq!(snapshot_time(bad), None, "{bad}");
        }
    }
}
