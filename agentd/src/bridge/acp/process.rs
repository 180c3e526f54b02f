//! The agent's process: its start, what it can do, and its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use agent_client_protocol::schema::ProtocolVersion;
use agent_client_protocol::v1::schema::{
    AgentCapabilities, ClientCapabilities, ElicitationCapabilities, ElicitationFormCapabilities,
    FileSystemCapabilities, Implementation, InitializeRequest, InitializeResponse,
};
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use serde::Deserialize as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;

use super::Acp;
use super::offer::Offer;
use super::places::Places;
use super::rpc::{Rpc, RpcError};
use super::terminals::Terminals;
use super::threads::Way;

/// From its start to its first answer: npm programs on a cold disk are slow.
const START: Duration = Duration::from_mins(2);
/// Lines of its complaints that are kept.
const KEPT_LINES: usize = 20;
/// Bytes of each.
const LINE_BYTES: usize = 2000;
/// An agent that closed its output ends within this time by itself.
const EXIT: Duration = Duration::from_secs(2);

/// An agent that runs, or ran.
pub struct Live {
    /// To it.
    pub rpc: Rpc,
    /// What it said of itself.
    pub facts: OnceLock<Facts>,
    /// How many of its requests are answered at once.
    pub places: Places,
    /// Commands that it runs.
    pub terminals: Terminals,
    /// What can be chosen in each thread.
    offers: Mutex<BTreeMap<String, Offer>>,
    loaded: Mutex<BTreeSet<String>>,
    /// Held while a thread is loaded, so that none is loaded twice.
    pub load: tokio::sync::Mutex<()>,
    /// Threads whose history it tells just now.
    loading: Mutex<BTreeSet<String>>,
    group: Option<Pid>,
    complaints: Complaints,
    /// Why we ended it, where its other turns should know.
    verdict: OnceLock<String>,
    /// How it ended.
    end: watch::Receiver<Option<String>>,
}

/// What an agent says of itself.
pub struct Facts {
    /// What it can do.
    pub can: AgentCapabilities,
    /// Ways to authenticate.
    pub ways: Vec<Way>,
}

type Complaints = Arc<Mutex<VecDeque<String>>>;

impl Live {
    /// Whether it has this thread.
    pub fn has(&self, thread: &str) -> bool {
        self.end.borrow().is_none() && lock(&self.loaded).contains(thread)
    }

    /// Whether it had this thread, also after its end.
    pub fn had(&self, thread: &str) -> bool {
        lock(&self.loaded).contains(thread)
    }

    /// It has this thread from now on.
    pub fn got(&self, thread: &str) {
        lock(&self.loaded).insert(thread.to_owned());
    }

    /// It is telling this thread's history, or not any more.
    pub fn set_loading(&self, thread: &str, loading: bool) {
        if loading {
            lock(&self.loading).insert(thread.to_owned());
        } else {
            lock(&self.loading).remove(thread);
        }
    }

    /// Whether what it says of this thread is history.
    pub fn is_loading(&self, thread: &str) -> bool {
        lock(&self.loading).contains(thread)
    }

    /// What can be chosen in each thread.
    pub fn offers(&self) -> MutexGuard<'_, BTreeMap<String, Offer>> {
        lock(&self.offers)
    }

    /// How it ended, with its last complaints; waits for its end.
    pub async fn reason(&self) -> String {
        let mut end = self.end.clone();
        let status = match end.wait_for(Option::is_some).await {
            Ok(status) => status.clone().unwrap_or_default(),
            Err(_) => "it is gone".to_owned(),
        };
        let status = self.verdict.get().cloned().unwrap_or(status);
        let complaints = lock(&self.complaints).iter().cloned().collect::<Vec<_>>().join("\n");
        if complaints.is_empty() { status } else { format!("{status}; its last lines:\n{complaints}") }
    }

    /// Ends it at once, and tells all of its turns why.
    pub fn kill_because(&self, verdict: String) {
        // The first reason is the reason.
        let _ = self.verdict.set(verdict);
        self.kill();
    }

    /// Ends it at once.
    pub fn kill(&self) {
        if let Some(group) = self.group.filter(|_| self.end.borrow().is_none()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Acp {
    /// The agent that runs; one is started where none does.
    pub(super) async fn live(self: &Arc<Self>) -> Result<Arc<Live>, String> {
        let mut slot = self.live.lock().await;
        if let Some(live) = slot.as_ref().filter(|live| live.end.borrow().is_none()) {
            return Ok(live.clone());
        }
        *slot = None;
        let live = self.begin().await?;
        *slot = Some(live.clone());
        Ok(live)
    }

    async fn begin(self: &Arc<Self>) -> Result<Arc<Live>, String> {
        let program = self.options.program.first().cloned().unwrap_or_default();
        let mut child = self.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(format!("{program} has no standard streams"));
        };
        let complaints = Complaints::default();
        let copied = tokio::spawn(keep_lines(stderr, complaints.clone()));
        let (ended, end) = watch::channel(None);
        let rpc = Rpc::new(stdin);
        let live = Arc::new(Live {
            rpc: rpc.clone(),
            facts: OnceLock::new(),
            terminals: Terminals::default(),
            offers: Mutex::default(),
            loaded: Mutex::default(),
            load: tokio::sync::Mutex::default(),
            places: Places::default(),
            loading: Mutex::default(),
            group,
            complaints,
            verdict: OnceLock::new(),
            end,
        });
        let (acp, reader) = (self.clone(), live.clone());
        tokio::spawn(async move {
            rpc.read(stdout, |incoming| acp.clone().incoming(reader.clone(), incoming)).await;
            let status = end_of(&mut child, group).await;
            // What it complained last is still in the pipe.
            let _ = tokio::time::timeout(EXIT, copied).await;
            reader.terminals.end();
            acp.withdraw_all(&reader);
            ended.send_replace(Some(status));
        });
        let answer = tokio::time::timeout(START, live.rpc.request::<_, Value>(&initialize())).await;
        let facts = match answer {
            Ok(Ok(facts)) => facts,
            Ok(Err(RpcError::Gone)) => return Err(format!("{program} ended at its start: {}", live.reason().await)),
            Ok(Err(RpcError::Refused(error))) => {
                live.kill();
                return Err(format!("{program} refuses to start: {}", error.message));
            }
            Err(_) => {
                live.kill();
                let reason = live.reason().await;
                return Err(format!("{program} did not answer within {} s: {reason}", START.as_secs()));
            }
        };
        let facts = Facts::of(facts).map_err(|problem| {
            live.kill();
            format!("{program} {problem}; version 1 of the Agent Client Protocol is wanted")
        })?;
        // It is set once, here.
        let _ = live.facts.set(facts);
        Ok(live)
    }

    fn spawn(&self) -> std::io::Result<Child> {
        Command::new("/proc/self/exe")
            .arg0("agentd")
            .args(["acp-bridge", "exec"])
            .args(&self.options.program)
            .current_dir(&self.options.project)
            // The bridge's alone: what an agent prints is stored.
            .env_remove("ZED_HELIX_TOKEN")
            .env_remove("HELIX_BRIDGE_REASON")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// Who we are and what we can do.
fn initialize() -> InitializeRequest {
    let files = FileSystemCapabilities::new().read_text_file(true).write_text_file(true);
    let forms = ElicitationCapabilities::new().form(ElicitationFormCapabilities::new());
    InitializeRequest::new(ProtocolVersion::V1)
        .client_capabilities(ClientCapabilities::new().fs(files).terminal(true).elicitation(forms))
        .client_info(Implementation::new("helix", env!("CARGO_PKG_VERSION")).title("Helix".to_owned()))
}

impl Facts {
    fn of(answer: Value) -> Result<Self, String> {
        let ways = answer.get("authMethods").and_then(Value::as_array).into_iter().flatten();
        let ways = ways.filter_map(|way| Way::deserialize(way).ok()).collect();
        let answer =
            InitializeResponse::deserialize(answer).map_err(|error| format!("cannot be understood: {error}"))?;
        if answer.protocol_version != ProtocolVersion::V1 {
            return Err(format!("speaks version {}", answer.protocol_version));
        }
        Ok(Self { can: answer.agent_capabilities, ways })
    }
}

/// `agentd acp-bridge exec <program>…`: becomes the program, which ends with the process that started it.
pub fn become_agent(args: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let args: Vec<_> = args.collect();
    let (program, args) = args.split_first().context("a program is wanted: this is internal")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask to end with the bridge")?;
    let error = std::process::Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// An agent whose output has ended ends by itself or is ended, and with it what it started.
async fn end_of(child: &mut Child, group: Option<Pid>) -> String {
    let status = if let Ok(status) = tokio::time::timeout(EXIT, child.wait()).await {
        status
    } else {
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        child.wait().await
    };
    status.map_or_else(|error| format!("it cannot be waited for: {error}"), |status| status.to_string())
}

/// Keeps the last lines.
async fn keep_lines(stderr: ChildStderr, kept: Complaints) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stderr).take(LINE_BYTES as u64).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
        if text.trim().is_empty() {
            continue;
        }
        let mut kept = lock(&kept);
        kept.push_back(text);
        if kept.len() > KEPT_LINES {
            kept.pop_front();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
