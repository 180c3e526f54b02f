//! Whether this server is the owner, and what lease and log say of the socket.

use helix_protocol::api::SyncStatus;
use helix_protocol::{Epoch, subject};
use tokio::time::Instant;

use super::store::PATIENT;
use super::wire::Request;
use super::{Followed, Leaving, Owner};
use crate::threads::decide::sync_event;
use crate::threads::model::{CONNECTED, DISCONNECTED, READY};

impl Owner {
    fn status(&self) -> SyncStatus {
        let newest = self.desk.newest();
        let link = newest.as_ref().and_then(|newest| self.links.get(&newest.peer));
        SyncStatus {
            connected: link.is_some(),
            ready: newest.as_ref().is_some_and(|newest| newest.ready),
            connected_at: link.map(|link| link.connected_at),
            agent: newest.and_then(|newest| newest.agent),
            refused: None,
        }
    }

    /// Takes the lease for a socket that is new, else renews it.
    pub(super) async fn look_at_lease(&mut self) -> Result<(), Leaving> {
        let status = self.status();
        let newest = self.desk.newest().map(|newest| newest.peer);
        let is_new = newest > self.claimed;
        let mut lease = self.lease.clone();
        let look = async {
            let done = if is_new { lease.claim(&status).await } else { lease.renew(&status).await.map(|()| None) };
            (lease, done)
        };
        let (lease, done) = self.meanwhile(look).await?;
        let was_held = std::mem::replace(&mut self.lease, lease).is_held();
        if self.lease.is_held() {
            self.claimed = self.claimed.max(newest);
            self.succeeds |= !was_held;
        } else {
            // Another one tells the log now; what this one told is not how it is.
            self.told = None;
        }
        match done {
            Ok(Some(former)) => self.tell_former(former).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(source = ?error.source, "the sync lease cannot be looked at: {error}"),
        }
        if !self.lease.is_held() {
            self.requests = None;
        } else if self.requests.is_none() {
            match self.sockets.inner.bus.client().subscribe(subject::sync_owner(&self.session)).await {
                Ok(requests) => self.requests = Some(requests),
                Err(error) => tracing::warn!("cannot hear other servers: {error}"),
            }
        }
        Ok(())
    }

    /// The server that had the lease looks at once.
    async fn tell_former(&self, former: String) {
        tracing::info!(former, "the sync lease comes here: this server has the newest socket");
        let taken = Request::Taken(self.sockets.inner.server_id.to_string());
        self.sockets.inner.bus.publish(subject::sync_owner(&self.session), &taken).await;
    }

    /// Looks at where a former owner stopped, before anything is said as the new one.
    pub(super) async fn succeed(&mut self, followed: &mut Followed) -> Result<(), Leaving> {
        if std::mem::take(&mut self.succeeds) {
            self.look(followed, |desk, conversation| desk.succeed(conversation, Instant::now())).await?;
        }
        Ok(())
    }

    /// Of which assignment of the session the newest socket's agent is.
    fn epoch(&self) -> Option<Epoch> {
        self.desk.newest().and_then(|newest| self.links.get(&newest.peer)?.epoch)
    }

    /// An agent whose session began elsewhere: what was handed to the one before it is not handed to this one.
    pub(super) async fn leave_behind(&mut self, followed: &mut Followed) -> Result<(), Leaving> {
        while let Some(epoch) = self.epoch().filter(|_| self.lease.is_held()) {
            let left = self.look(followed, |desk, conversation| desk.left_behind(conversation, epoch)).await?;
            if left.is_empty() || self.store(followed, &left).await? != Ok(false) {
                break;
            }
            // Another writer was faster, who may be the owner now.
            self.look_at_lease().await?;
        }
        Ok(())
    }

    /// Lease and log say how the socket is.
    pub(super) async fn tell_status(&mut self, followed: &mut Followed) -> Result<(), Leaving> {
        self.succeed(followed).await?;
        self.leave_behind(followed).await?;
        let newest = self.desk.newest();
        // That nobody is there is said once all that was said before is stored.
        let may_tell = newest.is_some() || self.inbox.is_empty();
        if self.lease.is_held() && self.told != newest && may_tell {
            let agent = newest.as_ref().and_then(|newest| newest.agent.clone());
            let is_same = self.told.as_ref().map(|told| told.peer) == newest.as_ref().map(|newest| newest.peer);
            let was_ready = is_same && self.told.as_ref().is_some_and(|told| told.ready);
            let event = match &newest {
                None => {
                    let doubts = self.look(followed, |desk, conversation| desk.doubts(conversation)).await?;
                    Some(sync_event(DISCONNECTED, None, doubts, None))
                }
                Some(newest) if newest.ready && !was_ready => Some(sync_event(READY, agent, Vec::new(), self.epoch())),
                Some(_) if !is_same => Some(sync_event(CONNECTED, None, Vec::new(), self.epoch())),
                Some(_) => None,
            };
            self.told = newest;
            if let Some(event) = event {
                // For people: another writer's turn first is no reason to lose it, a log that is gone is.
                for _ in 0..PATIENT {
                    if self.store(followed, std::slice::from_ref(&event)).await? != Ok(false) {
                        break;
                    }
                    // Another owner may be the faster one: it says how it is.
                    self.look_at_lease().await?;
                    if !self.lease.is_held() {
                        break;
                    }
                }
            }
        }
        if self.lease.is_news(&self.status()) && !self.links.is_empty() {
            self.lease.doubt();
            self.look_at_lease().await?;
        }
        Ok(())
    }
}
