//! Ending: of one unit, politely; of a session, by force and with proof.
//!
//! Each step of [`Inner::end`] can be repeated, and each needs nothing but what the steps before it left: agentd may
//! be killed between any two. What says whose slot it is (`S` and its owner) goes last.

use std::convert::Infallible;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::reap::Reaped;
use tokio::time::{Instant, timeout};

use super::bus::{BusError, Manager};
use super::layout::{self, Layout};
use super::mark::Mark;
use super::slots::{SlotUser, Slots};
use super::unit::read_slice;
use super::{Inner, blocking, chain, tree, unreachable};
use crate::cgroup::Hierarchy;
use crate::supervisor::{Result, SupervisorError, UnitName};

/// SIGKILL, for systemd.
const SIGKILL: i32 = 9;
/// From SIGKILL to the end of everything; only what hangs in the kernel needs more than moments.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Rounds of killing: a process that was just being started may come up behind the first.
const ROUNDS: u32 = 3;
/// Where systemd hears of empty groups of version 1.
const CGROUPS_AGENT: &str = "/run/systemd/cgroups-agent";
/// Between two looks at what is left where no event tells.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Inner {
    pub(super) async fn stop(&self, session: &SessionId, name: UnitName, grace: Duration) -> Result<()> {
        let layout = self.layout(session);
        let unit = layout.unit_name(name.as_str());
        let failed = |error: BusError| unreachable(session, error);
        let stopped = async {
            let stop = self.bus.job(&unit, async |manager| manager.stop_unit(unit.clone(), "replace".to_owned()).await);
            tokio::pin!(stop);
            let group = format!("{}/{unit}", Self::group(&layout));
            tokio::select! {
                done = &mut stop => return done,
                never = self.tell_empty(vec![group.clone()]) => match never {},
                () = tokio::time::sleep(grace) => {}
            }
            let killed = async |manager: Manager| manager.kill_unit(unit.clone(), "all".to_owned(), SIGKILL).await;
            match self.bus.call(killed).await {
                // It has ended this moment.
                Ok(()) | Err(BusError::NoSuchUnit | BusError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
            tokio::select! {
                done = &mut stop => done,
                never = self.tell_empty(vec![group]) => match never {},
                () = tokio::time::sleep(KILL_TIMEOUT) => Err(BusError::Refused(format!("{unit} does not end"))),
            }
        };
        match stopped.await {
            Ok(_) | Err(BusError::NoSuchUnit) => {}
            Err(error) => return Err(failed(error)),
        }
        // First of all: what is recorded and not known to systemd counts as ended well.
        let life = self.lives.of(layout.key());
        let removed = self.change_record(&life, &layout, move |record| {
            record.units.remove(&name);
        });
        removed.await.map_err(|error| unreachable(session, error))?;
        // One that failed is kept until this.
        self.reset(&unit).await;
        self.watch.stopped(layout.key(), name);
        Ok(())
    }

    /// Ends everything of a session and removes it. The error says what is left.
    pub(super) async fn end(&self, layout: &Layout) -> Result<(), String> {
        let key = layout.key();
        let life = self.lives.of(key);
        life.end();
        self.watch.forget(key);
        let slot = self.slot_of(layout).await?;
        // Also makes starts that are under way fail at once.
        self.kill_all(layout).await?;
        let _alone = timeout(KILL_TIMEOUT, life.gate.write()).await.map_err(|_| "a unit that is being started")?;
        self.end_units(layout, slot.as_ref()).await?;
        let (removed, slots, workspaces) = (layout.clone(), self.slots.clone(), self.config.workspace_dir.clone());
        let remove = move || {
            if let Some(slot) = &slot {
                tree::retain_workspaces(&workspaces, &slots, slot)?;
            }
            tree::remove(&removed)
        };
        blocking(remove).await.map_err(|error| chain(&error))?;
        self.lives.forget(key, &life);
        Ok(())
    }

    /// What is there of a session, in numbers: what [`Inner::end`] is about to end.
    pub(super) async fn there(&self, layout: &Layout) -> Result<Reaped, String> {
        let slot = self.slot_of(layout).await?;
        let units = self.listed(layout).await.map_err(|error| error.to_string())?;
        let (cgroups, group) = (self.cgroups.clone(), Self::group(layout));
        let processes = blocking(move || cgroups.processes(&group)).await.unwrap_or_default();
        Ok(Reaped {
            sessions: 1,
            processes: processes.len() as u64,
            units: units.len() as u64,
            directories: u64::from(layout.dir().exists()) + u64::from(layout.new_dir().exists()),
            users: u64::from(slot.is_some()),
            workspaces: 0,
        })
    }

    /// The slot that the session has, from whatever knows it. An error where its slice is another runner's.
    async fn slot_of(&self, layout: &Layout) -> Result<Option<SlotUser>, String> {
        let slice = read_slice(&self.bus, &layout.slice_name()).await.map_err(|error| error.to_string())?;
        let marked = match &slice {
            Some(slice) => match self.mark.read(&slice.description) {
                Some(marked) => Some(marked.slot),
                // A slice that was made anew by hand has no description of ours; its directory says that it is ours.
                None if layout.dir().exists() && Mark::is_unmarked(&slice.description, layout) => None,
                None => return Err(format!("{} belongs to somebody else: {}", layout.slice_name(), slice.description)),
            },
            None => None,
        };
        // A record that cannot be read says nothing; the owner of the files does.
        let recorded = self.record(layout).await.ok().flatten().map(|record| record.slot);
        let (slots, looked) = (self.slots.clone(), layout.clone());
        Ok(blocking(move || slots.of_session(&looked).or_else(|| slots.by_number(recorded.or(marked)?))).await)
    }

    async fn end_units(&self, layout: &Layout, slot: Option<&SlotUser>) -> Result<(), String> {
        let slice = layout.slice_name();
        let mut left = format!("{slice}, which does not stop");
        for _ in 0..ROUNDS {
            self.kill_all(layout).await?;
            let units = self.listed(layout).await.map_err(|error| error.to_string())?;
            let groups = units.iter().map(|unit| format!("{}/{unit}", Self::group(layout))).collect();
            let stopped = async {
                tokio::select! {
                    stopped = self.stop_slice(&slice) => stopped,
                    never = self.tell_empty(groups) => match never {},
                }
            };
            match timeout(KILL_TIMEOUT, stopped).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => continue,
            }
            let units = self.listed(layout).await.map_err(|error| error.to_string())?;
            futures::future::join_all(units.iter().map(|unit| self.reset(unit))).await;
            self.reset(&slice).await;
            match self.left(layout, slot).await? {
                None => return Ok(()),
                Some(found) => left = found,
            }
        }
        Err(left)
    }

    /// What is left of the session's processes once they have had their time to end; None is the proof.
    async fn left(&self, layout: &Layout, slot: Option<&SlotUser>) -> Result<Option<String>, String> {
        let deadline = Instant::now() + KILL_TIMEOUT;
        loop {
            let (cgroups, group, uid) = (self.cgroups.clone(), Self::group(layout), slot.map(|slot| slot.uid));
            let found = blocking(move || {
                let in_group = cgroups.processes(&group).unwrap_or_default();
                let of_user = uid.map_or(Ok(Vec::new()), Slots::processes_of)?;
                Ok::<_, std::io::Error>(in_group.into_iter().chain(of_user).collect::<Vec<u32>>())
            });
            let found = found.await.map_err(|error| format!("/proc cannot be read: {error}"))?;
            // Not even one that has ended: its name could not be taken again.
            let units = self.list(&layout.unit_name("*")).await.map_err(|error| error.to_string())?;
            let units: Vec<String> = units.into_iter().map(|unit| format!("{} ({})", unit.name, unit.active)).collect();
            if found.is_empty() && units.is_empty() {
                return Ok(None);
            }
            if Instant::now() > deadline {
                let processes = found.iter().map(|pid| format!("process {pid}"));
                return Ok(Some(processes.chain(units).collect::<Vec<_>>().join(", ")));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// SIGKILL to everything in the slice, frozen or not.
    async fn kill_all(&self, layout: &Layout) -> Result<(), String> {
        let (cgroups, group) = (self.cgroups.clone(), Self::group(layout));
        // Who is left is counted later, once systemd has done its part, too.
        let killed = blocking(move || cgroups.kill_all(&group, KILL_TIMEOUT)).await;
        killed.map(|_| ()).map_err(|error| format!("processes of its control group: {error}"))
    }

    /// Tells systemd again and again which of the groups are empty, where the kernel has no means to (version 1 in a
    /// container, whose release agent is the machine's): systemd would wait for its own time-out. Never ends.
    async fn tell_empty(&self, groups: Vec<String>) -> Infallible {
        if self.cgroups.hierarchy() != Hierarchy::V1 {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let (cgroups, groups) = (self.cgroups.clone(), groups.clone());
            blocking(move || {
                let Ok(socket) = UnixDatagram::unbound() else { return };
                for group in groups {
                    if cgroups.processes(&group).is_ok_and(|processes| processes.is_empty()) {
                        // systemd looks for itself. Where it listens to nobody, its time-out remains.
                        let _ = socket.send_to(group.as_bytes(), CGROUPS_AGENT);
                    }
                }
            })
            .await;
        }
    }

    pub(super) async fn stop_slice(&self, slice: &str) -> Result<(), BusError> {
        let name = slice.to_owned();
        let stopped = self.bus.job(slice, async |manager| manager.stop_unit(name, "replace".to_owned()).await).await;
        match stopped {
            // Lost: whether it has stopped is looked up next.
            Ok(_) | Err(BusError::NoSuchUnit | BusError::Lost) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the workspace.
    pub(super) async fn forget(&self, session: &SessionId) -> Result<()> {
        let layout = self.layout(session);
        blocking(move || tree::remove_workspace(&layout).and_then(|()| tree::remove(&layout)))
            .await
            .map_err(|error| SupervisorError::LeftBehind { session: session.clone(), left: chain(&error) })
    }

    /// Unit keys of all that is ours: directories and slices.
    pub(super) async fn found(&self) -> Result<Vec<String>, String> {
        let sessions = layout::sessions_dir(&self.config.state_dir);
        let names = blocking(move || match std::fs::read_dir(&sessions) {
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        });
        let names = names.await.map_err(|error| error.to_string())?;
        let mut keys: Vec<String> = names
            .iter()
            .filter_map(|name| name.to_str())
            .map(|name| name.strip_suffix(".new").unwrap_or(name))
            .filter(|key| layout::is_key(key))
            .map(str::to_owned)
            .collect();
        let slices = self.list("helix-s*.slice").await.map_err(|error| error.to_string())?;
        let ours = slices.iter().filter(|slice| self.mark.read(&slice.description).is_some());
        keys.extend(ours.filter_map(|slice| layout::parse_slice_name(&slice.name)).map(str::to_owned));
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }
}
