//! Secrets: taken, sealed, given to the runner of the session, and told to nobody else.

use std::time::Duration;

use helix_protocol::record::Scope;
use helix_protocol::session::{Desired, SessionPhase};
use helix_protocol::{Epoch, subject};
use helix_server::app::App;
use serde_json::{Value, json};

use super::harness::{Fleet, SimRunner, eventually, id, was_logged};
use super::http::Caller;
use super::{admin, command};

const GIVEN: &str = "sk-given-1f6b2c";
const STORED: &str = "sk-stored-9d3e7a";
const CHANGED: &str = "sk-changed-5c8d0b";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_reaches_the_runner_of_its_session_and_nobody_else() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let root = Caller::admin(fleet.serve(&app).await);
    let ann = user(&app, &root, "ann", Scope::User).await;
    let mut told = Vec::new();
    let mut tell = |answer: (u16, Value)| {
        told.push(answer.1.to_string());
        answer
    };

    let (status, shown) = tell(ann.call("PUT", "/api/v1/secrets/OPENAI_API_KEY", &json!({"value": STORED})).await);
    assert_eq!((status, &shown["name"]), (200, &json!("OPENAI_API_KEY")));
    let secrets = json!({"ANTHROPIC_API_KEY": GIVEN, "OPENAI_API_KEY": null});
    let body = json!({"id": "s", "secrets": secrets});
    assert_eq!(tell(ann.post("/api/v1/sessions", &body).await).0, 201);

    // The same again is the same, also when the stored one has changed or is gone; another value is another request.
    tell(ann.call("PUT", "/api/v1/secrets/OPENAI_API_KEY", &json!({"value": CHANGED})).await);
    assert_eq!(tell(ann.post("/api/v1/sessions", &body).await).0, 200);
    assert_eq!(delete(&ann, "OPENAI_API_KEY").await, 204);
    assert_eq!(delete(&ann, "OPENAI_API_KEY").await, 404);
    assert_eq!(tell(ann.post("/api/v1/sessions", &body).await).0, 200);
    let mut other = body.clone();
    other["secrets"]["ANTHROPIC_API_KEY"] = json!(CHANGED);
    let (status, refused) = tell(ann.post("/api/v1/sessions", &other).await);
    assert_eq!((status, &refused["code"]), (409, &json!("session_exists")));
    let mut none = body.clone();
    none.as_object_mut().expect("an object").remove("secrets");
    assert_eq!(tell(ann.post("/api/v1/sessions", &none).await).0, 409);

    // Its runner gets it, with the session's own token; another runner gets nothing.
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    let order = eventually("assigned", async || runner.sync().await.pop()).await;
    let access = order.access.clone().expect("access");
    assert_eq!(access.secrets.get("ANTHROPIC_API_KEY").map(String::as_str), Some(GIVEN));
    assert_eq!(access.secrets.get("OPENAI_API_KEY").map(String::as_str), Some(STORED));
    let principal = app.tokens.verify(&access.token).await.expect("valid");
    assert_eq!(principal.scope, Scope::Session(id("s")));
    let shown = format!("{order:?}");
    assert!(!shown.contains(GIVEN) && !shown.contains(&access.token), "{shown}");
    let bystander = SimRunner::enrol(&fleet, &app, "r2").await;
    bystander.register(1).await;
    assert!(bystander.sync().await.is_empty());
    let projected =
        app.store.desired.view().get(&subject::runner_session_key(&runner.id, &id("s"))).expect("projected");
    assert!(projected.value.access.is_none());

    // An order to end has neither.
    let Epoch(epoch) = order.epoch;
    runner.report(&runner.seen("s", epoch, 1, SessionPhase::Ready)).await;
    for path in ["sessions/s", "sessions", "sessions/s/threads", "secrets", "external-agents", "external-agents/s"] {
        let (status, _) = tell(ann.get(&format!("/api/v1/{path}")).await);
        assert_eq!(status, 200, "{path}");
    }
    app.sessions.stop(&admin(), &id("s")).await.expect("stopped");
    let ending =
        eventually("told to end", async || runner.sync().await.pop().filter(|order| order.desired == Desired::Stopped))
            .await;
    assert!(ending.access.is_none());

    let request = helix_protocol::api::CreateSession {
        secrets: [("KEY".to_owned(), Some(GIVEN.to_owned()))].into(),
        ..command("t", "make")
    };
    told.push(format!("{request:?} {:?}", app.sessions.create(&admin(), request.clone()).await.expect("created")));
    for secret in [GIVEN, STORED, CHANGED, &access.token] {
        // The documents tell a session's own token to its owner.
        let may_know = secret == access.token;
        assert!(may_know || !told.iter().any(|text| text.contains(secret)), "{secret} was told");
        assert!(!fleet.is_stored(secret), "{secret} is stored");
        assert!(!was_logged(secret), "{secret} was logged");
    }
    // What is looked for would be found.
    assert!(fleet.is_stored("OPENAI_API_KEY") && was_logged("session assigned"));
    fleet.stop(&[app]).await;
}

/// A caller with a token of its own.
pub async fn user(app: &App, root: &Caller, name: &str, scope: Scope) -> Caller {
    let issued = app.tokens.issue(name, scope, Duration::from_mins(5)).await.expect("issued");
    root.with_token(&issued.secret)
}

async fn set(caller: &Caller, name: &str, value: &str) -> (u16, Value) {
    caller.call("PUT", &format!("/api/v1/secrets/{name}"), &json!({ "value": value })).await
}

async fn delete(caller: &Caller, name: &str) -> u16 {
    let mut answer = caller.ask("DELETE", &format!("/api/v1/secrets/{name}"), "", "").await;
    answer.read_head().await;
    answer.status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_secrets_are_their_owners_alone() {
    let fleet = Fleet::start().await;
    let (app, other) = (fleet.server().await, fleet.server().await);
    let root = Caller::admin(fleet.serve(&app).await);
    let elsewhere = Caller::admin(fleet.serve(&other).await);
    let ann = user(&app, &root, "ann", Scope::User).await;
    let bob = user(&app, &root, "bob", Scope::User).await;
    assert_eq!(set(&ann, "KEY", GIVEN).await.0, 200);
    assert_eq!(set(&ann, "ALSO", GIVEN).await.0, 200);
    // On any replica, at once.
    let (_, list) = elsewhere.with_token(&ann.token).get("/api/v1/secrets").await;
    let names: Vec<_> = list["secrets"].as_array().expect("a list").iter().map(|secret| &secret["name"]).collect();
    assert_eq!(names, ["ALSO", "KEY"]);
    assert_eq!(bob.get("/api/v1/secrets").await.1["secrets"], json!([]));
    assert_eq!(delete(&bob, "KEY").await, 404);
    let body = json!({"secrets": {"KEY": null}});
    let (status, refused) = bob.post("/api/v1/sessions", &body).await;
    assert_eq!((status, &refused["code"]), (404, &json!("secret_not_found")), "{refused}");
    assert!(refused["detail"].as_str().expect("text").contains("helixctl secret set KEY"), "{refused}");
    assert_eq!(ann.post("/api/v1/sessions", &body).await.0, 201);

    for (name, body) in [
        ("1X", json!({"value": "x"})),
        ("A-B", json!({"value": "x"})),
        ("PATH", json!({"value": "x"})),
        ("HELIX_X", json!({"value": "x"})),
        ("KEY", json!({"value": ""})),
        ("KEY", json!({"value": "a\u{0}b"})),
        ("KEY", json!({"value": "x".repeat(40_000)})),
        ("KEY", json!({"value": "x", "colour": "blue"})),
    ] {
        let (status, refused) = ann.call("PUT", &format!("/api/v1/secrets/{name}"), &body).await;
        assert_eq!((status, &refused["code"]), (400, &json!("invalid_request")), "{name}: {refused}");
    }
    for secrets in [json!({"PATH": "x"}), json!({"K": "x".repeat(40_000)}), json!({"ENV": "x"})] {
        let body = json!({"env": {"ENV": "y"}, "secrets": secrets});
        assert_eq!(ann.post("/api/v1/sessions", &body).await.0, 400, "{secrets}");
    }
    for scope in [Scope::Viewer, Scope::Session(id("s")), Scope::Desktop(id("s"))] {
        let caller = user(&app, &root, "other", scope.clone()).await;
        let status = caller.get("/api/v1/secrets").await.0;
        assert!([401, 403].contains(&status), "{scope:?}: {status}");
    }
    // Ten at once on two replicas: one of them holds.
    let race = (0..10).map(|index| {
        let caller = if index % 2 == 0 { ann.clone() } else { elsewhere.with_token(&ann.token) };
        async move { caller.call("PUT", "/api/v1/secrets/RACE", &json!({"value": format!("v{index}")})).await.0 }
    });
    assert!(futures::future::join_all(race).await.iter().all(|status| *status == 200));
    fleet.stop(&[app, other]).await;
}
