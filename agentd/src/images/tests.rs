use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use helix_protocol::image::{BIND_TARGETS, Chunk, SignedManifest};
use tar::{Builder, EntryType, Header};

use super::place::Place;
use super::unpack::{UnpackError, unpack};
use super::*;

const CHUNK: usize = 700;

/// A tar of these entries: name, type, content or target.
fn tar(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(if *kind == EntryType::Directory { 0o755 } else { 0o4755 });
        header.set_mtime(1_000_000);
        header.set_uid(0);
        header.set_gid(0);
        // As it is: the builder would refuse some of these names.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let content = if is_link {
            header.as_gnu_mut().unwrap().linkname[..content.len()].copy_from_slice(content.as_bytes());
            ""
        } else {
            *content
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A root that sessions can run in, and these entries.
fn root_with(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut all = Vec::new();
    for dir in ["etc", "home", "run", "var"] {
        all.push((dir, EntryType::Directory, ""));
    }
    for target in BIND_TARGETS {
        let kind = if target.starts_with("/etc/") { EntryType::Regular } else { EntryType::Directory };
        all.push((&target[1..], kind, ""));
    }
    all.extend_from_slice(entries);
    tar(&all)
}

fn keep(place: &Place, tar: &[u8]) -> Vec<Chunk> {
    let chunks = tar.chunks(CHUNK).map(|bytes| {
        let digest = Digest::of(bytes);
        place.put_chunk(digest, &zstd::encode_all(bytes, 3).unwrap()).unwrap();
        Chunk { digest, bytes: u32::try_from(bytes.len()).unwrap() }
    });
    chunks.collect()
}

fn unpacked(tar: &[u8]) -> (tempfile::TempDir, Result<(), UnpackError>) {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path());
    let chunks = keep(&place, tar);
    let root = place.begin(Digest::of(b"image")).unwrap();
    let done = unpack(&place, &chunks, Digest::of(tar), &root);
    fs::rename(root, dir.path().join("root")).unwrap();
    (dir, done)
}

#[test]
fn files_are_as_the_tar_says_but_for_what_no_session_could_use() {
    let (dir, done) = unpacked(&root_with(&[
        ("usr", EntryType::Directory, ""),
        ("usr/tool", EntryType::Regular, "a program"),
        ("usr/same", EntryType::Link, "usr/tool"),
        ("usr/link", EntryType::Symlink, "/etc/hostname"),
        ("usr/null", EntryType::Char, ""),
    ]));
    done.unwrap();
    let at = |name: &str| dir.path().join("root/usr").join(name);
    assert_eq!(fs::read_to_string(at("tool")).unwrap(), "a program");
    let tool = fs::metadata(at("tool")).unwrap();
    assert_eq!((tool.permissions().mode() & 0o7777, tool.mtime()), (0o755, 1_000_000), "no set-user-id");
    assert_eq!(fs::metadata(at("same")).unwrap().ino(), tool.ino());
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("/etc/hostname"));
    assert!(!at("null").exists(), "no device");
    assert_eq!(fs::metadata(dir.path().join("root/usr")).unwrap().mtime(), 1_000_000);
}

#[test]
fn nothing_is_written_outside_of_the_image() {
    let outside = tempfile::tempdir().unwrap();
    let link = outside.path().to_str().unwrap();
    for entries in [
        &[("../out", EntryType::Regular, "x")][..],
        &[("a", EntryType::Symlink, link), ("a/out", EntryType::Regular, "x")],
        &[("no/such/dir", EntryType::Regular, "x")],
        &[("h", EntryType::Link, "../../../etc/passwd")],
    ] {
        let (_dir, done) = unpacked(&root_with(entries));
        assert!(matches!(done, Err(UnpackError::Io(_))), "{entries:?}: {done:?}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn what_is_damaged_other_or_no_root_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path());
    let good = root_with(&[]);
    let chunks = keep(&place, &good);
    let image = Digest::of(b"image");
    let run = |tar| {
        let root = place.begin(image).unwrap();
        unpack(&place, &chunks, tar, &root)
    };
    run(Digest::of(&good)).unwrap();
    assert!(matches!(run(Digest::of(b"other")), Err(UnpackError::Other(own)) if own == Digest::of(&good)));
    let damaged = chunks[1].digest;
    place.put_chunk(damaged, &zstd::encode_all(&b"something else"[..], 3).unwrap()).unwrap();
    assert!(matches!(run(Digest::of(&good)), Err(UnpackError::Chunk(chunk)) if chunk == damaged));
    place.put_chunk(damaged, b"no zstd at all").unwrap();
    assert!(matches!(run(Digest::of(&good)), Err(UnpackError::Chunk(chunk)) if chunk == damaged));
    let (_dir, done) = unpacked(&tar(&[("etc", EntryType::Directory, "")]));
    assert!(matches!(done, Err(UnpackError::Unusable(why)) if why.contains("/tmp")));
}

/// Images that are complete, needed in this order.
fn images(dir: &Path, keep: usize, names: &[&str]) -> (Images, Vec<Digest>) {
    // A port that nobody listens at.
    let env = crate::config::Environment::from([
        ("STATE_DIRECTORY".to_owned(), "/var/lib/helix/x".to_owned()),
        ("API_HOST".to_owned(), "http://127.0.0.1:1".to_owned()),
    ]);
    let (config, _) = crate::config::Config::load_anyway(&crate::config::RunArgs::default(), &env);
    let token = crate::link::token::OwnToken::open(dir).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let fetcher = Fetcher::new(Arc::new(config), token).unwrap().patience(Duration::from_secs(1));
    let images = Images::new(dir, fetcher, dir.join("allowed_signers"), keep, None);
    let place = &images.inner.place;
    let digests = names.iter().enumerate().map(|(number, name)| {
        let index = Digest::of(name.as_bytes());
        let manifest = format!(
            r#"{{"format":1,"name":"{name}","arch":"amd64","distribution":"debian","suite":"bookworm","source_date":0,"kinds":[],
            "labels":{{}},"recipe":"{index}","tar_bytes":0,"tar":"{index}","index":"{index}","sbom":"{index}"}}"#
        );
        let signed = SignedManifest { manifest, signature: String::new() };
        let digest = signed.digest();
        place.begin(digest).unwrap();
        place.finish(digest, &signed).unwrap();
        let file = fs::File::options().append(true).open(place.root(digest).with_file_name("manifest.json")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(number as u64)).unwrap();
        digest
    });
    let digests = digests.collect();
    (images, digests)
}

#[tokio::test]
async fn the_last_images_stay_and_those_in_use_always() {
    let dir = tempfile::tempdir().unwrap();
    let (images, digests) = images(dir.path(), 1, &["oldest", "old", "new"]);
    let present = |images: &Images| images.report().present;
    assert_eq!(present(&images).len(), 3);
    let hold = images.hold(digests[0]);
    images.tidy().await;
    let mut left = vec![digests[0], digests[2]];
    left.sort_unstable();
    assert_eq!(present(&images), left, "the one in use, and the last of the others");
    // A disk that is full: all that nobody uses.
    images.evict(Spare::Wanted, |unused| unused).unwrap();
    assert_eq!(present(&images), [digests[0]]);
    drop(hold);
    images.evict(Spare::Wanted, |unused| unused).unwrap();
    assert!(present(&images).is_empty());
}

#[tokio::test]
async fn what_a_killed_agentd_left_is_removed_and_its_chunks_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path());
    let chunks = keep(&place, &root_with(&[]));
    let root = place.begin(Digest::of(b"image")).unwrap();
    let (images, _) = images(dir.path(), 1, &[]);
    assert!(!root.exists() && place.has_chunk(chunks[0].digest));
    assert!(images.inside(Digest::of(b"image")).is_none());
    // The next pull goes on with them; without one, nobody needs them.
    images.tidy().await;
    assert!(!place.has_chunk(chunks[0].digest));
}

#[tokio::test]
async fn without_a_trusted_key_nothing_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (images, _) = images(dir.path(), 1, &[]);
    let mut pull = images.pull(Digest::of(b"image"));
    let done = pull.wait_for(|progress| progress.done.is_some()).await.unwrap().done.clone();
    let error = done.unwrap().unwrap_err();
    assert_eq!(error.code(), "image_not_trusted");
    assert!(error.to_string().contains("trusts no key"), "{error}");
}

#[tokio::test]
async fn a_server_that_stays_away_is_told_and_what_is_here_stays() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path());
    let chunks = keep(&place, &root_with(&[]));
    fs::write(dir.path().join("allowed_signers"), include_str!("../../../protocol/src/image/signature/key.pub"))
        .unwrap();
    let (images, _) = images(dir.path(), 1, &[]);
    let mut pull = images.pull(Digest::of(b"image"));
    let done = pull.wait_for(|progress| progress.done.is_some()).await.unwrap().done.clone();
    let error = done.unwrap().unwrap_err();
    assert_eq!(error.code(), "image_pull_failed");
    let words = error.to_string();
    assert!(words.contains("no server could be reached for 1 s") && words.contains("http://127.0.0.1:1"), "{words}");
    // Also when the session that waited for it is gone: the next one goes on with it.
    drop(images.hold(Digest::of(b"image")));
    images.tidy().await;
    assert!(place.has_chunk(chunks[0].digest));
}

/// What pools want here stays beside the last ones, and goes when its room is needed, after all others.
#[tokio::test]
async fn what_pools_want_stays_until_its_room_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let (images, digests) = images(dir.path(), 0, &["wanted", "other"]);
    images.have_ahead(&digests[..1]);
    images.tidy().await;
    assert_eq!(images.report().present, [digests[0]], "images_keep says none");
    images.evict(Spare::Wanted, |unused| unused).unwrap();
    assert_eq!(images.report().present, [digests[0]]);
    images.evict(Spare::Nothing, |unused| unused).unwrap();
    let report = images.report();
    assert!(report.present.is_empty() && report.lacking[0].reason.contains("its room was needed"), "{report:?}");
    // Not at once, or it would come and go.
    images.have_ahead(&digests[..1]);
    assert!(images.report().pulls.is_empty());
    images.have_ahead(&[]);
    assert!(images.report().lacking.is_empty());
}

#[tokio::test]
async fn an_image_that_cannot_be_had_ahead_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (images, _) = images(dir.path(), 1, &[]);
    let wanted = Digest::of(b"image");
    images.have_ahead(&[wanted]);
    // Whoever comes meanwhile has the same pull.
    let mut pull = images.pull(wanted);
    pull.wait_for(|progress| progress.done.is_some()).await.unwrap();
    let lacking = images.report().lacking;
    assert!(lacking[0].digest == wanted && lacking[0].reason.contains("trusts no key"), "{lacking:?}");
}
