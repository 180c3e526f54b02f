//! Real files, through a real pair of sockets, as a server asks for them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::thread;

use helix_protocol::tools::{UploadState, WriteRequest};

use super::*;
use crate::tools::frames::read_blocking;

struct Place {
    dir: tempfile::TempDir,
    files: std::sync::Arc<Files>,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("w")).unwrap();
    fs::write(dir.path().join("secret"), "outside").unwrap();
    Place { files: Files::new(&dir.path().join("w")).unwrap().into(), dir }
}

impl Place {
    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("w").join(name)
    }

    /// Our end of a stream with this request.
    fn ask(&self, request: Request) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let files = self.files.clone();
        thread::spawn(move || files.serve(theirs, request));
        ours
    }

    fn answer<T: serde::de::DeserializeOwned>(&self, request: Request) -> Result<T> {
        first(&mut self.ask(request))
    }

    fn write(&self, request: WriteRequest, content: &[u8]) -> Result<FileEntry> {
        let mut stream = self.ask(Request::Write(request));
        send(&mut stream, content);
        first(&mut stream)
    }
}

fn first<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> Result<T> {
    let mut payload = Vec::new();
    match read_blocking(stream, &mut payload).unwrap() {
        FrameKind::Answer => Ok(serde_json::from_slice(&payload).unwrap()),
        FrameKind::Failed => Err(serde_json::from_slice(&payload).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn data(stream: &mut UnixStream, content: &[u8]) {
    for piece in content.chunks(MAX_DATA) {
        // One that is refused may not take all of it.
        let _ = stream.write_all(&[&head(FrameKind::Data, piece.len())[..], piece].concat());
    }
}

fn send(stream: &mut UnixStream, content: &[u8]) {
    data(stream, content);
    let _ = stream.write_all(&head(FrameKind::End, 0));
}

fn write_of(path: &str) -> WriteRequest {
    WriteRequest { path: path.to_owned(), upload: None, offset: 0, executable: None }
}

fn read_of(path: &str, range: Option<ByteRange>) -> Request {
    Request::Read { path: path.to_owned(), range, if_range: None }
}

/// Everything that comes of a file.
fn content(mut stream: UnixStream) -> (ReadHead, Vec<u8>) {
    let head = first(&mut stream).unwrap();
    let (mut all, mut payload) = (Vec::new(), Vec::new());
    loop {
        match read_blocking(&mut stream, &mut payload).unwrap() {
            FrameKind::Data => all.extend_from_slice(&payload),
            FrameKind::End => return (head, all),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_file_comes_and_goes_whole_and_in_parts() {
    let place = place();
    let bytes: Vec<u8> = (0..1_000_003_u32).map(|number| (number % 251) as u8).collect();
    let written = place.write(write_of("new/dirs/f.bin"), &bytes).unwrap();
    assert_eq!((written.name.as_str(), written.size, written.executable), ("f.bin", 1_000_003, false));
    assert_eq!(fs::read(place.at("new/dirs/f.bin")).unwrap(), bytes);

    for path in ["new/dirs/f.bin", "/workspace/new/dirs/f.bin", place.at("new/dirs/f.bin").to_str().unwrap()] {
        let (head, read) = content(place.ask(read_of(path, None)));
        assert!(read == bytes && head.entry == written && !head.partial, "{path}");
    }
    for (range, expected) in [
        (ByteRange::From(1_000_000), &bytes[1_000_000..]),
        (ByteRange::Between(5, 9), &bytes[5..10]),
        (ByteRange::Between(999_999, u64::MAX), &bytes[999_999..]),
        (ByteRange::Last(7), &bytes[bytes.len() - 7..]),
        (ByteRange::Last(u64::MAX), &bytes[..]),
    ] {
        let (head, read) = content(place.ask(read_of("new/dirs/f.bin", Some(range))));
        assert!(read == expected && head.partial && head.length == expected.len() as u64, "{range:?}");
    }
    let behind = place.answer::<ReadHead>(read_of("new/dirs/f.bin", Some(ByteRange::From(1_000_003)))).unwrap_err();
    assert_eq!(behind.code, ErrorCode::RangeNotSatisfiable);
    // Another file by now: all of it, not a part that fits to nothing.
    let if_range = Some("\"another\"".to_owned());
    let range = Some(ByteRange::From(9));
    let (head, _) = content(place.ask(Request::Read { path: "new/dirs/f.bin".to_owned(), range, if_range }));
    assert!(!head.partial && head.offset == 0);
}

#[test]
fn an_upload_replaces_the_old_file_in_one_step_or_not_at_all() {
    let place = place();
    fs::write(place.at("f"), "old").unwrap();
    fs::set_permissions(place.at("f"), fs::Permissions::from_mode(0o750)).unwrap();
    for upload in [None, Some("mine".to_owned())] {
        let is_kept = upload.is_some();
        let mut stream = place.ask(Request::Write(WriteRequest { upload, ..write_of("f") }));
        data(&mut stream, &vec![b'x'; 100_000]);
        drop(stream);
        let state = || {
            let request = Request::Upload { path: "f".to_owned(), upload: "mine".to_owned() };
            place.answer::<UploadState>(request).unwrap().received
        };
        let expected = if is_kept { 100_000 } else { 0 };
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // Before the first part there is no place for parts.
        let parts = || fs::read_dir(place.at(PARTS)).map_or(0, Iterator::count);
        while state() != expected || parts() != 1 + usize::from(is_kept) {
            assert!(std::time::Instant::now() < deadline, "{} of {expected}", state());
            thread::yield_now();
        }
        assert_eq!(fs::read(place.at("f")).unwrap(), b"old");
    }
    // Somewhere else than where it stands, then where it stands.
    let go_on = |offset| WriteRequest { upload: Some("mine".to_owned()), offset, ..write_of("f") };
    let refused = place.write(go_on(5), b"y").unwrap_err();
    assert_eq!(refused.code, ErrorCode::UploadMismatch);
    assert!(refused.detail.contains("offset=100000"), "{}", refused.detail);
    let written = place.write(go_on(100_000), b"end").unwrap();
    assert_eq!(written.size, 100_003);
    assert!(fs::read(place.at("f")).unwrap().ends_with(b"xend"));
    assert_eq!(fs::metadata(place.at("f")).unwrap().permissions().mode() & 0o777, 0o750, "as the one before");
    assert_eq!(fs::read_dir(place.at(PARTS)).unwrap().count(), 1, "only what keeps git away");

    let program = WriteRequest { executable: Some(true), ..write_of("tool") };
    assert!(place.write(program, b"#!/bin/sh\n").unwrap().executable);
}

#[test]
fn two_do_not_write_the_same_upload() {
    let place = place();
    let request = || WriteRequest { upload: Some("one".to_owned()), ..write_of("f") };
    let mut stream = place.ask(Request::Write(request()));
    data(&mut stream, b"first");
    let state = || {
        let request = Request::Upload { path: "f".to_owned(), upload: "one".to_owned() };
        place.answer::<UploadState>(request).unwrap().received
    };
    while state() != 5 {
        thread::yield_now();
    }
    assert_eq!(place.write(request(), b"second").unwrap_err().code, ErrorCode::UploadMismatch);
    send(&mut stream, b"");
    assert_eq!(first::<FileEntry>(&mut stream).unwrap().size, 5);
    assert_eq!(fs::read(place.at("f")).unwrap(), b"first");
}

#[test]
fn who_gets_a_part_never_gets_the_file_that_it_became() {
    let dir = tempfile::tempdir().unwrap();
    let parts = rustix::fs::open(dir.path(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    // Each puts its part in place at once: one that was opened before that and locked after it is somebody's file.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5000 {
                    let Some(mut part) = upload::open_part(&parts, "part").unwrap() else { continue };
                    assert_eq!(part.metadata().unwrap().len(), 0, "it is in its place");
                    part.write_all(b"all of it").unwrap();
                    rustix::fs::renameat(&parts, "part", &parts, "file").unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"all of it");
}

#[test]
fn nothing_outside_is_read_written_listed_or_removed() {
    let place = place();
    symlink("..", place.at("up")).unwrap();
    symlink("../secret", place.at("link")).unwrap();
    symlink("/etc", place.at("etc")).unwrap();
    for path in ["../secret", "up/secret", "link", "/etc/passwd", "etc/passwd", "a/../../secret"] {
        assert_eq!(place.answer::<ReadHead>(read_of(path, None)).unwrap_err().code, ErrorCode::OutsideWorkspace);
        let stat = Request::Stat { path: path.to_owned() };
        assert_eq!(place.answer::<FileEntry>(stat).unwrap_err().code, ErrorCode::OutsideWorkspace);
    }
    for path in ["../new", "up/new", "/etc/new", "etc/new", "up/d/new"] {
        assert_eq!(place.write(write_of(path), b"x").unwrap_err().code, ErrorCode::OutsideWorkspace, "{path}");
        let delete = Request::Delete { path: path.to_owned(), recursive: true };
        assert_eq!(place.answer::<Done>(delete).unwrap_err().code, ErrorCode::OutsideWorkspace, "{path}");
    }
    let list = Request::List { path: "up".to_owned(), after: None, limit: 10 };
    assert_eq!(place.answer::<FileList>(list).unwrap_err().code, ErrorCode::OutsideWorkspace);
    // In the place of a link, not through it.
    place.write(write_of("link"), b"mine").unwrap();
    assert_eq!(fs::read(place.at("link")).unwrap(), b"mine");
    assert_eq!(fs::read(place.dir.path().join("secret")).unwrap(), b"outside");
    // Not by a link in the place of our own directory, either.
    fs::remove_dir_all(place.at(PARTS)).unwrap();
    symlink("..", place.at(PARTS)).unwrap();
    assert!(place.write(write_of("again"), b"x").is_err());
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 2, "something was made outside");
}

#[test]
fn lists_come_in_pages_by_name() {
    let place = place();
    for number in 0..25 {
        fs::write(place.at(&format!("f{number:02}")), [0; 3]).unwrap();
    }
    fs::create_dir(place.at("dir")).unwrap();
    symlink("f00", place.at("link")).unwrap();
    place.write(write_of("f00"), b"new").unwrap();
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let list: FileList = place.answer(Request::List { path: ".".to_owned(), after, limit: 10 }).unwrap();
        assert!(list.entries.len() <= 10);
        names.extend(list.entries.into_iter().map(|entry| (entry.name, entry.kind, entry.size)));
        after = list.next_after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(names.len(), 27);
    assert!(
        names.is_sorted_by_key(|(name, ..)| name.clone()) && !names.iter().any(|(name, ..)| name == PARTS),
        "{names:?}"
    );
    assert_eq!((names[0].0.as_str(), names[0].1), ("dir", FileKind::Directory));
    assert_eq!(names[1], ("f00".to_owned(), FileKind::File, 3));
    assert_eq!((names[26].0.as_str(), names[26].1), ("link", FileKind::Link));
}

#[test]
fn a_list_of_long_strange_names_fits_into_its_frame() {
    let place = place();
    for number in 0..6000 {
        fs::write(place.at(&format!("{number:04}{}", "\x01".repeat(250))), "").unwrap();
    }
    let (mut names, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        // A frame that is too long is none.
        let list: FileList = place.answer(Request::List { path: ".".to_owned(), after, limit: 10_000 }).unwrap();
        names.extend(list.entries.into_iter().map(|entry| entry.name));
        pages += 1;
        after = list.next_after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((names.len(), pages, names.is_sorted()), (6000, 2, true));
}

#[test]
fn what_is_removed_is_gone_and_nothing_else() {
    let place = place();
    fs::create_dir_all(place.at("d/e/f")).unwrap();
    fs::create_dir_all(place.at("d/g")).unwrap();
    for path in ["d/1", "d/e/2", "d/e/f/3", "kept"] {
        fs::write(place.at(path), "x").unwrap();
    }
    symlink("../kept", place.at("d/link")).unwrap();
    let delete = |path: &str, recursive| place.answer::<Done>(Request::Delete { path: path.to_owned(), recursive });
    assert_eq!(delete("d", false).unwrap_err().code, ErrorCode::DirectoryNotEmpty);
    assert_eq!(delete("none", false).unwrap_err().code, ErrorCode::FileNotFound);
    assert_eq!(delete(".", true).unwrap_err().code, ErrorCode::InvalidRequest);
    delete("d/g", false).unwrap();
    delete("d", true).unwrap();
    assert!(!place.at("d").exists() && place.at("kept").exists());
}

#[test]
fn what_is_no_file_is_told_as_what_it_is() {
    let place = place();
    fs::create_dir(place.at("dir")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, place.at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for (path, word) in [("dir", "directory"), ("pipe", "pipe")] {
        let failure = place.answer::<ReadHead>(read_of(path, None)).unwrap_err();
        assert_eq!(failure.code, ErrorCode::WrongFileKind);
        assert!(failure.detail.contains(word), "{}", failure.detail);
    }
    assert_eq!(place.write(write_of("dir"), b"x").unwrap_err().code, ErrorCode::WrongFileKind);
    assert_eq!(place.answer::<ReadHead>(read_of("none", None)).unwrap_err().code, ErrorCode::FileNotFound);
}
