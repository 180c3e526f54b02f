//! A distribution's archive that the tests serve over HTTP, signed with a key of their own: a few packages of Debian.
//!
//! The packages are had once from the machine's own mirror and kept in `~/.cache/helix-test-images`.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the smallest root does not have: what tests add to it.
const MORE: [&str; 4] = ["fontconfig", "jq", "less", "xterm"];
/// Whose packages they are.
pub const SUITE: &str = "bookworm";
/// The same packages under another label: as an archive of Ubuntu is laid out.
pub const UBUNTU_SUITE: &str = "noble";
/// The one moment that the archive is kept of.
pub const SNAPSHOT: &str = "20250520T000000Z";
/// Every archive: its directory and origin, the suite, the part of it.
const LABELS: [(&str, &str, &str); 2] = [("debian", "Debian", SUITE), ("ubuntu", "Ubuntu", UBUNTU_SUITE)];

/// An archive at a port of this machine. Ends when it is dropped.
pub struct Archive {
    dir: PathBuf,
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Archive {
    /// Makes one in `dir` and serves it.
    pub async fn serve(dir: &Path) -> Result<Self> {
        let (debs, place) = (debs()?, dir.to_owned());
        tokio::task::spawn_blocking(move || make(&debs, &place)).await??;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let root = dir.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let root = root.clone();
                tokio::spawn(async move { answer(stream, &root).await });
            }
        });
        Ok(Self { dir: dir.to_owned(), port, task })
    }

    /// Where it is: `debian`, and the key that signs it, `keys.gpg`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a file of its directory is served.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// `[from]` of a recipe of this moment, which is there if it is [`SNAPSHOT`].
    pub fn from_snapshot(&self, moment: &str) -> String {
        self.from().replace("/debian\"", "/{snapshot}/debian\"") + &format!("snapshot = \"{moment}\"\n")
    }

    /// `[from]` of a recipe of Ubuntu.
    pub fn from_ubuntu(&self) -> String {
        let label = self.from().replace("\"debian\"", "\"ubuntu\"").replace("/debian\"", "/ubuntu\"");
        label.replace(SUITE, UBUNTU_SUITE) + "components = [\"main\"]\n"
    }

    /// `[from]` of a recipe.
    pub fn from(&self) -> String {
        self.from_with(&self.dir.join("keys.gpg"))
    }

    /// The same with a copy of the key.
    pub fn from_with(&self, keyring: &Path) -> String {
        format!(
            "[from]\ndistribution = \"debian\"\nsuite = \"{SUITE}\"\nmirror = \"http://127.0.0.1:{}/debian\"\nkeyring = \"{}\"\n",
            self.port,
            keyring.display()
        )
    }
}

/// Has the packages, where they are not there yet. The way to a mirror has to be open.
pub fn fetch() -> Result<()> {
    debs().map(drop)
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Packages of the smallest root, and [`MORE`].
fn debs() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let dir = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("helix-test-images");
    fs::create_dir_all(&dir)?;
    let lock = fs::File::options().create(true).append(true).open(dir.join("lock"))?;
    lock.lock()?;
    // Other packages are another directory.
    let debs = dir.join(format!("{SUITE}-{}", MORE.join("-")));
    if debs.is_dir() {
        return Ok(debs);
    }
    let new = tempfile::tempdir_in(&dir)?;
    let kept = new.path().join("debs");
    fs::create_dir(&kept)?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--mode=root", "--variant=minbase", "--skip=cleanup/apt,essential/unlink"])
        .arg(format!("--include={}", MORE.join(",")));
    mmdebstrap.args(["--aptopt=Acquire::Check-Valid-Until \"false\"", "--aptopt=Acquire::Retries \"3\""]);
    mmdebstrap.arg(format!("--customize-hook=cp \"$1\"/var/cache/apt/archives/*.deb '{}'/", kept.display()));
    mmdebstrap.arg(SUITE).arg(new.path().join("root"));
    if let Some(mirror) = mirror()? {
        mmdebstrap.arg(mirror);
    }
    said(&mut mmdebstrap)?;
    fs::rename(&kept, &debs)?;
    Ok(debs)
}

fn mirror() -> Result<Option<String>> {
    let said = said(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let mut mirrors = said.lines().filter_map(|line| line.strip_prefix("Debian "));
    Ok(mirrors.find(|mirror| !mirror.contains("security")).map(str::to_owned))
}

/// Makes one in `dir` that nobody serves yet.
pub fn make_here(dir: &Path) -> Result<()> {
    make(&debs()?, dir)
}

/// `debian/pool`, lists of it under each label, and signatures of them.
fn make(debs: &Path, dir: &Path) -> Result<()> {
    let pool = dir.join("debian/pool");
    let arch = said(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    fs::create_dir_all(&pool)?;
    let mut packages = String::new();
    for entry in fs::read_dir(debs)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a strange name")?.to_owned();
        fs::copy(&path, pool.join(&name))?;
        let fields = said(Command::new("dpkg-deb").arg("-f").arg(&path))?;
        let (size, sum) = (fs::metadata(&path)?.len(), sha256(&path)?);
        writeln!(packages, "{}\nFilename: pool/{name}\nSize: {size}\nSHA256: {sum}\n", fields.trim_end())?;
    }
    let key = Key::make(dir)?;
    for (label, origin, suite) in LABELS {
        let lists = dir.join(label).join("dists").join(suite);
        let binary = format!("main/binary-{arch}");
        fs::create_dir_all(lists.join(&binary))?;
        if !dir.join(label).join("pool").exists() {
            std::os::unix::fs::symlink(&pool, dir.join(label).join("pool"))?;
        }
        let list = lists.join(&binary).join("Packages");
        fs::write(&list, &packages)?;
        let release = format!(
            "Origin: {origin}\nSuite: {suite}\nCodename: {suite}\nDate: Sat, 17 May 2025 08:54:31 UTC\nArchitectures: {arch}\n\
             Components: main\nSHA256:\n {} {} {binary}/Packages\n",
            sha256(&list)?,
            packages.len()
        );
        fs::write(lists.join("Release"), release)?;
        key.sign(&lists)?;
    }
    key.leave(&dir.join("keys.gpg"))
}

/// What signs the archives.
struct Key {
    home: PathBuf,
}

impl Key {
    fn make(dir: &Path) -> Result<Self> {
        let home = dir.join("gpg");
        fs::create_dir(&home)?;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
        let key = Self { home };
        said(key.gpg().args(["--quick-gen-key", "archive@test", "ed25519", "sign", "never"]))?;
        Ok(key)
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(&self.home);
        gpg.args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]);
        gpg
    }

    fn sign(&self, lists: &Path) -> Result<()> {
        let (from, to) = (lists.join("Release"), lists.join("InRelease"));
        said(self.gpg().arg("--output").arg(to).arg("--clearsign").arg(from)).map(drop)
    }

    /// Its public part; its agent would outlive the test.
    fn leave(&self, public: &Path) -> Result<()> {
        said(self.gpg().arg("--output").arg(public).args(["--export", "archive@test"]))?;
        said(Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "all"])).map(drop)
    }
}

fn sha256(path: &Path) -> Result<String> {
    let sum = said(Command::new("sha256sum").arg(path))?;
    Ok(sum.split_whitespace().next().context("no digest")?.to_owned())
}

/// As much of HTTP as apt asks for, request after request.
async fn answer(stream: TcpStream, root: &Path) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut line) = (String::new(), String::new());
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
        while stream.read_line(&mut line).await? > 2 {
            line.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
        let path = path.replace("%2b", "+").replace("%7e", "~").replace("%2F", "/").replace("%25", "%");
        // A moment of the archive is the archive as it is.
        let path = path.strip_prefix(SNAPSHOT).and_then(|path| path.strip_prefix('/')).unwrap_or(&path);
        let body = if path.contains("..") { None } else { fs::read(root.join(path)).ok() };
        let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
        let body = body.unwrap_or_default();
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.flush().await?;
    }
}
