//! `session control`: who may type in the desktop; take it, hand it back.

use clap::Args;
use helix_protocol::api::control::{ControlView, TakeControl};
use helix_protocol::{Seat, SessionId};

use crate::client::Client;
use crate::error::Result;
use crate::ui::{Ui, age};

/// Arguments of `session control`.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// Session id
    id: SessionId,
    /// Take the control, or keep it for longer: only viewers and calls of your token and SEAT type from now on
    #[arg(long, requires = "seat", conflicts_with = "hand_back")]
    take: bool,
    /// Let everybody type again who may drive the desktop
    #[arg(long)]
    hand_back: bool,
    /// Where you sit: any word; the same as in `session vnc --seat` and in header `x-helix-seat` of API calls
    #[arg(long)]
    seat: Option<Seat>,
    /// Seconds until it is free again by itself, 10 to 3600; 120 when left out
    #[arg(long, value_name = "SECONDS", requires = "take", value_parser = clap::value_parser!(u64).range(10..=3600))]
    ttl: Option<u64>,
    /// Not from somebody who holds it
    #[arg(long, requires = "take")]
    if_free: bool,
}

/// Does it, and shows how it is then.
pub async fn run(client: &Client, args: ControlArgs, ui: &Ui) -> Result<()> {
    let ControlArgs { id, take, hand_back, seat, ttl, if_free } = args;
    let view = match seat {
        Some(seat) if take => client.take_control(&id, &TakeControl { seat, ttl_seconds: ttl, if_free }).await?,
        seat if hand_back => client.hand_back_control(&id, seat.as_ref()).await?,
        _ => client.control(&id).await?,
    };
    ui.answer(&view, || ui.line(&words(&view)))?;
    if !view.enforced {
        ui.warn("the session's runner has not said yet that it knows: helixctl session show says how it is heard");
    }
    Ok(())
}

fn words(view: &ControlView) -> String {
    match &view.holder {
        None => "free: whoever may drive the desktop may type".to_owned(),
        Some(holder) => format!("{} (seat {}), for {}", holder.by, holder.seat, age(holder.since)),
    }
}
