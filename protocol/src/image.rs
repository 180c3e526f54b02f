//! Agent images: the read-only roots that sessions run in.
//!
//! An image is one tar of a root file system (paths sorted, times clamped), cut into chunks where its content says so,
//! an index that lists them in order, and a manifest that names the index. Each is known by the SHA-256 of its bytes;
//! the image's digest is that of its manifest, so whoever believes the manifest's signature believes every byte.
//! Builder, server and runner agree here on the formats; only the builder makes them.

pub mod signature;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::{KindName, string_schema};

/// `format` of the manifests that this version reads and writes.
pub const FORMAT: u32 = 1;
/// Where chunks are cut (FastCDC 2020): the shortest, the usual and the longest, in bytes before compression.
pub const CHUNK_BYTES: (u32, u32, u32) = (64 << 10, 256 << 10, 1 << 20);
/// What signatures of manifests are for (SSHSIG's namespace).
pub const SIGNATURE_NAMESPACE: &str = "helix-image";
/// Directories and files that every image has, since sessions bind something of theirs there and an image is read-only.
pub const BIND_TARGETS: &[&str] = &[
    "/home/agent",
    "/tmp",
    "/var/tmp",
    "/run/session",
    "/run/display",
    "/run/sync",
    "/run/tools",
    "/run/rdp",
    "/proc",
    "/sys",
    "/dev",
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/machine-id",
];
/// Most bytes of one stored thing before compression, index and list of packages included, and after it.
pub const MAX_STORED_BYTES: usize = 32 << 20;
/// Most bytes of a manifest.
pub const MAX_MANIFEST_BYTES: usize = 64 << 10;
/// Bytes of one entry of an index: a digest, then the chunk's length before compression, big-endian.
pub const INDEX_ENTRY_BYTES: usize = 32 + 4;

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest: use sha256: and 64 digits of 0-9 a-f")]
pub struct DigestError(String);

/// SHA-256 of some bytes, `sha256:` and 64 hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

string_schema!(Digest);

/// Why a text is no reference of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no image: use NAME, NAME:TAG or sha256:DIGEST (NAME and TAG of A-Z a-z 0-9 _ -)")]
pub struct ImageRefError(String);

/// Which image: a digest, or what a name's tag says at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ImageRef {
    /// This one, for ever.
    Digest(Digest),
    /// The one that the tag (`latest` where none is given) names now.
    Tag {
        /// Name of the image.
        name: String,
        /// Which of that name.
        tag: String,
    },
}

string_schema!(ImageRef);

/// What an image is. Its bytes, as they were signed, are the JSON of this type; nobody writes it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageManifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the recipe.
    pub name: String,
    /// As Debian says it: `amd64`, `arm64`.
    pub arch: String,
    /// `debian` or `ubuntu`.
    pub distribution: String,
    /// Its release: `bookworm`.
    pub suite: String,
    /// The time that every file of it is clamped to, seconds since 1970: the snapshot's, never the clock's.
    pub source_date: u64,
    /// Kinds of sessions that it has what they need for.
    pub kinds: Vec<KindName>,
    /// For people and for selection.
    pub labels: BTreeMap<String, String>,
    /// Digest of all that it was made of: the recipe with its parents and inputs.
    pub recipe: Digest,
    /// Length of the tar in bytes.
    pub tar_bytes: u64,
    /// SHA-256 of the whole tar.
    pub tar: Digest,
    /// The index: [`INDEX_ENTRY_BYTES`] per chunk. It is stored as a chunk.
    pub index: Digest,
    /// The list of packages (SPDX JSON), stored as a chunk.
    pub sbom: Digest,
}

/// A manifest on its way: the bytes that were signed, and the signature (SSHSIG in PEM, namespace
/// [`SIGNATURE_NAMESPACE`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignedManifest {
    /// The JSON of an [`ImageManifest`], byte for byte.
    pub manifest: String,
    /// The signature of those bytes.
    pub signature: String,
}

/// One chunk of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// What it is before compression.
    pub digest: Digest,
    /// Bytes before compression.
    pub bytes: u32,
}

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not this JSON.
    #[error("it is no manifest: {0}")]
    Unreadable(String),
    /// Of another time.
    #[error("it is of format {0}, and this version reads {FORMAT}: upgrade it, or build the image anew")]
    Format(u32),
}

/// Why bytes are no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an index of {0} bytes is none: entries have {INDEX_ENTRY_BYTES}")]
pub struct IndexError(usize);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// From a digest's own 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 hex digits: safe in a path, a subject and a URL.
    pub fn hex(&self) -> String {
        crate::ids::hex(&self.0)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let bad = || DigestError(text.chars().take(80).collect());
        let hex = text.strip_prefix("sha256:").ok_or_else(bad)?.as_bytes();
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut digest = [0; 32];
        if hex.len() != 2 * digest.len() {
            return Err(bad());
        }
        for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
            let (high, low) = digit(pair[0]).zip(digit(pair[1])).ok_or_else(bad)?;
            *byte = high << 4 | low;
        }
        Ok(Self(digest))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl std::str::FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        let (name, tag) = text.split_once(':').unwrap_or((text, "latest"));
        let word = |word: &str| {
            (1..=crate::ids::MAX_ID_CHARS).contains(&word.len())
                && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        if !word(name) || !word(tag) || name == "sha256" {
            return Err(ImageRefError(text.chars().take(80).collect()));
        }
        Ok(Self::Tag { name: name.to_owned(), tag: tag.to_owned() })
    }
}

impl TryFrom<String> for ImageRef {
    type Error = ImageRefError;

    fn try_from(text: String) -> Result<Self, ImageRefError> {
        text.parse()
    }
}

impl std::fmt::Display for ImageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Tag { name, tag } => write!(f, "{name}:{tag}"),
        }
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.to_string()
    }
}

impl SignedManifest {
    /// The digest of the image.
    pub fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    /// What it says, whoever signed it.
    pub fn read(&self) -> Result<ImageManifest, ManifestError> {
        #[derive(Deserialize)]
        struct Any {
            format: u32,
        }
        let unreadable = |error: serde_json::Error| ManifestError::Unreadable(error.to_string());
        let Any { format } = serde_json::from_str(&self.manifest).map_err(unreadable)?;
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        serde_json::from_str(&self.manifest).map_err(unreadable)
    }
}

/// This machine's architecture as Debian says it.
pub fn own_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The chunks that an index lists, in the order of the tar.
pub fn read_index(bytes: &[u8]) -> Result<Vec<Chunk>, IndexError> {
    let (entries, rest) = bytes.as_chunks::<INDEX_ENTRY_BYTES>();
    if entries.is_empty() || !rest.is_empty() {
        return Err(IndexError(bytes.len()));
    }
    let read = |entry: &[u8; INDEX_ENTRY_BYTES]| {
        let mut digest = [0; 32];
        digest.copy_from_slice(&entry[..32]);
        let [.., a, b, c, d] = *entry;
        Chunk { digest: Digest(digest), bytes: u32::from_be_bytes([a, b, c, d]) }
    };
    Ok(entries.iter().map(read).collect())
}

/// The index that lists these chunks.
pub fn write_index(chunks: &[Chunk]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| chunk.digest.0.into_iter().chain(chunk.bytes.to_be_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written_and_nothing_else() {
        let digest = Digest::of(b"abc");
        let text = digest.to_string();
        assert_eq!(text, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(text.parse(), Ok(digest));
        for bad in ["", "sha256:", &text[7..], &text[..70], &text.to_uppercase(), "sha256:+1"] {
            bad.parse::<Digest>().expect_err(bad);
        }
    }

    #[test]
    fn an_image_is_named_by_digest_or_tag() {
        let digest = Digest::of(b"abc").to_string();
        for (text, same) in [("dev", "dev:latest"), ("dev:v2", "dev:v2"), (&*digest, &*digest)] {
            assert_eq!(text.parse::<ImageRef>().expect(text).to_string(), same);
        }
        for bad in ["", ":", "dev:", ":v2", "a/b", "a:b:c", "sha256:abc", "../x"] {
            bad.parse::<ImageRef>().expect_err(bad);
        }
    }

    #[test]
    fn an_index_is_read_as_it_is_written() {
        let chunks =
            [Chunk { digest: Digest::of(b"a"), bytes: 70_000 }, Chunk { digest: Digest::of(b"b"), bytes: 1 << 20 }];
        let bytes = write_index(&chunks);
        assert_eq!(read_index(&bytes), Ok(chunks.to_vec()));
        assert_eq!(read_index(&bytes[1..]), Err(IndexError(71)));
        assert_eq!(read_index(&[]), Err(IndexError(0)));
    }
}
