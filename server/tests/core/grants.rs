//! Grants: with whom they end, and what their routes promise.

use std::time::Duration;

use helix_protocol::ids::secret_hash;
use helix_protocol::record::{Scope, TokenRecord};
use helix_protocol::session::{ObservedSession, SessionPhase};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::harness::{Fleet, SimRunner, eventually};
use super::http::Caller;
use super::secrets::user;

const GRANTS: &str = "/api/v1/sessions/s/grants";

/// A session of this caller's that is ready on this runner, whose gate knows so many changes of its grants.
async fn ready(runner: &SimRunner, by: &Caller, known: u64) -> ObservedSession {
    assert_eq!(by.post("/api/v1/sessions", &json!({"id": "s", "input": "make"})).await.0, 201);
    let order = eventually("assigned", async || runner.sync().await.pop()).await;
    let seen = ObservedSession { grants: known, ..runner.seen("s", order.epoch.0, 1, SessionPhase::Ready) };
    runner.report(&seen).await;
    seen
}

/// Whose grants the runner is told of.
async fn told(runner: &SimRunner) -> Vec<String> {
    let order = runner.sync().await.into_iter().find(|order| order.session.as_str() == "s").expect("the session");
    order.access.expect("it runs").grants.iter().map(|grant| grant.viewer.by.clone()).collect()
}

/// Sooner than the leader looks at everything (5 s): it was woken.
async fn told_at_once(runner: &SimRunner, wanted: &[&str]) {
    let begun = Instant::now();
    eventually("told", async || (told(runner).await == wanted).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{wanted:?} after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_ends_with_the_token_that_made_it() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let root = Caller::admin(fleet.serve(&app).await);
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    let ann = user(&app, &root, "ann", Scope::User).await;
    let twin = user(&app, &root, "ann", Scope::User).await;
    let helper = user(&app, &root, "helper", Scope::Operator).await;
    ready(&runner, &ann, u64::MAX).await;
    for caller in [&root, &ann, &twin, &helper] {
        let (status, made) = caller.post(GRANTS, &json!({})).await;
        assert_eq!(status, 200, "{made}");
        // The tokens of the test live five minutes: no grant of theirs lives longer, whoever is cut off.
        let end: Timestamp = made["expires_at"].as_str().and_then(|end| end.parse().ok()).expect("a time");
        let outlives = end.duration_since(Timestamp::now()).as_secs() > 300;
        assert_eq!(outlives, caller.token == root.token, "{made}");
    }
    assert_eq!(told(&runner).await, ["admin", "ann", "ann", "helper"]);
    // Nor is a creation that is repeated told another one for it.
    let again = json!({"session_id": "t", "user_id": "ann", "input": "make"});
    let first = async || ann.post("/api/v1/external-agents", &again).await.1["rdp_password"].clone();
    let (once, twice) = (first().await, first().await);
    assert!(once.is_string() && once == twice, "{once} {twice}");

    let stored = |caller: &Caller| {
        let hash = secret_hash(&caller.token);
        let entry = app.store.tokens.view().get(&hash).expect("stored");
        (hash, entry)
    };
    // Revoked: its own end, and not that of another token of the same name.
    let (hash, entry) = stored(&ann);
    app.store.tokens.delete(&hash, entry.revision).await.expect("revoked");
    told_at_once(&runner, &["admin", "ann", "helper"]).await;
    // It only looks from now on.
    let (hash, entry) = stored(&helper);
    let lesser = TokenRecord { scope: Scope::Viewer, ..(*entry.value).clone() };
    app.store.tokens.update(&hash, &lesser, entry.revision).await.expect("changed");
    told_at_once(&runner, &["admin", "ann"]).await;
    // It is over.
    let (hash, entry) = stored(&twin);
    let over = TokenRecord { expires_at: Some(Timestamp::now()), ..(*entry.value).clone() };
    app.store.tokens.update(&hash, &over, entry.revision).await.expect("changed");
    told_at_once(&runner, &["admin"]).await;
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_says_whether_the_gate_knows_of_it() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let root = Caller::admin(fleet.serve(&app).await);
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    let seen = ready(&runner, &root, 1).await;
    let made = async |enforced: bool| {
        let (_, made) = root.post(GRANTS, &json!({})).await;
        assert_eq!(made["enforced"], enforced, "{made}");
        format!("{GRANTS}/{}", made["id"].as_str().expect("an id"))
    };
    let revoked = async |path: &str| root.call("DELETE", path, &Value::Null).await.1["enforced"].clone();
    let (first, second) = (made(true).await, made(false).await);
    assert_eq!(revoked(&first).await, false, "a runner that has not heard of it");
    runner.report(&ObservedSession { report: 2, grants: 4, ..seen }).await;
    assert_eq!(revoked(&second).await, true);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_polls_for_a_password_is_not_kept_out_and_keeps_out_nobody() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let root = Caller::admin(fleet.serve(&app).await);
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    let ann = user(&app, &root, "ann", Scope::User).await;
    ready(&runner, &ann, u64::MAX).await;
    let mut passwords = Vec::new();
    for _ in 0..40 {
        let (status, answer) = ann.get("/api/v1/external-agents/s/rdp").await;
        assert_eq!(status, 200, "{answer}");
        passwords.push(answer["rdp_password"].as_str().expect("a password").to_owned());
    }
    let mut different = passwords.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 8);
    assert!(passwords[7..].iter().all(|password| *password == passwords[7]), "the newest is told again");
    let order = runner.sync().await.pop().expect("the session");
    let known: Vec<_> = order.access.expect("it runs").grants.into_iter().map(|grant| grant.viewer.password).collect();
    assert!(different.into_iter().all(|password| known.contains(&Some(password))), "one that was told is gone");

    // Another token has its own, and there is room for what is made on purpose.
    let (_, other) = root.get("/api/v1/sessions/s/rdp-connection").await;
    assert!(other["rdp_password"].as_str().is_some_and(|password| !passwords.iter().any(|known| known == password)));
    assert_eq!(ann.post(GRANTS, &json!({})).await.0, 200);
    fleet.stop(&[app]).await;
}
