//! The outcome of the first turn is the session's result: it goes to the session's guest, which has it on disk before it
//! answers.
//!
//! One task per result, which repeats until it is taken; the engine hears of that through [`Outcome::delivery`].

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use helix_protocol::session::SessionResult;
use tokio::sync::mpsc;

use crate::guest::call::call;
use crate::guest::wire::{Answer, Request};
use crate::supervisor::process::layout::Layout;

/// Writing the outcome waits for the disk.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two attempts to have the outcome written: the disk may be full.
const RETRY: Duration = Duration::from_secs(5);

/// The way to the guest.
pub struct Outcome {
    socket: Option<PathBuf>,
    busy: bool,
    sender: mpsc::Sender<Delivery>,
    deliveries: mpsc::Receiver<Delivery>,
}

/// How it goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The guest has it on disk.
    Kept,
    /// Not yet, and why; told once.
    Refused(String),
}

impl Outcome {
    /// To the guest of the session whose directory is `root`; to nobody where there is none.
    pub fn new(root: Option<&Path>) -> Self {
        let (sender, deliveries) = mpsc::channel(1);
        Self { socket: root.map(|root| Layout::new(root).guest_socket()), busy: false, sender, deliveries }
    }

    /// Whether anybody waits for a result.
    pub fn is_wanted(&self) -> bool {
        self.socket.is_some()
    }

    /// Gives it to the guest until that has it on disk.
    pub fn deliver(&mut self, result: SessionResult) {
        let Some(socket) = self.socket.clone().filter(|_| !self.busy) else { return };
        self.busy = true;
        let (message, sender) = (Arc::new((socket, Request::Result { result })), self.sender.clone());
        tokio::spawn(async move {
            let mut complained = false;
            loop {
                let message = message.clone();
                let attempt = tokio::task::spawn_blocking(move || call(&message.0, &message.1, TIMEOUT)).await;
                let reason = match attempt {
                    Ok(Ok(Answer::Done)) => break,
                    // Somebody gave another one before: it counts.
                    Ok(Ok(Answer::Failed { reason })) if reason == "the outcome is known" => break,
                    Ok(Ok(other)) => format!("{other:?}"),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                // The engine ends before its receiver.
                if !std::mem::replace(&mut complained, true) {
                    let _ = sender.send(Delivery::Refused(reason)).await;
                }
                tokio::time::sleep(RETRY).await;
            }
            let _ = sender.send(Delivery::Kept).await;
        });
    }

    /// How the delivery goes. Cancel-safe.
    pub async fn delivery(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }
}
