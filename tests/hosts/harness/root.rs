//! What hosts boot from: one directory per suite, built once and shared, read-only, by everybody on the machine.
//!
//! `~/.cache/helix-test-hosts/<suite>-<hash>/` holds `tree` (containers), `tree.ext4` (guests), the same without a desktop
//! as `bare` and `bare.ext4`, the `debs` of a desktop, and `id` (ssh key). The hash is that of the recipe, so that another recipe makes another directory; old ones may be deleted at any time.
//! `build.sh` works in a directory beside it, which gets its name when it is complete; a file lock makes others wait.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use helix_tests::process::tail;

const RECIPE: &str = include_str!("build.sh");
/// The guests' kernel loads its modules from the root. Debian's package has them in the first, `packaging/setup.sh`
/// unpacks them into the second where there is no package.
const MODULES: [&str; 2] = ["/usr/local/lib/uml/modules", "/usr/lib/uml/modules"];

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12, systemd 252.
    Bookworm,
    /// Debian 13, systemd 257.
    Trixie,
}

/// Where the files of a suite are, and which of its two roots is meant.
#[derive(Debug, Clone)]
pub struct Root {
    dir: PathBuf,
    bare: bool,
}

impl Suite {
    /// All that the suites use.
    pub const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// As Debian calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// Its files; [`Suite::build`] has made them before the lab began, for there is no way to a mirror inside.
    pub fn root(self, bare: bool) -> Result<Root> {
        let mut recipe = format!("{}\n{RECIPE}", self.name());
        for entry in fs::read_dir(modules()?)? {
            recipe.push_str(&entry?.file_name().to_string_lossy());
        }
        Ok(Root { dir: cache()?.join(format!("{}-{:016x}", self.name(), fingerprint(&recipe))), bare })
    }

    /// Builds its files if they are not there.
    pub fn build(self) -> Result<()> {
        let root = self.root(false)?.dir;
        let _lock = lock(&cache()?.join(format!("{}.lock", self.name())))?;
        if root.is_dir() {
            return Ok(());
        }
        super::say(&format!("building the root of {} hosts, once: a minute or two", self.name()));
        let unfinished = root.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let log = cache()?.join(format!("{}.log", self.name()));
        let output = File::create(&log)?;
        // It dies with this process, and all of it dies with its process 1: the lock is free then.
        let status = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["bash", "-c", RECIPE, "build.sh"])
            .arg(self.name())
            .arg(&unfinished)
            .arg(modules()?)
            .args(mirror()?)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .context("cannot start setpriv")?;
        ensure!(status.success(), "the root of {} hosts cannot be built\n{}", self.name(), tail(&log));
        fs::rename(&unfinished, &root)?;
        Ok(())
    }
}

impl Root {
    /// The directory that containers boot from.
    pub fn tree(&self) -> PathBuf {
        self.dir.join(if self.bare { "bare" } else { "tree" })
    }

    /// The disk that guests boot from.
    pub fn disk(&self) -> PathBuf {
        self.tree().with_extension("ext4")
    }

    /// Packages that its hosts may be offered.
    pub fn debs(&self) -> PathBuf {
        self.dir.join("debs")
    }

    /// The key of its root and of its operator, `ops`.
    pub fn key(&self) -> PathBuf {
        self.dir.join("id")
    }
}

/// `~/.cache/helix-test-hosts`, made if need be.
pub fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let dir = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("helix-test-hosts");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Waits for a file's lock, which the returned file holds until it is dropped, or its process dies.
pub fn lock(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path)?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

fn modules() -> Result<&'static Path> {
    let found = MODULES.iter().map(Path::new).find(|dir| dir.is_dir());
    found.with_context(|| format!("neither {} is there: run packaging/setup.sh test-hosts", MODULES.join(" nor ")))
}

/// The mirror of Debian that this machine uses already; None on another distribution, where mmdebstrap knows one.
fn mirror() -> Result<Option<String>> {
    if let Ok(mirror) = std::env::var("HELIX_TEST_HOSTS_MIRROR") {
        return Ok(Some(mirror));
    }
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"])
        .output()
        .context("cannot start apt-get")?;
    let targets = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut mirrors = targets.lines().filter_map(|line| line.strip_prefix("Debian "));
    match mirrors.find(|mirror| !mirror.contains("security")) {
        Some(mirror) => Ok(Some(mirror.to_owned())),
        None if targets.trim().is_empty() => {
            bail!("apt knows no packages at all: run apt-get update, or set HELIX_TEST_HOSTS_MIRROR")
        }
        None => Ok(None),
    }
}

/// FNV-1a: it only has to differ when the recipe does.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
