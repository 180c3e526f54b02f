//! HTTP client over `protocol::api`: one method per route, every failure a [`CliError`] with the right exit code.

mod audit;
mod checkpoints;
mod desktop;
mod files;
mod images;
mod logs;
mod patience;
mod pools;
mod reap;
mod recordings;
mod refusal;
mod runners;
mod secrets;
pub mod socket;
mod spec_tasks;
mod threads;
mod tokens;
mod viewer;

use std::time::Duration;

use helix_protocol::api::placement::PlacementView;
use helix_protocol::api::status::FleetStatus;
use helix_protocol::api::{
    AmendSession, CreateLink, CreateSession, Link, RunnerList, RunnerView, SessionPage, SessionView,
};
use helix_protocol::{RunnerId, Seat, SessionId};
use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::desktop::PictureFile;
pub use self::files::{FileHead, Upload};
pub use self::logs::{FollowedLogs, LogsRequest};
pub use self::patience::patiently;
pub use self::refusal::{next_step as class_of, refusal};
pub use self::threads::Page;
use crate::error::{CliError, Kind, Result, chain};
use crate::settings::{Connection, process_env};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Who makes a server's certificate good is the machine's matter, for everything that speaks TLS here.
const AUTHORITIES: &str = "the machine has to know who signed the server's certificate: apt-get install ca-certificates, put an \
                           authority of your own into /usr/local/share/ca-certificates and run update-ca-certificates; or \
                           name a file of authorities: SSL_CERT_FILE=FILE";

/// A client of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Where, and with which token.
    pub connection: Connection,
    /// From which seat it types, where somebody may hold the control of a desktop.
    seat: Option<Seat>,
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
        if connection.url.scheme() != "https" {
            // A machine that knows no authority at all is one that can speak plain HTTP.
            builder = builder.tls_certs_only([]);
        }
        let unfit = |error: reqwest::Error| {
            CliError::failed("cannot make an HTTP client").because(chain(&error)).next(AUTHORITIES)
        };
        let http = builder.build().map_err(unfit)?;
        let seat = process_env("HELIX_SEAT").map(Seat::parse).transpose();
        let seat = seat.map_err(|error| CliError::new(Kind::Usage, error.to_string()).at("HELIX_SEAT"))?;
        Ok(Self { http, connection, seat })
    }

    /// `POST /sessions`.
    pub async fn create_session(&self, request: &CreateSession) -> Result<SessionView> {
        self.call("create the session", Method::POST, &["sessions"], &[], Some(request)).await
    }

    /// `GET /sessions/{id}`.
    pub async fn session(&self, id: &SessionId) -> Result<SessionView> {
        self.get("read the session", &["sessions", id.as_str()]).await
    }

    /// `GET /sessions/{id}/placement`.
    pub async fn placement(&self, id: &SessionId) -> Result<PlacementView> {
        self.get("ask why the session is where it is", &["sessions", id.as_str(), "placement"]).await
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
        if let Some(seat) = &self.seat {
            request = request.header("x-helix-seat", seat.as_str());
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
        let (place, bytes) = self.ask(what, method, path, query, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            CliError::failed(format!("cannot {what}"))
                .at(place)
                .because(format!("the answer is not what this helixctl expects: {error}"))
                .next("check that the address is a Helix server of this version: helixctl version")
        })
    }

    /// The place in words and the body of an answer that is no refusal.
    async fn ask<B: Serialize>(
        &self,
        what: &str,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&B>,
    ) -> Result<(String, Vec<u8>)> {
        let what = format!("cannot {what}");
        let (request, place) = self.request(method, path, query);
        let mut request = request.timeout(ANSWER_WITHIN);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| transport_error(&what, &place, &error))?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| transport_error(&what, &place, &error))?;
        if status.is_success() { Ok((place, bytes.into())) } else { Err(refusal(what, place, status, &bytes)) }
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
    let why = innermost(error);
    // rustls' words for all that can be wrong with one.
    let next = if why.starts_with("invalid peer certificate") {
        AUTHORITIES
    } else {
        "on this machine: helixctl up --detach; elsewhere: check the address and that the server runs"
    };
    CliError::new(Kind::Unreachable, what).at(place).because(why).next(next)
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

#[cfg(test)]
mod tests;
