//! The only door for routes: each names what it needs, and goes into the API document with it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Router;
use axum::routing::MethodRouter;
use helix_protocol::api::Problem;
use http::Method;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{ContentBuilder, OpenApi, RefOr, Response, ResponseBuilder};
use utoipa::{PartialSchema as _, ToSchema as _};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::app::App;
use crate::auth::Need;

/// Name of the bearer scheme in the API document.
pub const BEARER: &str = "bearer";

/// Routes under construction.
pub struct Registry {
    router: OpenApiRouter<App>,
    table: Table,
}

/// What each route needs: path pattern → method → need. The guard refuses what is not in it.
#[derive(Default)]
pub struct Table(HashMap<String, BTreeMap<String, Need>>);

impl Table {
    /// The need of a route. `HEAD` is answered by `GET`'s handler.
    pub fn need(&self, pattern: &str, method: &Method) -> Option<Need> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.0.get(pattern)?.get(method.as_str()).copied()
    }

    /// Every route, for the walk.
    #[cfg(test)]
    pub fn routes(&self) -> Vec<(&str, &str, Need)> {
        let mut routes: Vec<_> = self
            .0
            .iter()
            .flat_map(|(path, methods)| {
                methods.iter().map(move |(method, need)| (path.as_str(), method.as_str(), *need))
            })
            .collect();
        routes.sort_unstable_by_key(|(path, method, _)| (*path, *method));
        routes
    }

    fn insert(&mut self, pattern: &str, method: &str, need: Need) {
        let former = self.0.entry(pattern.to_owned()).or_default().insert(method.to_owned(), need);
        // axum panics on a second handler for the same method anyway; this says which.
        assert!(former.is_none(), "two routes for {method} {pattern}");
    }
}

impl Registry {
    /// No routes yet.
    pub fn new(document: OpenApi) -> Self {
        Self { router: OpenApiRouter::with_openapi(document), table: Table::default() }
    }

    /// Adds API handlers that share a path and a need.
    pub fn add(mut self, need: Need, (mut schemas, mut paths, handlers): UtoipaMethodRouter<App>) -> Self {
        for (path, item) in &mut paths.paths {
            for (method, operation) in operations(item) {
                self.table.insert(path, method, need);
                describe(operation, need);
            }
        }
        schemas.push((Problem::name().into_owned(), Problem::schema()));
        Problem::schemas(&mut schemas);
        Self { router: self.router.routes((schemas, paths, handlers)), table: self.table }
    }

    /// Adds a public static page: `GET` only, not part of the API document.
    pub fn page(mut self, path: &str, handler: MethodRouter<App>) -> Self {
        self.table.insert(path, "GET", Need::Public);
        Self { router: self.router.route(path, handler), table: self.table }
    }

    /// The router, what its routes need, and the API document.
    pub fn into_parts(self) -> (Router<App>, Arc<Table>, Arc<OpenApi>) {
        let (router, document) = self.router.split_for_parts();
        (router, Arc::new(self.table), Arc::new(document))
    }
}

/// The operations of a path with their methods.
pub fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("GET", item.get.as_mut()),
        ("PUT", item.put.as_mut()),
        ("POST", item.post.as_mut()),
        ("DELETE", item.delete.as_mut()),
        ("PATCH", item.patch.as_mut()),
        ("HEAD", item.head.as_mut()),
        ("OPTIONS", item.options.as_mut()),
        ("TRACE", item.trace.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation?)))
}

/// Writes the need and the shape of errors into the operation's documentation.
fn describe(operation: &mut Operation, need: Need) {
    let needs = format!("Needs {}.", need.words());
    operation.description =
        Some(operation.description.take().map_or_else(|| needs.clone(), |text| format!("{text}\n\n{needs}")));
    // An empty list overrides the document's default: no bearer.
    operation.security = Some(match need {
        Need::Public | Need::Ticket => Vec::new(),
        _ => vec![SecurityRequirement::new(BEARER, [""; 0])],
    });
    operation.responses.responses.insert("default".to_owned(), RefOr::T(problem_response()));
}

fn problem_response() -> Response {
    let schema = utoipa::openapi::Ref::from_schema_name(Problem::name());
    ResponseBuilder::new()
        .description("Not done: a problem document (RFC 9457) with a stable `code`")
        .content("application/problem+json", ContentBuilder::new().schema(Some(schema)).build())
        .build()
}
