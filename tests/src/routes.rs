//! What is between the members of a bus: a relay for each ordered pair of them, which can fall silent.
//!
//! One task per relay, and one per connection and direction. A pair that is parted hears nothing of each other, on
//! connections that are there and on new ones; nothing is refused, as on a network that drops packets. What was said
//! meanwhile arrives once it is mended, as TCP sends again. The tasks end with [`Routes`] or with their connections.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that are carried at once.
const PIECE: usize = 64 * 1024;

/// Between all members.
pub struct Routes {
    /// By member: where it reaches each of the others.
    ports: Vec<Vec<u16>>,
    /// By pair, the smaller number first: whether they hear each other.
    open: BTreeMap<(usize, usize), watch::Sender<bool>>,
    /// Held: they end with it.
    tasks: JoinSet<()>,
}

impl Routes {
    /// Between members that listen for each other on these ports.
    pub async fn between(targets: &[u16]) -> Result<Self> {
        let mut routes = Self { ports: Vec::new(), open: BTreeMap::new(), tasks: JoinSet::new() };
        for from in 0..targets.len() {
            let mut ports = Vec::new();
            for (to, target) in targets.iter().enumerate().filter(|(to, _)| *to != from) {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a relay between members")?;
                ports.push(listener.local_addr()?.port());
                let open = routes.open.entry(pair(from, to)).or_insert_with(|| watch::Sender::new(true)).subscribe();
                routes.tasks.spawn(relay(listener, *target, open));
            }
            routes.ports.push(ports);
        }
        Ok(routes)
    }

    /// Where this member reaches the others.
    pub fn of(&self, member: usize) -> &[u16] {
        self.ports.get(member).map_or(&[], Vec::as_slice)
    }

    /// From now on these two hear nothing of each other.
    pub fn part(&self, one: usize, other: usize) {
        self.set(one, other, false);
    }

    /// Undoes [`Routes::part`].
    pub fn mend(&self, one: usize, other: usize) {
        self.set(one, other, true);
    }

    fn set(&self, one: usize, other: usize, is_open: bool) {
        if let Some(open) = self.open.get(&pair(one, other)) {
            open.send_replace(is_open);
        }
    }
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

async fn relay(listener: TcpListener, target: u16, open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let mut open = open.clone();
        connections.spawn(async move {
            if open.wait_for(|open| *open).await.is_err() {
                return;
            }
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::join!(carry(from_near, to_far, open.clone()), carry(from_far, to_near, open));
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One direction, until it ends or nobody is left who could open it.
async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut open: watch::Receiver<bool>,
) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
