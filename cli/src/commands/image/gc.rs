//! `helixctl image gc`: removes what no tag names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{CacheArgs, size};
use crate::error::{CliError, Result};
use crate::images::build::{BuiltRecord, remove};
use crate::images::cache::Cache;
use crate::ui::Ui;

/// Arguments of `image gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Images that each tag named before, and that are kept for a rollback
    #[arg(long, default_value_t = 2, value_name = "N")]
    keep: usize,
    /// Remove the packages and agents that were had once, too: the next build fetches them again
    #[arg(long)]
    downloads: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

#[derive(Debug, Default, Serialize)]
struct Removed {
    images: u64,
    chunks: u64,
    chunk_bytes: u64,
    layers: u64,
    kept_images: usize,
}

/// Runs `image gc`.
pub async fn run(args: &GcArgs, ui: &Ui) -> Result<ExitCode> {
    let cache = args.cache.cache()?;
    let store = &cache.store;
    let bad =
        |error: std::io::Error| CliError::failed("cannot lock the store").at(store.dir().display()).because(error);
    if store.alone().map_err(bad)?.is_none() {
        return Err(CliError::failed("the store is being used")
            .at(store.dir().display())
            .because("a build, a push or a pull runs; what it is about to use must not go")
            .next("run it again when that has ended"));
    }
    let mut removed = Removed::default();
    let mut kept = BTreeSet::new();
    for (name, tag, found) in store.tags()? {
        kept.insert(found.digest);
        for (number, before) in found.before.iter().enumerate() {
            if number < args.keep {
                kept.insert(before.digest);
            } else {
                store.forget_before(&name, &tag, &before.digest)?;
            }
        }
    }
    let mut chunks = BTreeSet::new();
    for digest in store.manifests()? {
        if !kept.contains(&digest) {
            store.remove_manifest(&digest)?;
            removed.images += 1;
            continue;
        }
        // An image whose index is lost cannot be told from rubbish; its manifest stays, for a pull to mend it.
        if let Ok(wanted) = store.manifest(&digest).and_then(|manifest| store.chunks_of(&manifest)) {
            chunks.extend(wanted);
        }
    }
    (removed.chunks, removed.chunk_bytes) = store.remove_chunks(|digest| chunks.contains(digest))?;
    removed.kept_images = kept.len();
    let (layers, archives) = wanted_layers(&cache, &kept)?;
    let mut rubbish = below(&cache.part("layers"), |name| !layers.contains(name));
    removed.layers = rubbish.len() as u64;
    rubbish.extend(below(&cache.part("archives"), |name| name != "by-source" && !archives.contains(name)));
    rubbish.extend(below(&cache.part("trash"), |_| true));
    rubbish.extend(below(&cache.part("work"), |_| true));
    if args.downloads {
        rubbish.extend([cache.part("debs"), cache.part("downloads")]);
    }
    if !rubbish.is_empty() {
        remove(&cache, rubbish).await?;
    }
    ui.answer(&removed, || {
        ui.line(&format!(
            "removed {} images, {} chunks ({}), {} layers; kept {} images",
            removed.images,
            removed.chunks,
            size(removed.chunk_bytes),
            removed.layers,
            removed.kept_images
        ))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Layers and archives of the images that are kept; what is known of others is forgotten.
fn wanted_layers(
    cache: &Cache,
    kept: &BTreeSet<helix_protocol::image::Digest>,
) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut layers, mut archives) = (BTreeSet::new(), BTreeSet::new());
    for path in below(&cache.part("built"), |_| true) {
        let record = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<BuiltRecord>(&bytes).ok());
        match record {
            Some(record) if kept.contains(&record.image) => {
                layers.extend(record.layers);
                archives.insert(record.archive);
            }
            _ => std::fs::remove_file(&path)
                .map_err(|error| CliError::failed("cannot remove").at(path.display()).because(error))?,
        }
    }
    Ok((layers, archives))
}

fn below(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| wanted(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect()
}
