use super::*;
use crate::backup::Kind;

fn keys(byte: u8) -> Arc<Keys> {
    Arc::new(Keys::derive(&[byte; 32]).expect("a key of 32 bytes derives"))
}

fn header(keys: &Keys) -> Header {
    let text = |text: &str| text.to_owned();
    Header { created_at: text("now"), helix: text("0"), nats: text("2.11"), server_key: keys.fingerprint().to_owned() }
}

fn written(path: &Path, keys: &Keys) -> String {
    let mut writer = Writer::create(path, &header(keys)).expect("begun");
    for name in ["A", "B"] {
        let (config, state) = (serde_json::json!({ "name": name }), serde_json::json!({ "messages": 2 }));
        writer.begin(&Stream { name: name.to_owned(), config, state }).expect("stream");
        for piece in [&b"some bytes"[..], b"and more"] {
            writer.chunk(piece).expect("piece");
        }
        assert_eq!(writer.end().expect("end"), 18);
    }
    writer.finish(keys).expect("finished").0
}

#[test]
fn what_was_written_is_read() {
    let (dir, keys) = (tempfile::tempdir().expect("a directory"), keys(1));
    let path = dir.path().join("b");
    let digest = written(&path, &keys);
    let (_, streams, read, bytes) = verify(&path, &keys).expect("whole");
    assert_eq!((read, bytes), (digest, std::fs::metadata(&path).expect("there").len()));
    let names: Vec<_> = streams.iter().map(|stream| (stream.name.as_str(), stream.messages, stream.bytes)).collect();
    assert_eq!(names, [("A", 2, 18), ("B", 2, 18)]);
    assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 1, "something is left beside it");
}

#[test]
fn no_byte_can_be_changed_or_missing() {
    let (dir, keys) = (tempfile::tempdir().expect("a directory"), keys(1));
    let path = dir.path().join("b");
    written(&path, &keys);
    let whole = std::fs::read(&path).expect("read");
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        std::fs::write(&path, &bytes).expect("written");
        assert!(verify(&path, &keys).is_err(), "byte {place} was flipped");
        std::fs::write(&path, &whole[..place]).expect("written");
        assert!(verify(&path, &keys).is_err(), "cut off after {place}");
    }
    std::fs::write(&path, [&whole[..], b"x"].concat()).expect("written");
    assert!(verify(&path, &keys).expect_err("longer").to_string().contains("follows its end"));
}

#[test]
fn another_key_is_told_and_who_has_none_cannot_make_one() {
    let (dir, ours, theirs) = (tempfile::tempdir().expect("a directory"), keys(1), keys(2));
    let path = dir.path().join("b");
    written(&path, &ours);
    let refused = verify(&path, &theirs).expect_err("another key");
    assert_eq!(refused.kind, Kind::Refused);
    assert!(refused.to_string().contains(ours.fingerprint()) && refused.to_string().contains(theirs.fingerprint()));
    // As one would who knows the format and the fingerprint alone.
    let path = dir.path().join("forged");
    Writer::create(&path, &header(&ours)).expect("begun").finish(&theirs).expect("finished");
    assert!(verify(&path, &ours).expect_err("forged").to_string().contains("tampered"));
}

#[test]
fn an_unfinished_one_leaves_nothing_and_none_is_overwritten() {
    let (dir, keys) = (tempfile::tempdir().expect("a directory"), keys(1));
    let path = dir.path().join("b");
    let first = Writer::create(&path, &header(&keys)).expect("begun");
    let busy = Writer::create(&path, &header(&keys)).err().expect("two at once").to_string();
    assert!(busy.contains("another backup"), "{busy}");
    drop(first);
    assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0);
    let second = Writer::create(&path, &header(&keys)).expect("begun");
    std::fs::write(&path, "mine").expect("written");
    second.finish(&keys).expect_err("it is there");
    assert_eq!(std::fs::read_to_string(&path).expect("read"), "mine");
    assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 1);
}
