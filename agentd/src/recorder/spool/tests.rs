//! A spool that is killed at any byte goes on as one chain.

use helix_protocol::recording::chunk::{Checked, check};
use helix_protocol::{Epoch, RecordingId, RunnerId, SessionId};
use proptest::prelude::*;

use super::*;

fn start() -> Start {
    let session = SessionId::parse("s").unwrap();
    Start {
        recording: RecordingId::of(&session, Epoch(7)),
        session,
        epoch: Epoch(7),
        runner: RunnerId::parse("r").unwrap(),
        started_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// Every chunk, checked from the first to the last, and whether the last says that it is.
fn chain(dir: &Path) -> (Vec<Vec<u8>>, bool) {
    let (mut previous, mut after_us, mut ended) = (first_link(&start().recording), 0, false);
    let numbers = closed(dir).unwrap();
    let chunks = numbers.iter().enumerate().map(|(place, number)| {
        assert_eq!(place, *number as usize);
        let chunk = read_chunk(dir, *number).unwrap();
        let Checked { header, entry, .. } = check(&chunk, after_us).unwrap();
        assert_eq!((header.number, header.previous, ended), (*number, previous, false));
        (previous, after_us, ended) = (link(&chunk), entry.to_us, entry.is_last);
        chunk
    });
    (chunks.collect(), ended)
}

fn payloads(chunks: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let records = chunks.iter().flat_map(|chunk| records(chunk).map(Result::unwrap));
    records.filter(|record| record.kind == RecordKind::Display).map(|record| record.payload.to_vec()).collect()
}

#[test]
fn what_was_written_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), start).unwrap();
    assert_eq!(closed(dir.path()).unwrap(), [0], "the server can know of it at once");
    spool.append(RecordKind::Display, b"one").unwrap();
    drop(spool);
    let mut spool = Spool::open(dir.path(), || panic!("it has begun")).unwrap();
    spool.append(RecordKind::Display, b"two").unwrap();
    spool.close().unwrap();
    spool.append(RecordKind::Display, b"three").unwrap();
    drop(spool);
    assert!(finish(dir.path()).unwrap() && finish(dir.path()).unwrap(), "ended once");
    let (chunks, ended) = chain(dir.path());
    assert!(ended);
    assert_eq!(payloads(&chunks), [&b"one"[..], b"two", b"three"]);
    assert!(Spool::open(dir.path(), start).is_err(), "it has ended");
    for number in closed(dir.path()).unwrap() {
        assert!(!is_done(dir.path()).unwrap());
        remove_chunk(dir.path(), number).unwrap();
    }
    assert!(is_done(dir.path()).unwrap());
}

#[test]
fn a_chunk_that_could_not_be_named_is_named_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), start).unwrap();
    spool.append(RecordKind::Display, b"one").unwrap();
    let in_the_way = dir.path().join("1.chunk");
    fs::create_dir_all(in_the_way.join("something")).unwrap();
    spool.close().unwrap_err();
    assert_eq!(spool.due(), Some(Duration::ZERO), "it is to be tried again");
    // What comes meanwhile is written, and closed behind it alone.
    spool.append(RecordKind::Display, b"two").unwrap();
    spool.close().unwrap_err();
    fs::remove_dir_all(in_the_way).unwrap();
    spool.close().unwrap();
    assert_eq!(spool.due(), None);
    assert_eq!(payloads(&chain(dir.path()).0), [&b"one"[..], b"two"]);
}

#[test]
fn an_end_that_could_not_be_closed_is_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), start).unwrap();
    spool.append(RecordKind::Display, b"one").unwrap();
    drop(spool);
    // As on a disk that is full: the head cannot be written.
    let in_the_way = dir.path().join("head.new");
    fs::create_dir(&in_the_way).unwrap();
    for _ in 0..3 {
        finish(dir.path()).unwrap_err();
    }
    fs::remove_dir(in_the_way).unwrap();
    assert!(finish(dir.path()).unwrap());
    let (chunks, ended) = chain(dir.path());
    assert!(ended && chunks.len() == 2, "{}", chunks.len());
}

#[test]
fn a_large_chunk_is_closed_and_none_is_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), start).unwrap();
    for _ in 0..20 {
        spool.append(RecordKind::Display, &vec![7; MAX_PAYLOAD]).unwrap();
    }
    assert!(spool.append(RecordKind::Display, &vec![7; MAX_PAYLOAD + 1]).is_err());
    assert!(spool.waiting().unwrap() > 20 * MAX_PAYLOAD as u64);
    drop(spool);
    finish(dir.path()).unwrap();
    assert_eq!(payloads(&chain(dir.path()).0).len(), 20);
}

#[test]
fn a_spool_without_a_beginning_has_no_end() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!finish(dir.path()).unwrap());
}

#[test]
fn no_link_in_a_spool_is_followed() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    drop(Spool::open(dir.path(), start).unwrap());
    std::os::unix::fs::symlink(other.path(), dir.path().join("1.open")).unwrap();
    assert!(finish(dir.path()).is_err());
    fs::remove_file(dir.path().join("1.open")).unwrap();
    std::os::unix::fs::symlink(other.path(), dir.path().join("5.chunk")).unwrap();
    assert!(read_chunk(dir.path(), 5).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_torn_tail_is_cut(lengths in prop::collection::vec(0..300_usize, 1..6), cut in any::<prop::sample::Index>()) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), start).unwrap();
        let mut ends = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            spool.append(RecordKind::Display, &vec![number as u8; *length]).unwrap();
            ends.push(spool.open.as_ref().unwrap().bytes);
        }
        drop(spool);
        let path = dir.path().join("1.open");
        let cut = cut.index(*ends.last().unwrap() + 1);
        File::options().write(true).open(&path).unwrap().set_len(cut as u64).unwrap();
        let mut spool = Spool::open(dir.path(), start).unwrap();
        spool.append(RecordKind::Display, b"after").unwrap();
        drop(spool);
        finish(dir.path()).unwrap();
        let there = payloads(&chain(dir.path()).0);
        let whole = ends.iter().filter(|end| **end <= cut).count();
        prop_assert_eq!(there.len(), whole + 1);
        prop_assert_eq!(there.last().unwrap(), b"after");
    }
}
