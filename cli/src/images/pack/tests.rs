//! The same tree is the same bytes, whenever and wherever it is packed.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use helix_protocol::image;

use super::*;

const THEN: u64 = 1_700_000_000;

/// A tree with one of everything; files are made in the given order.
fn tree(root: &Path, order: [usize; 3], noise: u64) {
    for dir in ["usr/bin", "etc", "var/log", "tmp"] {
        std::fs::create_dir_all(root.join(dir)).expect("made");
    }
    for number in order {
        let path = root.join(format!("usr/bin/program-{number}"));
        let bytes: Vec<u8> = (0..400_000_u64).map(|at| (at * (number as u64 + 3) / 7 % 251) as u8).collect();
        std::fs::write(&path, bytes).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).expect("changed");
    }
    std::fs::hard_link(root.join("usr/bin/program-0"), root.join("usr/bin/another-name")).expect("linked");
    symlink("../usr/bin/program-1", root.join("etc/link")).expect("linked");
    let long = root.join("usr").join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&long).expect("made");
    std::fs::write(long.join("file"), "text").expect("written");
    std::fs::write(root.join("etc/machine-id"), noise.to_string()).expect("written");
    std::fs::write(root.join("etc/shadow"), format!("root:*:{}:::::\n", 30_000 + noise)).expect("written");
    std::fs::write(root.join("var/log/dpkg.log"), noise.to_string()).expect("written");
    std::fs::write(root.join("tmp/left"), noise.to_string()).expect("written");
    let old = std::fs::File::options().write(true).open(root.join("usr/bin/program-2")).expect("opened");
    old.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(THEN - 5)).expect("dated");
}

fn whole(store: &Store, packed: &Packed) -> Vec<u8> {
    let index = store.chunk(&packed.index).expect("an index");
    let chunks = image::read_index(&index).expect("entries");
    chunks.iter().flat_map(|chunk| store.chunk(&chunk.digest).expect("a chunk")).collect()
}

#[test]
fn the_same_tree_is_the_same_image() {
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let packed: Vec<_> = dirs
        .iter()
        .zip([([0, 1, 2], 1), ([2, 1, 0], 777)])
        .map(|(dir, (order, noise))| {
            let root = dir.path().join(format!("some/where-{noise}"));
            tree(&root, order, noise);
            let store = Store::open(&dir.path().join("store")).expect("opened");
            let packed = pack(&root, THEN, &store).expect("packed");
            let again = pack(&root, THEN, &store).expect("packed");
            assert_eq!((again.new_chunks, again.new_bytes, again.tar), (0, 0, packed.tar));
            assert_eq!(packed.new_chunks, packed.chunks);
            let tar = whole(&store, &packed);
            assert_eq!((tar.len() as u64, Digest::of(&tar)), (packed.tar_bytes, packed.tar));
            packed
        })
        .collect();
    assert_eq!((packed[0].tar, packed[0].index), (packed[1].tar, packed[1].index));
}

#[test]
fn what_is_unpacked_is_the_tree_without_what_varies() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    tree(&root, [0, 1, 2], 5);
    let store = Store::open(&dir.path().join("store")).expect("opened");
    let packed = pack(&root, THEN, &store).expect("packed");
    let bytes = whole(&store, &packed);
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut seen = Vec::new();
    for entry in archive.entries().expect("entries") {
        let entry = entry.expect("an entry");
        let path = entry.path().expect("a path").into_owned();
        assert!(entry.header().mtime().expect("a time") <= THEN, "{}", path.display());
        if path == Path::new("usr/bin/program-2") {
            assert_eq!(entry.header().mtime().expect("a time"), THEN - 5);
            assert_eq!(entry.header().mode().expect("a mode"), 0o4755);
        }
        if path == Path::new("usr/bin/program-0") {
            assert_eq!(entry.link_name_bytes().as_deref(), Some(b"usr/bin/another-name".as_slice()));
        }
        if path == Path::new("etc/machine-id") {
            assert_eq!(entry.size(), 0);
        }
        seen.push(path);
    }
    for gone in ["var/log/dpkg.log", "tmp/left"] {
        assert!(!seen.iter().any(|path| path == Path::new(gone)), "{gone}");
    }
    for there in ["var/log", "tmp", "etc/link", "usr/bin/another-name"] {
        assert!(seen.iter().any(|path| path == Path::new(there)), "{there}: {seen:?}");
    }
}

#[test]
fn one_changed_file_is_a_few_chunks() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    tree(&root, [0, 1, 2], 5);
    // It must not repeat itself: equal chunks are one, and whether both of two that are packed at once count as new is chance.
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..8_000_000).map(|_| next()).collect();
    std::fs::write(root.join("usr/bin/large"), noise).expect("written");
    let store = Store::open(&dir.path().join("store")).expect("opened");
    let first = pack(&root, THEN, &store).expect("packed");
    std::fs::write(root.join("etc/shadow"), "root:*:1:::::\nmore:*:1:::::\n").expect("written");
    let second = pack(&root, THEN, &store).expect("packed");
    assert_ne!(first.tar, second.tar);
    assert!(second.new_chunks <= 2 && second.new_bytes * 20 < first.new_bytes, "{first:?} {second:?}");
}
