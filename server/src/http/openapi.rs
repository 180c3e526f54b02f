//! The API document, and a page to browse it that works offline.

use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use helix_protocol::ErrorCode;
use http::header;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};

use super::headers::API_PAGE;
use super::registry::{BEARER, Registry};
use crate::error::{Error, Result};

const DOCUMENT: &str = "/api/openapi.json";

/// The document without routes: those come with their registration.
pub(super) fn document() -> OpenApi {
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Helix")
                .description(Some("Fleet of agent desktops: sessions, runners, their desktops and events."))
                .version(env!("CARGO_PKG_VERSION"))
                .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
                .build(),
        )
        .components(Some(ComponentsBuilder::new().security_scheme(BEARER, bearer).build()))
        .security(Some([SecurityRequirement::new(BEARER, [""; 0])]))
        .build()
}

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .page(DOCUMENT, get(json))
        .page("/api/docs", get(async || Redirect::permanent("/api/docs/")))
        .page("/api/docs/", get(async || page("")))
        .page("/api/docs/{*file}", get(async |Path(file): Path<String>| page(&file)))
}

async fn json(Extension(document): Extension<Arc<OpenApi>>) -> Json<Arc<OpenApi>> {
    Json(document)
}

pub(super) fn page(file: &str) -> Result<Response> {
    let config = Arc::new(utoipa_swagger_ui::Config::from(DOCUMENT));
    let found = utoipa_swagger_ui::serve(file, config)
        .map_err(|error| Error::new(ErrorCode::Internal, format!("the API page cannot be made: {error}")))?;
    let file = found.ok_or_else(|| Error::new(ErrorCode::RouteNotFound, "no such file is part of the API page"))?;
    let mut response = ([(header::CONTENT_TYPE, file.content_type)], file.bytes.into_owned()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, API_PAGE);
    if file.gzpipped {
        headers.insert(header::CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
    }
    Ok(response)
}
