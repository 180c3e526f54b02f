//! Rules for images: brought by operators chunk by chunk, named by tags, read by runners, collected. No HTTP types.
//!
//! A chunk is a message of stream `HELIX_IMAGES` ([`stored`]); manifests and names are records of `helix_images`. Everything
//! but a tag is known by the digest of its bytes, so bringing it twice is bringing it once. A manifest counts (`complete`)
//! when every chunk was seen after its record was written; whoever collects ([`gc`]) reads the records first, so of two
//! that do both at once one sees the other.

mod gc;
mod stored;
mod tags;

use bytes::Bytes;
use helix_protocol::api::images::{ChunkList, ImageList, MAX_CHUNK_LIST, StoredImage};
use helix_protocol::image::signature::Signers;
use helix_protocol::image::{Digest, ImageManifest, ImageRef, MAX_MANIFEST_BYTES, SignedManifest, read_index};
use helix_protocol::record::{ImageRecord, StoredManifest};
use helix_protocol::{ErrorCode, subject};
use jiff::Timestamp;

pub use self::gc::Rubbish;
use self::stored::Chunks;
use crate::auth::Principal;
use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::store::{Lookup, Store, Versioned};

/// Rules over the store. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    store: Store,
    chunks: Chunks,
    /// Keys whose images are taken; any where absent: runners have the last word.
    signers: Option<Signers>,
}

impl Images {
    /// Rules over a store.
    pub fn new(bus: Bus, store: Store, signers: Option<Signers>) -> Self {
        Self { store, chunks: Chunks::new(bus), signers }
    }

    /// Those of these chunks that are not here.
    pub async fn missing(&self, list: ChunkList) -> Result<ChunkList> {
        if list.chunks.len() > MAX_CHUNK_LIST {
            return Err(invalid(format!(
                "chunks has {} digests, at most {MAX_CHUNK_LIST} are taken",
                list.chunks.len()
            )));
        }
        let there = self.chunks.all().await?;
        Ok(ChunkList { chunks: list.chunks.into_iter().filter(|chunk| !there.contains(chunk)).collect() })
    }

    /// Takes a chunk as it is stored: zstd of the bytes that the digest is of.
    pub async fn put_chunk(&self, digest: Digest, bytes: Bytes) -> Result<()> {
        stored::check(digest, bytes.clone()).await?;
        self.chunks.put(digest, bytes).await
    }

    /// A chunk as it is stored.
    pub async fn chunk(&self, digest: Digest) -> Result<Bytes> {
        let found = self.chunks.get(digest).await?;
        found.ok_or_else(|| {
            Error::new(ErrorCode::ChunkNotFound, format!("there is no chunk {digest}; push its image again"))
        })
    }

    /// Takes a manifest, once index, list of packages and every chunk of it are here.
    pub async fn put_manifest(&self, by: &Principal, digest: Digest, signed: SignedManifest) -> Result<StoredImage> {
        if signed.manifest.len() + signed.signature.len() > MAX_MANIFEST_BYTES {
            return Err(invalid(format!("a manifest with its signature has at most {MAX_MANIFEST_BYTES} bytes")));
        }
        if signed.digest() != digest {
            return Err(invalid(format!("this manifest is that of {}, not of {digest}", signed.digest())));
        }
        let manifest = self.believe(&signed)?;
        let key = subject::image_key(&digest);
        let mut record = StoredManifest {
            arch: manifest.arch.clone(),
            signed,
            chunks: 0,
            complete: false,
            pushed_by: by.name.clone(),
            pushed_at: Timestamp::now(),
        };
        let revision = match self.image(digest).await? {
            // What is complete stays so, whoever signs it anew.
            Some((known, revision)) if known.complete => {
                record = StoredManifest { chunks: known.chunks, complete: true, ..record };
                self.store.images.update(&key, &ImageRecord::Image(Box::new(record.clone())), revision).await?;
                return self.shown(digest, &record);
            }
            Some((_, revision)) => revision,
            None => self.store.images.create(&key, &ImageRecord::Image(Box::new(record.clone()))).await?,
        };
        self.refuse_while_collected().await?;
        record.chunks = self.require_all(&manifest).await?;
        record.complete = true;
        self.store.images.update(&key, &ImageRecord::Image(Box::new(record.clone())), revision).await?;
        self.shown(digest, &record)
    }

    /// A manifest.
    pub async fn manifest(&self, digest: Digest) -> Result<StoredImage> {
        let found = self.image(digest).await?.filter(|(record, _)| record.complete);
        let (record, _) = found.ok_or_else(|| no_image(digest))?;
        self.shown(digest, &record)
    }

    /// All names and images.
    pub async fn list(&self) -> Result<ImageList> {
        self.store.images.catch_up().await?;
        let mut list = ImageList::default();
        let content = self.store.images.view().read();
        for (key, entry) in content.iter() {
            match &*entry.value {
                ImageRecord::Name { tags } => {
                    let name = key.strip_prefix("name.").unwrap_or(key);
                    list.names.insert(name.to_owned(), tags.clone());
                }
                ImageRecord::Image(record) if record.complete => {
                    list.images.push(self.shown(record.signed.digest(), record)?);
                }
                ImageRecord::Image(_) | ImageRecord::Collection { .. } => {}
            }
        }
        list.images.sort_by_key(|image| (std::cmp::Reverse(image.pushed_at), image.digest));
        Ok(list)
    }

    /// The image that a reference names now, and what it is.
    pub async fn resolve(store: &Store, reference: &ImageRef) -> Result<(Digest, ImageManifest)> {
        let digest = match reference {
            ImageRef::Digest(digest) => *digest,
            ImageRef::Tag { name, tag } => tags::digest_of(store, name, tag).await?,
        };
        let record = read_image(store, digest).await?.map(|(record, _)| record).filter(|record| record.complete);
        let record = record.ok_or_else(|| no_image(digest))?;
        Ok((digest, record.signed.read().map_err(|error| unreadable(digest, &error))?))
    }

    /// What a manifest says, if its signature is believed where the server knows whom to believe.
    fn believe(&self, signed: &SignedManifest) -> Result<ImageManifest> {
        match &self.signers {
            None => signed.read().map_err(|error| invalid(error.to_string())),
            Some(signers) => signers.verify(signed).map_err(|error| {
                let detail = format!(
                    "the image is not taken: {error}; sign it with a trusted key, or trust its key on the server"
                );
                Error::new(ErrorCode::ImageNotTrusted, detail)
            }),
        }
    }

    /// How many chunks the image has, all of which are here.
    async fn require_all(&self, manifest: &ImageManifest) -> Result<u32> {
        let index = self.chunks.get(manifest.index).await?.ok_or_else(|| incomplete("its index is not here"))?;
        let index =
            read_index(&stored::unpacked(manifest.index, index).await?).map_err(|error| invalid(error.to_string()))?;
        let bytes: u64 = index.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        if bytes != manifest.tar_bytes {
            let said = manifest.tar_bytes;
            return Err(invalid(format!(
                "its index is of {bytes} bytes, the manifest says {said}; build the image anew"
            )));
        }
        let there = self.chunks.all().await?;
        if !there.contains(&manifest.sbom) {
            return Err(incomplete("its list of packages is not here"));
        }
        let lacking: Vec<_> = index.iter().filter(|chunk| !there.contains(&chunk.digest)).collect();
        if let Some(first) = lacking.first() {
            let text = format!("{} of its {} chunks are not here, {} first", lacking.len(), index.len(), first.digest);
            return Err(incomplete(&text));
        }
        Ok(u32::try_from(index.len()).unwrap_or(u32::MAX))
    }

    /// True for an image that can be used.
    async fn is_complete(&self, digest: Digest) -> Result<bool> {
        Ok(self.image(digest).await?.is_some_and(|(record, _)| record.complete))
    }

    async fn image(&self, digest: Digest) -> Result<Option<(StoredManifest, u64)>> {
        read_image(&self.store, digest).await
    }

    fn shown(&self, digest: Digest, record: &StoredManifest) -> Result<StoredImage> {
        let StoredManifest { signed, chunks, pushed_by, pushed_at, .. } = record;
        let manifest = signed.read().map_err(|error| unreadable(digest, &error))?;
        let signed_by = self.signers.as_ref().and_then(|signers| signers.signer(signed));
        Ok(StoredImage {
            digest,
            signed: signed.clone(),
            manifest,
            chunks: *chunks,
            signed_by,
            pushed_by: pushed_by.clone(),
            pushed_at: *pushed_at,
        })
    }
}

async fn read_image(store: &Store, digest: Digest) -> Result<Option<(StoredManifest, u64)>> {
    let Lookup::Found(Versioned { value, revision, .. }) = store.images.get(&subject::image_key(&digest)).await? else {
        return Ok(None);
    };
    match &*value {
        ImageRecord::Image(record) => Ok(Some(((**record).clone(), revision))),
        _ => Err(Error::new(ErrorCode::Internal, format!("the record of image {digest} is another one's"))),
    }
}

fn no_image(digest: Digest) -> Error {
    let detail =
        format!("there is no image {digest}; push it: helixctl image push, or name one of helixctl image list");
    Error::new(ErrorCode::ImageNotFound, detail)
}

fn unreadable(digest: Digest, error: &impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::Internal, format!("the manifest of {digest} cannot be read: {error}"))
}

fn incomplete(what: &str) -> Error {
    Error::new(
        ErrorCode::ImageIncomplete,
        format!("the image cannot be used: {what}; push it again, which brings what is missing"),
    )
}

fn invalid(detail: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidRequest, detail)
}
