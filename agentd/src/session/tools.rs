//! The ways in: agentd's ends of the session's units that are started at their first use, tools ([`crate::tools`]) and RDP
//! ([`crate::rdp`]), beside everything else in the session's task.

use std::convert::Infallible;
use std::time::Duration;

use super::plan::Plan;
use super::{RETRY, Session};
use crate::supervisor::{Supervisor, UnitName, UnitSpec};
use crate::tools::host::{Board, ToolsError, Unit, serve};

/// Of a unit that shall go away before it is started again: it has ended already.
const STOP_GRACE: Duration = Duration::from_secs(1);

impl<S: Supervisor> Session<S> {
    /// Lets in who asks for the session's files, commands and terminals, and for its desktop by RDP, while its slice is there.
    pub(super) async fn let_in(&self) -> Infallible {
        let mut open = self.outlet.subscribe();
        loop {
            // The sender lives in the session.
            let _ = open.wait_for(|open| *open).await;
            tokio::select! {
                never = self.serve_unit(UnitName::Tools, &self.context.tools) => match never {},
                never = self.serve_unit(UnitName::Rdp, self.context.viewers.rdp_board()) => match never {},
                _ = open.wait_for(|open| !*open) => {}
            }
        }
    }

    async fn serve_unit(&self, name: UnitName, board: &Board) -> Infallible {
        let mut seat = board.announce(&self.id());
        let unit = OnDemand { session: self, name };
        loop {
            match self.context.supervisor.listen(&self.id(), name).await {
                Ok(listener) => match serve(&listener, &mut seat, &unit).await {},
                Err(error) => tracing::error!(unit = name.as_str(), "a unit of the session cannot be reached: {error}"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// A unit of a session that is started when somebody asks for it.
struct OnDemand<'a, S> {
    session: &'a Session<S>,
    name: UnitName,
}

impl<S: Supervisor> OnDemand<'_, S> {
    fn spec(&self, plan: &Plan) -> UnitSpec {
        match self.name {
            UnitName::Rdp => plan.rdp.clone(),
            _ => plan.tools(self.session.entry().display.as_ref().map(|display| display.number)),
        }
    }
}

impl<S: Supervisor> Unit for OnDemand<'_, S> {
    async fn find(&self) -> Option<u32> {
        let units = self.session.context.supervisor.units(&self.session.id()).await.ok()?;
        units.iter().find(|unit| unit.name == self.name)?.pid
    }

    async fn start(&self) -> Result<u32, ToolsError> {
        let session = self.session;
        let plan = session.plan().map_err(|ending| ToolsError::Start(ending.cause.message))?;
        let (supervisor, id) = (&session.context.supervisor, session.id());
        let started = async {
            // One that has ended must be forgotten before it can be started anew.
            supervisor.stop(&id, self.name, STOP_GRACE).await?;
            supervisor.start(&id, &self.spec(&plan)).await
        };
        let status = started.await.map_err(|error| ToolsError::Start(error.to_string()))?;
        status.pid.ok_or_else(|| ToolsError::Start("it ended at once; see its log".to_owned()))
    }
}
