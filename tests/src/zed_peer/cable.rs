//! A cable between a peer and the servers: a TCP relay on loopback that can be cut and plugged in elsewhere.

use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The cable. Ends with everything that runs through it when dropped.
pub struct Cable {
    address: String,
    plug: Arc<watch::Sender<Plug>>,
    task: JoinHandle<()>,
}

/// Where it leads to; `cuts` counts how often everything in it was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plug {
    to: Option<String>,
    cuts: u64,
}

impl Cable {
    /// A cable to `to` (`host:port`).
    pub async fn to(to: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let plug = Arc::new(watch::Sender::new(Plug { to: Some(to.to_owned()), cuts: 0 }));
        let task = tokio::spawn(listen(listener, Arc::clone(&plug)));
        Ok(Self { address, plug, task })
    }

    /// The near end.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Breaks what runs through it; what dials anew gets through.
    pub fn cut(&self) {
        self.plug.send_modify(|plug| plug.cuts += 1);
    }

    /// Breaks what runs through it and lets nothing through any more.
    pub fn unplug(&self) {
        self.plug.send_modify(|plug| {
            plug.cuts += 1;
            plug.to = None;
        });
    }

    /// Leads to `to` from now on; what runs elsewhere is broken.
    pub fn plug_into(&self, to: &str) {
        self.plug.send_modify(|plug| {
            plug.cuts += 1;
            plug.to = Some(to.to_owned());
        });
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.unplug();
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, plug: Arc<watch::Sender<Plug>>) {
    while let Ok((near, _)) = listener.accept().await {
        let plugged = plug.subscribe();
        let Some(to) = plugged.borrow().to.clone() else { continue };
        tokio::spawn(relay(near, to, plugged));
    }
}

async fn relay(near: TcpStream, to: String, plugged: watch::Receiver<Plug>) {
    let cuts = plugged.borrow().cuts;
    let Ok(far) = TcpStream::connect(&to).await else { return };
    // Small frames must not wait for each other.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    let is_cut = plugged.clone();
    let mut there = std::pin::pin!(carry(from_near, to_far, plugged.clone(), cuts));
    let back = carry(from_far, to_near, plugged, cuts);
    // Each way ends with the other: who is left is told.
    tokio::select! {
        () = &mut there => {}
        () = back => if is_cut.borrow().cuts > cuts { there.await },
    }
}

/// One way. What arrived before a cut gets through: the contract's editor loses one event with a line, not a burst.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut plugged: watch::Receiver<Plug>, cuts: u64) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = plugged.wait_for(|plug| plug.cuts > cuts) => from.try_read(&mut buffer).unwrap_or(0),
        };
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
