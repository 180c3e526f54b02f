//! Names of images: what a tag names, named before, and goes back to.

use std::collections::BTreeMap;

use helix_protocol::api::images::TagRecord;
use helix_protocol::image::{Digest, ImageRef};
use helix_protocol::record::ImageRecord;
use helix_protocol::{ErrorCode, subject};
use jiff::Timestamp;

use super::{Images, invalid, no_image};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::store::{Store, Versioned};

/// Former images that a tag remembers.
const MAX_HISTORY: usize = 10;
/// Tags of one name: its record stays small.
const MAX_TAGS: usize = 200;

type Tags = BTreeMap<String, TagRecord>;

impl Images {
    /// Has a tag name this image from now on.
    pub async fn set_tag(&self, by: &Principal, name: &str, tag: &str, digest: Digest) -> Result<TagRecord> {
        check_name(name, tag)?;
        let set = self.change(name, |tags| {
            let (now, by) = (Timestamp::now(), by.name.clone());
            let Some(known) = tags.get(tag) else {
                if tags.len() >= MAX_TAGS {
                    let detail =
                        format!("{name} has {MAX_TAGS} tags; delete one first: helixctl image tag --delete {name}:TAG");
                    return Err(invalid(detail));
                }
                let record = TagRecord { digest, since: now, by, history: Vec::new() };
                tags.insert(tag.to_owned(), record.clone());
                return Ok(record);
            };
            if known.digest == digest {
                return Ok(known.clone());
            }
            let former = std::iter::once(known.digest).chain(known.history.iter().copied());
            let history = former.filter(|former| *former != digest).take(MAX_HISTORY).collect();
            let record = TagRecord { digest, since: now, by, history };
            tags.insert(tag.to_owned(), record.clone());
            Ok(record)
        });
        set.await
    }

    /// Has a tag name the image that it named before.
    pub async fn roll_back(&self, by: &Principal, name: &str, tag: &str) -> Result<TagRecord> {
        let (tags, _) = read(&self.store, name).await?;
        let known = tags.get(tag).ok_or_else(|| no_tag(name, tag, &tags))?;
        let nothing = |why: String| Error::new(ErrorCode::NoRollback, why);
        let Some(former) = known.history.first().copied() else {
            let now = known.digest;
            return Err(nothing(format!(
                "{name}:{tag} never named another image than {now}; push one, or set the tag"
            )));
        };
        if !self.is_complete(former).await? {
            let now = known.digest;
            return Err(nothing(format!(
                "{name}:{tag} named {former} before, which was collected and is not here any more; it stays at {now}. Push that \
                 image again, or set the tag to another one"
            )));
        }
        let rolled = self.change(name, |tags| {
            let known = tags.get(tag).ok_or_else(|| no_tag(name, tag, tags))?;
            let Some((_, older)) = known.history.split_first().filter(|(first, _)| **first == former) else {
                return Err(Error::new(ErrorCode::Conflict, format!("{name}:{tag} was changed meanwhile; look again")));
            };
            let (since, by, history) = (Timestamp::now(), by.name.clone(), older.to_vec());
            let record = TagRecord { digest: former, since, by, history };
            tags.insert(tag.to_owned(), record.clone());
            Ok(record)
        });
        rolled.await
    }

    /// Removes a tag. Its image stays until it is collected.
    pub async fn delete_tag(&self, name: &str, tag: &str) -> Result<()> {
        let (mut tags, revision) = read(&self.store, name).await?;
        tags.remove(tag).ok_or_else(|| no_tag(name, tag, &tags))?;
        let key = subject::image_name_key(name);
        if tags.is_empty() {
            self.store.images.delete(&key, revision).await?;
        } else {
            self.store.images.update(&key, &ImageRecord::Name { tags }, revision).await?;
        }
        Ok(())
    }

    /// Changes the tags of a name. Whatever image the changed tag then names is there afterwards, or it is as before.
    async fn change(&self, name: &str, change: impl FnOnce(&mut Tags) -> Result<TagRecord>) -> Result<TagRecord> {
        let (mut tags, revision) = read(&self.store, name).await?;
        let before = tags.clone();
        let record = change(&mut tags)?;
        if !self.is_complete(record.digest).await? {
            return Err(no_image(record.digest));
        }
        if tags == before {
            return Ok(record);
        }
        let key = subject::image_name_key(name);
        let written = ImageRecord::Name { tags };
        let revision = match revision {
            0 => self.store.images.create(&key, &written).await?,
            revision => self.store.images.update(&key, &written, revision).await?,
        };
        // Who collects marks an image before it looks at the tags for the last time.
        if !self.is_complete(record.digest).await? {
            if before.is_empty() {
                self.store.images.delete(&key, revision).await?;
            } else {
                self.store.images.update(&key, &ImageRecord::Name { tags: before }, revision).await?;
            }
            return Err(no_image(record.digest));
        }
        Ok(record)
    }
}

/// The image that a tag names.
pub(super) async fn digest_of(store: &Store, name: &str, tag: &str) -> Result<Digest> {
    let (tags, _) = read(store, name).await?;
    tags.get(tag).map(|record| record.digest).ok_or_else(|| no_tag(name, tag, &tags))
}

/// The tags of a name, and the revision of the record; none and 0 where there is no such name.
async fn read(store: &Store, name: &str) -> Result<(Tags, u64)> {
    let Some(Versioned { value, revision, .. }) = store.images.get(&subject::image_name_key(name)).await?.found()
    else {
        return Ok((Tags::new(), 0));
    };
    match &*value {
        ImageRecord::Name { tags } => Ok((tags.clone(), revision)),
        _ => Err(Error::new(ErrorCode::Internal, format!("the record of name {name} is another one's"))),
    }
}

/// What may be written before and behind the colon of a reference.
fn check_name(name: &str, tag: &str) -> Result<()> {
    match format!("{name}:{tag}").parse() {
        Ok(ImageRef::Tag { .. }) => Ok(()),
        Ok(ImageRef::Digest(_)) => Err(invalid("a digest is no name of an image")),
        Err(error) => Err(invalid(error.to_string())),
    }
}

fn no_tag(name: &str, tag: &str, tags: &Tags) -> Error {
    let known: Vec<&str> = tags.keys().map(String::as_str).collect();
    let detail = if known.is_empty() {
        format!("there is no image {name}; push it: helixctl image push {name}")
    } else {
        format!("image {name} has no tag {tag}; it has: {}", known.join(", "))
    };
    Error::new(ErrorCode::ImageNotFound, detail)
}
