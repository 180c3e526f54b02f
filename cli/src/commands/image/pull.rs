//! `helixctl image pull`: an image of the server to this machine, those chunks that it lacks. Each is proved.

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use helix_protocol::image::{Digest, ImageRef};
use serde::Serialize;

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::images::store::{Store, read_manifest};
use crate::ui::Ui;

/// Chunks on their way at once.
const AT_ONCE: usize = 8;

/// Arguments of `image pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Image of the server: NAME, NAME:TAG or sha256:DIGEST
    image: ImageRef,
    #[command(flatten)]
    cache: super::CacheArgs,
}

/// What `--json` tells.
#[derive(Serialize)]
struct Pulled {
    digest: Digest,
    chunks: usize,
    #[serde(rename = "pulled_chunks")]
    new_chunks: usize,
    #[serde(rename = "pulled_bytes")]
    new_bytes: u64,
}

/// Pulls an image and sets its tag here.
pub async fn run(client: &Client, args: &PullArgs, ui: &Ui) -> Result<()> {
    let store = args.cache.store()?;
    let digest = super::remote::resolve(client, &args.image).await?;
    let signed = client.image(&digest).await?.signed;
    if signed.digest() != digest {
        return Err(CliError::failed("the server gave another image than was asked for").at(digest));
    }
    let manifest = read_manifest(&signed)?;
    // What is listed in the index is known once that is here.
    let mut bytes = fetch(client, &store, &[manifest.index, manifest.sbom], ui).await?;
    let mut chunks = store.chunks_of(&manifest)?;
    chunks.sort_unstable();
    chunks.dedup();
    let missing: Vec<Digest> = chunks.iter().filter(|chunk| !store.has_chunk(chunk)).copied().collect();
    bytes += fetch(client, &store, &missing, ui).await?;
    store.put_manifest(&signed)?;
    if let ImageRef::Tag { name, tag } = &args.image {
        store.set_tag(name, tag, digest)?;
    }
    let pulled = Pulled { digest, chunks: chunks.len(), new_chunks: missing.len(), new_bytes: bytes };
    ui.answer(&pulled, || {
        let Pulled { chunks, new_chunks, .. } = &pulled;
        ui.line(&format!("{digest} ({new_chunks} of {chunks} chunks, {bytes} bytes pulled)"))
    })
}

/// Fetches those of these chunks that are not here; answers their bytes on the wire.
async fn fetch(client: &Client, store: &Store, chunks: &[Digest], ui: &Ui) -> Result<u64> {
    let missing: Vec<&Digest> = chunks.iter().filter(|chunk| !store.has_chunk(chunk)).collect();
    let transfer = ui.transfer(missing.len() as u64);
    let fetched = futures::stream::iter(missing).map(async |chunk: &Digest| {
        let packed = client.image_chunk(chunk).await?;
        store.put_compressed_chunk(chunk, &packed)?;
        transfer.done(1);
        Ok::<u64, CliError>(packed.len() as u64)
    });
    let fetched = fetched.buffer_unordered(AT_ONCE).try_fold(0, |sum, bytes| async move { Ok(sum + bytes) }).await;
    drop(transfer);
    fetched
}
