//! New sessions: what is asked becomes a record, once.

use std::collections::BTreeMap;

use helix_protocol::api::{CreateSession, SessionView};
use helix_protocol::checkpoint::WorkRecord;
use helix_protocol::control::Control;
use helix_protocol::grant::Grants;
use helix_protocol::image::ImageRef;
use helix_protocol::pool::{PoolRecord, Warm};
use helix_protocol::record::SessionRecord;
use helix_protocol::session::{Desired, SessionSpec};
use helix_protocol::{Epoch, ErrorCode, Generation, KindName, SessionId, ThreadId};
use jiff::Timestamp;

use super::Sessions;
use super::inherit;
use super::validate::{self, Accepted};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::images::Images;
use crate::keys::random_id;
use crate::store::Versioned;

/// What a creation did.
#[derive(Debug)]
pub struct Created {
    /// The session.
    pub view: SessionView,
    /// False when the same request had created it before.
    pub fresh: bool,
    /// Its record.
    pub record: Versioned<SessionRecord>,
}

impl Sessions {
    /// Validates and writes a session; durable when this returns. Same id and same request: the existing one;
    /// other request: [`SessionExists`](helix_protocol::ErrorCode::SessionExists). An unknown kind is refused
    /// where at least one runner is registered and none knows it.
    pub async fn create(&self, by: &Principal, request: CreateSession) -> Result<Created> {
        self.create_to_continue(by, request, None).await
    }

    /// The same for a session whose input continues a thread of the desktop that it will be another name of.
    pub async fn create_to_continue(
        &self,
        by: &Principal,
        request: CreateSession,
        continues: Option<ThreadId>,
    ) -> Result<Created> {
        let Accepted {
            id,
            mut spec,
            mut leaves_recording,
            pool,
            on_runner,
            mut labels,
            secrets,
            spec_task,
            request_hash,
        } = validate::accept(request)?;
        if let Some(pool) = &pool
            && let Some(entry) = self.inner.store.pools.get(pool.as_str()).await?.found()
        {
            inherit::spec(&mut spec, &mut leaves_recording, &entry.value.spec);
            inherit::labels(&mut labels, &entry.value.spec);
            validate::check_stored_size(&spec, &labels)?;
        }
        spec.recording = self.inner.recording.fill_in(spec.recording, leaves_recording);
        let secrets_mark = (!secrets.is_empty()).then(|| self.inner.secrets.request_mark(&secrets)).transpose()?;
        let request_hash = validate::joint_hash(request_hash, secrets_mark.as_deref(), spec_task.as_ref());
        let id = match id {
            Some(id) => id,
            None => fresh_id()?,
        };
        let chosen = self.choose_image(&mut spec).await;
        let known = chosen.and_then(|()| spec.kind.as_ref().map_or(Ok(()), |kind| self.check_kind(kind)));
        if let Err(error) = known {
            // The tag that it took may say something else since: the same request is the same session still.
            let there = self.inner.store.sessions.get(id.as_str()).await?.found().is_some();
            return if there { self.existing(by, &id, &request_hash).await } else { Err(error) };
        }
        // Otherwise a second session would meet the first on its runner.
        if self.unclaimed(&id).is_some() && self.inner.store.sessions.get(id.as_str()).await?.found().is_none() {
            let detail = format!("session {id} runs without a record; adopt it, or stop it first");
            return Err(Error::new(ErrorCode::SessionExists, detail));
        }
        let sealed_secrets = match self.inner.secrets.take(by, &id, secrets).await {
            // The one that it took may be deleted since: the same request is the same session still.
            Err(error) if error.code == ErrorCode::SecretNotFound => {
                let there = self.inner.store.sessions.get(id.as_str()).await?.found().is_some();
                return if there { self.existing(by, &id, &request_hash).await } else { Err(error) };
            }
            other => other?,
        };
        let record = SessionRecord {
            pool,
            on_runner,
            labels,
            sealed_secrets,
            spec_task,
            continues,
            ..new_record(id.clone(), by.name.clone(), spec, request_hash)
        };
        match self.inner.store.sessions.create(id.as_str(), &record).await {
            Ok(revision) => {
                self.tell(&record, revision).await;
                let record = Versioned::new(record, revision);
                Ok(Created { view: self.view_of(&record.value), fresh: true, record })
            }
            Err(err) if err.code == ErrorCode::Conflict => self.existing(by, &id, &record.request_hash).await,
            Err(err) => Err(err),
        }
    }

    /// The record of an agent that a pool keeps ready: nobody's yet.
    pub async fn agent(&self, pool: &PoolRecord, id: &SessionId) -> Result<SessionRecord> {
        let (mut spec, mut leaves_recording) = (SessionSpec::default(), true);
        inherit::spec(&mut spec, &mut leaves_recording, &pool.spec);
        self.choose_image(&mut spec).await?;
        spec.recording = self.inner.recording.fill_in(spec.recording, leaves_recording);
        let (name, labels) = (Some(pool.name.clone()), pool.spec.labels.clone());
        let request_hash = validate::request_hash(&spec, name.as_ref(), None, &labels)?;
        Ok(SessionRecord {
            pool: name,
            labels,
            warm: Some(Warm { generation: pool.generation, gave_way_to: None }),
            // With a space: nobody can name theirs so.
            ..new_record(id.clone(), format!("pool {}", pool.name), spec, request_hash)
        })
    }

    async fn existing(&self, by: &Principal, id: &SessionId, request_hash: &str) -> Result<Created> {
        match self.same_request(by, id, request_hash).await? {
            Some(record) => Ok(Created { view: self.view_of(&record.value), fresh: false, record }),
            None => Err(Error::new(
                ErrorCode::SessionExists,
                format!("session {id} exists and was asked for differently; use another id, or delete it first"),
            )),
        }
    }

    /// The session of this id, if this very request made it.
    async fn same_request(
        &self,
        by: &Principal,
        id: &SessionId,
        request_hash: &str,
    ) -> Result<Option<Versioned<SessionRecord>>> {
        let found = self.inner.store.sessions.get(id.as_str()).await?.found();
        let same =
            |found: &SessionRecord| found.owner == by.name && found.request_hash == request_hash && !found.deleted;
        Ok(found.filter(|found| same(&found.value)))
    }

    /// From now on the session has the image that its reference names at this moment, and a kind that the image is for.
    async fn choose_image(&self, spec: &mut SessionSpec) -> Result<()> {
        let Some(reference) = &spec.image else { return Ok(()) };
        let (digest, manifest) = Images::resolve(&self.inner.store, reference).await?;
        match &spec.kind {
            None => spec.kind = manifest.kinds.first().cloned(),
            Some(kind) if manifest.kinds.is_empty() || manifest.kinds.contains(kind) => {}
            Some(kind) => {
                let kinds: Vec<_> = manifest.kinds.iter().map(KindName::as_str).collect();
                let detail = format!("image {reference} is not for kind {kind}; it is for: {}", kinds.join(", "));
                return Err(Error::new(ErrorCode::InvalidRequest, detail));
            }
        }
        spec.image = Some(ImageRef::Digest(digest));
        Ok(())
    }

    fn check_kind(&self, kind: &KindName) -> Result<()> {
        let runners = self.inner.store.runners.view().read();
        let mut known = std::collections::BTreeSet::new();
        for (_, entry) in runners.iter() {
            let facts = entry.value.facts.iter();
            known.extend(facts.flat_map(|facts| facts.kinds.iter().chain(facts.unavailable_kinds.keys()).cloned()));
        }
        if known.is_empty() || known.contains(kind) {
            return Ok(());
        }
        let known: Vec<_> = known.iter().map(KindName::as_str).collect();
        Err(Error::new(ErrorCode::UnknownKind, format!("no runner knows kind {kind}; known are: {}", known.join(", "))))
    }
}

/// The record of a session that begins now: it shall run, and nothing has happened to it yet.
pub(super) fn new_record(id: SessionId, owner: String, spec: SessionSpec, request_hash: String) -> SessionRecord {
    let created_at = Timestamp::now();
    SessionRecord {
        id,
        owner,
        spec,
        pool: None,
        on_runner: None,
        labels: BTreeMap::new(),
        request_hash,
        desired: Desired::Running,
        generation: Generation(1),
        epoch: Epoch(u64::try_from(created_at.as_millisecond()).unwrap_or_default()),
        assignments: 0,
        warm: None,
        claimed_at: None,
        assignment: None,
        control: Control::default(),
        control_expires_at: None,
        grants: Grants::default(),
        cause: None,
        created_at,
        deleted: false,
        sealed_secrets: None,
        spec_task: None,
        desktop_of: None,
        continues: None,
        let_go: None,
        work: WorkRecord::default(),
    }
}

/// An id that nobody has.
pub fn fresh_id() -> Result<SessionId> {
    let random =
        random_id().map_err(|err| Error::new(ErrorCode::Internal, "the system gives no random bytes").because(err))?;
    SessionId::parse(format!("ses_{random}"))
        .map_err(|err| Error::new(ErrorCode::Internal, "a made-up id is not valid").because(err))
}
