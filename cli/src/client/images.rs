//! Images on the server.

use helix_protocol::api::images::{ChunkList, CollectImages, Collected, ImageList, SetTag, StoredImage, TagRecord};
use helix_protocol::image::{Digest, SignedManifest};
use reqwest::Method;

use super::{Client, refusal, transport_error};
use crate::error::Result;

impl Client {
    /// `GET /images`.
    pub async fn images(&self) -> Result<ImageList> {
        self.get("list the images", &["images"]).await
    }

    /// `POST /images/chunks/missing`.
    pub async fn missing_chunks(&self, chunks: Vec<Digest>) -> Result<Vec<Digest>> {
        let (what, path) = ("ask which chunks are missing", ["images", "chunks", "missing"]);
        let list: ChunkList = self.call(what, Method::POST, &path, &[], Some(&ChunkList { chunks })).await?;
        Ok(list.chunks)
    }

    /// `PUT /images/chunks/{digest}`: a chunk, compressed.
    pub async fn put_chunk(&self, digest: &Digest, packed: Vec<u8>) -> Result<()> {
        let what = "cannot push a chunk";
        let (request, place) = self.request(Method::PUT, &["images", "chunks", &digest.to_string()], &[]);
        let request = request.header("content-type", "application/octet-stream").body(packed);
        let answer = request.timeout(super::ANSWER_WITHIN).send().await;
        let answer = answer.map_err(|error| transport_error(what, &place, &error))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| transport_error(what, &place, &error))?;
        if status.is_success() { Ok(()) } else { Err(refusal(what.to_owned(), place, status, &bytes)) }
    }

    /// `GET /images/chunks/{digest}`: a chunk, compressed.
    pub async fn image_chunk(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = ["images", "chunks", &digest.to_string()];
        self.ask("pull a chunk", Method::GET, &path, &[], None::<&()>).await.map(|(_, bytes)| bytes)
    }

    /// `PUT /images/manifests/{digest}`.
    pub async fn put_image(&self, digest: &Digest, signed: &SignedManifest) -> Result<StoredImage> {
        let path = ["images", "manifests", &digest.to_string()];
        self.call("push the image", Method::PUT, &path, &[], Some(signed)).await
    }

    /// `GET /images/manifests/{digest}`.
    pub async fn image(&self, digest: &Digest) -> Result<StoredImage> {
        self.get("read the image", &["images", "manifests", &digest.to_string()]).await
    }

    /// `PUT /images/names/{name}/tags/{tag}`.
    pub async fn set_image_tag(&self, name: &str, tag: &str, digest: Digest) -> Result<TagRecord> {
        let path = ["images", "names", name, "tags", tag];
        self.call("set the tag", Method::PUT, &path, &[], Some(&SetTag { digest })).await
    }

    /// `DELETE /images/names/{name}/tags/{tag}`.
    pub async fn delete_image_tag(&self, name: &str, tag: &str) -> Result<()> {
        let path = ["images", "names", name, "tags", tag];
        self.ask("delete the tag", Method::DELETE, &path, &[], None::<&()>).await.map(|_| ())
    }

    /// `POST /images/names/{name}/tags/{tag}/rollback`.
    pub async fn roll_image_back(&self, name: &str, tag: &str) -> Result<TagRecord> {
        let path = ["images", "names", name, "tags", tag, "rollback"];
        self.call("roll the tag back", Method::POST, &path, &[], None::<&()>).await
    }

    /// `POST /images/gc`.
    pub async fn collect_images(&self, wanted: &CollectImages) -> Result<Collected> {
        self.call("collect images", Method::POST, &["images", "gc"], &[], Some(wanted)).await
    }
}
