//! Opening a session: its directory, its slice, its record. And finding it again.
//!
//! Whatever a former agentd left half done is finished or begun anew, never guessed at:
//!
//! | what is there | what is done |
//! |---|---|
//! | `S.new` | removed, built anew (`tree::build`) |
//! | `S`, no slice that lives | nothing ever ran in it, or everything has ended: ended by the book, built anew |
//! | `S` and a slice, whether the ledger knows or not | answered |
//! | a slice without `S` | ended, built anew |
//! | a slice of another runner | refused: it is not ours |

use helix_protocol::SessionId;
use zbus::OwnedVariant;

use super::bus::BusError;
use super::hardening::slice_properties;
use super::layout::{GUEST, Layout, sessions_dir};
use super::record::Record;
use super::start::owned;
use super::unit::{Slice, read_service, read_slice};
use super::{Inner, blocking, boot_id, chain, outcome, tree, unreachable};
use crate::display::new_authority;
use crate::images::Images;
use crate::supervisor::process::lock::Lock;
use crate::supervisor::{Adopted, Identity, Result, SliceIdentity, SliceSpec, SupervisorError, UnitName, UnitStatus};

/// Former lives that are ended before giving up.
const ATTEMPTS: u32 = 3;

impl Inner {
    pub(super) async fn open(&self, session: &SessionId, spec: &SliceSpec) -> Result<Identity> {
        let failed = |reason: String| SupervisorError::Open { session: session.clone(), reason };
        let layout = self.layout(session);
        for _ in 0..ATTEMPTS {
            {
                let life = self.lives.of(layout.key());
                let _alone = life.gate.write().await;
                // One at a time on this machine: slots are given away, and a session has one directory.
                let lock = sessions_dir(&self.config.state_dir).join("open.lock");
                let _lock = blocking(move || Lock::wait(&lock)).await.map_err(|error| failed(error.to_string()))?;
                let slice = self.own_slice(&layout).await.map_err(failed)?;
                let record = self.record(&layout).await.map_err(|error| failed(error.to_string()))?;
                match (slice, record) {
                    (Some(slice), Some(mut record)) => {
                        if record.slice.as_ref() != Some(&slice.invocation) {
                            // agentd died between the start of the slice and this.
                            record.slice = Some(slice.invocation.clone());
                            self.save(&layout, &record).await.map_err(|error| failed(error.to_string()))?;
                        }
                        return Ok(identity(slice, record.slot));
                    }
                    (None, None) if !layout.dir().exists() => return self.make(session, &layout, spec).await,
                    _ => {}
                }
            }
            let left = |left| failed(format!("a former life of the session cannot be ended: {left}"));
            self.end(&layout).await.map_err(left)?;
        }
        Err(failed("a former life of the session comes again and again".to_owned()))
    }

    /// The session's slice if it lives; an error if it is another runner's.
    async fn own_slice(&self, layout: &Layout) -> Result<Option<Slice>, String> {
        let slice = read_slice(&self.bus, &layout.slice_name()).await.map_err(|error| error.to_string())?;
        match slice {
            Some(slice) if self.mark.read(&slice.description).is_none() => Err(format!(
                "{} is not ours, it is described as {:?}; stop it there, or with `systemctl stop {0}`",
                layout.slice_name(),
                slice.description
            )),
            slice => Ok(slice),
        }
    }

    async fn make(&self, session: &SessionId, layout: &Layout, spec: &SliceSpec) -> Result<Identity> {
        let failed = |reason: String| SupervisorError::Open { session: session.clone(), reason };
        let (slots, built, files, recording) =
            (self.slots.clone(), layout.clone(), spec.files.clone(), spec.recording.clone());
        let image = spec.image;
        let (state_dir, workspace_dir) = (self.config.state_dir.clone(), self.config.workspace_dir.clone());
        let slot = blocking(move || {
            let slot = slots.allocate(&state_dir, &workspace_dir, &built).map_err(Refused::NoSlot)?;
            if let Some(recording) = &recording {
                let recorder = slots.recorder().map_err(Refused::Failed)?;
                tree::make_spool(&state_dir, recording, recorder).map_err(|error| Refused::Failed(chain(&error)))?;
            }
            let authority = new_authority().map_err(|error| Refused::Failed(error.to_string()))?;
            tree::build(&built, &slots, &slot, &files, &authority).map_err(|error| Refused::Failed(chain(&error)))?;
            if let Some(image) = image {
                let root = Images::root_of(&state_dir, image);
                tree::write_users(&built, &root, &slot).map_err(|error| Refused::Failed(chain(&error)))?;
            }
            Ok(slot.number)
        });
        let slot = slot.await.map_err(|refused| match refused {
            Refused::NoSlot(reason) => SupervisorError::NoSlot { session: session.clone(), reason },
            Refused::Failed(reason) => failed(reason),
        })?;
        let mut record = Record {
            session: session.clone(),
            slot,
            slice: None,
            own_sandbox: spec.own_sandbox,
            network: spec.network,
            recording: spec.recording.clone(),
            units: std::collections::BTreeMap::new(),
        };
        self.save(layout, &record).await.map_err(|error| failed(error.to_string()))?;

        let name = layout.slice_name();
        let mut properties: Vec<(String, OwnedVariant)> = slice_properties(&spec.resources)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        properties.push(("Description".to_owned(), owned(self.mark.describe(session, slot).into())));
        let started = self
            .bus
            .job(&name, async |manager| {
                manager.start_transient_unit(name.clone(), "replace".to_owned(), properties, Vec::new()).await
            })
            .await;
        match started {
            Ok(result) if result != "done" => return Err(failed(format!("systemd says {result} of {name}"))),
            Ok(_) | Err(BusError::Exists | BusError::Lost) => {}
            Err(error) => return Err(failed(error.to_string())),
        }
        let slice = self.own_slice(layout).await.map_err(failed)?;
        let slice = slice.ok_or_else(|| failed(format!("{name} was stopped at once by somebody else")))?;
        record.slice = Some(slice.invocation.clone());
        self.save(layout, &record).await.map_err(|error| failed(error.to_string()))?;
        Ok(identity(slice, slot))
    }

    pub(super) async fn adopt(&self, session: &SessionId, identity: &Identity) -> Result<Adopted> {
        let layout = self.layout(session);
        let gone = |code, message: &str| {
            let result = outcome::read(&layout.ready_file(GUEST));
            Ok(Adopted::Gone { code, message: message.to_owned(), result })
        };
        let Identity::Slice(identity) = identity else {
            let message = "the session was started by the process backend, which this agentd does not run";
            return gone("backend_changed", message);
        };
        if identity.boot_id != boot_id().map_err(|error| unreachable(session, error))? {
            return gone("host_rebooted", "the machine was restarted, which ended the session");
        }
        let slice = read_slice(&self.bus, &layout.slice_name()).await.map_err(|error| unreachable(session, error))?;
        if slice.is_none_or(|slice| slice.invocation != identity.invocation) {
            return gone("slice_gone", "the session's slice is gone: somebody stopped it");
        }
        let units = self.units(session).await?;
        let result = outcome::read(&layout.ready_file(GUEST));
        if let Some(result) = &result {
            // Answered, hence not told again.
            self.watch.outcome(layout.key(), result.clone(), false);
        }
        Ok(Adopted::Alive { units, result })
    }

    /// Every unit that was started: those that systemd knows, and those of the record that it has forgotten.
    pub(super) async fn units(&self, session: &SessionId) -> Result<Vec<UnitStatus>> {
        let layout = self.layout(session);
        let failed = |error: BusError| unreachable(session, error);
        let record = self.record(&layout).await.map_err(|error| unreachable(session, error))?;
        let record = record.ok_or_else(|| unreachable(session, "it is not open"))?;
        let name = layout.slice_name();
        let (slice, listed) = tokio::join!(read_slice(&self.bus, &name), self.listed(&layout));
        if slice.map_err(failed)?.is_none() {
            return Err(unreachable(session, "its slice is gone"));
        }
        let listed = listed.map_err(failed)?;
        let names: Vec<UnitName> = UnitName::ALL
            .into_iter()
            .filter(|name| record.units.contains_key(name) || listed.contains(&layout.unit_name(name.as_str())))
            .collect();
        let read = async |name: UnitName| {
            let loaded = read_service(&self.bus, &layout.unit_name(name.as_str())).await?;
            if let Some(loaded) = &loaded {
                self.watch.baseline(layout.key(), name, &loaded.service);
            }
            if loaded.as_ref().is_some_and(|loaded| self.watch.is_past(layout.key(), name, &loaded.service)) {
                return Ok(None);
            }
            Ok::<_, BusError>(Some(match loaded.and_then(|loaded| loaded.service.status(name)) {
                Some(status) => self.watch.refine(layout.key(), status),
                None => UnitStatus { name, pid: None, exit_status: Some(0), out_of_memory: false },
            }))
        };
        let units = futures::future::try_join_all(names.into_iter().map(read)).await.map_err(failed)?;
        Ok(units.into_iter().flatten().collect())
    }
}

enum Refused {
    NoSlot(String),
    Failed(String),
}

fn identity(slice: Slice, slot: u32) -> Identity {
    // The boot id is read once per process: it cannot change while we live.
    Identity::Slice(SliceIdentity { invocation: slice.invocation, slot, boot_id: boot_id().unwrap_or_default() })
}
