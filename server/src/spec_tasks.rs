//! Spec tasks: one desktop, many names of it, many threads. Every session is made here ([`SpecTasks::begin`]), with the
//! first turn of its conversation.
//!
//! A session that is asked for with a spec task is *unsettled* at first: its record says the task, and no runner gets
//! it. [`SpecTasks::settle`] then decides by one revision-checked write of the task's record, which names the session
//! that has the desktop. Whose write comes first has it; any other session becomes another name of it (`desktop_of`),
//! and its input a turn there, written before the name is: two at once make one desktop, and a crash in between leaves
//! an unsettled session that the reconciler settles. A task whose desktop has ended takes the next session for it.
//!
//! **Stopping one name leaves the others.** A name that is stopped is shown as stopped, whatever its desktop does. The
//! desktop ends when its last name is stopped. The record of the session that it began with carries it until then, also
//! when that session is stopped or deleted before (`let_go`); when the desktop's record goes, what is left of its names
//! are ended sessions. Stopping the task ends the desktop whatever its names say.

mod settle;

use std::cmp::Reverse;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use helix_protocol::api::CreateSession;
use helix_protocol::api::threads::{CreateSpecTask, SpecTaskContext, SpecTaskList, SpecTaskView};
use helix_protocol::ids::hex;
use helix_protocol::record::{SessionRecord, SpecTaskRecord};
use helix_protocol::{ErrorCode, SessionId, SpecTaskId, ThreadId};
use sha2::{Digest as _, Sha256};

use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::keys::random_id;
use crate::sessions::{Created, Found, Sessions};
use crate::store::Store;
use crate::threads::Threads;
use crate::threads::initial::initial_turn_of;
use crate::threads::model::{Conversation, Thread};
use crate::threads::prompts::no_thread;

/// Conversations that a list reads at once.
const CONCURRENCY: usize = 16;

/// Rules for spec tasks over the store. Cheap to clone.
#[derive(Clone)]
pub struct SpecTasks {
    store: Store,
    sessions: Sessions,
    threads: Threads,
}

impl SpecTasks {
    /// Rules over a store.
    pub fn new(store: Store, sessions: Sessions, threads: Threads) -> Self {
        Self { store, sessions, threads }
    }

    /// Makes a session and the first turn of its conversation, or another name of a task's desktop and a turn there;
    /// durable when this returns. `thread` names a thread of that desktop to go on with: our id of it, or the agent's.
    pub async fn begin(&self, by: &Principal, request: CreateSession, thread: Option<&str>) -> Result<Created> {
        let mut continues = None;
        if let Some(desktop) = self.session_of_task(&request).await? {
            check_join(by, &desktop)?;
            let goes_on = self.sessions.has_living_desktop(&desktop) && request.input.is_some();
            if let Some(thread) = thread.filter(|_| goes_on) {
                continues = Some(self.thread_of(&desktop, thread).await?);
            }
        }
        let created = self.sessions.create_to_continue(by, request, continues).await?;
        let settled = self.settle(created.record.clone(), Some(by)).await?;
        if let Some(desktop) = &settled.value.desktop_of {
            tracing::info!(session.id = %settled.value.id, desktop.id = %desktop, "another name of a desktop");
            let view = self.sessions.get(by, &settled.value.id).await?;
            return Ok(Created { view, fresh: created.fresh, record: settled });
        }
        self.with_first_turn(Created { record: settled, ..created }).await
    }

    /// Writes the first turn of a session's conversation, where it has an input.
    pub async fn with_first_turn(&self, created: Created) -> Result<Created> {
        let record = &created.record.value;
        if record.desired == helix_protocol::session::Desired::Running
            && let Some(initial) = initial_turn_of(record)?
        {
            initial.append_missing(self.threads.hub.log()).await?;
        }
        Ok(created)
    }

    /// True where no desktop would be started: the task has one.
    pub async fn joins(&self, request: &CreateSession) -> Result<bool> {
        let desktop = self.session_of_task(request).await?;
        Ok(desktop.is_some_and(|desktop| self.sessions.has_living_desktop(&desktop)))
    }

    /// The other session that the task of a session asked for names.
    async fn session_of_task(&self, request: &CreateSession) -> Result<Option<Arc<SessionRecord>>> {
        let Some(task) = &request.spec_task else { return Ok(None) };
        let Some(entry) = self.store.spec_tasks.get(task.as_str()).await?.found() else { return Ok(None) };
        let session = &entry.value.session;
        if request.id.as_ref() == Some(session) {
            return Ok(None);
        }
        Ok(self.store.sessions.get(session.as_str()).await?.found().map(|entry| entry.value))
    }

    /// A thread by our id of it, or by the agent's.
    async fn thread_of(&self, desktop: &SessionRecord, thread: &str) -> Result<ThreadId> {
        let hub = &self.threads.hub;
        let live = hub.open_of(&desktop.id, desktop.created_at).await?;
        let named = |conversation: &Conversation| {
            let own = ThreadId::parse(thread).ok().and_then(|id| conversation.thread(&id));
            own.or_else(|| conversation.thread_of_acp(thread)).map(|thread| thread.id.clone())
        };
        hub.look(&live, named).await?.ok_or_else(|| no_thread(&desktop.id, thread))
    }

    /// Makes a task with its desktop; false where the same request had made it before.
    pub async fn create(&self, by: &Principal, request: CreateSpecTask) -> Result<(SpecTaskView, bool)> {
        let CreateSpecTask { spec_task_id, mut session } = request;
        if session.spec_task.is_some() && session.spec_task != spec_task_id {
            let detail = "session.spec_task differs from spec_task_id; leave it out, it is filled in";
            return Err(Error::new(ErrorCode::InvalidRequest, detail));
        }
        let task = match spec_task_id {
            Some(task) => {
                // The same task again is the same session again.
                session.id = session.id.map_or_else(|| session_of(&task), Ok).map(Some)?;
                task
            }
            None => fresh_id()?,
        };
        session.spec_task = Some(task.clone());
        let created = self.begin(by, session, None).await?;
        Ok((self.get(by, &task).await?, created.fresh))
    }

    /// Every task whose desktop the caller may see, newest first. Knows all that was written before the call.
    pub async fn list(&self, by: &Principal) -> Result<SpecTaskList> {
        self.store.spec_tasks.catch_up().await?;
        let mut records: Vec<_> =
            self.store.spec_tasks.view().read().iter().map(|(_, entry)| entry.value.clone()).collect();
        records.sort_unstable_by_key(|record| (Reverse(record.created_at), record.id.clone()));
        let views = futures::stream::iter(records).map(|record| async move {
            match self.view_of(by, &record).await {
                Ok(view) => Ok(Some(view)),
                Err(error) if error.code == ErrorCode::SpecTaskNotFound => Ok(None),
                Err(error) => Err(error),
            }
        });
        let spec_tasks: Vec<_> = views.buffered(CONCURRENCY).try_collect().await?;
        Ok(SpecTaskList { spec_tasks: spec_tasks.into_iter().flatten().collect() })
    }

    /// One task.
    pub async fn get(&self, by: &Principal, task: &SpecTaskId) -> Result<SpecTaskView> {
        let record = self.store.spec_tasks.get(task.as_str()).await?.found().ok_or_else(|| not_found(task))?;
        self.view_of(by, &record.value).await
    }

    /// Ends a task's desktop, whatever its names say.
    pub async fn stop(&self, by: &Principal, task: &SpecTaskId) -> Result<SpecTaskView> {
        let record = self.store.spec_tasks.get(task.as_str()).await?.found().ok_or_else(|| not_found(task))?;
        match self.sessions.stop_desktop(by, &record.value.session).await {
            Ok(_) => self.view_of(by, &record.value).await,
            Err(error) if error.code == ErrorCode::SessionNotFound => Err(not_found(task)),
            Err(error) => Err(error),
        }
    }

    async fn view_of(&self, by: &Principal, record: &SpecTaskRecord) -> Result<SpecTaskView> {
        let at = match self.sessions.find(by, &record.session).await {
            Ok(at) => at,
            Err(error) if error.code == ErrorCode::SessionNotFound => return Err(not_found(&record.id)),
            Err(error) => return Err(error),
        };
        Ok(SpecTaskView {
            spec_task_id: record.id.clone(),
            zed_instance_id: format!("zed_inst_{}", at.desktop.unit_key()),
            helix_session_id: at.desktop.clone(),
            contexts: self.contexts(&at).await?,
        })
    }

    async fn contexts(&self, at: &Found) -> Result<Vec<SpecTaskContext>> {
        let hub = &self.threads.hub;
        let live = hub.open_of(&at.desktop, at.since).await?;
        let contexts = |conversation: &Conversation| {
            let context = |thread: &Thread| SpecTaskContext {
                zed_context_id: thread.id.clone(),
                zed_thread_id: thread.acp.clone(),
                helix_interaction_id: thread.turns.last().map(|turn| turn.id.clone()),
                work_session_id: thread.work_session.clone().unwrap_or_else(|| at.desktop.clone()),
            };
            conversation.threads().iter().map(context).collect()
        };
        hub.look(&live, contexts).await
    }
}

/// Who joins a desktop talks to its agent.
fn check_join(by: &Principal, desktop: &SessionRecord) -> Result<()> {
    if by.may_change(&desktop.id, &desktop.owner) {
        return Ok(());
    }
    let task = desktop.spec_task.as_ref().map(ToString::to_string).unwrap_or_default();
    Err(Error::new(ErrorCode::Forbidden, format!("spec task {task} is somebody else's; use another id")))
}

/// The session that a task begins with, where its creator does not name one.
fn session_of(task: &SpecTaskId) -> Result<SessionId> {
    let digest = Sha256::digest(format!("spec-task\0{task}"));
    SessionId::parse(format!("ses_{}", hex(&digest[..12])))
        .map_err(|error| Error::new(ErrorCode::Internal, "a derived id is not valid").because(error))
}

fn fresh_id() -> Result<SpecTaskId> {
    let random = random_id()
        .map_err(|error| Error::new(ErrorCode::Internal, "the system gives no random bytes").because(error))?;
    SpecTaskId::parse(format!("spec_{random}"))
        .map_err(|error| Error::new(ErrorCode::Internal, "a made-up id is not valid").because(error))
}

fn not_found(task: &SpecTaskId) -> Error {
    Error::new(ErrorCode::SpecTaskNotFound, format!("there is no spec task {task}, or it is not yours"))
}
