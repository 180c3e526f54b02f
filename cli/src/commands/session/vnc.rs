//! `session vnc`: a local port for any VNC viewer, through the server to the session's runner.
//!
//! The port ([`port`]) is on this machine's
//! loopback, which other users reach, too: viewers must know a password that is made up here and checked at the
//! desktop's gate. With `--take` a task renews the control while the port is open.

use std::net::SocketAddr;
use std::time::Duration;

use helix_protocol::api::CreateTicket;
use helix_protocol::api::control::TakeControl;
use helix_protocol::link::Stream;
use helix_protocol::{ErrorCode, Seat, SessionId};
use serde::Serialize;
use tokio::process::Command;
use tokio::signal::unix::SignalKind;

use super::port::{self, Port, PortArgs, ViewerProgram};
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::signals::Signals;
use crate::ui::Ui;

/// Characters of a password: VNC authentication looks at no more.
pub(super) const PASSWORD_CHARS: usize = 8;
/// Without letters that are taken for one another.
const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
/// Viewers, best first, each with its way to be given the password: TigerVNC reads it from its environment.
const VIEWERS: [&str; 2] = ["xtigervncviewer", "vncviewer"];
/// How long the control lasts when it is not renewed, and when it is.
pub(super) const TTL_SECONDS: u64 = 60;
const RENEW: Duration = Duration::from_secs(20);

/// Where to connect, and what to know.
#[derive(Debug, Serialize)]
struct Opened {
    address: SocketAddr,
    password: String,
}

/// Serves until it is told to end, or until the viewer that it started ends.
pub async fn run(client: &Client, args: PortArgs, ui: &Ui) -> Result<()> {
    let signals = Signals::catch(&[SignalKind::interrupt(), SignalKind::terminate()])?;
    let password = random_word(PASSWORD_CHARS)?;
    let seat = match args.seat {
        Some(seat) => seat,
        None => Seat::parse(format!("vnc-{}", random_word(PASSWORD_CHARS)?))
            .map_err(|error| CliError::failed(error.to_string()))?,
    };
    let request = CreateTicket {
        stream: Stream::Vnc,
        seat: Some(seat.clone()),
        view_only: args.view_only,
        password: Some(password.clone()),
    };
    port::try_ticket(client, &args.id, &request, ui).await?;
    let port = Port::open(args.port).await?;
    let address = port.address;
    let take = TakeControl { seat: seat.clone(), ttl_seconds: Some(TTL_SECONDS), if_free: false };
    if args.take {
        client.take_control(&args.id, &take).await?;
    }
    let opened = Opened { address, password };
    ui.answer(&opened, || ui.line(&format!("{address} password {}", opened.password)))?;
    let viewer = if args.print || ui.json { None } else { viewer(&opened) };
    if viewer.is_none() {
        ui.note("connect a VNC viewer to this address; Ctrl-C closes it");
    }
    let ended = tokio::select! {
        never = port.serve(client, &args.id, &request, ui) => match never {},
        never = renew(client, &args.id, &take, args.take, ui) => match never {},
        ended = port::watch(viewer) => ended,
        () = signals.came(1) => Ok(()),
    };
    if args.take
        && let Err(error) = client.hand_back_control(&args.id, Some(&seat)).await
    {
        ui.warn(&format!("the control is not handed back, it will be free in a minute: {error}"));
    }
    ended
}

/// Keeps the control, where it was taken, for ever.
pub(super) async fn renew(
    client: &Client,
    id: &SessionId,
    take: &TakeControl,
    taken: bool,
    ui: &Ui,
) -> std::convert::Infallible {
    if !taken {
        return std::future::pending().await;
    }
    // Who took it over in between keeps it.
    let take = TakeControl { if_free: true, ..take.clone() };
    loop {
        tokio::time::sleep(RENEW).await;
        if let Err(error) = client.take_control(id, &take).await {
            ui.warn(&error.to_string());
            if error.code == Some(ErrorCode::ControlTaken) {
                return std::future::pending().await;
            }
        }
    }
}

/// A viewer of this machine, if there is a display to show it on.
fn viewer(opened: &Opened) -> Option<ViewerProgram> {
    let program = port::installed(&VIEWERS)?;
    let mut command = Command::new(&program);
    command
        .arg(format!("{}::{}", opened.address.ip(), opened.address.port()))
        // Not in its arguments: those can be read by everybody.
        .env("VNC_PASSWORD", &opened.password);
    Some(ViewerProgram { program, command, input: None, closed: &[] })
}

/// A word that nobody guesses.
pub(super) fn random_word(chars: usize) -> Result<String> {
    let mut bytes = vec![0; chars];
    getrandom::fill(&mut bytes).map_err(|error| CliError::failed("the system gives no random bytes").because(error))?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect())
}
