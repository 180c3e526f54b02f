//! Pure: what becomes of a pool's agents. Snapshot in, decision out; the same snapshot always gives the same answer.

use std::time::Duration;

use helix_protocol::SessionId;
use helix_protocol::pool::Trouble;
use helix_protocol::session::Cause;
use jiff::Timestamp;

/// First pause after an agent ended before anybody had it. It doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// How an agent that the pool's record names is. In the order in which agents are given up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is to be made.
    Absent,
    /// It waits for a runner, and none has room.
    Crowded,
    /// It waits for a runner.
    Pending,
    /// It starts.
    Starting,
    /// It is ready.
    Ready,
    /// It has been ready for so long that what made others end is over.
    Steady,
    /// It has lived for its pool's lifetime: it goes once another one is ready in its place.
    Outlived,
    /// Somebody has it, or it is gone as it should, or after a good life: the pool needs another one.
    Taken,
    /// Its runner is lost, or takes nothing new.
    Stranded,
    /// It ended, and nobody had asked for that.
    Failed,
}

impl Standing {
    fn stays(&self) -> bool {
        self.is_on_the_way() || self.is_ready()
    }

    fn is_on_the_way(&self) -> bool {
        matches!(self, Self::Absent | Self::Crowded | Self::Pending | Self::Starting)
    }

    fn is_ready(&self) -> bool {
        matches!(self, Self::Ready | Self::Steady)
    }
}

/// One agent that the pool's record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub id: SessionId,
    /// How it is.
    pub standing: Standing,
    /// It is what the pool makes now.
    pub is_current: bool,
    /// Why it ended.
    pub cause: Option<Cause>,
    /// It ends so that this session has room.
    pub gave_way_to: Option<SessionId>,
}

/// A pool at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// Agents that shall be ready.
    pub min_ready: u32,
    /// Most in all.
    pub max: Option<u32>,
    /// Agents that the record names.
    pub members: &'a [Member],
    /// Living sessions of the pool that somebody has, those that wait for a runner included.
    pub taken: u32,
    /// What the record says of failures.
    pub trouble: Option<&'a Trouble>,
    /// What the record says of room that its agents made.
    pub gave_way_to: Option<&'a SessionId>,
    /// By the leader's clock.
    pub now: Timestamp,
}

/// What the record shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Agents that stay. The others are ended, unless somebody has them.
    pub keep: Vec<SessionId>,
    /// How many are made.
    pub make: usize,
    /// Why agents do not get ready.
    pub trouble: Option<Trouble>,
    /// The session that agents ended for last, as long as less are ready than shall be.
    pub gave_way_to: Option<SessionId>,
}

/// Decides.
pub fn plan(pool: Snapshot<'_>) -> Plan {
    let mut kept: Vec<_> = pool.members.iter().filter(|member| member.is_current && member.standing.stays()).collect();
    let room = pool.max.map_or(u32::MAX, |max| max.saturating_sub(pool.taken));
    let target = usize::try_from(pool.min_ready.min(room)).unwrap_or(usize::MAX);
    // The readiest first; ids break ties.
    kept.sort_by(|a, b| (&b.standing, &a.id).cmp(&(&a.standing, &b.id)));
    kept.truncate(target);
    let trouble = trouble(pool, &kept);
    let missing = target - kept.len();
    let make = match &trouble {
        None => missing,
        Some(trouble) if pool.now < trouble.retry_at => 0,
        // One at a time, as long as it is not known whether that goes well.
        Some(_) if kept.iter().any(|member| member.standing.is_on_the_way()) => 0,
        Some(_) => missing.min(1),
    };
    let outlived = outlived(pool, &kept, make);
    let is_full = kept.len() == target && !kept.iter().any(|member| member.standing.is_on_the_way());
    let now = pool.members.iter().rev().find_map(|member| member.gave_way_to.as_ref());
    let gave_way_to = now.or(pool.gave_way_to.filter(|_| !is_full)).cloned();
    let keep = kept.into_iter().chain(outlived).map(|member| member.id.clone()).collect();
    Plan { keep, make, trouble, gave_way_to }
}

/// Agents whose time is up and that stay until others are ready in their place: as many as `max` leaves room for beside
/// those others, and none that holds the room which one of those waits for.
fn outlived<'a>(pool: Snapshot<'a>, kept: &[&Member], make: usize) -> impl Iterator<Item = &'a Member> + use<'a> {
    let most = pool.max.map_or(u32::MAX, |max| max.saturating_sub(pool.taken));
    let room = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(kept.len() + make);
    let settled =
        kept.iter().filter(|member| member.standing.is_ready() || member.standing == Standing::Crowded).count();
    let target = usize::try_from(pool.min_ready.min(most)).unwrap_or(usize::MAX);
    let old = pool.members.iter().filter(|member| member.is_current && member.standing == Standing::Outlived);
    old.take(target.saturating_sub(settled).min(room))
}

fn trouble(pool: Snapshot<'_>, kept: &[&Member]) -> Option<Trouble> {
    let failed = |member: &&Member| member.is_current && member.standing == Standing::Failed;
    let Some(last) = pool.members.iter().rfind(failed) else {
        let is_over = kept.iter().any(|member| member.standing == Standing::Steady);
        return pool.trouble.cloned().filter(|_| !is_over);
    };
    let failures = pool.trouble.map_or(0, |trouble| trouble.failures).saturating_add(1);
    let pause = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_PAUSE);
    let unknown = || Cause::new("ended", "an agent ended before anybody had it, and nobody said why");
    Some(Trouble {
        failures,
        cause: last.cause.clone().unwrap_or_else(unknown),
        retry_at: pool
            .now
            .saturating_add(jiff::SignedDuration::try_from(pause).unwrap_or_default())
            .unwrap_or(pool.now),
    })
}

#[cfg(test)]
mod tests;
