//! Files of a session's workspace: read, written, listed, removed. Bytes pass through as they come, in constant memory:
//! who takes or sends slowly slows the session's stream by TCP and nothing else.
//!
//! No task: a file that is read is the body of its answer, pulled by the connection. One that is written is in its
//! place when the whole body has come, and the old one is there until then.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use helix_protocol::tools::{
    ByteRange, Done, FileEntry, FileList, FrameKind, MAX_DATA, ReadHead, Request, UploadState, WriteRequest,
};
use helix_protocol::{ErrorCode, SessionId};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::extract::{Id, Query};
use super::registry::Registry;
use super::streams::stop;
use super::tools::{ANSWER_WITHIN, Place, ask, gone};
use crate::app::App;
use crate::auth::{Need, Principal};
use crate::error::{Error, Result};
use crate::relay::{End, ToolsSink, ToolsSource, failure};

/// Entries of a list where no number is given, and at most.
const ENTRIES: (u32, u32) = (1000, 10_000);
/// From the last byte of a file to its place: all of it goes to the disk first.
const PLACED_WITHIN: Duration = Duration::from_mins(10);
/// For a session that refuses a file in the middle to say why.
const REASON_WITHIN: Duration = Duration::from_secs(5);
/// A session from which nothing comes for this long, in the middle of a file, is gone.
const SILENCE: Duration = Duration::from_mins(2);

pub(super) fn routes(registry: Registry) -> Registry {
    registry
        .add(Need::Change, routes!(read_file, write_file, delete_file))
        .add(Need::Change, routes!(list_files))
        .add(Need::Change, routes!(upload_state))
}

/// Which file.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FileQuery {
    /// Inside the workspace: relative to it, or absolute below `/workspace` or as programs in the session see it. Neither
    /// `..` nor a link leads out of it.
    path: String,
}

/// A file's bytes. Answers `Range` (one range) with 206, and `If-Range`, `If-None-Match` by `ETag`. `HEAD` tells size and
/// tag.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/files", tag = "files",
    params(("id" = SessionId, Path, description = "Session id"), FileQuery),
    responses((status = 200, content_type = "application/octet-stream", description = "The file"),
        (status = 206, content_type = "application/octet-stream", description = "The part that was asked for"),
        (status = 304, description = "It is the one that you have")))]
async fn read_file(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(FileQuery { path }): Query<FileQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    let known = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let is_known = |etag: &str| {
        let tags = known(header::IF_NONE_MATCH).into_iter().flat_map(|tags| tags.split(',')).map(str::trim);
        tags.into_iter().any(|tag| tag == "*" || tag == etag)
    };
    if method == Method::HEAD {
        let entry: FileEntry = ask(&app, &principal, &id, &Request::Stat { path }).await?;
        let head = ReadHead { offset: 0, length: entry.size, partial: false, entry };
        return Ok(answer(&head, Body::empty()));
    }
    let range = known(header::RANGE).and_then(parse_range);
    let if_range = known(header::IF_RANGE).map(str::to_owned);
    let place = Place::find(&app, &principal, &id).await?;
    let (sink, mut source) = place.open(&app, &Request::Read { path, range, if_range }).await?;
    let head: ReadHead = source.answer(ANSWER_WITHIN).await?;
    if !head.partial && is_known(&head.entry.etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, head.entry.etag)]).into_response());
    }
    let stop = {
        let (app, token_hash) = (app.clone(), principal.token_hash.clone());
        async move { stop(&app, &token_hash).await }.boxed()
    };
    Ok(answer(&head, Body::from_stream(content(sink, source, stop))))
}

/// A file's bytes as they come; an error is the last item.
fn content(
    sink: ToolsSink,
    source: ToolsSource,
    stop: BoxFuture<'static, End>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    // The half that sends is kept: without it the session would see its caller leave.
    futures::stream::unfold(Some((sink, source, stop)), async |state| {
        let (sink, mut source, mut stop) = state?;
        let frame = tokio::select! {
            biased;
            end = &mut stop => Err(io::Error::other(end.code_and_reason().1)),
            frame = timeout(SILENCE, source.next()) => {
                frame.unwrap_or_else(|_| Err(io::Error::other("nothing came from the session for long")))
            }
        };
        match frame {
            Ok(Some((FrameKind::Data, bytes))) => Some((Ok(bytes), Some((sink, source, stop)))),
            Ok(Some((FrameKind::End, _))) => None,
            Ok(Some((FrameKind::Failed, payload))) => Some((Err(io::Error::other(failure(&payload).detail)), None)),
            Ok(Some(_)) => Some((Err(io::Error::other("the session answers in words of another version")), None)),
            Ok(None) => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
            Err(error) => Some((Err(error), None)),
        }
    })
}

fn answer(head: &ReadHead, body: Body) -> Response {
    let ReadHead { entry, offset, length, partial } = head;
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: String| {
        // A name that no header can have is left out: what it says is in the request, too.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, "application/octet-stream".to_owned());
    set(header::CONTENT_DISPOSITION, "attachment".to_owned());
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    set(header::CONTENT_LENGTH, length.to_string());
    set(header::ETAG, entry.etag.clone());
    set(header::LAST_MODIFIED, entry.modified.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    if *partial {
        let last = (offset + length).saturating_sub(1);
        set(header::CONTENT_RANGE, format!("bytes {offset}-{last}/{}", entry.size));
    }
    if entry.executable {
        set(HeaderName::from_static("x-helix-executable"), "true".to_owned());
    }
    if *partial {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// One range of bytes. Whatever else is asked for gets the whole file, as RFC 9110 has it.
fn parse_range(text: &str) -> Option<ByteRange> {
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", count) => count.parse().ok().map(ByteRange::Last),
        (first, "") => first.parse().ok().map(ByteRange::From),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(ByteRange::Between(first, last))
        }
    }
}

/// How a file is written.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WriteQuery {
    /// As for reading. Directories on the way to it are made.
    path: String,
    /// A name of yours for this upload, 1 to 64 letters, digits, `_`, `-`: what has come is then kept for a day when the
    /// request breaks off, and `GET …/files/upload` tells how much it is.
    upload: Option<String>,
    /// Go on with that upload: the body is the rest from this byte on.
    offset: Option<u64>,
    /// It is a program. Absent: as the file that it replaces.
    executable: Option<bool>,
}

/// Writes a file of any size from the body. It is in its place, in one step, when the whole body has come; until then, and
/// whatever happens, the old file is as it was.
#[utoipa::path(put, path = "/api/v1/sessions/{id}/files", tag = "files",
    params(("id" = SessionId, Path, description = "Session id"), WriteQuery),
    request_body(content_type = "application/octet-stream", description = "The file, or its rest"),
    responses((status = 200, body = FileEntry)))]
async fn write_file(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(query): Query<WriteQuery>,
    body: Body,
) -> Result<Json<FileEntry>> {
    let WriteQuery { path, upload, offset, executable } = query;
    if offset.is_some_and(|offset| offset > 0) && upload.is_none() {
        let detail = "the query: `offset` goes on with an upload; name it with `upload`";
        return Err(Error::new(ErrorCode::InvalidRequest, detail));
    }
    let offset = offset.unwrap_or(0);
    let place = Place::find(&app, &principal, &id).await?;
    let request = Request::Write(WriteRequest { path, upload, offset, executable });
    let (mut sink, mut source) = place.open(&app, &request).await?;
    let sent = {
        // A refusal may come at any time, and the end of the body is not waited for then.
        let answer = source.answer::<FileEntry>(Duration::MAX);
        tokio::select! {
            biased;
            end = stop(&app, &principal.token_hash) => {
                return Err(Error::new(ErrorCode::RunnerUnavailable, end.code_and_reason().1));
            }
            answer = answer => return answer.map(Json),
            sent = send(body, &mut sink) => sent,
        }
    };
    match sent {
        Ok(()) => source.answer(PLACED_WITHIN).await.map(Json),
        Err(Broken::Body(error)) => {
            Err(Error::new(ErrorCode::InvalidRequest, "the body broke off; nothing was replaced").because(error))
        }
        Err(Broken::Session(error)) => match source.answer::<FileEntry>(REASON_WITHIN).await {
            Err(refused) if refused.code != ErrorCode::RunnerUnavailable => Err(refused),
            _ => Err(gone(&error).into()),
        },
    }
}

enum Broken {
    Body(axum::Error),
    Session(io::Error),
}

async fn send(body: Body, sink: &mut ToolsSink) -> std::result::Result<(), Broken> {
    let mut body = body.into_data_stream();
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(Broken::Body)?;
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(MAX_DATA));
            sink.send(FrameKind::Data, piece).await.map_err(Broken::Session)?;
        }
    }
    sink.send(FrameKind::End, Bytes::new()).await.map_err(Broken::Session)
}

/// What is removed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// As for reading. A link is removed itself.
    path: String,
    /// `true`: a directory with everything in it.
    recursive: Option<bool>,
}

/// Removes a file, a link or a directory.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}/files", tag = "files",
    params(("id" = SessionId, Path, description = "Session id"), DeleteQuery),
    responses((status = 204, description = "It is gone")))]
async fn delete_file(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(DeleteQuery { path, recursive }): Query<DeleteQuery>,
) -> Result<StatusCode> {
    let request = Request::Delete { path, recursive: recursive.unwrap_or(false) };
    let _done: Done = ask(&app, &principal, &id, &request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which directory.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// As for reading; the workspace itself where absent.
    path: Option<String>,
    /// Only names behind this one.
    after: Option<String>,
    /// Most entries, 1000 where absent, at most 10000.
    limit: Option<u32>,
}

/// What is in a directory, by name.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/files/list", tag = "files",
    params(("id" = SessionId, Path, description = "Session id"), ListQuery),
    responses((status = 200, body = FileList)))]
async fn list_files(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(ListQuery { path, after, limit }): Query<ListQuery>,
) -> Result<Json<FileList>> {
    let limit = limit.unwrap_or(ENTRIES.0);
    if !(1..=ENTRIES.1).contains(&limit) {
        let detail = format!("the query: `limit` is 1 to {}", ENTRIES.1);
        return Err(Error::new(ErrorCode::InvalidRequest, detail));
    }
    let request = Request::List { path: path.unwrap_or_else(|| ".".to_owned()), after, limit };
    ask(&app, &principal, &id, &request).await.map(Json)
}

/// Which upload.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UploadQuery {
    /// Where the file will be.
    path: String,
    /// The name that it was begun with.
    upload: String,
}

/// How much of an upload that broke off has come and is kept.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/files/upload", tag = "files",
    params(("id" = SessionId, Path, description = "Session id"), UploadQuery),
    responses((status = 200, body = UploadState)))]
async fn upload_state(
    State(app): State<App>,
    principal: Principal,
    Id(id): Id<SessionId>,
    Query(UploadQuery { path, upload }): Query<UploadQuery>,
) -> Result<Json<UploadState>> {
    ask(&app, &principal, &id, &Request::Upload { path, upload }).await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_anything_else_is_none() {
        for (text, range) in [
            ("bytes=0-", ByteRange::From(0)),
            ("bytes=5-9", ByteRange::Between(5, 9)),
            ("bytes= 5 - 5 ", ByteRange::Between(5, 5)),
            ("bytes=-7", ByteRange::Last(7)),
        ] {
            assert_eq!(parse_range(text), Some(range), "{text}");
        }
        for none in ["", "bytes", "bytes=", "bytes=-", "bytes=9-5", "bytes=0-1,3-4", "lines=0-1", "bytes=x-"] {
            assert_eq!(parse_range(none), None, "{none}");
        }
    }
}
