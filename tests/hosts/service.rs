//! agentd as a service: heartbeats under load, the watchdog, reloads, two runners on one machine, what its units expose,
//! and its end.

mod burning;
mod control;
pub mod scores;
mod settings;
mod stuck;
mod two;
pub mod uninstall;

use anyhow::Result;

use crate::fleet::{Fleet, RunnerSettings};
use crate::harness::{Boot, Case, Host};

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        Case::thorough(
            "service::heartbeats_go_out_while_sessions_burn",
            burning::heartbeats_go_out_while_sessions_burn,
        ),
        Case::thorough(
            "service::heartbeats_go_out_while_a_guest_burns",
            burning::heartbeats_go_out_while_a_guest_burns,
        ),
        Case::always("service::a_stuck_agentd_is_restarted", stuck::a_stuck_agentd_is_restarted),
        Case::always("service::a_stuck_reconcile_loop_is_restarted", stuck::a_stuck_reconcile_loop_is_restarted),
        Case::always(
            "service::reload_takes_new_settings_and_touches_nothing",
            settings::reload_takes_new_settings_and_touches_nothing,
        ),
        Case::always("service::two_runners_on_one_machine", two::two_runners_on_one_machine),
        Case::always("service::a_control_plane_is_backed_up", control::a_control_plane_is_backed_up),
        Case::always("service::units_expose_little_on_bookworm", scores::units_expose_little_on_bookworm),
        Case::always("service::units_expose_little_on_trixie", scores::units_expose_little_on_trixie),
        Case::always("service::an_uninstall_leaves_nothing", uninstall::an_uninstall_leaves_nothing),
    ]
}

/// A host with the runner `r1`.
async fn one_runner(boot: Boot) -> Result<(Fleet, Host)> {
    let (fleet, host) = tokio::try_join!(Fleet::start(), boot.start())?;
    fleet.join(&host, &RunnerSettings::default()).await?;
    Ok((fleet, host))
}

/// Main process of a service of this host; 0 while there is none.
async fn main_pid(host: &Host, unit: &str) -> Result<u32> {
    Ok(host.run_ok(&format!("systemctl show --value -p MainPID {unit}")).await?.parse()?)
}
