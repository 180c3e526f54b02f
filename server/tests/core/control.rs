//! The control lease: taken, refused, handed back, enforced, told, and free again by itself.

use std::time::Duration;

use helix_protocol::record::Scope;
use helix_protocol::session::SessionPhase;
use serde_json::{Value, json};

use super::command;
use super::harness::{Fleet, SimRunner, eventually, id};
use super::http::Caller;
use super::secrets::user;

const PATH: &str = "/api/v1/sessions/s/control";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_types_at_a_time_and_everybody_knows_who() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let root = Caller::admin(fleet.serve(&app).await);
    // Before the links: they are for the session that there is.
    app.sessions.create(&super::admin(), command("s", "make")).await.expect("created");
    let ann = user(&app, &root, "ann", Scope::User).await;
    let link = user(&app, &root, "link", Scope::Desktop(id("s"))).await;
    let looks = user(&app, &root, "looks", Scope::View(id("s"))).await;
    let agent = user(&app, &root, "agent", Scope::Session(id("s"))).await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    let order = eventually("assigned", async || runner.sync().await.pop()).await;
    let mut seen = runner.seen("s", order.epoch.0, 1, SessionPhase::Ready);
    runner.report(&seen).await;

    // Free: nothing is enforced, and that is so.
    let (status, free) = looks.get(PATH).await;
    assert_eq!(
        (status, &free["holder"], &free["epoch"], &free["enforced"]),
        (200, &Value::Null, &json!(0), &json!(true))
    );
    for caller in [&looks, &ann] {
        let (status, refused) = caller.call("PUT", PATH, &json!({"seat": "tab"})).await;
        assert!([403, 404].contains(&status), "{refused}");
    }

    // The agent takes what is free. Its runner hears of it, and says so.
    let taking = async { agent.call("PUT", PATH, &json!({"seat": "script"})).await };
    let enforcing = async {
        let order =
            eventually("told", async || runner.sync().await.pop().filter(|order| order.control.epoch == 1)).await;
        assert_eq!(order.control.holder.expect("held").by, "agent");
        seen.report += 1;
        seen.control = 1;
        runner.report(&seen).await;
    };
    let ((status, taken), ()) = tokio::join!(taking, enforcing);
    assert_eq!((status, &taken["holder"]["seat"], &taken["enforced"]), (200, &json!("script"), &json!(true)));

    // A person takes it over; who asks politely, and the agent, do not get it back.
    let (status, refused) = link.call("PUT", PATH, &json!({"seat": "tab", "if_free": true})).await;
    assert_eq!((status, &refused["code"]), (409, &json!("control_taken")));
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("agent (seat script)")), "{refused}");
    let (status, taken) = link.call("PUT", PATH, &json!({"seat": "tab"})).await;
    assert_eq!(
        (status, &taken["holder"]["by"], &taken["epoch"], &taken["enforced"]),
        (200, &json!("link"), &json!(2), &json!(false))
    );
    for (method, path) in [("PUT", PATH), ("DELETE", PATH)] {
        let (status, refused) = agent.call(method, path, &json!({"seat": "script"})).await;
        assert_eq!((status, &refused["code"]), (409, &json!("control_taken")));
    }
    // Handing back what one has lost takes it from nobody, not even by who may change the session.
    for caller in [&agent, &root] {
        let (status, still) = caller.call("DELETE", &format!("{PATH}?seat=script"), &json!({})).await;
        assert_eq!((status, &still["holder"]["by"]), (200, &json!("link")));
    }
    // Nor is another token of that name its holder.
    let twin = user(&app, &root, "link", Scope::Desktop(id("s"))).await;
    assert_eq!(twin.call("PUT", PATH, &json!({"seat": "tab", "if_free": true})).await.0, 409);
    // Prolonged it is the same lease.
    let (_, longer) = link.call("PUT", PATH, &json!({"seat": "tab", "ttl_seconds": 600})).await;
    assert_eq!((&longer["epoch"], longer["expires_at"].as_str() > taken["expires_at"].as_str()), (&json!(2), true));
    // The same token elsewhere is somebody else.
    let (status, still) = link.call("DELETE", &format!("{PATH}?seat=other"), &json!({})).await;
    assert_eq!((status, &still["holder"]["seat"]), (200, &json!("tab")));
    let (status, free) = link.call("DELETE", &format!("{PATH}?seat=tab"), &json!({})).await;
    assert_eq!((status, &free["holder"], &free["epoch"]), (200, &Value::Null, &json!(3)));
    let (_, again) = link.call("DELETE", &format!("{PATH}?seat=tab"), &json!({})).await;
    assert_eq!(again["epoch"], 3, "handed back once");

    // Whoever may change the session frees it whoever holds it.
    agent.call("PUT", PATH, &json!({"seat": "script"})).await;
    assert_eq!(root.call("DELETE", PATH, &json!({})).await.0, 200);

    // Bad words.
    for body in
        [json!({}), json!({"seat": "a b"}), json!({"seat": "t", "ttl_seconds": 9}), json!({"seat": "t", "force": true})]
    {
        assert_eq!(root.call("PUT", PATH, &body).await.0, 400, "{body}");
    }

    // All of it is told, and nothing twice.
    let mut feed = app.events.subscribe(Some(0)).await.expect("followed");
    let told = super::harness::within("told", async {
        let mut told = Vec::new();
        while told.len() < 5 {
            use futures::StreamExt as _;
            let Some(helix_server::events::FeedMessage::Item(event)) = feed.next().await else { continue };
            let item = serde_json::to_value(&event.item.event).expect("JSON");
            if item["type"] == "control" {
                told.push(format!("{} {} {}", item["epoch"], item["why"], item["by"]).replace('"', ""));
            }
        }
        told
    })
    .await;
    assert_eq!(told, ["1 taken agent", "2 taken link", "3 handed_back link", "4 taken agent", "5 handed_back admin"]);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_renews_is_free_again_and_an_ended_session_has_none() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let root = Caller::admin(fleet.serve(&app).await);
    app.sessions.create(&super::admin(), command("s", "make")).await.expect("created");
    let (status, taken) = root.call("PUT", PATH, &json!({"seat": "tab", "ttl_seconds": 10})).await;
    assert_eq!((status, &taken["holder"]["by"]), (200, &json!("admin")));
    let free = async {
        while root.get(PATH).await.1["holder"] != Value::Null {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(25), free).await.expect("free again");
    assert_eq!(root.get(PATH).await.1["epoch"], 2);
    root.post("/api/v1/sessions/s/stop", &json!({})).await;
    let (status, refused) = root.call("PUT", PATH, &json!({"seat": "tab"})).await;
    assert_eq!((status, &refused["code"]), (409, &json!("session_ended")));
    fleet.stop(&[app]).await;
}
