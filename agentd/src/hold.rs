//! `agentd hold`: keeps the promise of `on_lost = restart` while agentd itself is away, for whatever reason.
//!
//! systemd starts it (`agentd-hold@.service`) at every end of agentd's service. It waits until agentd would have held
//! these sessions ([`fence::deadline`]); if no agentd has the state directory then, it holds them. It needs as little as
//! can be: neither systemd nor the users of slots nor good settings nor a disk that can be written, for these may be
//! what keeps agentd away. It takes nothing back and notes nothing: an agentd that starts after the deadline holds all
//! such sessions before anything else, and lets them go on when a server confirms them.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::future::join_all;
use helix_protocol::SessionId;
use helix_protocol::resources::OnLost;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::daemon;
use crate::fence;
use crate::ledger::{self, Entry};
use crate::state_lock;
use crate::supervisor::process::ProcessSupervisor;
use crate::supervisor::systemd::layout::slice_group;
use crate::supervisor::{Identity, Supervisor as _};

/// For every process of a session to be held.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the sessions are held, or an agentd is there to do it. Settings that are not `sound` may name another state
/// directory than the one that agentd used.
pub async fn run(config: &Config, sound: bool) -> anyhow::Result<()> {
    let dir = &config.state_dir;
    while fence::deadline(dir).await.context("cannot tell when a server may call this runner lost")? {
        // Kept until the end: an agentd that starts now waits for it.
        let Some(_lock) = state_lock::look(dir)? else {
            tracing::info!("agentd is there and holds its sessions itself");
            return Ok(());
        };
        // One may have come, been heard and gone meanwhile.
        if fence::is_silent(dir) {
            return hold_all(config).await;
        }
    }
    if !sound {
        bail!(
            "no agentd of this boot has used {}, and the settings, which may name another directory, are faulty: \
             correct them, so that sessions with on_lost = restart can be held",
            dir.display()
        );
    }
    Ok(())
}

async fn hold_all(config: &Config) -> anyhow::Result<()> {
    let mut sessions = Vec::new();
    for entry in ledger::read(&config.state_dir)? {
        match entry {
            Ok(entry) if may_move(&entry) => sessions.push(entry),
            Ok(_) => {}
            Err(error) => tracing::error!("a session that is not known cannot be held: {error}"),
        }
    }
    let held = join_all(sessions.iter().map(async |entry| {
        let session = entry.session();
        let held = hold(config, session, entry.identity.as_ref()).await;
        match &held {
            Ok(()) => tracing::warn!(HELIX_SESSION = %session, "session held still: agentd is away, and a server may start it elsewhere"),
            Err(error) => tracing::error!(HELIX_SESSION = %session, "cannot hold the session still: {error:#}"),
        }
        held.is_ok()
    }));
    let failed = held.await.into_iter().filter(|held| !held).count();
    ensure!(failed == 0, "{failed} sessions could not be held still; start agentd, or stop them by hand");
    Ok(())
}

fn may_move(entry: &Entry) -> bool {
    entry.desired.spec.on_lost == Some(OnLost::Restart) && !entry.is_ended()
}

/// One that is held already is held again: what the ledger says of it may be old.
async fn hold(config: &Config, session: &SessionId, identity: Option<&Identity>) -> anyhow::Result<()> {
    match identity {
        Some(Identity::Slice(_)) => {
            let group = slice_group(session);
            let frozen = tokio::task::spawn_blocking(move || Cgroups::detect()?.freeze(&group, true, FREEZE_TIMEOUT));
            Ok(frozen.await??)
        }
        Some(Identity::Guest(_)) => {
            let config = daemon::process_config(config, crate::guest::own_program());
            Ok(ProcessSupervisor::new(config)?.freeze(session, true).await?)
        }
        // Being opened: nothing of it runs.
        None => Ok(()),
    }
}
