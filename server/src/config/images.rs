//! `[images]`: whose images the server takes.

use std::path::Path;

use helix_protocol::image::signature::Signers;

use super::document::Document;

const SECTION: &str = "images";
const KEY: &str = "allowed_signers";

/// The keys of the file that is named, if one is.
pub(super) fn read(doc: &mut Document<'_>) -> Option<Signers> {
    let file = doc.optional_path(SECTION, KEY)?;
    let signers = signers(&file);
    Some(signers.unwrap_or_else(|problem| {
        let fix = "name a file as ssh-keygen(1) has it: NAME namespaces=\"helix-image\" ssh-ed25519 AAAA...";
        doc.fault(SECTION, KEY, &problem, fix);
        Signers::default()
    }))
}

fn signers(file: &Path) -> Result<Signers, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let signers = Signers::parse(&text);
    if signers.is_empty() {
        return Err(format!("{} has no Ed25519 key that may sign images", file.display()));
    }
    Ok(signers)
}
