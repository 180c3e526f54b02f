//! Tokens that enrol runners, runners' own tokens, and labels.

use std::collections::BTreeMap;

use helix_protocol::ErrorCode;
use helix_protocol::api::runners::{AmendRunner, EnrolRunner, RenewToken};
use helix_protocol::api::tokens::{CreateToken, NewToken, TokenScope};
use helix_protocol::ids::secret_hash;
use helix_protocol::link::{Reply, Request, RotateToken};
use helix_protocol::record::Scope;
use helix_protocol::session::SessionPhase;
use helix_server::app::App;
use helix_server::auth::Principal;

use super::harness::{ADMIN_TOKEN, Fleet, SimRunner, eventually, runner_id, within};
use super::{admin, command, id};

fn enrols() -> CreateToken {
    CreateToken { scope: TokenScope::Enrol, name: None, runner: None, reusable: false, ttl_seconds: None }
}

async fn made(app: &App, request: CreateToken) -> NewToken {
    app.tokens.create(&admin(), request).await.expect("made")
}

async fn enrol(app: &App, by: &Principal, runner: &str, own: &str) -> Result<(), ErrorCode> {
    let request = EnrolRunner { id: runner_id(runner), token_hash: secret_hash(own) };
    app.runners.enrol(by, request).await.map(|_| ()).map_err(|error| error.code)
}

async fn bearer(app: &App, token: &str) -> Result<Principal, (ErrorCode, String)> {
    app.tokens.verify(token).await.map_err(|error| (error.code, error.detail))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_one_use_enrols_one_runner() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let token = made(&app, CreateToken { runner: Some(runner_id("r")), ..enrols() }).await;
    assert!(!token.about.reusable && !token.about.used && !fleet.is_stored(&token.token));
    let by = bearer(&app, &token.token).await.expect("valid");
    assert_eq!(enrol(&app, &by, "other", "its own").await, Err(ErrorCode::Forbidden), "another id");
    // The answer may have been lost.
    for _ in 0..2 {
        enrol(&app, &by, "r", "its own").await.expect("enrolled");
    }
    assert!(app.tokens.list(&admin()).await.expect("listed")[0].used);
    // Not for a second machine, nor after the first one is gone.
    assert_eq!(enrol(&app, &by, "r", "a thief's").await, Err(ErrorCode::RunnerEnrolledElsewhere));
    app.runners.remove(&admin(), &runner_id("r"), false).await.expect("removed");
    for own in ["a thief's", "its own"] {
        assert_eq!(enrol(&app, &by, "r", own).await, Err(ErrorCode::TokenInvalid), "{own}");
    }

    // For any id, and still for one: of two at once one comes in, and who is refused for its id has used up nothing.
    let token = made(&app, enrols()).await;
    let by = bearer(&app, &token.token).await.expect("valid");
    SimRunner::enrol(&fleet, &app, "taken").await;
    assert_eq!(enrol(&app, &by, "taken", "own").await, Err(ErrorCode::RunnerEnrolledElsewhere));
    let both = tokio::join!(enrol(&app, &by, "a", "a's"), enrol(&app, &by, "b", "b's"));
    assert!(
        matches!(both, (Ok(()), Err(ErrorCode::TokenInvalid)) | (Err(ErrorCode::TokenInvalid), Ok(()))),
        "{both:?}"
    );
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reusable_token_enrols_until_it_is_revoked_or_ends() {
    let fleet = Fleet::start().await;
    let (app, other) = (fleet.server().await, fleet.server().await);
    let token = made(&app, CreateToken { reusable: true, ..enrols() }).await;
    for (app, runner) in [(&app, "a"), (&other, "b")] {
        let by = bearer(app, &token.token).await.expect("known to every replica");
        enrol(app, &by, runner, &format!("{runner}'s own")).await.expect("enrolled");
    }
    other.tokens.revoke(&admin(), &token.about.id).await.expect("revoked");
    for app in [&app, &other] {
        let (code, detail) = eventually("refused", async || bearer(app, &token.token).await.err()).await;
        assert!(code == ErrorCode::TokenInvalid && detail.contains("revoked"), "{detail}");
    }
    // Who came with it stays.
    assert_eq!(app.runners.list().await.expect("listed").len(), 2);
    bearer(&app, "b's own").await.expect("valid");

    let brief = made(&app, CreateToken { reusable: true, ttl_seconds: Some(1), ..enrols() }).await;
    let (code, detail) = eventually("it has expired", async || bearer(&app, &brief.token).await.err()).await;
    assert!(code == ErrorCode::TokenInvalid && detail.contains("expired at"), "{detail}");
    fleet.stop(&[app, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_which_tokens() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let person = |scope, name: &str| CreateToken { scope, name: Some(name.to_owned()), ..enrols() };
    let operator = made(&app, person(TokenScope::Operator, "olga")).await;
    let viewer = made(&app, person(TokenScope::Viewer, "vic")).await;
    let olga = bearer(&app, &operator.token).await.expect("valid");
    assert_eq!((olga.name.as_str(), &olga.scope), ("olga", &Scope::Operator));

    // An operator's word is for the fleet: enrolment tokens, and no people.
    let own = app.tokens.create(&olga, enrols()).await.expect("made");
    let refused = app.tokens.create(&olga, person(TokenScope::Viewer, "x")).await.expect_err("a person");
    assert_eq!(refused.code, ErrorCode::Forbidden);
    let seen: Vec<_> = app.tokens.list(&olga).await.expect("listed").into_iter().map(|token| token.id).collect();
    assert_eq!(seen, std::slice::from_ref(&own.about.id));
    let hidden = app.tokens.revoke(&olga, &viewer.about.id).await.expect_err("not hers");
    assert_eq!(hidden.code, ErrorCode::TokenNotFound);
    app.tokens.revoke(&olga, &own.about.id).await.expect("revoked");

    // What is wrong is refused: other people's names, no name, times, what does not go together.
    let named = |name: &str| person(TokenScope::User, name);
    let runner = Some(runner_id("r"));
    for (bad, why) in [
        (named("admin"), "a configured token's name"),
        (named("runner r"), "a runner's name"),
        (named(""), "no name"),
        (CreateToken { name: None, ..named("x") }, "nobody's"),
        (CreateToken { reusable: true, ..named("x") }, "a reusable person"),
        (CreateToken { runner: runner.clone(), ..named("x") }, "a person for a runner"),
        (CreateToken { runner, reusable: true, ..enrols() }, "one runner, again and again"),
        (CreateToken { ttl_seconds: Some(0), ..enrols() }, "no time"),
        (CreateToken { ttl_seconds: Some(24 * 3600 + 1), ..enrols() }, "one use for more than a day"),
        (CreateToken { ttl_seconds: Some(400 * 86_400), reusable: true, ..enrols() }, "more than a year"),
    ] {
        assert_eq!(app.tokens.create(&admin(), bad).await.expect_err(why).code, ErrorCode::InvalidRequest, "{why}");
    }
    fleet.stop(&[app]).await;
}

/// What `sync` says about a rotation.
async fn wanted(runner: &SimRunner) -> Option<RotateToken> {
    match runner.request(Request::Sync {}).await {
        Some(Reply::DesiredSet { rotate, .. }) => rotate,
        other => panic!("{other:?}"),
    }
}

async fn renew(app: &App, bearer_token: &str, token: &str) -> Result<(), ErrorCode> {
    let by = bearer(app, bearer_token).await.map_err(|(code, _)| code)?;
    app.runners.renew_token(&by, RenewToken { token_hash: secret_hash(token) }).await.map_err(|error| error.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_token_replaces_the_old_one_and_no_step_locks_the_runner_out() {
    let fleet = Fleet::start().await;
    let (app, other) = (fleet.server().await, fleet.server().await);
    let mut runner = SimRunner::enrol(&fleet, &app, "r1").await;
    runner.register(1).await;
    let old = "the-token-of-r1";
    assert_eq!(renew(&app, old, "unasked").await, Err(ErrorCode::Conflict), "nobody wants it");
    assert_eq!(wanted(&runner).await, None);
    runner.drain_nudges().await;
    for _ in 0..2 {
        assert!(app.runners.rotate(&runner.id).await.expect("wanted").rotating);
    }
    within("nudged", runner.nudge()).await;
    assert_eq!(wanted(&runner).await, Some(RotateToken { next: None }));

    // Announced once, and once more after a lost token: now both are good, everywhere.
    for next in ["lost", "new", "new"] {
        renew(&other, old, next).await.expect("announced");
    }
    let announced = Some(RotateToken { next: Some(secret_hash("new")) });
    eventually("the record is seen", async || (wanted(&runner).await == announced).then_some(())).await;
    for token in [old, "new"] {
        bearer(&app, token).await.expect("good over HTTP");
        fleet.connect_as(token).await.expect("good over NATS");
    }
    assert!(bearer(&app, "lost").await.is_err(), "replaced before it was proved");
    let (thief, foreign) = ("a thief's", SimRunner::enrol(&fleet, &app, "r2").await);
    assert_eq!(renew(&app, "the-token-of-r2", thief).await, Err(ErrorCode::Conflict), "another runner's token");
    assert_eq!(renew(&app, "new", thief).await, Err(ErrorCode::Forbidden), "only who has the old one announces");

    // Proved, and proved again after a lost answer: the old one ends, with what it opened.
    let watched = fleet.connect_as(old).await.expect("still good");
    for app in [&other, &app, &other] {
        renew(app, "new", "new").await.expect("proved");
    }
    eventually("the old link ends", async || {
        (watched.connection_state() != async_nats::connection::State::Connected).then_some(())
    })
    .await;
    for app in [&app, &other] {
        eventually("the old token ends", async || bearer(app, old).await.err()).await;
    }
    fleet.connect_as(old).await.expect_err("the callout refuses it");
    fleet.connect_as("new").await.expect("let in");
    let view = app.runners.get(&runner.id).await.expect("there");
    assert!(!view.rotating && view.token_since > Some(view.enrolled_at), "{view:?}");
    // It enrols again with the new one: the same enrolment.
    let by = bearer(&app, ADMIN_TOKEN).await.expect("the admin's");
    enrol(&app, &by, "r1", "new").await.expect("the same");
    assert_eq!(enrol(&app, &by, "r1", old).await, Err(ErrorCode::RunnerEnrolledElsewhere));
    // The other runner's link was nobody's business.
    foreign.heartbeat().await;
    fleet.stop(&[app, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_runner_is_cut_off_at_once() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    let bystander = SimRunner::enrol(&fleet, &app, "r2").await;
    runner.register(1).await;
    bystander.register(1).await;
    let refused = app.runners.remove(&admin(), &runner.id, false).await.expect_err("it is online");
    assert!(refused.code == ErrorCode::Conflict && refused.detail.contains("--force"), "{refused:?}");
    app.runners.remove(&admin(), &runner.id, true).await.expect("removed");
    eventually("its link ends", async || {
        (runner.client.connection_state() != async_nats::connection::State::Connected).then_some(())
    })
    .await;
    assert_eq!(bearer(&app, "the-token-of-r1").await.expect_err("revoked").0, ErrorCode::TokenInvalid);
    bystander.heartbeat().await;
    // A runner may leave by itself, and take nobody along.
    let own = bearer(&app, "the-token-of-r2").await.expect("valid");
    app.runners.remove(&own, &bystander.id, false).await.expect("it left");
    assert!(app.runners.list().await.expect("listed").is_empty());
    fleet.stop(&[app]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_of_an_operator_win_and_place() {
    let fleet = Fleet::start().await;
    let app = fleet.server().await;
    let runner = SimRunner::enrol(&fleet, &app, "r1").await;
    let own = BTreeMap::from([("pool".to_owned(), "slow".to_owned()), ("site".to_owned(), "cellar".to_owned())]);
    runner.register_as(4, |facts| facts.labels = own.clone()).await;
    runner.heartbeat().await;
    let set = |labels: &[(&str, Option<&str>)]| AmendRunner {
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect(),
        cordoned: None,
    };
    let mut wants_fast = command("s", "make");
    wants_fast.pool = Some(helix_protocol::PoolName::parse("fast").expect("valid"));
    app.sessions.create(&admin(), wants_fast).await.expect("created");
    eventually("no runner is of the pool", async || {
        app.sessions.get(&admin(), &id("s")).await.expect("found").cause.filter(|cause| cause.message.contains("pool"))
    })
    .await;

    let view = app.runners.amend(&runner.id, set(&[("pool", Some("fast")), ("rack", Some("7"))])).await.expect("set");
    assert_eq!(
        view.labels.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>(),
        ["pool=fast", "rack=7", "site=cellar"]
    );
    eventually("placed", async || {
        let phase = app.sessions.get(&admin(), &id("s")).await.expect("found").phase;
        (phase == SessionPhase::Assigned).then_some(())
    })
    .await;
    // They outlive a registration, and the runner's own word shows again without them.
    runner.register_as(4, |facts| facts.labels = own.clone()).await;
    let view = app.runners.amend(&runner.id, set(&[("pool", None)])).await.expect("removed");
    assert_eq!((view.labels["pool"].as_str(), view.labels["rack"].as_str()), ("slow", "7"));
    for bad in ["", "a b", "ü"] {
        let refused = app.runners.amend(&runner.id, set(&[(bad, Some("x"))])).await.expect_err("no name of a label");
        assert_eq!(refused.code, ErrorCode::InvalidRequest, "{bad:?}");
    }

    // Cordoned, it takes nothing new.
    let cordon = |cordoned| AmendRunner { cordoned: Some(cordoned), ..AmendRunner::default() };
    assert!(app.runners.amend(&runner.id, cordon(true)).await.expect("cordoned").cordoned);
    app.sessions.create(&admin(), command("t", "make")).await.expect("created");
    eventually("it waits", async || {
        app.sessions
            .get(&admin(), &id("t"))
            .await
            .expect("found")
            .cause
            .filter(|cause| cause.message.contains("cordoned"))
    })
    .await;
    app.runners.amend(&runner.id, cordon(false)).await.expect("uncordoned");
    eventually("placed", async || {
        let phase = app.sessions.get(&admin(), &id("t")).await.expect("found").phase;
        (phase == SessionPhase::Assigned).then_some(())
    })
    .await;
    fleet.stop(&[app]).await;
}
