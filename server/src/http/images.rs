//! Images: brought by operators, read by runners and people, named, rolled back, collected.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use helix_protocol::ErrorCode;
use helix_protocol::api::images::{ChunkList, CollectImages, Collected, ImageList, SetTag, StoredImage, TagRecord};
use helix_protocol::image::{Digest, MAX_STORED_BYTES, SignedManifest};
use http::{StatusCode, header};
use tokio::time::{Duration, timeout};
use utoipa_axum::routes;

use super::extract::{self, OptionalBody, Path};
use super::registry::Registry;
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};

/// For one chunk to arrive.
const BODY_WITHIN: Duration = Duration::from_mins(2);
/// A chunk never changes.
const FOR_GOOD: &str = "private, max-age=31536000, immutable";

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Fleet, routes!(list))
        .add(Need::Operate, routes!(missing))
        .add(Need::Operate, routes!(put_chunk))
        .add(Need::Images, routes!(read_chunk))
        .add(Need::Operate, routes!(put_manifest))
        .add(Need::Images, routes!(read_manifest))
        .add(Need::Operate, routes!(set_tag))
        .add(Need::Operate, routes!(delete_tag))
        .add(Need::Operate, routes!(roll_back))
        .add(Need::Operate, routes!(collect))
}

/// All names with their tags, and all images, newest first.
#[utoipa::path(get, path = "/api/v1/images", tag = "images", responses((status = 200, body = ImageList)))]
async fn list(State(app): State<App>) -> Result<Json<ImageList>> {
    app.images.list().await.map(Json)
}

/// Which of these chunks the server lacks: those are to be brought.
#[utoipa::path(post, path = "/api/v1/images/chunks/missing", tag = "images", request_body = ChunkList,
    responses((status = 200, body = ChunkList)))]
async fn missing(State(app): State<App>, extract::Body(list): extract::Body<ChunkList>) -> Result<Json<ChunkList>> {
    app.images.missing(list).await.map(Json)
}

/// Brings a chunk: zstd of the bytes that the digest is of. It is read from the first byte to the last; one that is there is
/// taken again.
#[utoipa::path(put, path = "/api/v1/images/chunks/{digest}", tag = "images",
    params(("digest" = Digest, Path, description = "Digest of the bytes before compression")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "Stored")))]
async fn put_chunk(State(app): State<App>, Path(digest): Path<Digest>, body: Body) -> Result<StatusCode> {
    let bytes = timeout(BODY_WITHIN, to_bytes(body, MAX_STORED_BYTES)).await;
    let bytes = bytes.map_err(|_| Error::new(ErrorCode::InvalidRequest, "the chunk did not arrive in time"))?;
    let bytes = bytes.map_err(|error| {
        Error::new(ErrorCode::BodyTooLarge, format!("a chunk has at most {MAX_STORED_BYTES} bytes")).because(error)
    })?;
    app.images.put_chunk(digest, bytes).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A chunk as it is stored (zstd). It never changes.
#[utoipa::path(get, path = "/api/v1/images/chunks/{digest}", tag = "images",
    params(("digest" = Digest, Path, description = "Digest of the bytes before compression")),
    responses((status = 200, content_type = "application/octet-stream", description = "The chunk")))]
async fn read_chunk(State(app): State<App>, Path(digest): Path<Digest>) -> Result<Response> {
    let bytes = app.images.chunk(digest).await?;
    let named = [(header::CACHE_CONTROL, FOR_GOOD), (header::CONTENT_TYPE, "application/octet-stream")];
    Ok((named, bytes).into_response())
}

/// Brings a manifest with its signature, once all of its chunks are there: 409 `image_incomplete` before. 422
/// `image_not_trusted` where the server knows whom to believe and does not believe it.
#[utoipa::path(put, path = "/api/v1/images/manifests/{digest}", tag = "images",
    params(("digest" = Digest, Path, description = "Digest of the manifest: the image's")),
    request_body = SignedManifest, responses((status = 200, body = StoredImage)))]
async fn put_manifest(
    State(app): State<App>,
    principal: Principal,
    Path(digest): Path<Digest>,
    extract::Body(signed): extract::Body<SignedManifest>,
) -> Result<Json<StoredImage>> {
    app.images.put_manifest(&principal, digest, signed).await.map(Json)
}

/// An image's manifest with its signature.
#[utoipa::path(get, path = "/api/v1/images/manifests/{digest}", tag = "images",
    params(("digest" = Digest, Path, description = "The image")),
    responses((status = 200, body = StoredImage)))]
async fn read_manifest(State(app): State<App>, Path(digest): Path<Digest>) -> Result<Json<StoredImage>> {
    app.images.manifest(digest).await.map(Json)
}

/// Has a tag name this image from now on. Sessions keep the image that they have.
#[utoipa::path(put, path = "/api/v1/images/names/{name}/tags/{tag}", tag = "images",
    params(("name" = String, Path, description = "Name"), ("tag" = String, Path, description = "Tag")),
    request_body = SetTag, responses((status = 200, body = TagRecord)))]
async fn set_tag(
    State(app): State<App>,
    principal: Principal,
    Path((name, tag)): Path<(String, String)>,
    extract::Body(SetTag { digest }): extract::Body<SetTag>,
) -> Result<Json<TagRecord>> {
    app.images.set_tag(&principal, &name, &tag, digest).await.map(Json)
}

/// Removes a tag; its image stays until it is collected.
#[utoipa::path(delete, path = "/api/v1/images/names/{name}/tags/{tag}", tag = "images",
    params(("name" = String, Path, description = "Name"), ("tag" = String, Path, description = "Tag")),
    responses((status = 204, description = "Removed")))]
async fn delete_tag(State(app): State<App>, Path((name, tag)): Path<(String, String)>) -> Result<StatusCode> {
    app.images.delete_tag(&name, &tag).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Has a tag name the image that it named before. 409 `no_rollback` where that is gone, or there was none.
#[utoipa::path(post, path = "/api/v1/images/names/{name}/tags/{tag}/rollback", tag = "images",
    params(("name" = String, Path, description = "Name"), ("tag" = String, Path, description = "Tag")),
    responses((status = 200, body = TagRecord)))]
async fn roll_back(
    State(app): State<App>,
    principal: Principal,
    Path((name, tag)): Path<(String, String)>,
) -> Result<Json<TagRecord>> {
    app.images.roll_back(&principal, &name, &tag).await.map(Json)
}

/// Removes images that no tag keeps and no session uses, and chunks that no image has.
#[utoipa::path(post, path = "/api/v1/images/gc", tag = "images", request_body = CollectImages,
    responses((status = 200, body = Collected)))]
async fn collect(State(app): State<App>, OptionalBody(wanted): OptionalBody<CollectImages>) -> Result<Json<Collected>> {
    app.images.collect(wanted).await.map(Json)
}
