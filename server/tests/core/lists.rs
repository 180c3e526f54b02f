//! Lists of sessions: what each filter leaves, and pages without hole or repeat.

use std::collections::BTreeMap;

use helix_protocol::KindName;
use helix_protocol::api::{CreateSession, SessionPage};
use helix_protocol::record::Scope;
use helix_protocol::session::{SessionPhase, SessionSpec, Unclaimed};
use helix_server::app::App;
use helix_server::auth::Principal;
use helix_server::sessions::Filter;
use jiff::Timestamp;

use super::harness::{Fleet, SimRunner, eventually, id};
use super::http::Answer;
use super::{admin, command};

fn user() -> Principal {
    Principal { name: "user".to_owned(), scope: Scope::User, token_hash: String::new() }
}

/// Five sessions, made in this order: `a` and `b` are on runner r1, the others wait.
async fn five(fleet: &Fleet, app: &App) {
    let terminal = KindName::parse("terminal").expect("valid kind");
    let runner = SimRunner::enrol(fleet, app, "r1").await;
    runner.register_as(2, |facts| facts.kinds.push(terminal.clone())).await;
    // In turn: where others wait, too, owners take turns.
    let assigned =
        async |count| eventually("assigned", async || Some(runner.sync().await).filter(|set| set.len() == count)).await;
    for (number, (session, by, kind, labels)) in [
        ("a", admin(), Some(terminal), &[("team", "web"), ("stage", "test")][..]),
        ("b", admin(), None, &[("team", "web")]),
        ("c", user(), None, &[("team", "web"), ("stage", "live")]),
        ("d", admin(), None, &[("team", "bus")]),
        ("e", admin(), None, &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let labels: BTreeMap<_, _> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        app.sessions.create(&by, CreateSession { kind, labels, ..command(session, "make") }).await.expect("created");
        if number < 2 {
            assigned(number + 1).await;
        }
    }
    let orders = assigned(2).await;
    let order = orders.iter().find(|order| order.session == id("b")).expect("it has a runner");
    runner.report(&runner.seen("b", order.epoch.0, 1, SessionPhase::Ready)).await;
}

fn ids(page: &SessionPage) -> String {
    page.sessions.iter().map(|view| view.id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_follow_each_other_without_hole_or_repeat() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    Box::pin(five(&fleet, &app)).await;
    let walk = async |by: &Principal, filter: Filter| {
        let mut filter = filter;
        let mut pages = Vec::new();
        loop {
            let page = app.sessions.list(by, &filter).await.expect("listed");
            pages.push(ids(&page));
            filter.cursor = page.next_cursor;
            if filter.cursor.is_none() || pages.len() > 5 {
                return pages;
            }
        }
    };
    let by_two = || Filter { limit: 2, ..Filter::default() };
    assert_eq!(walk(&admin(), by_two()).await, ["ed", "cb", "a"]);
    // A full last page is the last.
    assert_eq!(walk(&admin(), Filter { limit: 5, ..Filter::default() }).await, ["edcba"]);
    let waiting = Filter { phases: vec![SessionPhase::Pending], ..by_two() };
    assert_eq!(walk(&admin(), waiting).await, ["ed", "c"]);
    assert_eq!(walk(&user(), by_two()).await, ["c"], "others' sessions are not listed");

    // What comes and goes meanwhile moves nothing.
    let first = app.sessions.list(&admin(), &by_two()).await.expect("listed");
    app.sessions.create(&admin(), command("f", "make")).await.expect("created");
    app.sessions.delete(&admin(), &id("d")).await.expect("deleted");
    let second = Filter { cursor: first.next_cursor, ..by_two() };
    assert_eq!(walk(&admin(), second).await, ["cb", "a"]);
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_filter_leaves_what_it_names() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    Box::pin(five(&fleet, &app)).await;
    let address = fleet.serve(&app).await;
    for (query, expected) in [
        ("", "edcba"),
        ("label=team=web", "cba"),
        ("label=team=web,stage=live", "c"),
        ("label=team=none", ""),
        ("label=none=web", ""),
        ("phase=Pending", "edc"),
        ("phase=ready", "b"),
        ("phase=Ready,Assigned", "ba"),
        ("phase=Failed", ""),
        ("runner=r1", "ba"),
        ("runner=r2", ""),
        // Asked for, or said by the runner where nobody asked.
        ("kind=terminal", "a"),
        ("kind=command", "b"),
        ("owner=user", "c"),
        ("owner=admin", "edba"),
        ("owner=nobody", ""),
        ("label=team=web&phase=Ready&runner=r1&kind=command&owner=admin", "b"),
        ("label=team=web&phase=Ready&runner=r1&kind=terminal&owner=admin", ""),
        ("owner=admin&limit=2", "ed"),
    ] {
        let body = Answer::ask(address, &format!("/api/v1/sessions?{query}")).await.body().await;
        let page: SessionPage = serde_json::from_value(body).expect(query);
        assert_eq!(ids(&page), expected, "{query}");
        assert_eq!(page.next_cursor.is_some(), query.contains("limit"), "{query}");
    }
    for (query, words) in [
        ("phase=Sleeping", "no phase \"Sleeping\""),
        ("label=team", "is not `name=value`"),
        ("limit=0", "`limit` is 1 to"),
        ("cursor=x", "cursor is not one that a former page gave"),
        ("colour=red", "unknown field `colour`"),
    ] {
        let problem = Answer::ask(address, &format!("/api/v1/sessions?{query}")).await.body().await;
        assert_eq!(problem["status"], 400, "{query}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{problem}");
    }
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_without_a_record_is_listed_among_the_others() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.heartbeat().await;
    app.sessions.create(&admin(), command("a", "make")).await.expect("created");
    let mut seen = runner.seen("u", 7, 1, SessionPhase::Ready);
    seen.unclaimed = Some(Unclaimed { spec: SessionSpec::default(), received_at: Timestamp::now() });
    app.store.observed.create("r1.u", &seen).await.expect("stored");
    app.sessions.create(&admin(), command("z", "make")).await.expect("created");
    let list = async |by: &Principal, filter: Filter| app.sessions.list(by, &filter).await.expect("listed");
    let by_one = || Filter { limit: 1, ..Filter::default() };
    let mut pages = vec![list(&admin(), by_one()).await];
    while let Some(cursor) = pages.last().and_then(|page| page.next_cursor.clone()) {
        assert!(pages.len() < 4, "pages without end");
        pages.push(list(&admin(), Filter { cursor: Some(cursor), ..by_one() }).await);
    }
    assert_eq!(pages.iter().map(ids).collect::<Vec<_>>(), ["z", "u", "a"]);
    let all = || Filter { limit: 10, ..Filter::default() };
    for (filter, expected) in [
        (Filter { phases: vec![SessionPhase::Ready], ..all() }, "u"),
        (Filter { phases: vec![SessionPhase::Pending], ..all() }, "za"),
        (Filter { runner: Some(runner.id.clone()), ..all() }, "u"),
        (Filter { kind: Some("command".to_owned()), ..all() }, "u"),
        (Filter { owner: Some("admin".to_owned()), ..all() }, "za"),
    ] {
        assert_eq!(ids(&list(&admin(), filter.clone()).await), expected, "{filter:?}");
    }
    assert_eq!(ids(&list(&user(), all()).await), "", "nobody's is not everybody's");
    // Of those that wait each has its place; what runs has none.
    let places: Vec<_> = list(&admin(), all()).await.sessions.iter().map(|view| view.queue_position).collect();
    assert_eq!(places, [Some(2), None, Some(1)]);
    fleet.stop(&[app]).await;
}
