//! The session's own ports on the machine's network, where the runner has such ([`crate::direct`]), beside everything else in
//! the session's task.

use std::convert::Infallible;
use std::time::Duration;

use helix_protocol::session::DirectPorts;

use super::Session;
use crate::config::Direct;
use crate::direct::Ports;
use crate::supervisor::Supervisor;

/// Before it is tried again where no port is free, or the address is not there yet.
const OPEN_AGAIN: Duration = Duration::from_secs(15);

impl<S: Supervisor> Session<S> {
    /// Lets native viewers in at ports of the machine, while the session's slice is there.
    pub(super) async fn open_ports(&self) -> Infallible {
        let wanted = self.entry().desired.spec.direct != Some(false);
        let Some(direct) = self.context.config.direct.as_ref().filter(|_| wanted) else {
            // A former agentd may have had other settings.
            self.tell_ports(None);
            return std::future::pending().await;
        };
        let mut open = self.outlet.subscribe();
        loop {
            // The sender lives in the session.
            let _ = open.wait_for(|open| *open).await;
            tokio::select! {
                never = self.serve_ports(direct) => match never {},
                _ = open.wait_for(|open| !*open) => self.tell_ports(None),
            }
        }
    }

    async fn serve_ports(&self, direct: &Direct) -> Infallible {
        let former = self.entry().direct.clone();
        loop {
            let ports = Ports::open(direct, former.as_ref(), self.context.viewers.has_rdp()).await;
            if ports.is_empty() {
                tracing::warn!(listen = %direct.listen, "no direct port can be opened; tried again");
                self.tell_ports(None);
                tokio::time::sleep(OPEN_AGAIN).await;
                continue;
            }
            self.tell_ports(Some(ports.told.clone()));
            match ports.serve(&self.id(), direct, &self.context.viewers).await {}
        }
    }

    /// Notes which ports are open, and reports it where that is news.
    fn tell_ports(&self, ports: Option<DirectPorts>) {
        if self.entry().direct != ports {
            self.change(|entry| entry.direct = ports);
        }
    }
}
