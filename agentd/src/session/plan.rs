//! From a session's spec to what is started for it: pure. Paths, kinds and host facts in, files and units out.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use helix_protocol::assignment::SessionAccess;
use helix_protocol::resources::Resources;
use helix_protocol::session::{Cause, DisplayServer, Geometry, SessionSpec};
use helix_protocol::{Epoch, KindName, RecordingId, RunnerId, SessionId};

use super::workspace;
use crate::images::root::{self, Inside};
use crate::kinds::{self, KindFile, Kinds, OnExit, Readiness, Restart};
use crate::supervisor::{SessionFile, SessionPaths, SliceSpec, Stdout, UnitName, UnitSpec};
use crate::{forward, rdp, recorder, tools, xvfb};

/// Window manager settings: every window maximised and undecorated, no key and hardly a button taken from the agent.
const OPENBOX_RC: &str = include_str!("rc.xml");
const RC_FILE: &str = "openbox.xml";
/// Who a session's commits are by, unless its spec says otherwise.
const GIT_NAME: &str = "Helix Agent";
const GIT_EMAIL: &str = "agent@helix.invalid";
/// Set by the supervisor or by us; a spec cannot change them.
const RESERVED: [&str; 15] = [
    "ZED_EXTERNAL_SYNC_ENABLED",
    "ZED_WEBSOCKET_SYNC_ENABLED",
    "ZED_HELIX_URL",
    "ZED_HELIX_TOKEN",
    "ZED_HELIX_TLS",
    "ZED_WORK_DIR",
    "HELIX_API_URL",
    "HELIX_SESSION_ID",
    "HELIX_RUNNER_ID",
    "HELIX_SLICE",
    "DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "WAYLAND_DISPLAY",
];

/// What of agentd's own surroundings its sessions get: nothing else of its environment reaches them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// PATH.
    pub path: String,
    /// LANG.
    pub lang: String,
    /// SHELL.
    pub shell: String,
    /// USER.
    pub user: String,
    /// The agentd program, for units that run it.
    pub program: PathBuf,
    /// Whether sessions run as root.
    pub is_root: bool,
}

/// Everything that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Which session.
    pub session: &'a SessionId,
    /// On which runner.
    pub runner: &'a RunnerId,
    /// What was asked.
    pub spec: &'a SessionSpec,
    /// Its kind, with the runner's default filled in.
    pub kind: &'a KindName,
    /// Kinds of this runner.
    pub kinds: &'a Kinds,
    /// Its directories.
    pub paths: &'a SessionPaths,
    /// Desktop size where the spec names none.
    pub default_geometry: Geometry,
    /// The machine.
    pub host: &'a Host,
    /// It is Ready already: whatever became of its kind or of the runner's maximum since, it goes on.
    pub running: bool,
    /// What a session may use whose spec and kind say nothing.
    pub default_resources: Resources,
    /// Most that any session may use.
    pub max_resources: Resources,
    /// What it finds in the image that it runs in, where it runs in one.
    pub image: Option<&'a Inside>,
    /// Where its agent reaches the servers.
    pub forward_port: u16,
    /// What its agent says who it is by, and its secrets.
    pub access: Option<&'a SessionAccess>,
    /// The assignment that it runs under.
    pub epoch: Epoch,
    /// What is recorded of it, and where its recorder spools that.
    pub recording: Option<(&'a RecordingId, &'a Path)>,
}

/// What is started, and what its ends mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is made before the first unit starts.
    pub slice: SliceSpec,
    /// Fills the workspace, if there is anything to fill it with.
    pub workspace: Option<UnitSpec>,
    /// X and VNC server.
    pub display: UnitSpec,
    /// Session bus, if the kind wants one.
    pub dbus: Option<UnitSpec>,
    /// Lets the agent reach the servers.
    pub forward: UnitSpec,
    /// Records the desktop, where that is asked for.
    pub recorder: Option<UnitSpec>,
    /// The desktop for RDP clients.
    pub rdp: UnitSpec,
    /// When the agent is up.
    pub readiness: Readiness,
    /// When the agent is started again.
    pub restart: Restart,
    /// How long to wait before that, where its kind says so.
    pub restart_pause: Option<Duration>,
    /// Secrets that its kind could use and the session has not.
    pub missing_secrets: Vec<String>,
    /// What the agent's end means.
    pub on_exit: OnExit,
    /// Desktop size.
    pub geometry: Geometry,
    wm: UnitSpec,
    app: UnitSpec,
    tools: UnitSpec,
}

impl Plan {
    /// The window manager on display `number`.
    pub fn wm(&self, number: u32) -> UnitSpec {
        on_display(&self.wm, number)
    }

    /// The agent on display `number`.
    pub fn app(&self, number: u32) -> UnitSpec {
        on_display(&self.app, number)
    }

    /// Files, commands and terminals, with display `number` where there is one.
    pub fn tools(&self, number: Option<u32>) -> UnitSpec {
        number.map_or_else(|| self.tools.clone(), |number| on_display(&self.tools, number))
    }

    /// What to say of secrets that its agent may have missed, after the sentence that it failed.
    pub fn lacking(&self) -> String {
        let names = &self.missing_secrets;
        if names.is_empty() {
            return String::new();
        }
        format!("; the session has no secret {}: {}", names.join(", "), secret_hint(names))
    }
}

fn on_display(unit: &UnitSpec, number: u32) -> UnitSpec {
    let mut unit = unit.clone();
    unit.env.insert("DISPLAY".to_owned(), format!(":{number}"));
    unit
}

/// Makes the plan, or says why this session cannot run here.
pub fn plan(inputs: &Inputs<'_>) -> Result<Plan, Cause> {
    let Inputs { session, spec, paths, host, .. } = *inputs;
    let gone = KindFile::gone();
    let found = match inputs.image {
        Some(_) => inputs.kinds.get_in_image(inputs.kind, spec.input.as_deref()),
        None => inputs.kinds.get(inputs.kind, spec.input.as_deref()),
    };
    let kind = match found {
        Ok(kind) => kind,
        Err(error) if inputs.running => {
            tracing::warn!(kind = %inputs.kind, "the kind of a running session is gone; its agent is left as it is: {error}");
            &gone
        }
        Err(error) => return Err(Cause::new(error.code(), error.to_string())),
    };
    let relative = spec.project_path.as_deref().map(project_path).transpose()?;
    let project = relative.as_ref().map_or_else(|| paths.workspace.clone(), |relative| paths.workspace.join(relative));
    let geometry = spec.geometry.unwrap_or(inputs.default_geometry);
    let missing = |names: &[String]| {
        let given = |name: &str| {
            spec.env.contains_key(name) || inputs.access.is_some_and(|access| access.secrets.contains_key(name))
        };
        names.iter().filter(|name| !given(name)).cloned().collect::<Vec<String>>()
    };
    let required = missing(&kind.requires.secrets);
    if !required.is_empty() && !inputs.running {
        let message =
            format!("kind {} needs the secrets that it has not been given: {}", inputs.kind, required.join(", "));
        return Err(Cause::new("secret_missing", format!("{message}; {}", secret_hint(&required))));
    }
    // What the agent and whoever works with it find around them; the desktop is always the machine's.
    let around = inputs.image.map_or_else(|| host.clone(), |image| in_image(host, image));
    let context = kinds::Context {
        session,
        paths,
        project: &project,
        agentd: &around.program,
        input: spec.input.as_deref().unwrap_or_default(),
        geometry,
        shell: &around.shell,
        zed: inputs.image.map_or_else(|| inputs.kinds.zed(), |_| kinds::ZED),
        vulkan_icd: inputs.image.map_or_else(|| inputs.kinds.vulkan_icd(), |image| image.vulkan_icd.as_deref()),
        forward_port: inputs.forward_port,
        env: &spec.env,
        is_root: host.is_root,
    };
    let resources = resources(inputs, kind.resources)?;
    let rendered = kinds::render(kind, &context)
        .map_err(|error| Cause::new("kind_unavailable", format!("kind {} cannot be used: {error}", inputs.kind)))?;

    let base = base_environment(inputs, host, &project, kind.dbus);
    let base_around = base_environment(inputs, &around, &project, kind.dbus);
    let unit = |name, argv: Vec<String>, stdout| UnitSpec {
        name,
        argv,
        env: base.clone(),
        cwd: paths.home.clone(),
        stdout,
        image: None,
        has_task: false,
    };
    let mut files = vec![SessionFile { path: RC_FILE.into(), mode: 0o600, content: OPENBOX_RC.into() }];
    files.extend(rendered.files);
    let rc = paths.root.join(RC_FILE);

    let git = spec.project.as_ref().map(|project| (project.git.as_str(), project.branch.as_deref()));
    let workspace = (git.is_some() || relative.is_some() || !kind.keep.is_empty()).then(|| {
        let mut argv = vec![text(&host.program)];
        argv.extend(workspace::arguments(&paths.workspace, git, relative.as_deref(), &kind.keep));
        let mut unit = UnitSpec { cwd: paths.workspace.clone(), ..unit(UnitName::Workspace, argv, Stdout::Log) };
        // Nobody is there to answer a question.
        unit.env.insert("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned());
        unit.env.insert("GIT_SSH_COMMAND".to_owned(), "ssh -o BatchMode=yes".to_owned());
        unit
    });
    let dbus = kind.dbus.then(|| {
        let address = format!("--address={}", bus_address(paths));
        unit(
            UnitName::Dbus,
            words(&["dbus-daemon", "--session", "--nofork", &address, "--print-address=1"]),
            Stdout::Ready,
        )
    });
    let forward = {
        let mut argv = vec![text(&host.program)];
        argv.extend(forward::unit::arguments(inputs.forward_port, &paths.sync_socket));
        unit(UnitName::Forward, argv, Stdout::Ready)
    };
    let recorder = inputs.recording.map(|(_, spool)| {
        let mut argv = vec![text(&host.program)];
        let of = (session, inputs.epoch, inputs.runner);
        argv.extend(recorder::unit::arguments(&paths.vnc_socket, &paths.notes_socket, spool, of));
        // No part of the session: nothing of its environment is for it.
        let kept = ["HELIX_SESSION_ID", "HELIX_RUNNER_ID", "PATH", "LANG"];
        let env = kept.iter().filter_map(|name| Some(((*name).to_owned(), base.get(*name)?.clone()))).collect();
        UnitSpec { env, cwd: PathBuf::from("/"), ..unit(UnitName::Recorder, argv, Stdout::Ready) }
    });
    let way_out = way_out(inputs, &project);
    let app = UnitSpec { argv: rendered.argv, cwd: project, ..unit(UnitName::App, Vec::new(), Stdout::Log) };
    let image = spec.image_digest();
    let mut app = UnitSpec { has_task: kind.task, env: base_around.clone(), image, ..app };
    app.env.extend(rendered.env);
    let secrets = inputs.access.map(|access| &access.secrets);
    let own = spec.env.iter().chain(secrets.into_iter().flatten());
    let own = own.filter(|(name, _)| !RESERVED.contains(&name.as_str()));
    app.env.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    app.env.extend(way_out);
    // Programs of a desktop would look for a compositor that is not there.
    app.env.remove("WAYLAND_DISPLAY");

    let tools = {
        let mut argv = vec![text(&around.program)];
        argv.extend(tools::unit::arguments(&paths.tools_socket, &paths.workspace));
        let (cwd, env) = (paths.workspace.clone(), base_around);
        let mut unit = UnitSpec { env, cwd, image, ..unit(UnitName::Tools, argv, Stdout::Log) };
        // What was asked for is for everybody in the session; its secrets and its token are the agent's.
        let own = spec.env.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str()));
        unit.env.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        unit
    };

    let rfb = rfb_options(session, paths, recorder.is_some());
    let display = match spec.display_server.or(kind.display_server).unwrap_or_default() {
        DisplayServer::Xtigervnc => xtigervnc(paths, geometry, rfb),
        DisplayServer::Xvfb => {
            let mut argv = vec![text(&host.program)];
            argv.extend(xvfb::arguments(paths, geometry, rfb));
            argv
        }
    };
    let rdp = {
        let mut argv = vec![text(&host.program)];
        argv.extend(rdp::unit::arguments(&paths.rdp_socket, &paths.rdp_files, paths.own_network));
        // Nothing of the desktop but what comes through the gate: neither display nor bus.
        let needed = |(name, _): &(&String, &String)| ["PATH", "HOME", "TMPDIR", "LANG"].contains(&name.as_str());
        let env = base.iter().filter(needed).map(|(name, value)| (name.clone(), value.clone())).collect();
        UnitSpec { env, ..unit(UnitName::Rdp, argv, Stdout::Log) }
    };

    let network = spec.network.unwrap_or_default();
    Ok(Plan {
        slice: SliceSpec {
            files,
            resources,
            network,
            own_sandbox: kind.own_sandbox,
            image,
            recording: inputs.recording.map(|(recording, _)| recording.clone()),
        },
        workspace,
        display: unit(UnitName::Display, display, Stdout::Ready),
        dbus,
        wm: unit(UnitName::Wm, words(&["openbox", "--sm-disable", "--config-file", &text(&rc)]), Stdout::Log),
        app,
        tools,
        forward,
        recorder,
        rdp,
        readiness: kind.readiness,
        restart: kind.restart,
        restart_pause: kind.restart_pause,
        missing_secrets: missing(&kind.secrets),
        on_exit: kind.on_exit,
        geometry,
    })
}

/// The first of spec, kind and runner that says something. Asking for more than the maximum is refused; what only a
/// default says is capped.
fn resources(inputs: &Inputs<'_>, kind: Resources) -> Result<Resources, Cause> {
    let Inputs { spec, default_resources, max_resources, running, .. } = *inputs;
    let effective = spec.resources.or(kind).or(default_resources).capped(max_resources);
    if running {
        return Ok(effective);
    }
    let refused = spec.resources.fault().or_else(|| {
        let (name, asked, most) = spec.resources.exceeds(&max_resources)?;
        Some(format!("{name} {asked} is above this runner's maximum of {most}"))
    });
    match refused {
        Some(why) => Err(Cause::new("limit_refused", format!("{why}; change the session's resources"))),
        None => Ok(effective),
    }
}

/// X and VNC in one process: no TCP port, no GLX (it costs 50 MiB), its number on stdout.
fn xtigervnc(paths: &SessionPaths, geometry: Geometry, rfb: Vec<String>) -> Vec<String> {
    let (geometry, authority) = (geometry.to_string(), text(&paths.xauthority));
    let mut argv = words(&["Xtigervnc", "-displayfd", "1", "-geometry", &geometry, "-depth", "24", "-dpi", "96"]);
    argv.extend(words(&["-auth", &authority, "-nolisten", "tcp", "-noreset", "-extension", "GLX"]));
    if paths.private_tmp {
        // Nobody else's display can have a number here, and without it no other session can even knock.
        argv.extend(words(&["-nolisten", "local"]));
    }
    argv.extend(rfb);
    argv
}

/// How either display server shows itself to viewers: at a unix socket. It has no password: it is in a directory that
/// nobody sees but the display, agentd, which dials viewers, and the recorder.
fn rfb_options(session: &SessionId, paths: &SessionPaths, recorded: bool) -> Vec<String> {
    let mode = if recorded && paths.recorder_apart { "0666" } else { "0600" };
    let mut options = words(&["-rfbport", "-1", "-rfbunixpath", &text(&paths.vnc_socket), "-rfbunixmode", mode]);
    options.extend(words(&["-SecurityTypes", "None", "-UseBlacklist=0", "-AlwaysShared"]));
    options.extend(words(&["-desktop", session.as_str()]));
    if recorded {
        // A dozen lines for each connection otherwise, and the recorder makes one for each segment.
        options.extend(words(&["-Log", "*:stderr:0"]));
    }
    options
}

/// The surroundings of a unit in an image.
fn in_image(host: &Host, image: &Inside) -> Host {
    Host {
        path: root::PATH.to_owned(),
        lang: "C.UTF-8".to_owned(),
        shell: image.shell.to_owned(),
        program: PathBuf::from(root::PROGRAM),
        ..host.clone()
    }
}

fn base_environment(inputs: &Inputs<'_>, host: &Host, project: &Path, dbus: bool) -> BTreeMap<String, String> {
    let Inputs { session, runner, paths, .. } = *inputs;
    let mut env: BTreeMap<String, String> = [
        ("HELIX_SESSION_ID", session.to_string()),
        ("HELIX_RUNNER_ID", runner.to_string()),
        ("HOME", text(&paths.home)),
        ("TMPDIR", text(&paths.tmp)),
        ("XDG_RUNTIME_DIR", text(&paths.runtime)),
        ("XAUTHORITY", text(&paths.xauthority)),
        ("WORKSPACE_DIR", text(&paths.workspace)),
        ("PROJECT_PATH", text(project)),
        ("PATH", host.path.clone()),
        ("LANG", host.lang.clone()),
        ("SHELL", host.shell.clone()),
        ("TERM", "xterm-256color".to_owned()),
        ("USER", host.user.clone()),
        ("GIT_AUTHOR_NAME", GIT_NAME.to_owned()),
        ("GIT_AUTHOR_EMAIL", GIT_EMAIL.to_owned()),
        ("GIT_COMMITTER_NAME", GIT_NAME.to_owned()),
        ("GIT_COMMITTER_EMAIL", GIT_EMAIL.to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    if dbus {
        env.insert("DBUS_SESSION_BUS_ADDRESS".to_owned(), bus_address(paths));
    }
    env
}

/// How the agent reaches the server, in the words of the Zed fork; every kind's agent has them.
fn way_out(inputs: &Inputs<'_>, project: &Path) -> BTreeMap<String, String> {
    let url = kinds::sync_url(inputs.forward_port);
    let mut env = BTreeMap::from([
        // Nothing but these words means true and false to it.
        ("ZED_EXTERNAL_SYNC_ENABLED", "true".to_owned()),
        ("ZED_WEBSOCKET_SYNC_ENABLED", "true".to_owned()),
        // As far as the forward; from there on agentd sees to it.
        ("ZED_HELIX_TLS", "false".to_owned()),
        ("ZED_WORK_DIR", text(project)),
        ("HELIX_API_URL", format!("http://{url}")),
        ("ZED_HELIX_URL", url),
    ]);
    if let Some(access) = inputs.access {
        env.insert("ZED_HELIX_TOKEN", access.token.clone());
    }
    env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What to do about secrets that a session lacks.
fn secret_hint(names: &[String]) -> String {
    let first = names.first().map_or("NAME", String::as_str);
    format!("give it with the session's `secrets`, or keep it for all of yours: helixctl secret set {first}")
}

fn bus_address(paths: &SessionPaths) -> String {
    format!("unix:path={}", paths.runtime.join("bus").display())
}

/// The directory inside the workspace that a `project_path` means. The documents write it with a leading
/// `/workspace/`, or as an absolute path.
fn project_path(given: &str) -> Result<PathBuf, Cause> {
    let inside = given.strip_prefix("/workspace/").unwrap_or(given).trim_start_matches('/');
    let inside = if given == "/workspace" { "" } else { inside };
    let mut relative = PathBuf::new();
    for part in Path::new(inside).components() {
        match part {
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                let message = format!("project_path {given:?} leaves the workspace; name a directory inside it");
                return Err(Cause::new("project_path_invalid", message));
            }
        }
    }
    Ok(relative)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests;
