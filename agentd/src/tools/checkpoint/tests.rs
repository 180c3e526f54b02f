#![allow(clippy::unwrap_used)] // a test may panic

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use helix_protocol::image::Digest;
use helix_protocol::tools::{FrameKind, HEAD_BYTES, MAX_DATA, head, parse_head};

use super::{Answer, Step, fill, make};

thread_local! {
    /// HOME of the session that this thread plays.
    pub(super) static HOME: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// What a server would have.
#[derive(Default)]
struct Kept {
    blobs: BTreeMap<[u8; 32], Vec<u8>>,
    sent: usize,
    last: Option<Digest>,
}

fn read(stream: &mut UnixStream) -> Option<(FrameKind, Vec<u8>)> {
    let mut bytes = [0; HEAD_BYTES];
    stream.read_exact(&mut bytes).ok()?;
    let (kind, length) = parse_head(bytes)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).ok()?;
    Some((kind, payload))
}

fn say(stream: &mut UnixStream, kind: FrameKind, payload: &[u8]) {
    stream.write_all(&[&head(kind, payload.len())[..], payload].concat()).unwrap();
}

/// agentd's end, until the session's closes. What the session said last, or why it failed.
fn serve(mut stream: UnixStream, kept: &mut Kept) -> Result<Step, String> {
    let mut last = Err("nothing was said".to_owned());
    kept.sent = 0;
    while let Some((kind, payload)) = read(&mut stream) {
        if kind == FrameKind::Failed {
            return Err(String::from_utf8(payload).unwrap());
        }
        let step: Step = serde_json::from_slice(&payload).unwrap();
        match &step {
            Step::Keep { digest } => {
                let mut bytes = Vec::new();
                while let Some((FrameKind::Data, part)) = read(&mut stream) {
                    bytes.extend(part);
                }
                assert_eq!(Digest::of(&bytes), *digest);
                kept.sent += bytes.len();
                kept.blobs.insert(*digest.as_bytes(), bytes);
                say(&mut stream, FrameKind::Control, &serde_json::to_vec(&Answer::Done {}).unwrap());
            }
            Step::Commit { manifest } => {
                kept.last = Some(*manifest);
                say(&mut stream, FrameKind::Control, &serde_json::to_vec(&Answer::Done {}).unwrap());
            }
            Step::Want { digest } => {
                for part in kept.blobs[digest.as_bytes()].chunks(MAX_DATA) {
                    say(&mut stream, FrameKind::Data, part);
                }
                say(&mut stream, FrameKind::End, &[]);
            }
            Step::Unchanged {} | Step::Filled {} => {}
        }
        last = Ok(step);
    }
    last
}

fn play(
    home: &Path,
    kept: &mut Kept,
    session: impl FnOnce(UnixStream) -> std::io::Result<()> + Send,
) -> Result<Step, String> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            HOME.set(Some(home.to_owned()));
            session(theirs).unwrap();
        });
        serve(ours, kept)
    })
}

struct Place {
    dir: tempfile::TempDir,
    kept: Kept,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["w", "home", "w2", "home2"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir, kept: Kept::default() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.at("w").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn checkpoint(&mut self) -> Result<Step, String> {
        let workspace = self.at("w");
        play(&self.dir.path().join("home"), &mut self.kept, |stream| make(&workspace, stream))
    }

    fn restore(&mut self) -> Result<Step, String> {
        let (workspace, manifest) = (self.at("w2"), self.kept.last.unwrap());
        play(&self.dir.path().join("home2"), &mut self.kept, |stream| fill(&workspace, manifest, stream))
    }

    fn git(&self, dir: &str, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=x", "-c", "user.email=x@x", "-C"]).arg(self.at(dir)).args(args);
        let output = git.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn a_repository_comes_back_with_all_that_git_knows_of_it() {
    let mut place = Place::new();
    place.git("w", &["init", "-q", "-b", "main"]);
    place.write(".gitignore", "target\n*.log\n");
    place.write("tracked.log", "kept by git although it is ignored");
    place.write("a", "one\n");
    place.git("w", &["add", "-f", "."]);
    place.git("w", &["commit", "-qm", "first"]);
    place.write("a", "stashed\n");
    place.git("w", &["stash", "-q"]);
    place.write("a", "staged\n");
    place.git("w", &["add", "a"]);
    place.write("a", "changed\n");
    place.write("untracked", "new");
    place.write("tracked.log", "changed");
    place.write("target/large", "ignored");
    place.write(".helix-home/.gitignore", "*\n");
    place.write(".helix-home/threads.db", "kept of HOME");
    // A repository in the repository, and names that are no text.
    fs::create_dir(place.at("w/inner")).unwrap();
    place.git("w/inner", &["init", "-q"]);
    place.write("inner/b%", "b");
    symlink("/etc/passwd", place.at("w/link")).unwrap();
    fs::set_permissions(place.at("w/untracked"), fs::Permissions::from_mode(0o750)).unwrap();
    let before = (place.git("w", &["status", "--porcelain=v2"]), fs::read(place.at("w/.git/index")).unwrap());

    assert!(matches!(place.checkpoint(), Ok(Step::Commit { .. })));
    assert_eq!(fs::read(place.at("w/.git/index")).unwrap(), before.1, "the index was touched");
    assert_eq!(place.restore(), Ok(Step::Filled {}));
    assert_eq!(place.git("w2", &["status", "--porcelain=v2"]), before.0);
    assert_eq!(place.git("w2", &["stash", "list"]), place.git("w", &["stash", "list"]));
    assert_eq!(place.git("w2", &["log", "--format=%H"]), place.git("w", &["log", "--format=%H"]));
    place.git("w2", &["fsck", "--strict"]);
    for (path, content) in
        [("a", "changed\n"), ("tracked.log", "changed"), (".helix-home/threads.db", "kept of HOME"), ("inner/b%", "b")]
    {
        assert_eq!(fs::read_to_string(place.at("w2").join(path)).unwrap(), content, "{path}");
    }
    assert!(!place.at("w2/target").exists(), "what git ignores is not work");
    assert_eq!(fs::read_link(place.at("w2/link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::metadata(place.at("w2/untracked")).unwrap().mode() & 0o777, 0o750);
}

/// What does not compress.
fn noise(number: u64) -> Vec<u8> {
    (0..64_u64).flat_map(|part| *Digest::of(&[number.to_be_bytes(), part.to_be_bytes()].concat()).as_bytes()).collect()
}

#[test]
fn only_what_is_new_is_brought() {
    let mut place = Place::new();
    for number in 0..600 {
        place.write(&format!("dir{}/file{number}", number % 7), noise(number));
    }
    assert!(matches!(place.checkpoint(), Ok(Step::Commit { .. })));
    let whole = place.kept.sent;
    assert_eq!(place.checkpoint(), Ok(Step::Unchanged {}));
    assert_eq!(place.kept.sent, 0);
    place.write("dir3/file3", "changed");
    assert!(matches!(place.checkpoint(), Ok(Step::Commit { .. })));
    assert!(place.kept.sent * 3 < whole, "{} of {whole} bytes again", place.kept.sent);
    assert_eq!(place.restore(), Ok(Step::Filled {}));
    assert_eq!(fs::read_to_string(place.at("w2/dir3/file3")).unwrap(), "changed");
    assert_eq!(fs::read(place.at("w2/dir4/file4")).unwrap(), noise(4));
    assert_eq!(place.restore(), Ok(Step::Filled {}), "a repeat does nothing");
}

#[test]
fn nothing_of_a_hostile_repository_runs() {
    let mut place = Place::new();
    place.git("w", &["init", "-q"]);
    place.write("a", "a");
    place.git("w", &["add", "."]);
    place.git("w", &["commit", "-qm", "first"]);
    let (mark, evil) = (place.at("mark"), place.at("evil"));
    fs::write(&evil, format!("#!/bin/sh\necho ran >>{}\ncat\n", mark.display())).unwrap();
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
    let program = evil.to_str().unwrap();
    for name in [
        "core.fsmonitor",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "core.pager",
        "alias.ls-files",
    ] {
        place.git("w", &["config", name, program]);
    }
    place.write(".gitattributes", "* filter=evil\n");
    for hook in ["pre-commit", "post-index-change", "post-checkout", "reference-transaction", "fsmonitor-watchman"] {
        fs::copy(&evil, place.at("w/.git/hooks").join(hook)).unwrap();
    }
    // git itself runs what is there: otherwise nothing would be shown here.
    Command::new("git").arg("-C").arg(place.at("w")).arg("status").output().unwrap();
    assert!(mark.exists());
    fs::remove_file(&mark).unwrap();
    place.write("a", "changed");
    assert!(matches!(place.checkpoint(), Ok(Step::Commit { .. })));
    assert_eq!(place.restore(), Ok(Step::Filled {}));
    assert!(!mark.exists(), "{}", fs::read_to_string(&mark).unwrap());
}

#[test]
fn what_cannot_be_kept_is_named_and_what_is_damaged_leaves_nothing() {
    let mut place = Place::new();
    place.write("small", "small");
    let huge = fs::File::create(place.at("w/huge")).unwrap();
    huge.set_len(3 << 30).unwrap();
    drop(std::os::unix::net::UnixListener::bind(place.at("w/socket")).unwrap());
    assert!(matches!(place.checkpoint(), Ok(Step::Commit { .. })));
    let manifest = &place.kept.blobs[place.kept.last.unwrap().as_bytes()];
    let manifest = zstd::stream::decode_all(&manifest[..]).unwrap();
    let manifest: helix_protocol::checkpoint::Manifest = serde_json::from_slice(&manifest).unwrap();
    let mut named: Vec<_> = manifest.left_out.iter().map(|left| left.path.as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, ["huge", "socket"]);

    let pack = *manifest.packs[0].as_bytes();
    let good = place.kept.blobs[&pack].clone();
    place.kept.blobs.get_mut(&pack).unwrap()[10] ^= 1;
    let error = place.restore().unwrap_err();
    assert!(error.contains("damaged"), "{error}");
    assert_eq!(fs::read_dir(place.at("w2")).unwrap().count(), 0);
    place.kept.blobs.insert(pack, good);
    assert_eq!(place.restore(), Ok(Step::Filled {}));
}
