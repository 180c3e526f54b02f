//! Images as they are brought, named, used, rolled back and collected, over HTTP where who may is the question.

use bytes::Bytes;
use helix_protocol::ErrorCode;
use helix_protocol::api::CreateSession;
use helix_protocol::api::images::{ChunkList, CollectImages};
use helix_protocol::image::{Chunk, Digest, ImageRef, SignedManifest, write_index};
use helix_protocol::session::SessionPhase;
use helix_server::app::App;

use super::harness::{Fleet, SimRunner, eventually, id};
use super::{admin, command};

/// An image as a builder leaves it.
struct Built {
    digest: Digest,
    signed: SignedManifest,
    chunks: Vec<(Digest, Bytes)>,
}

fn packed(bytes: &[u8]) -> (Digest, Bytes) {
    (Digest::of(bytes), zstd::encode_all(bytes, 3).expect("packed").into())
}

/// An image of these pieces.
fn built(name: &str, pieces: &[&[u8]], kinds: &str) -> Built {
    let tar = pieces.concat();
    let list: Vec<Chunk> =
        pieces.iter().map(|piece| Chunk { digest: Digest::of(piece), bytes: piece.len() as u32 }).collect();
    let (index, sbom) = (write_index(&list), format!("packages of {name}"));
    let manifest = format!(
        r#"{{"format":1,"name":"{name}","arch":"amd64","distribution":"debian","suite":"bookworm","source_date":0,"kinds":[{kinds}],
        "labels":{{}},"recipe":"{0}","tar_bytes":{1},"tar":"{0}","index":"{2}","sbom":"{3}"}}"#,
        Digest::of(&tar),
        tar.len(),
        Digest::of(&index),
        Digest::of(sbom.as_bytes()),
    );
    let signed = SignedManifest { manifest, signature: "of nobody".to_owned() };
    let mut chunks: Vec<_> = pieces.iter().map(|piece| packed(piece)).collect();
    chunks.extend([packed(&index), packed(sbom.as_bytes())]);
    Built { digest: signed.digest(), signed, chunks }
}

async fn push(app: &App, image: &Built, tag: &str) {
    for (digest, bytes) in &image.chunks {
        app.images.put_chunk(*digest, bytes.clone()).await.expect("taken");
    }
    app.images.put_manifest(&admin(), image.digest, image.signed.clone()).await.expect("taken");
    app.images.set_tag(&admin(), "dev", tag, image.digest).await.expect("set");
}

fn now() -> CollectImages {
    CollectImages { keep: Some(0), min_age_seconds: Some(0), dry_run: false }
}

fn in_image(session: &str, image: &str) -> CreateSession {
    CreateSession { image: Some(image.parse().expect("a reference")), ..command(session, "make") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_the_server_lacks_is_brought_and_a_manifest_comes_last() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let image = built("dev", &[b"one", b"two", b"one"], "");
    let all: Vec<Digest> = image.chunks.iter().map(|(digest, _)| *digest).collect();
    let missing = async || app.images.missing(ChunkList { chunks: all.clone() }).await.expect("asked").chunks;
    assert_eq!(missing().await, all);
    let manifest = async || app.images.put_manifest(&admin(), image.digest, image.signed.clone()).await;
    let refused = manifest().await.expect_err("nothing is here");
    assert_eq!(refused.code, ErrorCode::ImageIncomplete);
    for (digest, bytes) in &image.chunks[1..] {
        app.images.put_chunk(*digest, bytes.clone()).await.expect("taken");
        app.images.put_chunk(*digest, bytes.clone()).await.expect("taken again");
    }
    // The first piece came with the third: they are the same.
    assert_eq!(missing().await, []);
    let other = built("dev", &[b"three"], "");
    let damaged = app.images.put_chunk(other.chunks[0].0, image.chunks[0].1.clone()).await.expect_err("another");
    assert_eq!(damaged.code, ErrorCode::InvalidRequest);
    assert!(damaged.detail.contains("damaged on its way"), "{damaged}");
    let damaged = app.images.put_chunk(other.chunks[0].0, Bytes::from_static(b"no zstd")).await.expect_err("none");
    assert!(damaged.detail.contains("no zstd"), "{damaged}");
    let stored = manifest().await.expect("complete");
    assert_eq!((stored.digest, stored.chunks), (image.digest, 3));
    assert_eq!(app.images.manifest(image.digest).await.expect("there").signed, image.signed);
    let not_it = app.images.put_manifest(&admin(), other.digest, image.signed.clone()).await.expect_err("another");
    assert!(not_it.detail.contains(&image.digest.to_string()), "{not_it}");
    assert_eq!(app.images.chunk(image.chunks[0].0).await.expect("there"), image.chunks[0].1);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_goes_back_to_what_it_named_unless_that_was_collected() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let [one, two, three] = [b"one", b"two", b"333"].map(|piece| built("dev", &[piece], ""));
    push(&app, &one, "latest").await;
    let none = app.images.roll_back(&admin(), "dev", "latest").await.expect_err("nothing before");
    assert_eq!(none.code, ErrorCode::NoRollback);
    push(&app, &two, "latest").await;
    push(&app, &three, "latest").await;
    let back = app.images.roll_back(&admin(), "dev", "latest").await.expect("rolled back");
    assert_eq!((back.digest, back.history.as_slice()), (two.digest, [one.digest].as_slice()));
    // Of the history nothing is kept: what the tag names stays.
    let collected = app.images.collect(now()).await.expect("collected");
    let mut gone = [one.digest, three.digest];
    gone.sort_unstable();
    let mut removed = collected.images.clone();
    removed.sort_unstable();
    assert_eq!((removed.as_slice(), collected.kept), (gone.as_slice(), 1));
    // A piece, an index and a list of packages; all three are called the same.
    assert_eq!(collected.chunks, 4, "{collected:?}");
    let gone = app.images.roll_back(&admin(), "dev", "latest").await.expect_err("it was collected");
    assert_eq!(gone.code, ErrorCode::NoRollback);
    assert!(gone.detail.contains(&one.digest.to_string()) && gone.detail.contains("collected"), "{gone}");
    assert_eq!(app.images.list().await.expect("listed").names["dev"]["latest"].digest, two.digest, "it stays");
    app.images.set_tag(&admin(), "dev", "old", one.digest).await.expect_err("no tag leads to nothing");
    let unknown = app.sessions.create(&admin(), in_image("s", "dev:no")).await.expect_err("no such tag");
    assert_eq!(unknown.code, ErrorCode::ImageNotFound);
    assert!(unknown.detail.contains("latest"), "the tags are listed: {unknown}");
    app.images.delete_tag("dev", "latest").await.expect("deleted");
    let unknown = app.sessions.create(&admin(), in_image("s", "dev")).await.expect_err("no such name");
    assert!(unknown.detail.contains("helixctl image push"), "{unknown}");
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_its_image_whatever_becomes_of_the_tag() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register_as(4, |facts| facts.arch = "amd64".to_owned()).await;
    let (one, two) = (built("dev", &[b"one"], r#""command""#), built("dev", &[b"two"], r#""zed""#));
    push(&app, &one, "latest").await;
    app.sessions.create(&admin(), in_image("s", "dev")).await.expect("created");
    let order =
        eventually("assigned", async || runner.sync().await.into_iter().find(|order| order.session == id("s"))).await;
    assert_eq!(order.spec.image, Some(ImageRef::Digest(one.digest)));
    runner.report(&runner.seen("s", order.epoch.0, 1, SessionPhase::Ready)).await;
    push(&app, &two, "latest").await;
    // The same request is the same session; a new one has the new image, which is for another kind.
    let again = app.sessions.create(&admin(), in_image("s", "dev")).await.expect("the same session");
    assert!(!again.fresh && again.view.spec.image == Some(ImageRef::Digest(one.digest)), "{again:?}");
    let command = Some(helix_protocol::KindName::parse("command").expect("a kind"));
    let asked = CreateSession { kind: command, ..in_image("t", "dev") };
    let other = app.sessions.create(&admin(), asked).await.expect_err("not for its kind");
    assert!(other.code == ErrorCode::InvalidRequest && other.detail.contains("it is for: zed"), "{other}");
    let asked = CreateSession { kind: None, input: None, ..in_image("t", "dev") };
    let created = app.sessions.create(&admin(), asked).await;
    // No runner knows the kind that it is for.
    let refused = created.expect_err("no zed here");
    assert!(refused.code == ErrorCode::UnknownKind && refused.detail.contains("zed"), "{refused}");
    app.images.delete_tag("dev", "latest").await.expect("deleted");
    let collected = app.images.collect(now()).await.expect("collected");
    assert_eq!((collected.images.as_slice(), collected.kept), ([two.digest].as_slice(), 1), "the session's stays");
    let mut over = runner.seen("s", order.epoch.0, 2, SessionPhase::Stopped);
    over.display = None;
    runner.report(&over).await;
    let collected = app.images.collect(now()).await.expect("collected");
    assert_eq!((collected.images.as_slice(), collected.kept), ([one.digest].as_slice(), 0));
    assert_eq!(app.images.missing(ChunkList { chunks: vec![one.chunks[0].0] }).await.expect("asked").chunks.len(), 1);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_without_images_says_so_to_who_waits() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner
        .register_as(4, |facts| {
            facts.arch = "amd64".to_owned();
            facts.no_images = Some("it is a laptop".to_owned());
        })
        .await;
    push(&app, &built("dev", &[b"one"], ""), "latest").await;
    app.sessions.create(&admin(), in_image("s", "dev")).await.expect("created");
    let cause = eventually("told why", async || app.sessions.get(&admin(), &id("s")).await.ok()?.cause).await;
    assert!(cause.message.contains("it is a laptop"), "{cause:?}");
    fleet.stop(&[app]).await;
}
