//! HTTP client over `protocol::api`: one method per route, every failure a [`CliError`] with the right exit code.

mod logs;

use std::time::Duration;

use helix_protocol::api::{
    AmendSession, CreateLink, CreateSession, FleetStatus, Link, Problem, RunnerList, RunnerView, SessionPage,
    SessionView,
};
use helix_protocol::{ErrorCode, RunnerId, SessionId};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::logs::{FollowedLogs, LogsRequest};
use crate::error::{CliError, Kind, Result, chain};
use crate::settings::Connection;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A client of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Where, and with which token.
    pub connection: Connection,
}

impl Client {
    /// A client; connects with the first request.
    pub fn new(connection: Connection) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            // A redirect to another place would carry the request there; servers of ours send none.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("helixctl/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&connection.url) {
            // A proxy of the environment cannot reach this machine's loopback.
            builder = builder.no_proxy();
        }
        let http =
            builder.build().map_err(|error| CliError::failed("cannot make an HTTP client").because(chain(&error)))?;
        Ok(Self { http, connection })
    }

    /// `POST /sessions`.
    pub async fn create_session(&self, request: &CreateSession) -> Result<SessionView> {
        self.call("create the session", Method::POST, &["sessions"], &[], Some(request)).await
    }

    /// `GET /sessions/{id}`.
    pub async fn session(&self, id: &SessionId) -> Result<SessionView> {
        self.get("read the session", &["sessions", id.as_str()]).await
    }

    /// `GET /sessions`.
    pub async fn sessions(&self, filter: &[(&str, String)]) -> Result<SessionPage> {
        self.call("list the sessions", Method::GET, &["sessions"], filter, None::<&()>).await
    }

    /// `POST /sessions/{id}/stop`.
    pub async fn stop_session(&self, id: &SessionId) -> Result<SessionView> {
        self.call("stop the session", Method::POST, &["sessions", id.as_str(), "stop"], &[], None::<&()>).await
    }

    /// `DELETE /sessions/{id}`.
    pub async fn delete_session(&self, id: &SessionId) -> Result<SessionView> {
        self.call("delete the session", Method::DELETE, &["sessions", id.as_str()], &[], None::<&()>).await
    }

    /// `POST /sessions/{id}/links`.
    pub async fn create_link(&self, id: &SessionId, request: &CreateLink) -> Result<Link> {
        self.call("make a link", Method::POST, &["sessions", id.as_str(), "links"], &[], Some(request)).await
    }

    /// `PATCH /sessions/{id}`.
    pub async fn amend_session(&self, id: &SessionId, request: &AmendSession) -> Result<SessionView> {
        self.call("change the limits", Method::PATCH, &["sessions", id.as_str()], &[], Some(request)).await
    }

    /// `GET /runners`.
    pub async fn runners(&self) -> Result<RunnerList> {
        self.get("list the runners", &["runners"]).await
    }

    /// `GET /runners/{id}`.
    pub async fn runner(&self, id: &RunnerId) -> Result<RunnerView> {
        self.get("read the runner", &["runners", id.as_str()]).await
    }

    /// `GET /status`.
    pub async fn status(&self) -> Result<FleetStatus> {
        self.get("read the status", &["status"]).await
    }

    async fn get<T: DeserializeOwned>(&self, what: &str, path: &[&str]) -> Result<T> {
        self.call(what, Method::GET, path, &[], None::<&()>).await
    }

    /// A request with its token, and its place in words.
    fn request(&self, method: Method, path: &[&str], query: &[(&str, String)]) -> (reqwest::RequestBuilder, String) {
        let url = api_url(&self.connection.url, path, query);
        let place = format!("{method} {url}");
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.connection.token {
            request = request.bearer_auth(token.expose());
        }
        (request, place)
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        what: &str,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&B>,
    ) -> Result<T> {
        let what = format!("cannot {what}");
        let (request, place) = self.request(method, path, query);
        let mut request = request.timeout(ANSWER_WITHIN);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| transport_error(&what, &place, &error))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| transport_error(&what, &place, &error))?;
        if !status.is_success() {
            return Err(refusal(what, place, status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            CliError::failed(what)
                .at(place)
                .because(format!("the answer is not what this helixctl expects: {error}"))
                .next("check that the address is a Helix server of this version: helixctl version")
        })
    }
}

/// True for this machine's loopback.
fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// `<base>/api/v1/<path>?<query>`, everything encoded.
pub fn api_url(base: &Url, path: &[&str], query: &[(&str, String)]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.clear().extend(["api", "v1"]).extend(path);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

fn transport_error(what: &str, place: &str, error: &reqwest::Error) -> CliError {
    if error.is_timeout() && !error.is_connect() {
        return timed_out(what, place);
    }
    CliError::new(Kind::Unreachable, what)
        .at(place)
        .because(innermost(error))
        .next("on this machine: helixctl up --detach; elsewhere: check the address and that the server runs")
}

fn timed_out(what: &str, place: &str) -> CliError {
    CliError::new(Kind::TimedOut, what)
        .at(place)
        .because(format!("no answer within {} s", ANSWER_WITHIN.as_secs()))
        .next("helixctl status")
}

/// The last cause is what people look for ("connection refused"); reqwest's own words repeat the address.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// A problem document, or whatever else answered, as an error.
fn refusal(what: String, place: String, status: StatusCode, body: &[u8]) -> CliError {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        let kind = match status.as_u16() {
            401 | 403 => Kind::Refused,
            502..=504 => Kind::Unreachable,
            _ => Kind::Failed,
        };
        return CliError::new(kind, what)
            .at(place)
            .because(format!("HTTP {status}, and not from a Helix server of this version"))
            .next("check the address: --url, HELIX_URL, ~/.config/helix/config.toml");
    };
    let (kind, next) = next_step(problem.code);
    let mut error = CliError::new(kind, what).at(place).because(format!("{} ({})", problem.detail, problem.code));
    error.next = next.map(str::to_owned);
    error.code = Some(problem.code);
    error
}

/// Class of a code, and what to do where the server's own words do not say it.
fn next_step(code: ErrorCode) -> (Kind, Option<&'static str>) {
    match code {
        ErrorCode::TokenMissing | ErrorCode::TokenInvalid => {
            (Kind::Refused, Some("give the token: --token-file FILE, HELIX_TOKEN, or --state-dir DIR of `helixctl up`"))
        }
        ErrorCode::Forbidden | ErrorCode::ForeignOrigin | ErrorCode::TicketInvalid => {
            (Kind::Refused, Some("use a token that allows it: --token-file FILE or HELIX_TOKEN"))
        }
        ErrorCode::StoreUnavailable | ErrorCode::RunnerUnavailable | ErrorCode::NoRunner => {
            (Kind::Unreachable, Some("helixctl status"))
        }
        ErrorCode::WaitTimeout => (Kind::TimedOut, Some("helixctl status")),
        ErrorCode::SessionNotFound | ErrorCode::SessionEnded => (Kind::Failed, Some("helixctl session list")),
        ErrorCode::RunnerNotFound | ErrorCode::UnknownKind => (Kind::Failed, Some("helixctl runner list")),
        ErrorCode::SessionExists => (Kind::Failed, Some("take another --id, or leave it out and get a new one")),
        ErrorCode::AboveMaximum => (Kind::Failed, Some("helixctl runner show ID tells the maximum")),
        ErrorCode::SessionNotReady => (Kind::Failed, Some("helixctl session show ID")),
        ErrorCode::Conflict => (Kind::Failed, Some("repeat the command")),
        _ => (Kind::Failed, None),
    }
}

#[cfg(test)]
mod tests {
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
        refusal(
            "cannot read the session".into(),
            "GET http://h/api/v1/sessions/a".into(),
            status,
            &problem(code, detail),
        )
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
        4 forbidden
        4 foreign_origin
        4 ticket_invalid
        3 store_unavailable
        3 runner_unavailable
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
}
