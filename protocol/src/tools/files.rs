//! Files of a session's workspace: what is asked for, and what is told of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Part of a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByteRange {
    /// From here to the end.
    From(u64),
    /// From the first to the second, which is part of it.
    Between(u64, u64),
    /// So many at the end.
    Last(u64),
}

/// A file to write. It is in its place when all of it has come, and not before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteRequest {
    /// Where. Directories on the way to it are made.
    pub path: String,
    /// As the writer calls it: what has come is kept under this name when the stream breaks off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Bytes that have come before; must be what is kept of the upload.
    pub offset: u64,
    /// Whether it is a program; as the file that it replaces where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<bool>,
}

/// What a name in the workspace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FileKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A link; followed only inside the workspace.
    Link,
    /// A pipe, a socket, a device.
    Other,
}

/// A file, or what else a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileEntry {
    /// Its name, without its directory. Names that are not UTF-8 are shown, and cannot be asked for.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes of a file.
    pub size: u64,
    /// When it was last written.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub modified: Timestamp,
    /// Its user may run it.
    pub executable: bool,
    /// Changes with the file: its number, size and time.
    pub etag: String,
}

/// `GET /api/v1/sessions/{id}/files/list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileList {
    /// By name.
    pub entries: Vec<FileEntry>,
    /// There are more: ask again with `after` this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// What comes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadHead {
    /// The file.
    pub entry: FileEntry,
    /// From here.
    pub offset: u64,
    /// So many bytes.
    pub length: u64,
    /// A part was asked for, and is what comes.
    pub partial: bool,
}

/// `GET /api/v1/sessions/{id}/files/upload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UploadState {
    /// Bytes that have come and are kept: go on with `offset`. 0 for an upload that nobody knows.
    pub received: u64,
}
