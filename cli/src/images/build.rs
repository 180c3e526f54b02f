//! Builds an image: the layers that are missing, one after the other, then the pack, the signature, the tag.
//!
//! Nothing is changed in place. A step that fails or is killed leaves its log and a directory in `work`, which this
//! build or the next one removes; layers and images that are there stay as they are. Two builds that want the same
//! layer or image wait for each other by its lock and find it made.

mod layer;

use std::sync::Arc;
use std::time::Instant;

use helix_protocol::image::{Digest, FORMAT, ImageManifest, SIGNATURE_NAMESPACE, SignedManifest};
use serde::{Deserialize, Serialize};

use super::cache::{Cache, cannot, replace};
use super::pack::Packed;
use super::plan::Plan;
use super::recipe::Chain;
use super::sandbox;
use super::worker::{Answer, Job, PackJob};
use crate::error::{CliError, Result};
use crate::provision::signing::SigningKey;

/// Room that a pack takes at most: a third of what is packed, which nobody knows before.
const PACK_BYTES: u64 = 128 << 20;

/// What is wanted.
pub struct Request {
    /// The recipe with its parents.
    pub chain: Chain,
    /// Names the image, beside its recipe's name.
    pub tag: String,
    /// Makes every layer anew.
    pub force: bool,
    /// Asks the distribution's archive for newer packages.
    pub update: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Built {
    /// Name and tag.
    pub name: String,
    /// The tag.
    pub tag: String,
    /// The image.
    pub digest: Digest,
    /// True when nothing had to be done.
    pub unchanged: bool,
    /// Its layers.
    pub steps: Vec<StepDone>,
    /// Length of its tar.
    pub tar_bytes: u64,
    /// What the pack made; none where the image was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
    /// Milliseconds, all together.
    pub took_ms: u64,
}

/// A layer of a build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepDone {
    /// What it does.
    pub step: String,
    /// Whose recipe it is of.
    pub recipe: String,
    /// Name of the layer, and of its log.
    pub layer: String,
    /// False when it was there.
    pub made: bool,
    /// Milliseconds.
    pub took_ms: u64,
}

/// `built/<key>`: which image came of a plan, and what it is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuiltRecord {
    /// The image.
    pub image: Digest,
    /// Names of its layers.
    pub layers: Vec<String>,
    /// Name of its archive.
    pub archive: String,
}

/// Builds; `say` is told what goes on.
pub async fn build(
    cache: &Arc<Cache>,
    request: Request,
    key: &SigningKey,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Built> {
    let begun = Instant::now();
    sandbox::rights()?;
    clean(cache).await?;
    let plan = Plan::of(cache, &request.chain, request.update).await?;
    let done = |digest, unchanged, steps, tar_bytes, packed| Built {
        name: plan.name.clone(),
        tag: request.tag.clone(),
        digest,
        unchanged,
        steps,
        tar_bytes,
        packed,
        took_ms: millis(begun),
    };
    if !request.force
        && let Some(digest) = known(cache, &plan, key)?
    {
        cache.store.set_tag(&plan.name, &request.tag, digest)?;
        let tar_bytes = cache.store.manifest(&digest)?.tar_bytes;
        let steps = plan.layers.iter().map(layer::there).collect();
        return Ok(done(digest, true, steps, tar_bytes, None));
    }
    let missing = plan.layers.iter().filter(|layer| request.force || !cache.layer(&layer.key).exists());
    let room: u64 = missing.map(|layer| layer.step.room(&layer.inputs)).sum();
    cache.need(room + PACK_BYTES)?;
    let mut steps = Vec::with_capacity(plan.layers.len());
    for number in 0..plan.layers.len() {
        let words = format!("{}: {}", plan.layers[number].recipe, plan.layers[number].step.words());
        let step = layer::make(cache, &plan, number, request.force, &|| say(&words)).await?;
        steps.push(step);
    }
    // Of two builds of one image the second one finds it made.
    let _lock = locked(cache, format!("image-{}", Cache::layer_name(&plan.key))).await?;
    say("packing");
    let (digest, packed) = packed(cache, &plan, key).await?;
    cache.store.set_tag(&plan.name, &request.tag, digest)?;
    let tar_bytes = packed.tar_bytes;
    Ok(done(digest, false, steps, tar_bytes, Some(packed)))
}

/// The image of the plan, if it is there; signed with this key afterwards.
fn known(cache: &Cache, plan: &Plan, key: &SigningKey) -> Result<Option<Digest>> {
    let Some(digest) = cache.built(&plan.key) else { return Ok(None) };
    let signed = cache.store.signed_manifest(&digest)?;
    let signature = key.sign_as(SIGNATURE_NAMESPACE, &signed.manifest)?;
    if signature != signed.signature {
        cache.store.put_manifest(&SignedManifest { manifest: signed.manifest, signature })?;
    }
    Ok(Some(digest))
}

async fn packed(cache: &Arc<Cache>, plan: &Plan, key: &SigningKey) -> Result<(Digest, Packed)> {
    let work = cache.work()?;
    let names: Vec<_> = plan.layers.iter().map(|layer| Cache::layer_name(&layer.key)).collect();
    let job = Job::Pack(PackJob {
        layers: cache.part("layers"),
        names: names.clone(),
        work: work.dir.clone(),
        image: plan.name.clone(),
        source_date: plan.archive.source_date,
        store: cache.store.dir().to_owned(),
    });
    let log = cache.part("logs").join(format!("pack-{}.log", Cache::layer_name(&plan.key)));
    replace(&log, b"").map_err(|error| cannot(&log, &error))?;
    let answer = sandbox::run(&job, &log).await;
    remove(cache, vec![work.dir.clone()]).await?;
    let Answer::Packed { packed, sbom } = answer? else {
        return Err(CliError::failed("the image was not packed").at(log.display()));
    };
    let manifest = ImageManifest {
        format: FORMAT,
        name: plan.name.clone(),
        arch: plan.arch.clone(),
        distribution: plan.distribution.clone(),
        suite: plan.suite.clone(),
        source_date: plan.archive.source_date,
        kinds: plan.kinds.clone(),
        labels: plan.labels.clone(),
        recipe: plan.recipe,
        tar_bytes: packed.tar_bytes,
        tar: packed.tar,
        index: packed.index,
        sbom,
    };
    let bad = |error: serde_json::Error| CliError::failed("cannot write the manifest").because(error);
    let manifest = serde_json::to_string(&manifest).map_err(bad)?;
    let signature = key.sign_as(SIGNATURE_NAMESPACE, &manifest)?;
    let digest = cache.store.put_manifest(&SignedManifest { manifest, signature })?;
    let record = BuiltRecord { image: digest, layers: names, archive: Cache::layer_name(&plan.archive.digest) };
    cache.set_built(&plan.key, &record)?;
    Ok((digest, packed))
}

/// Removes what killed builds have left.
pub async fn clean(cache: &Cache) -> Result<()> {
    let left = cache.leftovers()?;
    if left.is_empty() { Ok(()) } else { remove(cache, left).await }
}

/// Removes directories whose files may belong to numbers of a user namespace.
pub async fn remove(cache: &Cache, paths: Vec<std::path::PathBuf>) -> Result<()> {
    let log = cache.part("logs").join("remove.log");
    sandbox::run(&Job::Remove { paths }, &log).await.map(drop)
}

/// Waits for a lock without holding up anything else.
async fn locked(cache: &Arc<Cache>, what: String) -> Result<std::fs::File> {
    let waiting = Arc::clone(cache);
    let lock = tokio::task::spawn_blocking(move || waiting.lock(&what)).await;
    lock.map_err(|panic| CliError::failed("cannot lock a part of the cache").because(panic))?
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
