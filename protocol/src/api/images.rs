//! Images on a server: chunks and manifests, and the names that they go by. Chunks themselves are bytes (zstd).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::image::{Digest, ImageManifest, SignedManifest};

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// Most digests of one [`ChunkList`].
pub const MAX_CHUNK_LIST: usize = 8192;

/// `POST /api/v1/images/chunks/missing`: chunks that somebody has; the answer has those of them that the server lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ChunkList {
    /// Digests of chunks before compression, at most 8192.
    pub chunks: Vec<Digest>,
}

/// `GET /api/v1/images/manifests/{digest}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct StoredImage {
    /// The image.
    pub digest: Digest,
    /// Its manifest as it was signed.
    pub signed: SignedManifest,
    /// What that says.
    pub manifest: ImageManifest,
    /// Chunks of its file system.
    pub chunks: u32,
    /// Fingerprint of the key that signed it, where this server knows whom to believe and believes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// Who brought it.
    pub pushed_by: String,
    /// When.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub pushed_at: Timestamp,
}

/// `PUT /api/v1/images/names/{name}/tags/{tag}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct SetTag {
    /// The image that it shall name.
    pub digest: Digest,
}

/// What a tag names, and what it named before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct TagRecord {
    /// Now.
    pub digest: Digest,
    /// Since when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub since: Timestamp,
    /// Who said so.
    pub by: String,
    /// Before, the last first: where a rollback goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Digest>,
}

/// `GET /api/v1/images`: every name with its tags, and the images that none of them names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ImageList {
    /// By name, then tag.
    pub names: BTreeMap<String, BTreeMap<String, TagRecord>>,
    /// Every image, newest first.
    pub images: Vec<StoredImage>,
}

/// `POST /api/v1/images/gc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct CollectImages {
    /// Former images that each tag keeps to be rolled back to; 2 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u32>,
    /// What was stored within this many seconds stays: somebody may be pushing it. 3600 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_age_seconds: Option<u64>,
    /// Only say what would go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct Collected {
    /// Images that no tag keeps and no session uses.
    pub images: Vec<Digest>,
    /// Chunks that no image has.
    pub chunks: u32,
    /// Images that stay.
    pub kept: u32,
}
