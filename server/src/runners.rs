//! Rules for runners: enrol, register, hear, list.

use helix_protocol::RunnerId;
use helix_protocol::api::{EnrolRunner, Enrolled, RunnerView};

use crate::error::Result;

/// Rules for runners over the store. Cheap to clone.
#[derive(Clone)]
pub struct Runners {}

impl Runners {
    /// Binds the id to the runner's own token, or answers the same again; `RunnerEnrolledElsewhere` otherwise.
    pub async fn enrol(&self, _request: EnrolRunner) -> Result<Enrolled> {
        unimplemented!()
    }

    /// One runner.
    pub async fn get(&self, _id: &RunnerId) -> Result<RunnerView> {
        unimplemented!()
    }

    /// Every runner, by id.
    pub async fn list(&self) -> Result<Vec<RunnerView>> {
        unimplemented!()
    }

    /// Removes a runner that is not online and revokes its token, so that the id can be enrolled again.
    pub async fn delete(&self, _id: &RunnerId) -> Result<()> {
        unimplemented!()
    }
}
