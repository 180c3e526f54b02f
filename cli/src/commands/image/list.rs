//! `helixctl image list`, `show` and `rollback`.

use std::process::ExitCode;

use clap::Args;
use helix_protocol::image::{Digest, ImageManifest, ImageRef};
use jiff::Timestamp;
use serde::Serialize;

use super::{CacheArgs, found, size};
use crate::error::{CliError, Kind, Result};
use crate::images::sbom::{self, Package};
use crate::images::store::TaggedBefore;
use crate::ui::{Ui, age};

/// Arguments of `image list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Images of this name alone
    name: Option<String>,
    #[command(flatten)]
    cache: CacheArgs,
}

/// Arguments of `image show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// NAME, NAME:TAG or digest
    image: ImageRef,
    /// Print its list of packages as it is: SPDX JSON
    #[arg(long)]
    sbom: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

/// Arguments of `image rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// NAME or NAME:TAG
    tag: ImageRef,
    /// Image to go back to, one that the tag named [default: the one before]
    #[arg(long, value_name = "DIGEST")]
    to: Option<Digest>,
    #[command(flatten)]
    cache: CacheArgs,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    tag: String,
    digest: Digest,
    since: Timestamp,
    tar_bytes: u64,
    before: Vec<TaggedBefore>,
}

#[derive(Serialize)]
struct Shown {
    digest: Digest,
    #[serde(flatten)]
    manifest: ImageManifest,
    chunks: usize,
    stored_bytes: u64,
    packages: Vec<Package>,
}

/// Runs `image list`.
pub fn list(args: &ListArgs, ui: &Ui) -> Result<ExitCode> {
    let store = args.cache.store()?;
    let mut listed = Vec::new();
    for (name, tag, found) in store.tags()? {
        if args.name.as_ref().is_none_or(|wanted| *wanted == name) {
            let tar_bytes = store.manifest(&found.digest).map_or(0, |manifest| manifest.tar_bytes);
            listed.push(Listed {
                name,
                tag,
                digest: found.digest,
                since: found.since,
                tar_bytes,
                before: found.before,
            });
        }
    }
    ui.answer(&serde_json::json!({ "images": listed }), || {
        let row = |image: &Listed| {
            let before = image.before.iter().map(|before| short(&before.digest)).collect::<Vec<_>>().join(" ");
            vec![
                format!("{}:{}", image.name, image.tag),
                image.digest.to_string(),
                size(image.tar_bytes),
                age(image.since),
                before,
            ]
        };
        ui.table(&["IMAGE", "DIGEST", "SIZE", "AGE", "BEFORE"], &listed.iter().map(row).collect::<Vec<_>>())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `image show`.
pub fn show(args: &ShowArgs, ui: &Ui) -> Result<ExitCode> {
    let store = args.cache.store()?;
    let (digest, manifest) = found(&store, &args.image)?;
    let sbom = store.chunk(&manifest.sbom)?;
    if args.sbom {
        ui.raw(&sbom)?;
        ui.raw(b"\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let chunks = store.chunks_of(&manifest)?;
    let mut unique = chunks.clone();
    unique.sort_unstable();
    unique.dedup();
    let stored_bytes = unique.iter().filter_map(|chunk| store.chunk_bytes(chunk)).sum();
    let packages = sbom::packages(&sbom)?;
    let shown = Shown { digest, manifest, chunks: chunks.len(), stored_bytes, packages };
    ui.answer(&shown, || {
        let manifest = &shown.manifest;
        let made = Timestamp::from_second(i64::try_from(manifest.source_date).unwrap_or(0)).unwrap_or_default();
        let kinds: Vec<_> = manifest.kinds.iter().map(ToString::to_string).collect();
        let labels: Vec<_> = manifest.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        for (label, text) in [
            ("digest", shown.digest.to_string()),
            ("name", manifest.name.clone()),
            ("system", format!("{} {} {}", manifest.distribution, manifest.suite, manifest.arch)),
            ("packages of", made.to_string()),
            ("recipe", manifest.recipe.to_string()),
            ("kinds", kinds.join(" ")),
            ("labels", labels.join(" ")),
            (
                "size",
                format!("{}, {} stored in {} chunks", size(manifest.tar_bytes), size(shown.stored_bytes), shown.chunks),
            ),
            ("packages", shown.packages.len().to_string()),
        ] {
            ui.line(&format!("{label:<12} {text}"))?;
        }
        let row = |package: &Package| vec![package.kind.clone(), package.name.clone(), package.version.clone()];
        ui.table(&["FROM", "PACKAGE", "VERSION"], &shown.packages.iter().map(row).collect::<Vec<_>>())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `image rollback`.
pub fn roll_back(args: &RollbackArgs, ui: &Ui) -> Result<ExitCode> {
    let ImageRef::Tag { name, tag } = &args.tag else {
        return Err(
            CliError::new(Kind::Usage, "a digest cannot be rolled back").next("helixctl image rollback NAME:TAG")
        );
    };
    let found = args.cache.store()?.roll_back_tag(name, tag, args.to)?;
    let answer = serde_json::json!({ "name": name, "tag": tag, "digest": found.digest });
    ui.answer(&answer, || ui.line(&found.digest.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

fn short(digest: &Digest) -> String {
    digest.hex()[..12].to_owned()
}
