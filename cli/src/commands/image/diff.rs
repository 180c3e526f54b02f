//! `helixctl image diff`: which packages and files differ between two images.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use helix_protocol::image::{Digest, ImageRef};
use serde::Serialize;

use super::{CacheArgs, found, size};
use crate::error::Result;
use crate::images::contents::{Entry, entries};
use crate::images::sbom;
use crate::ui::Ui;

/// Arguments of `image diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// NAME, NAME:TAG or digest
    old: ImageRef,
    /// NAME, NAME:TAG or digest
    new: ImageRef,
    /// Packages alone
    #[arg(long)]
    packages: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

/// What is there before, after, or both and differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change<T> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<T>,
}

#[derive(Serialize)]
struct Difference {
    old: Digest,
    new: Digest,
    packages: Vec<Change<String>>,
    files: Vec<Change<Entry>>,
    /// Compressed bytes of the chunks that the old one lacks: what a machine that has it must fetch.
    delta_bytes: u64,
    /// Of all chunks of the new one.
    stored_bytes: u64,
}

/// Runs `image diff`.
pub fn run(args: &DiffArgs, ui: &Ui) -> Result<ExitCode> {
    let store = args.cache.store()?;
    let (old, old_manifest) = found(&store, &args.old)?;
    let (new, new_manifest) = found(&store, &args.new)?;
    let packages = |sbom: &Digest| -> Result<BTreeMap<String, String>> {
        let list = sbom::packages(&store.chunk(sbom)?)?;
        Ok(list.into_iter().map(|package| (format!("{} {}", package.kind, package.name), package.version)).collect())
    };
    let mut files = Vec::new();
    if !args.packages {
        files = changes(entries(&store, &old_manifest)?, entries(&store, &new_manifest)?);
    }
    let had: std::collections::BTreeSet<_> = store.chunks_of(&old_manifest)?.into_iter().collect();
    let wanted: std::collections::BTreeSet<_> = store.chunks_of(&new_manifest)?.into_iter().collect();
    let bytes = |chunk: &Digest| store.chunk_bytes(chunk).unwrap_or(0);
    let difference = Difference {
        old,
        new,
        packages: changes(packages(&old_manifest.sbom)?, packages(&new_manifest.sbom)?),
        files,
        delta_bytes: wanted.difference(&had).map(bytes).sum(),
        stored_bytes: wanted.iter().map(bytes).sum(),
    };
    ui.answer(&difference, || {
        for change in &difference.packages {
            ui.line(&line(change, String::clone))?;
        }
        for change in &difference.files {
            ui.line(&line(change, |entry| format!("{} {} {}", entry.kind, entry.mode, size(entry.bytes))))?;
        }
        let (delta, all) = (difference.delta_bytes, difference.stored_bytes);
        ui.note(&format!("a machine that has the old one fetches {} of {}", size(delta), size(all)));
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn changes<T: PartialEq>(mut old: BTreeMap<String, T>, new: BTreeMap<String, T>) -> Vec<Change<T>> {
    let mut found = Vec::new();
    for (name, value) in new {
        match old.remove(&name) {
            Some(before) if before == value => {}
            before => found.push(Change { name, old: before, new: Some(value) }),
        }
    }
    found.extend(old.into_iter().map(|(name, value)| Change { name, old: Some(value), new: None }));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn line<T>(change: &Change<T>, words: impl Fn(&T) -> String) -> String {
    let name = &change.name;
    match (&change.old, &change.new) {
        (None, Some(new)) => format!("+ {name} {}", words(new)),
        (Some(old), None) => format!("- {name} {}", words(old)),
        (Some(old), Some(new)) if words(old) == words(new) => format!("~ {name} {}", words(new)),
        (Some(old), Some(new)) => format!("~ {name} {} → {}", words(old), words(new)),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_went_and_changed_is_told_in_order() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let found = changes(map(&[("a", "1"), ("b", "1"), ("c", "1")]), map(&[("b", "2"), ("c", "1"), ("d", "1")]));
        let lines: Vec<_> = found.iter().map(|change| line(change, String::clone)).collect();
        assert_eq!(lines, ["- a 1", "~ b 1 → 2", "+ d 1"]);
    }
}
