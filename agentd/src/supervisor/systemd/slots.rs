//! Slot users: `helix-u1 … helix-uN`, one for each session that runs, made when the package is installed.
//!
//! Nothing of a slot is remembered: it is busy while a directory of a session or a workspace belongs to its user, or
//! a process has its uid. So a slot whose files could not be removed is never given to another session. Between the
//! choice of a slot and the first file that its user owns, the choice is held by a [`Reservation`].
//!
//! Synchronous: run it on a blocking thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::layout::{Layout, OWNED, sessions_dir};

/// Who owns workspaces that outlive their session.
pub const KEEPER: &str = "helix-keep";
/// Whom recorders run as: nobody who has anything else.
pub const RECORDER: &str = "helix-recorder";
/// Holders that an error names; the rest is a number.
const NAMED_HOLDERS: usize = 8;

/// One slot user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotUser {
    /// Number of the slot.
    pub number: u32,
    /// `helix-u<number>`; its group has the same name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Somebody who owns files: ids only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl From<&SlotUser> for Owner {
    fn from(user: &SlotUser) -> Self {
        Self { uid: user.uid, gid: user.gid }
    }
}

/// Why there are no slots.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// A list of users or groups cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Users or groups are missing.
    #[error(
        "these users or groups of the sessions do not exist: {}; list them in a file of /etc/sysusers.d and run \
         systemd-sysusers, or lower the number of slots",
        .0.join(", ")
    )]
    Missing(Vec<String>),
    /// A user that is more than a slot.
    #[error("user {name} cannot hold sessions: {reason}; remove it and run systemd-sysusers")]
    Unfit {
        /// Which.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The slots of this runner. Clones share their reservations.
#[derive(Debug, Clone)]
pub struct Slots {
    /// Those that sessions get.
    users: Arc<[SlotUser]>,
    /// Those that sessions may have: these, and what other settings gave to sessions that go on.
    known: Arc<[SlotUser]>,
    keeper: Owner,
    recorder: Option<SlotUser>,
    reserved: Arc<Mutex<BTreeSet<u32>>>,
}

impl Slots {
    /// Finds the users `<prefix><first>` to `<prefix><first + count - 1>` and `helix-keep`, each with its group.
    ///
    /// Every other `<prefix><number>` that exists is known, too, but given to nobody: sessions outlive a change of the
    /// numbers.
    pub fn resolve(prefix: &str, first: u32, count: u32) -> Result<Self, SlotsError> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|source| SlotsError::Unreadable { path: PathBuf::from(path), source })
        };
        Self::find(&read("/etc/passwd")?, &read("/etc/group")?, prefix, first, count)
    }

    /// The same in given texts. Read by hand, not through NSS: agentd may be one static binary.
    fn find(passwd: &str, group: &str, prefix: &str, first: u32, count: u32) -> Result<Self, SlotsError> {
        // The third field is the id in both files.
        let (users, groups) = (ids(passwd), ids(group));
        let mut missing = Vec::new();
        let mut owner = |name: &str| {
            let (user, group) = (users.get(name), groups.get(name));
            if user.is_none() {
                missing.push(format!("user {name}"));
            }
            if group.is_none() {
                missing.push(format!("group {name}"));
            }
            Some(Owner { uid: *user?, gid: *group? })
        };
        let keeper = owner(KEEPER);
        let slots: Vec<SlotUser> = (first..first.saturating_add(count))
            .filter_map(|number| {
                let name = format!("{prefix}{number}");
                let Owner { uid, gid } = owner(&name)?;
                Some(SlotUser { number, name, uid, gid })
            })
            .collect();
        let Some(keeper) = keeper.filter(|_| missing.is_empty()) else { return Err(SlotsError::Missing(missing)) };
        let unfit = |slot: &SlotUser| {
            let twin = users.iter().find(|(name, uid)| **uid == slot.uid && **name != slot.name);
            let twin = twin.map(|(name, uid)| format!("it has the uid of {name}, {uid}"));
            let more = membership(group, &slot.name).map(|group| format!("it is a member of group {group}, too"));
            twin.or(more)
        };
        for slot in &slots {
            if let Some(reason) = unfit(slot) {
                return Err(SlotsError::Unfit { name: slot.name.clone(), reason });
            }
        }
        let others = users.iter().filter_map(|(name, uid)| {
            let number = slot_number(name, prefix).filter(|number| slots.iter().all(|slot| slot.number != *number))?;
            Some(SlotUser { number, name: (*name).to_owned(), uid: *uid, gid: *groups.get(name)? })
        });
        let others = others.filter(|other| unfit(other).is_none());
        let known = slots.iter().cloned().chain(others).collect();
        let recorder = users.get(RECORDER).zip(groups.get(RECORDER));
        let recorder =
            recorder.map(|(uid, gid)| SlotUser { number: 0, name: RECORDER.to_owned(), uid: *uid, gid: *gid });
        Ok(Self { users: slots.into(), known, keeper, recorder, reserved: Arc::default() })
    }

    /// Given users.
    #[cfg(test)]
    pub(super) fn of(users: Vec<SlotUser>, keeper: Owner) -> Self {
        Self { known: users.clone().into(), users: users.into(), keeper, recorder: None, reserved: Arc::default() }
    }

    /// How many sessions can have one.
    pub fn count(&self) -> usize {
        self.users.len()
    }

    /// Owner of workspaces that outlive their session.
    pub fn keeper(&self) -> Owner {
        self.keeper
    }

    /// Whom recorders run as; the reason where nobody can.
    pub fn recorder(&self) -> Result<&SlotUser, String> {
        self.recorder.as_ref().ok_or_else(|| {
            format!("user {RECORDER}, whom recorders run as, does not exist; run systemd-sysusers and restart agentd")
        })
    }

    /// The slot with this number, also one that is not given away any more.
    pub fn by_number(&self, number: u32) -> Option<SlotUser> {
        self.known.iter().find(|user| user.number == number).cloned()
    }

    /// The slot with this user, also one that is not given away any more.
    pub fn by_uid(&self, uid: u32) -> Option<SlotUser> {
        self.known.iter().find(|user| user.uid == uid).cloned()
    }

    /// The slot that a session's directory belongs to, complete or not.
    pub fn of_session(&self, layout: &Layout) -> Option<SlotUser> {
        [layout.dir().to_owned(), layout.new_dir()].iter().flat_map(|dir| owners(dir)).find_map(|uid| self.by_uid(uid))
    }

    /// Takes a free slot for the session; the reason, with everybody who holds one, where none is free.
    ///
    /// A workspace that still belongs to a slot (its session ended without anybody to hand it over) does not stand
    /// in the way of its own session: that one gets the same slot again.
    pub fn allocate(&self, state_dir: &Path, workspace_dir: &Path, layout: &Layout) -> Result<Reservation, String> {
        // Before the look at the files: whoever gives his reservation up meanwhile has made his by then.
        let mut reserved = self.lock();
        let holders = self.holders(state_dir, workspace_dir).map_err(|error| error.to_string())?;
        let own = layout.workspace().map(|path| format!("workspace {}", path.display()));
        let is_own = |holder: &String| own.as_ref() == Some(holder);
        let is_free = |user: &&SlotUser| {
            let free = holders.get(&user.number).is_none_or(|holders| holders.iter().all(is_own));
            free && !reserved.contains(&user.number)
        };
        // The one that the session's workspace belongs to before any other.
        let former = self.users.iter().filter(|user| holders.contains_key(&user.number)).find(is_free);
        let user = former.or_else(|| self.users.iter().find(is_free));
        let Some(user) = user.cloned() else {
            return Err(all_busy(&self.users, &holders));
        };
        reserved.insert(user.number);
        drop(reserved);
        Ok(Reservation { user, reserved: Arc::clone(&self.reserved) })
    }

    /// What keeps each busy slot busy.
    pub fn holders(&self, state_dir: &Path, workspace_dir: &Path) -> io::Result<BTreeMap<u32, Vec<String>>> {
        let mut found: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        let mut note = |uid: u32, holder: String| {
            if let Some(user) = self.by_uid(uid) {
                found.entry(user.number).or_default().push(holder);
            }
        };
        for dir in children(&sessions_dir(state_dir))? {
            if let Some(uid) = owners(&dir).into_iter().find(|uid| self.by_uid(*uid).is_some()) {
                note(uid, format!("session directory {}", dir.display()));
            }
        }
        for workspace in children(workspace_dir)? {
            if let Ok(metadata) = fs::symlink_metadata(&workspace) {
                note(metadata.uid(), format!("workspace {}", workspace.display()));
            }
        }
        for (uid, pid) in processes()? {
            note(uid, format!("process {pid}"));
        }
        Ok(found)
    }

    /// Processes that have the uid, in whatever place.
    pub fn processes_of(uid: u32) -> io::Result<Vec<u32>> {
        Ok(processes()?.into_iter().filter(|(owner, _)| *owner == uid).map(|(_, pid)| pid).collect())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot that nobody else gets until this is dropped. Keep it until files of the slot's user exist.
#[derive(Debug)]
pub struct Reservation {
    user: SlotUser,
    reserved: Arc<Mutex<BTreeSet<u32>>>,
}

impl std::ops::Deref for Reservation {
    type Target = SlotUser;
    fn deref(&self) -> &SlotUser {
        &self.user
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.user.number);
    }
}

fn all_busy(users: &[SlotUser], holders: &BTreeMap<u32, Vec<String>>) -> String {
    let word = |user: &SlotUser| match holders.get(&user.number).and_then(|holders| holders.first()) {
        Some(holder) => format!("{} by {holder}", user.name),
        None => format!("{} by a session that is just starting", user.name),
    };
    let mut named: Vec<String> = users.iter().take(NAMED_HOLDERS).map(word).collect();
    if users.len() > NAMED_HOLDERS {
        named.push(format!("and {} more", users.len() - NAMED_HOLDERS));
    }
    format!(
        "all {} slot users are held: {}; end sessions, or remove what is held although its session has ended",
        users.len(),
        named.join(", ")
    )
}

/// Name and third field of each line of `/etc/passwd` or `/etc/group`. The first entry of a name counts.
fn ids(text: &str) -> BTreeMap<&str, u32> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) {
            found.entry(name).or_insert(id);
        }
    }
    found
}

/// The number in `<prefix><number>`, written as we write it.
fn slot_number(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    digits.parse().ok().filter(|number: &u32| number.to_string() == digits)
}

/// A group that lists the user as a member: its sessions would have the group's rights.
fn membership<'a>(group: &'a str, user: &str) -> Option<&'a str> {
    group.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        let is_member = rest.rsplit(':').next()?.split(',').any(|member| member.trim() == user);
        (is_member && name != user).then_some(name)
    })
}

/// Owners of what lies directly in a session's directory. Root's directory: no session can put a link there.
fn owners(dir: &Path) -> Vec<u32> {
    OWNED.iter().filter_map(|name| fs::symlink_metadata(dir.join(name)).ok()).map(|found| found.uid()).collect()
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot read {}: {error}", dir.display()))),
    }
}

/// Real uid and pid of every process. Zombies count: their uid is still in use.
fn processes() -> io::Result<Vec<(u32, u32)>> {
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids
        .filter_map(|pid| Some((real_uid(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?, pid)))
        .collect())
}

fn real_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
#[path = "slots/tests.rs"]
mod tests;
