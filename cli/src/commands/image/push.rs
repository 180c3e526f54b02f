//! `helixctl image push`: an image of this machine to the server, chunk by chunk, those that it lacks.
//!
//! Safe to repeat: what came before an interruption is not sent again, and the tag is set last.

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use helix_protocol::ErrorCode;
use helix_protocol::api::images::MAX_CHUNK_LIST;
use helix_protocol::image::{Digest, ImageRef};
use serde::Serialize;

use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::images::store::Store;
use crate::ui::Ui;

/// Chunks on their way at once.
const AT_ONCE: usize = 8;

/// Arguments of `image push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Image of this machine: NAME, NAME:TAG or sha256:DIGEST
    image: ImageRef,
    /// Name and tag on the server [default: those of the image; its recipe's name and `latest` for a digest]
    #[arg(long = "as", value_name = "NAME[:TAG]")]
    named: Option<ImageRef>,
    #[command(flatten)]
    cache: super::CacheArgs,
}

/// What `--json` tells.
#[derive(Serialize)]
pub struct Pushed {
    digest: Digest,
    name: String,
    tag: String,
    chunks: usize,
    sent_chunks: usize,
    sent_bytes: u64,
}

/// Runs `image push`.
pub async fn run(client: &Client, args: &PushArgs, ui: &Ui) -> Result<()> {
    let pushed = push(client, &args.cache.store()?, &args.image, args.named.as_ref(), ui).await?;
    ui.answer(&pushed, || {
        let Pushed { digest, name, tag, chunks, sent_chunks, sent_bytes } = &pushed;
        ui.line(&format!("{name}:{tag} {digest} ({sent_chunks} of {chunks} chunks, {sent_bytes} bytes sent)"))
    })
}

/// Pushes an image and sets its tag: `named`, or its own.
pub async fn push(
    client: &Client,
    store: &Store,
    image: &ImageRef,
    named: Option<&ImageRef>,
    ui: &Ui,
) -> Result<Pushed> {
    let digest = store.resolve(image)?;
    let signed = store.signed_manifest(&digest)?;
    let manifest = store.manifest(&digest)?;
    let (name, tag) = match named.unwrap_or(image) {
        ImageRef::Tag { name, tag } => (name.clone(), tag.clone()),
        ImageRef::Digest(_) if named.is_none() => (manifest.name.clone(), "latest".to_owned()),
        ImageRef::Digest(digest) => {
            return Err(CliError::new(Kind::Usage, "a digest is no name of an image").at(digest).next("--as NAME:TAG"));
        }
    };
    let mut chunks = store.chunks_of(&manifest)?;
    chunks.sort_unstable();
    chunks.dedup();
    let (mut sent_chunks, mut sent_bytes) = send_missing(client, store, &chunks, ui).await?;
    if let Err(error) = client.put_image(&digest, &signed).await {
        // What was there when it was asked for may have been collected since: no image named it.
        if error.code != Some(ErrorCode::ImageIncomplete) {
            return Err(error);
        }
        let (again, bytes) = send_missing(client, store, &chunks, ui).await?;
        (sent_chunks, sent_bytes) = (sent_chunks + again, sent_bytes + bytes);
        client.put_image(&digest, &signed).await?;
    }
    client.set_image_tag(&name, &tag, digest).await?;
    Ok(Pushed { digest, name, tag, chunks: chunks.len(), sent_chunks, sent_bytes })
}

/// Sends those of the chunks that the server lacks; answers how many, and their bytes on the wire.
async fn send_missing(client: &Client, store: &Store, chunks: &[Digest], ui: &Ui) -> Result<(usize, u64)> {
    let mut missing = Vec::new();
    for list in chunks.chunks(MAX_CHUNK_LIST) {
        missing.extend(client.missing_chunks(list.to_vec()).await?);
    }
    let bytes = send(client, store, &missing, ui).await?;
    Ok((missing.len(), bytes))
}

/// Sends these chunks; answers their bytes on the wire.
async fn send(client: &Client, store: &Store, missing: &[Digest], ui: &Ui) -> Result<u64> {
    let bytes = missing.iter().map(|chunk| store.chunk_bytes(chunk).unwrap_or(0)).sum();
    let transfer = ui.transfer(bytes);
    let sent = futures::stream::iter(missing).map(async |chunk: &Digest| {
        let packed = store.compressed_chunk(chunk)?;
        let bytes = packed.len() as u64;
        client.put_chunk(chunk, packed).await?;
        transfer.done(bytes);
        Ok::<u64, CliError>(bytes)
    });
    let sent = sent.buffer_unordered(AT_ONCE).try_fold(0, |sum, bytes| async move { Ok(sum + bytes) }).await;
    drop(transfer);
    sent
}
