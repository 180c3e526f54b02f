//! A local port of a session's desktop, for a viewer that knows nothing of Helix; and the viewer itself, where there is one.
//!
//! A task per connection copies between it and a socket that a fresh ticket opens. The port is on this machine's loopback,
//! which other users reach, too: whoever comes must know a password, which is checked at the desktop's gate.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use futures::{SinkExt as _, StreamExt as _};
use helix_protocol::api::CreateTicket;
use helix_protocol::{Seat, SessionId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_tungstenite::tungstenite::Message;

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::settings::process_env;
use crate::ui::Ui;

/// Most bytes of one frame.
const FRAME_BYTES: usize = 64 * 1024;

/// Arguments of `session vnc` and `session rdp`.
#[derive(Debug, Args)]
pub struct PortArgs {
    /// Session id
    pub(super) id: SessionId,
    /// Local port; a free one when left out
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(super) port: u16,
    /// Start no viewer
    #[arg(long)]
    pub(super) print: bool,
    /// Only look
    #[arg(long, conflicts_with = "take")]
    pub(super) view_only: bool,
    /// Take the control while the port is open: nobody else types
    #[arg(long)]
    pub(super) take: bool,
    /// Where you sit, a word of your own: who holds the control types from his seat alone
    #[arg(long)]
    pub(super) seat: Option<Seat>,
}

/// Says what is wrong before anybody connects, and whether the desktop is recorded. The ticket is not used and ends by
/// itself.
pub(super) async fn try_ticket(client: &Client, id: &SessionId, request: &CreateTicket, ui: &Ui) -> Result<()> {
    if client.ticket(id, request).await?.recorded {
        ui.note("this desktop is recorded, and what you type on it");
    }
    Ok(())
}

/// An open port.
pub(super) struct Port {
    listener: TcpListener,
    /// Where it is.
    pub(super) address: SocketAddr,
}

impl Port {
    /// Opens one on 127.0.0.1; any that is free for 0.
    pub(super) async fn open(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.map_err(|error| {
            CliError::failed("cannot open the local port").at(format!("127.0.0.1:{port}")).because(error)
        })?;
        let address = listener.local_addr().map_err(|error| CliError::failed("no local address").because(error))?;
        Ok(Self { listener, address })
    }

    /// A task per viewer, for ever.
    pub(super) async fn serve(&self, client: &Client, id: &SessionId, request: &CreateTicket, ui: &Ui) -> Infallible {
        let mut viewers = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (client, id, request) = (client.clone(), id.clone(), request.clone());
                        viewers.spawn(async move { carry(&client, &id, &request, stream).await });
                    }
                    Err(error) => {
                        // Too many files are open: one that closes makes room.
                        ui.warn(&format!("a viewer was not let in: {error}"));
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
                Some(ended) = viewers.join_next() => {
                    if let Ok(Err(error)) = ended {
                        ui.warn(&error.to_string());
                    }
                }
            }
        }
    }
}

/// One viewer, until either side ends.
async fn carry(client: &Client, id: &SessionId, request: &CreateTicket, viewer: TcpStream) -> Result<()> {
    let ticket = client.ticket(id, request).await?;
    let (mut to_desktop, mut from_desktop) = client.open_ticket(&ticket).await?.split();
    // A viewer that is gone is no error of anybody's.
    let _ = viewer.set_nodelay(true);
    let (mut from_viewer, mut to_viewer) = viewer.into_split();
    let to_desktop = async {
        let mut buffer = vec![0; FRAME_BYTES];
        while let Ok(count @ 1..) = from_viewer.read(&mut buffer).await {
            if to_desktop.send(Message::Binary(buffer[..count].to_vec().into())).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let from_desktop = async {
        while let Some(Ok(message)) = from_desktop.next().await {
            match message {
                Message::Binary(bytes) if to_viewer.write_all(&bytes).await.is_ok() => {}
                Message::Close(Some(close)) if u16::from(close.code) != 1000 => {
                    return Err(CliError::failed("the desktop was closed").because(close.reason.as_str()));
                }
                Message::Ping(_) | Message::Pong(_) => {}
                _ => break,
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = to_desktop => ended,
        ended = from_desktop => ended,
    }
}

/// The first of these programs that is installed, if there is a display to show it on.
pub(super) fn installed(names: &[&str]) -> Option<PathBuf> {
    process_env("DISPLAY")?;
    names.iter().find_map(|name| crate::up::programs::in_path(name))
}

/// A viewer to start.
pub(super) struct ViewerProgram {
    pub(super) program: PathBuf,
    pub(super) command: Command,
    /// What it reads.
    pub(super) input: Option<String>,
    /// Exit codes that are no failure, beside 0.
    pub(super) closed: &'static [i32],
}

/// Starts the viewer and waits for its end; for ever where there is none.
pub(super) async fn watch(viewer: Option<ViewerProgram>) -> Result<()> {
    let Some(ViewerProgram { program, mut command, input, closed }) = viewer else {
        return std::future::pending().await;
    };
    let failed = |why: String| {
        CliError::failed("the viewer failed")
            .at(program.display())
            .because(why)
            .next("repeat with --print, and start one")
    };
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let (Some(mut to_viewer), Some(input)) = (child.stdin.take(), input) {
        // One that does not read it says so by its end.
        let _ = to_viewer.write_all(input.as_bytes()).await;
    }
    let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
    let well = status.code().is_some_and(|code| code == 0 || closed.contains(&code));
    if well { Ok(()) } else { Err(failed(status.to_string())) }
}
