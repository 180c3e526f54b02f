//! Images that a runner shall have before anybody asks for them: those of pools whose agents may be placed on it.
//!
//! Named with every desired set, hence level-triggered: a pool that is applied, a tag that names another image and a runner that
//! is cordoned are heard of with the next `sync`, ten seconds later at most. Nothing waits for it: a session that comes before its
//! image has it fetched as ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use helix_protocol::image::{Digest, ImageRef};
use helix_protocol::pool::PoolSpec;
use helix_protocol::record::{ImageRecord, RunnerRecord};
use helix_protocol::runner::{Degradation, Heartbeat, Liveness, RunnerFacts};
use helix_protocol::{KindName, PoolName, subject};

use crate::error::Result;
use crate::scheduler::{Ask, Candidate, Held, ImageAsk, could_take};
use crate::store::Store;

/// An image that a pool's next agent would have.
struct Ahead {
    digest: Digest,
    arch: String,
    /// The first that it is for: that of agents which name none.
    kind: Option<KindName>,
}

/// Images that this runner, which has just asked, shall have ahead, by digest.
pub async fn wanted(store: &Store, runner: &RunnerRecord) -> Result<Vec<Digest>> {
    tokio::try_join!(store.pools.catch_up(), store.images.catch_up())?;
    let pools: Vec<(PoolName, PoolSpec)> = {
        let pools = store.pools.view().read();
        let with_image = pools.iter().filter(|(_, entry)| entry.value.spec.image.is_some());
        with_image.map(|(_, entry)| (entry.value.name.clone(), entry.value.spec.clone())).collect()
    };
    if pools.is_empty() || runner.cordoned {
        return Ok(Vec::new());
    }
    let Some(candidate) = candidate(store, runner) else { return Ok(Vec::new()) };
    let images: BTreeMap<&PoolName, Ahead> =
        pools.iter().filter_map(|(name, spec)| Some((name, ahead(store, spec.image.as_ref()?)?))).collect();
    let may = |(name, spec): &(PoolName, PoolSpec)| {
        let image = images.get(name)?;
        could_take(&candidate, ask(name, spec, image)).then_some(image.digest)
    };
    let digests: BTreeSet<Digest> = pools.iter().filter_map(may).collect();
    Ok(digests.into_iter().collect())
}

/// The runner as if it had nothing to do; None where it takes nothing.
fn candidate(store: &Store, runner: &RunnerRecord) -> Option<Candidate> {
    let lease = store.leases.view().get(&subject::runner_lease_key(&runner.id));
    let heartbeat = lease.as_ref().and_then(|lease| lease.value.heartbeat.as_ref());
    // An image on a disk that is nearly full would be the first to go.
    let degraded = |heartbeat: &Heartbeat| heartbeat.degraded.iter().any(|degraded| degraded.what == Degradation::Disk);
    if heartbeat.is_some_and(|heartbeat| heartbeat.draining || degraded(heartbeat)) {
        return None;
    }
    let facts = runner.facts.clone()?;
    Some(Candidate {
        id: runner.id.clone(),
        liveness: Liveness::Online,
        cordoned: false,
        draining: false,
        degraded: None,
        unsteady: false,
        slots: 1,
        held: Held::default(),
        images: Vec::new(),
        facts: Some(Arc::new(RunnerFacts { labels: runner.all_labels(), ..facts })),
    })
}

/// What a reference names now; None where that is not there, or not whole.
fn ahead(store: &Store, reference: &ImageRef) -> Option<Ahead> {
    let images = store.images.view().read();
    let digest = match reference {
        ImageRef::Digest(digest) => *digest,
        ImageRef::Tag { name, tag } => match &*images.get(&subject::image_name_key(name))?.value {
            ImageRecord::Name { tags } => tags.get(tag)?.digest,
            _ => return None,
        },
    };
    match &*images.get(&subject::image_key(&digest))?.value {
        ImageRecord::Image(record) if record.complete => {
            let kind = record.signed.read().ok()?.kinds.into_iter().next();
            Some(Ahead { digest, arch: record.arch.clone(), kind })
        }
        _ => None,
    }
}

fn ask<'a>(name: &'a PoolName, spec: &'a PoolSpec, image: &'a Ahead) -> Ask<'a> {
    Ask {
        kind: spec.kind.as_ref().or(image.kind.as_ref()),
        pool: Some(name),
        selector: Some(&spec.selector),
        placement: spec.placement,
        runner: None,
        left: None,
        image: Some(ImageAsk { digest: image.digest, arch: Some(&image.arch) }),
        resources: spec.resources,
        reserve: spec.reserve,
    }
}
