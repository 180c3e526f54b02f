use helix_protocol::ErrorCode;
use helix_protocol::api::Problem;
use reqwest::StatusCode;

use super::refusal::next_step;
use super::*;

fn problem(code: ErrorCode, detail: &str) -> Vec<u8> {
    let problem = Problem {
        kind: format!("urn:helix:problem:{code}"),
        title: code.title().to_owned(),
        status: code.status(),
        code,
        detail: detail.to_owned(),
    };
    serde_json::to_vec(&problem).expect("a problem is JSON")
}

fn refused(code: ErrorCode, detail: &str) -> CliError {
    let status = StatusCode::from_u16(code.status()).expect("a status");
    refusal("cannot read the session".into(), "GET http://h/api/v1/sessions/a".into(), status, &problem(code, detail))
}

#[test]
fn a_problem_document_becomes_what_where_why_next() {
    insta::assert_snapshot!(refused(ErrorCode::SessionNotFound, "there is no session a"), @r"
    error: cannot read the session
      where: GET http://h/api/v1/sessions/a
      why:   there is no session a (session_not_found)
      next:  helixctl session list
    ");
}

#[test]
fn every_code_has_a_class() {
    let classes: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| (code.to_string(), next_step(*code).0.exit_code()))
        .filter(|(_, exit)| *exit != 1)
        .map(|(code, exit)| format!("{exit} {code}"))
        .collect();
    insta::assert_snapshot!(classes.join("\n"), @r"
    4 token_missing
    4 token_invalid
    4 outside_workspace
    4 file_denied
    4 forbidden
    4 foreign_origin
    4 ticket_invalid
    3 store_unavailable
    3 runner_unavailable
    3 display_unavailable
    3 no_runner
    5 wait_timeout
    ");
}

#[test]
fn an_answer_from_something_else_is_told_apart() {
    let error = refusal("cannot x".into(), "GET http://h/".into(), StatusCode::NOT_FOUND, b"<html>");
    insta::assert_snapshot!(error, @r"
    error: cannot x
      where: GET http://h/
      why:   HTTP 404 Not Found, and not from a Helix server of this version
      next:  check the address: --url, HELIX_URL, ~/.config/helix/config.toml
    ");
}

#[test]
fn urls_are_encoded() {
    let base = Url::parse("http://127.0.0.1:8080/").expect("a url");
    let url = api_url(&base, &["sessions", "a/../b"], &[("label", "team=a b&c".to_owned())]);
    assert_eq!(url.as_str(), "http://127.0.0.1:8080/api/v1/sessions/a%2F..%2Fb?label=team%3Da+b%26c");
    assert!(is_loopback(&base));
    assert!(is_loopback(&Url::parse("http://[::1]:1/").expect("a url")));
    assert!(!is_loopback(&Url::parse("http://example.org/").expect("a url")));
}
