//! Tags: `tags/<name>/<tag>` says which image it names, and which ones it named before.

use std::io::ErrorKind;
use std::path::PathBuf;

use helix_protocol::image::Digest;
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{Store, names_in, remove};
use crate::error::{CliError, Result};

/// Images that a tag remembers.
const REMEMBERED: usize = 20;

/// A tag, as its file says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// What it names.
    pub digest: Digest,
    /// Since when.
    pub since: Timestamp,
    /// What it named before, the latest first.
    #[serde(default)]
    pub before: Vec<TaggedBefore>,
}

/// An image that a tag named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaggedBefore {
    /// Which.
    pub digest: Digest,
    /// From when on.
    pub since: Timestamp,
}

impl Store {
    /// What a tag says; None where there is none.
    pub fn tag(&self, name: &str, tag: &str) -> Result<Option<Tag>> {
        let path = self.tag_path(name, tag);
        let bad = |why: String| CliError::failed("cannot read a tag").at(path.display()).because(why);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| bad(error.to_string())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(bad(error.to_string())),
        }
    }

    /// All tags: name, tag, and what it says.
    pub fn tags(&self) -> Result<Vec<(String, String, Tag)>> {
        let mut all = Vec::new();
        for name in names_in(&self.dir().join("tags"))? {
            for tag in names_in(&self.dir().join("tags").join(&name))? {
                // What is being written is none.
                if tag.starts_with('.') {
                    continue;
                }
                if let Some(found) = self.tag(&name, &tag)? {
                    all.push((name.clone(), tag, found));
                }
            }
        }
        Ok(all)
    }

    /// From now on the tag names this image. Nothing changes where it does already.
    pub fn set_tag(&self, name: &str, tag: &str, digest: Digest) -> Result<Tag> {
        self.change_tag(name, tag, |old| {
            let Some(old) = old else {
                return Ok(Tag { digest, since: Timestamp::now(), before: Vec::new() });
            };
            if old.digest == digest {
                return Ok(old);
            }
            let mut before = vec![TaggedBefore { digest: old.digest, since: old.since }];
            before.extend(old.before.into_iter().filter(|known| known.digest != digest));
            before.truncate(REMEMBERED);
            Ok(Tag { digest, since: Timestamp::now(), before })
        })
    }

    /// The tag names again what it named before, or the image `to` that it named once.
    pub fn roll_back_tag(&self, name: &str, tag: &str, to: Option<Digest>) -> Result<Tag> {
        let refused = |why: &str| {
            CliError::failed(format!("cannot roll {name}:{tag} back"))
                .because(why)
                .next(format!("helixctl image list {name}; helixctl image build {name} makes another one"))
        };
        let found = self.tag(name, tag)?.ok_or_else(|| refused("there is no such tag"))?;
        let target = match to {
            None => found.before.first().ok_or_else(|| refused("it has never named another image"))?.digest,
            Some(digest) if found.before.iter().any(|known| known.digest == digest) => digest,
            Some(_) => return Err(refused("it has never named that image")),
        };
        let manifest = self.manifest(&target).map_err(|_| refused("that image was removed (helixctl image gc)"))?;
        if self.chunks_of(&manifest)?.iter().any(|chunk| !self.has_chunk(chunk)) {
            return Err(refused("parts of that image are not here any more"));
        }
        self.change_tag(name, tag, |old| {
            let old = old.ok_or_else(|| refused("there is no such tag"))?;
            // What was left is not what the next one goes back to.
            let before = old.before.into_iter().filter(|known| known.digest != target).collect();
            Ok(Tag { digest: target, since: Timestamp::now(), before })
        })
    }

    /// Forgets an image that a tag named before.
    pub fn forget_before(&self, name: &str, tag: &str, digest: &Digest) -> Result<()> {
        self.change_tag(name, tag, |old| {
            let mut old = old.ok_or_else(|| CliError::failed(format!("there is no tag {name}:{tag}")))?;
            old.before.retain(|known| known.digest != *digest);
            Ok(old)
        })
        .map(drop)
    }

    /// Removes a tag; its image stays until rubbish is removed.
    pub fn remove_tag(&self, name: &str, tag: &str) -> Result<()> {
        remove(&self.tag_path(name, tag))
    }

    fn tag_path(&self, name: &str, tag: &str) -> PathBuf {
        self.dir().join("tags").join(name).join(tag)
    }

    /// Reads, changes and writes, with nobody between.
    fn change_tag(&self, name: &str, tag: &str, change: impl FnOnce(Option<Tag>) -> Result<Tag>) -> Result<Tag> {
        let path = self.dir().join("tags-lock");
        let bad = |why: String| CliError::failed("cannot write a tag").at(path.display()).because(why);
        let lock = std::fs::File::options().create(true).append(true).open(&path).map_err(|e| bad(e.to_string()))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| bad(error.to_string()))?;
        let old = self.tag(name, tag)?;
        let new = change(old.clone())?;
        if old.as_ref() != Some(&new) {
            let json = serde_json::to_vec(&new).map_err(|error| bad(error.to_string()))?;
            self.write(&self.tag_path(name, tag), &json)?;
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_remembers_what_it_named_and_is_not_rolled_back_to_what_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        let [a, b] = [b"a", b"b"].map(|text| Digest::of(text));
        assert_eq!(store.tag("dev", "latest").expect("read"), None);
        store.roll_back_tag("dev", "latest", None).expect_err("there is none");
        store.set_tag("dev", "latest", a).expect("set");
        let tag = store.set_tag("dev", "latest", b).expect("set");
        assert_eq!((tag.digest, tag.before[0].digest), (b, a));
        assert_eq!(store.set_tag("dev", "latest", b).expect("set"), tag, "nothing changed");
        let error = store.roll_back_tag("dev", "latest", None).expect_err("its manifest is not here");
        assert!(error.to_string().contains("was removed"), "{error}");
        assert_eq!(store.tags().expect("listed").len(), 1);
    }
}
