//! Scale hooks against a real NATS, with a real program and a real HTTP listener: what room is missing is told once,
//! again when it changes, and under the same key when it failed, by whichever server leads; runners are simulated.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use helix_protocol::SessionId;
use helix_protocol::api::CreateSession;
use helix_protocol::pool::PoolSpec;
use helix_protocol::record::Scope;
use helix_protocol::scale::{KEY_HEADER, SIGNATURE_HEADER, ScaleCall};
use helix_server::app::App;
use helix_server::auth::Principal;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, StatusCode};
use sha2::Sha256;

use crate::harness::{Fleet, SimRunner, eventually, within};
use crate::http::Caller;

const TIMES: &str = "heartbeat_interval = \"300ms\"\nsuspect_timeout = \"600ms\"\nlost_timeout = \"1s\"\n[scale]\n\
                     after = \"1s\"\nshrink_after = \"1s\"\npause = \"1s\"\ntimeout = \"10s\"\n";

fn admin() -> Principal {
    Principal { name: "admin".to_owned(), scope: Scope::Admin, token_hash: String::new() }
}

async fn create(app: &App, request: &str) -> SessionId {
    let request: CreateSession = serde_json::from_str(request).expect("a request");
    app.pools.begin(&admin(), request, None).await.expect("created").view.id
}

/// What the program was told, in order.
fn told(folder: &Path) -> Vec<ScaleCall> {
    let text = std::fs::read_to_string(folder.join("calls")).unwrap_or_default();
    // The last one may be half written.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn until_told(folder: &Path, what: &str, holds: impl Fn(&ScaleCall) -> bool) -> ScaleCall {
    eventually(what, async || told(folder).pop().filter(|call| holds(call))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_told_what_room_is_missing_and_which_runner_could_go() {
    let fleet = Fleet::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (place, script) = (folder.path().display(), folder.path().join("hook"));
    let text = format!(
        "#!/bin/sh\ntest -e {place}/broken && {{ echo no credit >&2; exit 3; }}\ncat >> {place}/calls\necho >> {place}/calls\n"
    );
    std::fs::write(&script, text).expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let settings = format!("{TIMES}command = [\"{}\"]\n", script.display());
    let (first, second) = (fleet.server_with(&settings).await, fleet.server_with(&settings).await);
    let runner = SimRunner::enrol(&fleet, &first, "r1").await;
    runner.register(1).await;

    // A runner without a session could go.
    let beat = async || runner.heartbeat().await;
    let call = eventually("the idle runner is told", async || {
        beat().await;
        told(folder.path()).pop()
    })
    .await;
    assert_eq!((call.wanted.idle_runners.len(), call.wanted.shortages.len(), call.repeats), (1, 0, 0));
    assert_eq!(call.key, format!("scale-{}", call.number));

    // It gets one session; two more of a pool, and one that may run on it alone, wait.
    let spec: PoolSpec =
        serde_json::from_str(r#"{"selector": {"site": "cellar"}, "reserve": {"memory": "2GiB"}, "kind": "command"}"#)
            .expect("a pool");
    let pool = helix_protocol::PoolName::parse("ci").expect("valid");
    first.pools.put(&admin(), &pool, spec, None).await.expect("made");
    create(&first, "{}").await;
    create(&first, r#"{"runner": "r1"}"#).await;
    let oldest = create(&first, r#"{"pool": "ci"}"#).await;
    create(&second, r#"{"pool": "ci"}"#).await;
    let call = until_told(folder.path(), "two are missing", |call| {
        call.wanted.shortages.first().is_some_and(|shortage| shortage.queued == 2)
    })
    .await;
    let [shortage] = &call.wanted.shortages[..] else { panic!("{call:?}") };
    assert_eq!((shortage.pool.as_ref(), shortage.missing_slots, shortage.agents), (Some(&pool), 2, 0));
    assert_eq!(shortage.missing_memory.map(|bytes| bytes.0), Some(4 << 30));
    assert_eq!((shortage.selector["site"].as_str(), &shortage.oldest), ("cellar", &oldest));
    assert!(!shortage.why.is_empty() && call.wanted.idle_runners.is_empty());

    // The program breaks, and more wait: that is tried again under its key, and every server says so.
    std::fs::write(folder.path().join("broken"), "").expect("written");
    create(&first, r#"{"pool": "ci"}"#).await;
    let root = Caller::admin(fleet.serve(&second).await);
    let failed = eventually("the failures are shown", async || {
        let scale = root.get("/api/v1/status").await.1["scale"].clone();
        (scale["failures"].as_u64()? >= 2).then_some(scale)
    })
    .await;
    assert!(failed["error"].as_str().is_some_and(|error| error.ends_with("exit status: 3: no credit")), "{failed}");
    assert!(failed["retry_at"].is_string(), "{failed}");
    // Whoever leads next goes on with it.
    within("the first server ends", first.stop()).await;
    std::fs::remove_file(folder.path().join("broken")).expect("removed");
    let again = until_told(folder.path(), "three are missing", |call| {
        call.wanted.shortages.first().is_some_and(|shortage| shortage.queued == 3)
    })
    .await;
    assert!(again.repeats >= 2 && again.number > call.number, "{again:?}");
    assert_eq!(again.number, failed["number"].as_u64().expect("a number"));

    // All is well again.
    second.pools.delete(&admin(), &pool, true).await.expect("deleted");
    let over = until_told(folder.path(), "nothing is missing", |call| call.wanted.shortages.is_empty()).await;
    assert!(over.number > again.number);
    let status = eventually("the call is done", async || {
        let scale = root.get("/api/v1/status").await.1["scale"].clone();
        scale["done"].as_bool()?.then_some(scale)
    })
    .await;
    assert_eq!((status["failures"].as_u64(), status["error"].is_null()), (Some(0), true), "{status}");
    let numbers: Vec<_> = told(folder.path()).iter().map(|call| call.number).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "none was told twice: {numbers:?}");
    fleet.stop(&[second]).await;
}

type Heard = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// Refuses the first, takes the others.
async fn hear(State(heard): State<Heard>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut heard = heard.lock().expect("not poisoned");
    heard.push((headers, body));
    if heard.len() == 1 { StatusCode::BAD_GATEWAY } else { StatusCode::NO_CONTENT }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_told_with_a_signature_until_it_takes_it() {
    let fleet = Fleet::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "a-secret-of-the-webhook\n").expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("private");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let heard = Heard::default();
    let router = Router::new().route("/hook", post(hear)).with_state(Arc::clone(&heard));
    let serving = tokio::spawn(axum::serve(listener, router).into_future());
    let settings =
        format!("{TIMES}webhook = \"http://{address}/hook\"\nwebhook_secret_file = \"{}\"\n", secret.display());
    let app = fleet.server_with(&settings).await;
    create(&app, "{}").await;
    let calls = eventually("it is told twice", async || {
        let heard = heard.lock().expect("not poisoned").clone();
        (heard.len() >= 2).then_some(heard)
    })
    .await;
    let read = |(headers, body): &(HeaderMap, Bytes)| {
        let call: ScaleCall = serde_json::from_slice(body).expect("a call");
        let header = |name: &str| headers[name].to_str().expect("text").to_owned();
        let mut mac = Hmac::<Sha256>::new_from_slice(b"a-secret-of-the-webhook").expect("a key");
        mac.update(body);
        let signed = helix_protocol::ids::hex(&mac.finalize().into_bytes());
        assert_eq!(header(SIGNATURE_HEADER), format!("sha256={signed}"));
        assert_eq!((header(KEY_HEADER), header("content-type")), (call.key.clone(), "application/json".to_owned()));
        call
    };
    let (first, second) = (read(&calls[0]), read(&calls[1]));
    assert_eq!((first.key, first.number, first.repeats), (second.key, second.number, 0));
    assert_eq!((second.repeats, second.wanted.shortages[0].queued), (1, 1));
    serving.abort();
    fleet.stop(&[app]).await;
}
