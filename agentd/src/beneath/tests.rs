//! Real directories, and somebody who changes them all the time.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

struct Place {
    dir: tempfile::TempDir,
    beneath: Beneath,
}

/// A directory `project`, beside which there is a `secret`.
fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("project");
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/f"), "inside").unwrap();
    fs::write(dir.path().join("secret"), "outside").unwrap();
    Place { beneath: Beneath::new(&root).unwrap(), dir }
}

impl Place {
    fn read(&self, path: &str) -> Result<String, Errno> {
        let relative = self.beneath.relative(Path::new(path))?;
        let mut file = self.beneath.open(&relative, OFlags::RDONLY, Mode::empty())?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| Errno::from_io_error(&error).unwrap())?;
        Ok(text)
    }

    fn link(&self, target: &str, name: &str) {
        symlink(target, self.dir.path().join("project").join(name)).unwrap();
    }
}

#[test]
fn links_are_followed_inside_and_never_out() {
    let place = place();
    let absolute = place.dir.path().join("secret");
    for (target, name) in [
        ("a", "inner"),
        ("b/f", "a/file"),
        ("../a/./b/../b/f", "a/up-and-down"),
        ("inner", "twice"),
        ("../secret", "out"),
        ("..", "up"),
        ("a/b/../../..", "far-up"),
        (absolute.to_str().unwrap(), "absolute"),
        ("/proc/self/cwd", "proc"),
        ("round", "round"),
    ] {
        place.link(target, name);
    }
    for path in ["a/b/f", "./a//b/f", "inner/b/f", "a/file", "a/up-and-down", "twice/b/f"] {
        assert_eq!(place.read(path), Ok("inside".to_owned()), "{path}");
    }
    let own = place.dir.path().join("project/a/b/f");
    assert_eq!(place.read(own.to_str().unwrap()), Ok("inside".to_owned()), "by its whole name");
    for path in
        ["out", "up/secret", "far-up/secret", "absolute", "proc/secret", "../secret", "a/../../secret", "/etc/passwd"]
    {
        assert_eq!(place.read(path), Err(Errno::XDEV), "{path}");
    }
    assert_eq!(place.read("round"), Err(Errno::LOOP));
    assert_eq!(place.read("none/f"), Err(Errno::NOENT));
    assert_eq!(place.read("a/b/f/g"), Err(Errno::NOTDIR));
}

#[test]
fn directories_are_made_inside_only() {
    let place = place();
    place.link("a", "inner");
    place.link("..", "up");
    let make =
        |path: &str| place.beneath.make_parents(&place.beneath.relative(Path::new(path))?, Mode::from_raw_mode(0o755));
    assert_eq!(make("inner/new/er/f"), Ok(()));
    assert!(place.dir.path().join("project/a/new/er").is_dir());
    assert_eq!(make("up/new/f"), Err(Errno::XDEV));
    assert!(!place.dir.path().join("new").exists());
    assert_eq!(place.beneath.parent(Path::new(".")).map(|_| ()), Err(Errno::INVAL));
    let (_, name) = place.beneath.parent(Path::new("inner")).unwrap();
    assert_eq!(name, "inner", "the link itself, not what it leads to");
}

/// A directory is a directory, then a link to the outside, then a directory again, thousands of times, while it is
/// walked: what is read is never what is outside.
#[test]
fn somebody_who_changes_links_meanwhile_gains_nothing() {
    let place = place();
    let project = place.dir.path().join("project");
    fs::create_dir(place.dir.path().join("outside")).unwrap();
    fs::write(place.dir.path().join("outside/f"), "outside").unwrap();
    fs::create_dir(project.join("turn")).unwrap();
    fs::write(project.join("turn/f"), "inside").unwrap();
    symlink("../outside", project.join("spare")).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let mut swaps = 0_u32;
            let (spare, turn) = (project.join("spare"), project.join("turn"));
            while !over.load(Ordering::Relaxed) {
                // In one step: `turn` is always there, as the directory or as the link.
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &spare, rustix::fs::CWD, &turn, flags).unwrap();
                swaps += 1;
            }
            swaps
        });
        let (mut read, mut refused) = (0, 0);
        for _ in 0..20_000 {
            match place.read("turn/f") {
                Ok(text) => {
                    assert_ne!(text, "outside", "a race led out");
                    read += 1;
                }
                Err(_) => refused += 1,
            }
            let made = place.beneath.make_parents(Path::new("turn/made/x"), Mode::from_raw_mode(0o755));
            assert!(!place.dir.path().join("outside/made").exists(), "a race made something outside: {made:?}");
        }
        over.store(true, Ordering::Relaxed);
        let swaps = swapping.join().unwrap();
        assert!(swaps > 1000 && read > 100 && refused > 100, "no race: {swaps} swaps, {read} read, {refused} refused");
    });
}
