//! Starting a unit: one call and its job, then one round of questions.
//!
//! Safe to repeat after any interruption: a unit that is there already is answered as it is, one whose start was cut
//! short is waited for, and the environment file is written anew before every start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use helix_protocol::SessionId;
use zbus::{OwnedVariant, Variant};

use super::bus::{BusError, Manager};
use super::hardening::{ServiceContext, service_properties};
use super::layout::{GUEST, Layout};
use super::record::Record;
use super::slots::SlotUser;
use super::tree;
use super::unit::{CLD_EXITED, Loaded, read_service, read_slice};
use super::{Inner, blocking, chain, unreachable};
use crate::images::{Images, root};
use crate::recorder::shelf;
use crate::supervisor::{Result, Stdout, SupervisorError, UnitName, UnitSpec, UnitStatus};

/// Attempts where the bus is lost, or a unit vanishes while it is looked at.
const ATTEMPTS: u32 = 5;
/// A start that takes longer has failed. It waits for no more than the program's file.
const START_TIMEOUT_USEC: u64 = 30_000_000;
/// From SIGTERM to SIGKILL where somebody else stops a unit; agentd keeps its own time.
const STOP_TIMEOUT_USEC: u64 = 10_000_000;
/// Before the guest is started again.
const RESTART_USEC: u64 = 200_000;
/// Lines of one unit that are kept in a window.
const LOG_LINES: u32 = 10_000;
/// The window.
const LOG_WINDOW_USEC: u64 = 1_000_000;
/// What systemd gives to a service without being asked.
const GIVEN_BY_SYSTEMD: [&str; 12] = [
    "PATH",
    "LANG",
    "HOME",
    "LOGNAME",
    "USER",
    "SHELL",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "TERM",
];

/// Exit statuses with which systemd says that a program could not be started (systemd.exec(5)).
const OF_SYSTEMD: std::ops::RangeInclusive<i32> = 200..=245;
/// Results of units whose program ended by itself.
const ENDS: [&str; 4] = ["exit-code", "signal", "core-dump", "oom-kill"];

/// A unit of a session, the guest included.
struct Service<'a> {
    word: &'static str,
    argv: &'a [String],
    env: &'a BTreeMap<String, String>,
    cwd: &'a Path,
    stdout: Stdout,
    /// Root of the image that it runs in.
    image: Option<PathBuf>,
}

impl Inner {
    pub(super) async fn start(&self, session: &SessionId, spec: &UnitSpec) -> Result<UnitStatus> {
        let layout = self.layout(session);
        let failed = |reason: String| {
            let program = spec.argv.first().cloned().unwrap_or_default();
            SupervisorError::Start { unit: spec.name.as_str(), program, reason }
        };
        let life = self.lives.of(layout.key());
        let _alive = life.gate.read().await;
        if life.is_ending() {
            return Err(failed("the session is being ended".to_owned()));
        }
        let record = self.record(&layout).await.map_err(|error| unreachable(session, error))?;
        let record = record.ok_or_else(|| unreachable(session, "it is not open"))?;
        let user = self.slots.by_number(record.slot);
        let mut user = user.ok_or_else(|| unreachable(session, format!("its slot {} does not exist", record.slot)))?;
        if spec.name == UnitName::Recorder {
            user = self.slots.recorder().map_err(failed)?.clone();
        }

        if spec.has_task {
            self.start_guest(&layout, &record, &user, spec).await.map_err(failed)?;
        }
        let word = spec.name.as_str();
        let image = spec.image.map(|image| Images::root_of(&self.config.state_dir, image));
        let service = Service { word, argv: &spec.argv, env: &spec.env, cwd: &spec.cwd, stdout: spec.stdout, image };
        self.watch.starting(layout.key(), spec.name);
        let started = self.start_service(&layout, &record, &user, &service).await;
        let loaded = started.as_ref().ok().and_then(Option::as_ref);
        let status = self.watch.started(layout.key(), spec.name, loaded.map(|loaded| &loaded.service));
        if let Some(loaded) = loaded {
            let (name, invocation) = (spec.name, loaded.invocation.clone());
            self.change_record(&life, &layout, move |record| {
                record.units.insert(name, invocation);
            })
            .await
            .map_err(|error| failed(format!("it cannot be recorded: {error}")))?;
        }
        started.map_err(failed)?;
        status.ok_or_else(|| failed("systemd forgot it at once; see its log".to_owned()))
    }

    /// What takes the task's outcome must listen before the task can have one.
    async fn start_guest(
        &self,
        layout: &Layout,
        record: &Record,
        user: &SlotUser,
        app: &UnitSpec,
    ) -> Result<(), String> {
        let root = Layout::session_paths().root;
        let argv = [
            self.config.program.to_string_lossy().into_owned(),
            GUEST.to_owned(),
            "result".to_owned(),
            root.to_string_lossy().into_owned(),
        ];
        let env: BTreeMap<String, String> =
            app.env.iter().filter(|(name, _)| *name == "PATH").map(|(a, b)| (a.clone(), b.clone())).collect();
        let guest =
            Service { word: GUEST, argv: &argv, env: &env, cwd: Path::new("/"), stdout: Stdout::Ready, image: None };
        let started = self.start_service(layout, record, user, &guest).await;
        self.watch_outcome(layout);
        started.map(|_| ()).map_err(|reason| format!("what takes its outcome cannot be started: {reason}"))
    }

    /// None where the unit has ended well, and is forgotten, already.
    async fn start_service(
        &self,
        layout: &Layout,
        record: &Record,
        user: &SlotUser,
        service: &Service<'_>,
    ) -> Result<Option<Loaded>, String> {
        let (unit, slice) = (layout.unit_name(service.word), layout.slice_name());
        let program = find_program(service)?;
        let given = self.bus.manager_environment().await.map_err(|error| error.to_string())?;
        let properties = properties(self, layout, record, user, service, &program, given.iter().map(String::as_str));
        let (written, word, env) = (layout.clone(), service.word, service.env.clone());
        blocking(move || tree::write_env(&written, word, &env)).await.map_err(|error| chain(&error))?;

        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let start = async |manager: Manager| {
                let properties = properties.iter().map(|(name, value)| Ok((name.clone(), value.try_clone()?)));
                let properties = properties.collect::<zbus::Result<Vec<_>>>()?;
                // Not "replace": a start would cancel the stop of the slice that somebody has ordered by hand.
                manager.start_transient_unit(unit.clone(), "fail".to_owned(), properties, Vec::new()).await
            };
            match self.bus.job(&unit, start).await {
                Ok(result) => {
                    let (loaded, now) = tokio::join!(read_service(&self.bus, &unit), read_slice(&self.bus, &slice));
                    let (loaded, now) =
                        (loaded.map_err(|error| error.to_string())?, now.map_err(|error| error.to_string())?);
                    let ran = service.word != GUEST && loaded.as_ref().is_some_and(has_run);
                    if result != "done" && !ran {
                        // It must not stand in the way of a right one.
                        self.reset(&unit).await;
                        return Err(why(&result, loaded.as_ref(), service, &program));
                    }
                    if now.map(|now| now.invocation) != record.slice {
                        // Somebody stopped the slice a moment ago: the start has made it anew, without limits.
                        let stopped = self.stop_slice(&slice).await;
                        tracing::warn!(slice, ok = stopped.is_ok(), "stopped a slice that a start had made anew");
                        return Err("the session's slice is gone: somebody stopped it".to_owned());
                    }
                    return Ok(loaded);
                }
                Err(BusError::Exists) => match self.existing(&unit).await.map_err(|error| error.to_string())? {
                    Some(loaded) => return Ok(Some(loaded)),
                    None => "a unit of this name comes and goes".clone_into(&mut last),
                },
                Err(error @ (BusError::Lost | BusError::Away)) => last = error.to_string(),
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(last)
    }

    /// The unit that is there; None once it is out of the way.
    async fn existing(&self, unit: &str) -> Result<Option<Loaded>, BusError> {
        let Some(loaded) = read_service(&self.bus, unit).await? else {
            self.reset(unit).await;
            return Ok(None);
        };
        match loaded.active.as_str() {
            // A former agentd began this. The new job joins that one.
            "activating" => {
                let name = unit.to_owned();
                self.bus.job(unit, async |manager| manager.start_unit(name, "replace".to_owned()).await).await?;
                read_service(&self.bus, unit).await
            }
            "deactivating" => {
                let name = unit.to_owned();
                self.bus.job(unit, async |manager| manager.stop_unit(name, "replace".to_owned()).await).await?;
                self.reset(unit).await;
                Ok(None)
            }
            _ => Ok(Some(loaded)),
        }
    }

    /// Has systemd forget how a unit ended. One that is not there needs it not.
    pub(super) async fn reset(&self, unit: &str) {
        let _ = self.bus.call(async |manager: Manager| manager.reset_failed_unit(unit.to_owned()).await).await;
    }
}

fn properties<'a>(
    inner: &Inner,
    layout: &Layout,
    record: &Record,
    user: &SlotUser,
    service: &Service<'_>,
    program: &Path,
    given: impl Iterator<Item = &'a str>,
) -> Vec<(String, OwnedVariant)> {
    let spool = record.recording.as_ref().filter(|_| service.word == UnitName::Recorder.as_str());
    let spool = spool.map(|recording| shelf::spool(&inner.config.state_dir, recording));
    let context = ServiceContext {
        image: service.image.as_deref(),
        spool: spool.as_deref(),
        word: service.word,
        layout,
        user,
        network: record.network,
        own_sandbox: record.own_sandbox,
        stdout: service.stdout,
        hidden: &[inner.config.state_dir.clone(), inner.config.workspace_dir.clone()],
        programs: std::slice::from_ref(&inner.config.program),
    };
    let mut all: Vec<(String, OwnedVariant)> =
        service_properties(&context).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let mut add = |name: &str, value: Variant<'static>| all.push((name.to_owned(), owned(value)));

    let (guest, display) = (service.word == GUEST, UnitName::Display.as_str());
    // Not ExecStartEx, which could say that variables are left alone: systemd 252 writes that name into the unit's file,
    // where it means nothing, and the next daemon-reload leaves a unit without a command and without its slice. (Words
    // with `$` or `;` do not survive a reload there, either. Only who restarts a unit by hand after it would see that.)
    let argv: Vec<String> = service.argv.iter().map(|word| word.replace('$', "$$")).collect();
    let command = (program.to_string_lossy().into_owned(), argv, false);
    add("Description", format!("Helix session {}: {}", record.session, service.word).into());
    add("Type", if guest { "notify" } else { "exec" }.into());
    add("ExecStart", vec![command].into());
    add("WorkingDirectory", service.cwd.to_string_lossy().into_owned().into());
    add("Slice", layout.slice_name().into());
    add("KillMode", "control-group".into());
    // Signals are as a shell has them: systemd would ignore SIGPIPE.
    add("IgnoreSIGPIPE", false.into());
    add("TimeoutStartUSec", START_TIMEOUT_USEC.into());
    add("TimeoutStopUSec", STOP_TIMEOUT_USEC.into());
    // An exit must be seen by an agentd that starts later; the display's takes its clients with it instead.
    add("RemainAfterExit", (service.word != display && !guest).into());
    add("CollectMode", "inactive".into());
    add("OOMPolicy", "continue".into());
    add("SyslogIdentifier", service.word.into());
    // journald drops what is above; the window is short, so that the end of a flood is kept.
    add("LogRateLimitIntervalUSec", LOG_WINDOW_USEC.into());
    add("LogRateLimitBurst", LOG_LINES.into());
    let fields = [format!("HELIX_SESSION={}", record.session), format!("HELIX_RUNNER={}", inner.config.runner)];
    add("LogExtraFields", fields.map(String::into_bytes).to_vec().into());
    if guest {
        add("Restart", "on-failure".into());
        add("RestartUSec", RESTART_USEC.into());
    }
    let on_display = [UnitName::Wm.as_str(), UnitName::App.as_str()].contains(&service.word);
    if on_display && record.units.contains_key(&UnitName::Display) {
        let display = vec![layout.unit_name(display)];
        add("BindsTo", display.clone().into());
        add("After", display.into());
    }
    // A name that comes twice is refused.
    let unset: BTreeSet<&str> =
        GIVEN_BY_SYSTEMD.into_iter().chain(given).filter(|name| !service.env.contains_key(*name)).collect();
    add("UnsetEnvironment", unset.into_iter().map(str::to_owned).collect::<Vec<_>>().into());
    all
}

/// A value that systemd takes.
pub(super) fn owned(value: Variant<'static>) -> OwnedVariant {
    value.try_into_owned().expect("only file descriptors can fail, and there are none")
}

/// The file of a program as a shell finds it, in the PATH that the unit itself will have. systemd would search a
/// path of its own.
fn find_program(service: &Service<'_>) -> Result<PathBuf, String> {
    let name = service.argv.first().filter(|name| !name.is_empty()).ok_or("its command line is empty")?;
    if name.starts_with('/') {
        return Ok(PathBuf::from(name));
    }
    if name.contains('/') {
        return Ok(service.cwd.join(name));
    }
    let path = service.env.get("PATH").map_or("", String::as_str);
    let mut candidates = path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| Path::new(dir).join(name));
    let image = service.image.as_deref();
    let found =
        candidates.find(|file| image.map_or_else(|| is_executable(file), |root| root::is_executable(root, file)));
    let place = if image.is_some() { " of the image" } else { "" };
    found.ok_or_else(|| format!("not found in PATH {path:?}{place}"))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// True for a program that ran and has ended already. systemd calls that a failed start where it hears of the end
/// before it has noticed the beginning.
fn has_run(loaded: &Loaded) -> bool {
    let Loaded { service, active, .. } = loaded;
    let by_systemd = service.code == CLD_EXITED && OF_SYSTEMD.contains(&service.exit);
    service.code != 0 && !by_systemd && active == "failed" && ENDS.contains(&service.result.as_str())
}

/// Why a start failed, from the result of its job and systemd's own exit statuses (systemd.exec(5)).
fn why(result: &str, loaded: Option<&Loaded>, service: &Service<'_>, program: &Path) -> String {
    let status = loaded.map(|loaded| (loaded.service.exit, loaded.service.result.as_str()));
    match (result, status) {
        (_, Some((200, _))) => {
            format!("its working directory {} cannot be entered in the session", service.cwd.display())
        }
        (_, Some((203, _))) => format!("{} cannot be run in the session", program.display()),
        (_, Some((226, _))) => "its view of the file system cannot be made; see journalctl of the unit".to_owned(),
        ("canceled", _) => "it was stopped while it started".to_owned(),
        ("dependency", _) => "the display that it belongs to has ended".to_owned(),
        (_, Some((status, reason))) => format!("systemd says {result}: {reason}, status {status}"),
        (_, None) => format!("systemd says {result}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    fn find(argv: &[&str], path: &str) -> Result<PathBuf, String> {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let env = BTreeMap::from([("PATH".to_owned(), path.to_owned())]);
        find_program(&Service {
            word: "app",
            argv: &argv,
            env: &env,
            cwd: Path::new("/w"),
            stdout: Stdout::Log,
            image: None,
        })
    }

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        assert_eq!(find(&["sh"], "/no/such:/bin").unwrap(), Path::new("/bin/sh"));
        assert_eq!(find(&["/opt/x"], "").unwrap(), Path::new("/opt/x"));
        assert_eq!(find(&["./x"], "/bin").unwrap(), Path::new("/w/./x"));
        assert!(find(&["no-such-program"], "/bin").unwrap_err().contains("PATH \"/bin\""));
        assert!(find(&[], "/bin").is_err());
    }
}
