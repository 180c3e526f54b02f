//! `session rdp`: a local port for any RDP client, through the server to the session's runner.
//!
//! The password is that of a grant which is made for this port and revoked at its end; it ends by itself where that cannot
//! be done. With `--take` a task renews the control while the port is open.

use std::net::SocketAddr;

use helix_protocol::api::CreateTicket;
use helix_protocol::api::control::TakeControl;
use helix_protocol::api::grants::CreateGrant;
use helix_protocol::link::Stream;
use helix_protocol::{ErrorCode, Seat};
use serde::Serialize;
use tokio::process::Command;
use tokio::signal::unix::SignalKind;

use super::port::{self, Port, PortArgs, ViewerProgram};
use super::vnc::{PASSWORD_CHARS, TTL_SECONDS, random_word, renew};
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::signals::Signals;
use crate::ui::Ui;

/// Clients, best first: the first is the second's newer name.
const CLIENTS: [&str; 2] = ["xfreerdp3", "xfreerdp"];
/// xfreerdp's exit codes where the connection was ended by either side: disconnected, logged off, by its user.
const CLOSED: &[i32] = &[1, 2, 11, 12];

/// Where to connect, and what to say.
#[derive(Debug, Serialize)]
struct Opened {
    address: SocketAddr,
    username: String,
    password: String,
}

/// Serves until it is told to end, or until the client that it started ends.
pub async fn run(client: &Client, args: PortArgs, ui: &Ui) -> Result<()> {
    let signals = Signals::catch(&[SignalKind::interrupt(), SignalKind::terminate()])?;
    let seat = match args.seat {
        Some(seat) => seat,
        None => Seat::parse(format!("rdp-{}", random_word(PASSWORD_CHARS)?))
            .map_err(|error| CliError::failed(error.to_string()))?,
    };
    let request = CreateTicket { stream: Stream::Rdp, seat: None, view_only: args.view_only, password: None };
    port::try_ticket(client, &args.id, &request, ui).await?;
    let port = Port::open(args.port).await?;
    let grant = CreateGrant { ttl_seconds: None, view_only: args.view_only, seat: Some(seat.clone()) };
    let grant = client.make_grant(&args.id, &grant).await?;
    if !grant.enforced {
        ui.warn("the session's runner has not said yet that it knows the password: helixctl session show says how it is heard");
    }
    let take = TakeControl { seat: seat.clone(), ttl_seconds: Some(TTL_SECONDS), if_free: false };
    let opened = Opened { address: port.address, username: grant.username, password: grant.password };
    let served = async {
        if args.take {
            client.take_control(&args.id, &take).await?;
        }
        ui.answer(&opened, || {
            ui.line(&format!("{} user {} password {}", opened.address, opened.username, opened.password))
        })?;
        let viewer = if args.print || ui.json { None } else { viewer(&opened) };
        if viewer.is_none() {
            ui.note("connect an RDP client to this address; Ctrl-C closes it");
        }
        tokio::select! {
            never = port.serve(client, &args.id, &request, ui) => match never {},
            never = renew(client, &args.id, &take, args.take, ui) => match never {},
            ended = port::watch(viewer) => ended,
            () = signals.came(1) => Ok(()),
        }
    };
    let ended = served.await;
    let ends = format!("it ends at {}", grant.expires_at);
    match client.revoke_grant(&args.id, &grant.id).await {
        Ok(revoked) if revoked.enforced => {}
        Ok(_) => ui
            .warn(&format!("the password is revoked, but the session's runner has not said yet that it knows; {ends}")),
        Err(error)
            if matches!(
                error.code,
                Some(ErrorCode::GrantNotFound | ErrorCode::SessionEnded | ErrorCode::SessionNotFound)
            ) => {}
        Err(error) => ui.warn(&format!("the password is not revoked, {ends}: {error}")),
    }
    if args.take
        && let Err(error) = client.hand_back_control(&args.id, Some(&seat)).await
    {
        ui.warn(&format!("the control is not handed back, it will be free in a minute: {error}"));
    }
    ended
}

/// A client of this machine, if there is a display to show it on.
fn viewer(opened: &Opened) -> Option<ViewerProgram> {
    let program = port::installed(&CLIENTS)?;
    let mut command = Command::new(&program);
    // The certificate vouches for nobody: it is the session's own, and the line to it is the server's.
    command.arg(format!("/v:{}", opened.address)).arg(format!("/u:{}", opened.username)).args([
        "/d:",
        "/sec:tls",
        "/cert:ignore",
        "+clipboard",
        "/from-stdin:force",
    ]);
    // Not in its arguments: those can be read by everybody.
    Some(ViewerProgram { program, command, input: Some(format!("{}\n", opened.password)), closed: CLOSED })
}
