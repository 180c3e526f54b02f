//! Images on the server: list, show, roll back, untag, collect.

use clap::Args;
use helix_protocol::api::images::{CollectImages, ImageList, StoredImage};
use helix_protocol::image::{Digest, ImageRef};

use crate::client::Client;
use crate::error::{CliError, Kind, Result};
use crate::ui::{Ui, age};

/// A tag on the server.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// NAME or NAME:TAG
    image: ImageRef,
}

/// An image on the server.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// NAME, NAME:TAG or sha256:DIGEST
    image: ImageRef,
}

/// Arguments of the collection.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Former images that each tag keeps to be rolled back to
    #[arg(long, value_name = "N", default_value_t = 2)]
    keep: u32,
    /// What was pushed within this many seconds stays
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    min_age: u64,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

/// Lists names and tags; images that no tag names come last.
pub async fn list(client: &Client, ui: &Ui) -> Result<()> {
    let list = client.images().await?;
    ui.answer(&list, || ui.table(&["IMAGE", "DIGEST", "ARCH", "BYTES", "PUSHED", "BY"], &rows(&list)))
}

fn rows(list: &ImageList) -> Vec<Vec<String>> {
    let row = |name: String, image: &StoredImage| {
        let StoredImage { digest, manifest, pushed_by, pushed_at, .. } = image;
        let bytes = helix_protocol::resources::Bytes(manifest.tar_bytes).to_string();
        vec![name, short(*digest), manifest.arch.clone(), bytes, age(*pushed_at), pushed_by.clone()]
    };
    let mut rows = Vec::new();
    let mut named = std::collections::BTreeSet::new();
    for (name, tags) in &list.names {
        for (tag, record) in tags {
            named.insert(record.digest);
            if let Some(image) = list.images.iter().find(|image| image.digest == record.digest) {
                rows.push(row(format!("{name}:{tag}"), image));
            }
        }
    }
    let unnamed = list.images.iter().filter(|image| !named.contains(&image.digest));
    rows.extend(unnamed.map(|image| row(format!("({})", image.manifest.name), image)));
    rows
}

/// Shows an image: what its manifest says.
pub async fn show(client: &Client, args: &ShowArgs, ui: &Ui) -> Result<()> {
    let digest = resolve(client, &args.image).await?;
    let image = client.image(&digest).await?;
    ui.answer(&image, || {
        let StoredImage { manifest, chunks, pushed_by, pushed_at, signed_by, .. } = &image;
        let kinds: Vec<_> = manifest.kinds.iter().map(ToString::to_string).collect();
        let by = signed_by.as_deref().unwrap_or("a key that the server does not look at");
        for (name, value) in [
            ("Image", digest.to_string()),
            ("Recipe", manifest.name.clone()),
            ("System", format!("{} {} ({})", manifest.distribution, manifest.suite, manifest.arch)),
            ("Kinds", kinds.join(", ")),
            ("Bytes", format!("{} in {chunks} chunks", manifest.tar_bytes)),
            ("Signed by", by.to_owned()),
            ("Pushed", format!("{pushed_at} by {pushed_by}")),
        ] {
            ui.line(&format!("{name:<10} {value}"))?;
        }
        Ok(())
    })
}

/// Has a tag name the image that it named before.
pub async fn roll_back(client: &Client, args: &TagArgs, ui: &Ui) -> Result<()> {
    let (name, tag) = tag_of(&args.image)?;
    let record = client.roll_image_back(name, tag).await?;
    ui.answer(&record, || ui.line(&format!("{name}:{tag} {}", record.digest)))
}

/// Removes a tag.
pub async fn untag(client: &Client, args: &TagArgs, ui: &Ui) -> Result<()> {
    let (name, tag) = tag_of(&args.image)?;
    client.delete_image_tag(name, tag).await?;
    ui.answer(&serde_json::json!({ "deleted": args.image }), || ui.line(&args.image.to_string()))
}

/// Collects what nobody needs.
pub async fn collect(client: &Client, args: &GcArgs, ui: &Ui) -> Result<()> {
    let GcArgs { keep, min_age, dry_run } = *args;
    let wanted = CollectImages { keep: Some(keep), min_age_seconds: Some(min_age), dry_run };
    let collected = client.collect_images(&wanted).await?;
    ui.answer(&collected, || {
        for image in &collected.images {
            ui.line(&image.to_string())?;
        }
        let verb = if dry_run { "would go" } else { "removed" };
        ui.note(&format!(
            "{} images and {} chunks {verb}, {} images stay",
            collected.images.len(),
            collected.chunks,
            collected.kept
        ));
        Ok(())
    })
}

/// The image that a reference names on the server now.
pub async fn resolve(client: &Client, image: &ImageRef) -> Result<Digest> {
    let (name, tag) = match image {
        ImageRef::Digest(digest) => return Ok(*digest),
        ImageRef::Tag { name, tag } => (name, tag),
    };
    let list = client.images().await?;
    let unknown = |why: String| CliError::failed(format!("there is no image {image} on the server")).because(why);
    let tags = list.names.get(name).ok_or_else(|| {
        let known: Vec<_> = list.names.keys().map(String::as_str).collect();
        unknown(format!("its names are: {}", known.join(", "))).next("helixctl image push")
    })?;
    tags.get(tag).map(|record| record.digest).ok_or_else(|| {
        let known: Vec<_> = tags.keys().map(String::as_str).collect();
        unknown(format!("{name} has the tags {}", known.join(", "))).next(format!("name one: {name}:TAG"))
    })
}

fn tag_of(image: &ImageRef) -> Result<(&str, &str)> {
    match image {
        ImageRef::Tag { name, tag } => Ok((name, tag)),
        ImageRef::Digest(digest) => {
            Err(CliError::new(Kind::Usage, "a digest has no history").at(digest).next("name a tag: NAME:TAG"))
        }
    }
}

/// As much of a digest as people compare.
fn short(digest: Digest) -> String {
    format!("sha256:{}", &digest.hex()[..12])
}
