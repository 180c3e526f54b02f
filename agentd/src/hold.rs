//! `agentd hold`: keeps the promise of `on_lost = restart` while agentd itself is stopped and may stay away.
//!
//! systemd starts it (`agentd-hold@.service`) when agentd's service has ended and is not about to be started again.
//! It waits for the moment at which agentd would have held these sessions ([`fence::silence`]), and holds them, unless
//! another agentd has the state directory by then. It takes nothing back: the ledger says that they are held, and the
//! next agentd lets them go on when a server confirms them. Ended at any moment, it leaves either a session that runs
//! or one whose entry says why it does not.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use helix_protocol::resources::OnLost;

use crate::config::{Backend, Config};
use crate::daemon;
use crate::fence;
use crate::ledger::Ledger;
use crate::state_lock;
use crate::supervisor::Supervisor;
use crate::supervisor::process::ProcessSupervisor;
use crate::supervisor::systemd::SystemdSupervisor;

/// Runs until the sessions are held, or need not be.
pub async fn run(config: Config, program: PathBuf) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let dir = &config.state_dir;
    while fence::silence(dir).await.context("cannot tell when a server may call this runner lost")? {
        let Some(_lock) = state_lock::try_take(dir)? else {
            tracing::info!("an agentd runs again and holds its sessions itself");
            return Ok(());
        };
        // One may have come, been heard and gone between the two.
        if !fence::is_silent(dir) {
            continue;
        }
        return match daemon::backend(&config) {
            Backend::Systemd => {
                hold_all(&SystemdSupervisor::new(daemon::systemd_config(&config, program)).await?, &config).await
            }
            _ => hold_all(&ProcessSupervisor::new(daemon::process_config(&config, program))?, &config).await,
        };
    }
    Ok(())
}

async fn hold_all<S: Supervisor>(supervisor: &S, config: &Config) -> anyhow::Result<()> {
    let (ledger, entries) = Ledger::open(&config.state_dir)?;
    let mut failed = 0;
    for mut entry in entries {
        let may_move = entry.desired.spec.on_lost == Some(OnLost::Restart);
        if !may_move || entry.frozen || entry.identity.is_none() || entry.is_ended() {
            continue;
        }
        // Before it is done: whoever finds it frozen knows why.
        entry.holding = true;
        ledger.save(&entry).await.context("cannot write the ledger")?;
        let session = entry.session().clone();
        match supervisor.freeze(&session, true).await {
            Ok(()) => {
                entry.frozen = true;
                ledger.save(&entry).await.context("cannot write the ledger")?;
                tracing::warn!(HELIX_SESSION = %session, "session held still: agentd is stopped, and a server may start it elsewhere");
            }
            Err(error) => {
                failed += 1;
                tracing::error!(HELIX_SESSION = %session, %error, "cannot hold the session still");
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} sessions could not be held still; start agentd, or stop them by hand");
    Ok(())
}
