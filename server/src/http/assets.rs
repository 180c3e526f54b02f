//! The dashboard: pages and what they load, embedded at build time. No token: they hold nothing of the fleet.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use helix_protocol::ErrorCode;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::registry::Registry;
use crate::error::{Error, Result};

/// What the web build left in `web/dist`; the build script has checked that it did.
#[derive(RustEmbed)]
#[folder = "../web/dist"]
struct Dist;

/// Names stay the same over versions, so browsers ask each time; mostly they get a 304.
const CACHE: HeaderValue = HeaderValue::from_static("no-cache");

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .page("/", get(index))
        .page("/sessions/{id}/view", get(view))
        .page("/recordings/{id}/view", get(replay))
        .page("/assets/{*file}", get(asset))
}

async fn index(headers: HeaderMap) -> Result<Response> {
    file("index.html", &headers)
}

async fn view(headers: HeaderMap) -> Result<Response> {
    file("view.html", &headers)
}

async fn replay(headers: HeaderMap) -> Result<Response> {
    file("replay.html", &headers)
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response> {
    file(&format!("assets/{name}"), &headers)
}

fn file(name: &str, headers: &HeaderMap) -> Result<Response> {
    let file =
        Dist::get(name).ok_or_else(|| Error::new(ErrorCode::RouteNotFound, "no such file is part of the dashboard"))?;
    let tag = entity_tag(&file)?;
    if headers.get(header::IF_NONE_MATCH) == Some(&tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag), (header::CACHE_CONTROL, CACHE)]).into_response());
    }
    let kind =
        HeaderValue::from_str(file.metadata.mimetype()).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let headers = [(header::CONTENT_TYPE, kind), (header::ETAG, tag), (header::CACHE_CONTROL, CACHE)];
    Ok((headers, file.data).into_response())
}

fn entity_tag(file: &EmbeddedFile) -> Result<HeaderValue> {
    let hash = helix_protocol::ids::hex(&file.metadata.sha256_hash()[..16]);
    HeaderValue::try_from(format!("\"{hash}\""))
        .map_err(|error| Error::new(ErrorCode::Internal, "a hash is no header value").because(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_their_files_are_embedded() {
        for page in ["index.html", "view.html", "replay.html"] {
            let response = file(page, &HeaderMap::new()).expect("embedded");
            assert!(response.headers()[header::CONTENT_TYPE].to_str().expect("text").starts_with("text/html"));
            let tag = response.headers()[header::ETAG].clone();
            let again = HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)]);
            assert_eq!(file(page, &again).expect("embedded").status(), StatusCode::NOT_MODIFIED);
        }
        assert_eq!(file("../Cargo.toml", &HeaderMap::new()).expect_err("outside").code, ErrorCode::RouteNotFound);
    }
}
