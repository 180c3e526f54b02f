//! Files of a session's workspace.

use helix_protocol::SessionId;
use helix_protocol::tools::{FileEntry, FileList, UploadState};
use reqwest::{Method, Response, header};

use super::{ANSWER_WITHIN, Client, refusal, timed_out, transport_error};
use crate::error::{CliError, Result};

/// Entries that are asked for at once.
const PAGE: u32 = 10_000;

/// What is known of a file before its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileHead {
    /// Bytes.
    pub size: u64,
    /// Changes with the file.
    pub etag: String,
    /// It is a program.
    pub executable: bool,
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Where.
    pub path: String,
    /// By which a broken upload is gone on with.
    pub name: String,
    /// Bytes that have come before.
    pub offset: u64,
    /// Bytes that follow.
    pub length: u64,
    /// It is a program.
    pub executable: bool,
}

fn files<'a>(id: &'a SessionId, more: Option<&'a str>) -> Vec<&'a str> {
    ["sessions", id.as_str(), "files"].into_iter().chain(more).collect()
}

impl Client {
    /// `GET …/files/list`: one page of a directory.
    pub async fn list_files(&self, id: &SessionId, path: &str, after: Option<String>) -> Result<FileList> {
        let mut query = vec![("path", path.to_owned()), ("limit", PAGE.to_string())];
        query.extend(after.map(|after| ("after", after)));
        self.call("list the directory", Method::GET, &files(id, Some("list")), &query, None::<&()>).await
    }

    /// `HEAD …/files`.
    pub async fn file_head(&self, id: &SessionId, path: &str) -> Result<FileHead> {
        let query = [("path", path.to_owned())];
        let (request, place) = self.request(Method::HEAD, &files(id, None), &query);
        let response = self.answered("cannot read the file", &place, request).await?;
        if !response.status().is_success() {
            // A HEAD has no body that says why: the same as a GET does.
            let (request, place) = self.request(Method::GET, &files(id, None), &query);
            let response = self.answered("cannot read the file", &place, request).await?;
            return Err(refused("cannot read the file", place, response).await);
        }
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let size = text("content-length").and_then(|size| size.parse().ok());
        let (Some(size), Some(etag)) = (size, text("etag")) else {
            return Err(CliError::failed("cannot read the file").at(place).because("the answer has no size or no tag"));
        };
        Ok(FileHead { size, etag: etag.to_owned(), executable: text("x-helix-executable").is_some() })
    }

    /// `GET …/files`: its bytes from `offset` on, of the file with this tag. Has no deadline once it is answered.
    pub async fn read_file(&self, id: &SessionId, path: &str, offset: u64, etag: &str) -> Result<Response> {
        let query = [("path", path.to_owned())];
        let (mut request, place) = self.request(Method::GET, &files(id, None), &query);
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-")).header(header::IF_RANGE, etag);
        }
        let response = self.answered("cannot read the file", &place, request).await?;
        let found = response.headers().get(header::ETAG).and_then(|value| value.to_str().ok());
        if !response.status().is_success() {
            return Err(refused("cannot read the file", place, response).await);
        }
        if found != Some(etag) {
            return Err(CliError::failed("cannot read the file")
                .at(place)
                .because("it has changed while it was copied")
                .next("repeat the command"));
        }
        Ok(response)
    }

    /// `PUT …/files`. Has no deadline: the body takes its time.
    pub async fn write_file(&self, id: &SessionId, upload: &Upload, body: reqwest::Body) -> Result<FileEntry> {
        let what = "cannot write the file";
        let query = [
            ("path", upload.path.clone()),
            ("upload", upload.name.clone()),
            ("offset", upload.offset.to_string()),
            ("executable", upload.executable.to_string()),
        ];
        let (request, place) = self.request(Method::PUT, &files(id, None), &query);
        let request = request.header(header::CONTENT_LENGTH, upload.length).body(body);
        let response = request.send().await.map_err(|error| transport_error(what, &place, &error))?;
        if !response.status().is_success() {
            return Err(refused(what, place, response).await);
        }
        response.json().await.map_err(|error| transport_error(what, &place, &error))
    }

    /// `GET …/files/upload`.
    pub async fn upload_state(&self, id: &SessionId, path: &str, upload: &str) -> Result<UploadState> {
        let query = [("path", path.to_owned()), ("upload", upload.to_owned())];
        let path = files(id, Some("upload"));
        self.call("see how far the upload is", Method::GET, &path, &query, None::<&()>).await
    }

    async fn answered(&self, what: &str, place: &str, request: reqwest::RequestBuilder) -> Result<Response> {
        let answered = tokio::time::timeout(ANSWER_WITHIN, request.send()).await;
        let response = answered.map_err(|_elapsed| timed_out(what, place))?;
        response.map_err(|error| transport_error(what, place, &error))
    }
}

async fn refused(what: &str, place: String, response: Response) -> CliError {
    let status = response.status();
    let body = tokio::time::timeout(ANSWER_WITHIN, response.bytes()).await;
    match body {
        Ok(Ok(body)) => refusal(what.to_owned(), place, status, &body),
        Ok(Err(error)) => transport_error(what, &place, &error),
        Err(_elapsed) => timed_out(what, &place),
    }
}
