//! The display stack of a session, without a session: X server, session bus, window manager, in a directory of its own.
//!
//! The command lines are those of agentd's `session/plan.rs`. [`Stack::end`] ends everything and removes the directory;
//! it is called whatever became of the look, also after a signal. A stack that is only dropped kills its processes.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout_at};

use super::Display;

/// Size of the desktop.
pub const GEOMETRY: (u16, u16) = (1280, 720);
/// From SIGTERM to SIGKILL.
pub const GRACE: Duration = Duration::from_secs(2);
const COOKIE_BYTES: usize = 16;
/// The window manager's settings in sessions: every window fills the screen.
const OPENBOX_RC: &str = include_str!("../../../../agentd/src/session/rc.xml");

/// Processes and the directory that they live in.
pub struct Stack {
    dir: PathBuf,
    cookie: Vec<u8>,
    children: Vec<(&'static str, Child)>,
    /// A program whose output nobody takes any more could be killed by it.
    kept: Vec<Said>,
    /// Number of the display, once there is one.
    pub number: Option<u32>,
}

/// What a process says on standard output, line by line.
pub type Said = Lines<BufReader<ChildStdout>>;

impl Stack {
    /// Makes the directory; starts nothing.
    pub fn new() -> io::Result<Self> {
        let random = |bytes: &mut [u8]| getrandom::fill(bytes).map_err(io::Error::other);
        let mut name = [0; 8];
        random(&mut name)?;
        let dir = std::env::temp_dir().join(format!("helix-doctor-{:016x}", u64::from_ne_bytes(name)));
        DirBuilder::new().mode(0o700).create(&dir)?;
        let mut cookie = vec![0; COOKIE_BYTES];
        random(&mut cookie)?;
        let stack = Self { dir, cookie, children: Vec::new(), kept: Vec::new(), number: None };
        DirBuilder::new().mode(0o700).create(stack.path("run"))?;
        stack.write("Xauthority", &authority(&stack.cookie))?;
        stack.write("openbox.xml", OPENBOX_RC.as_bytes())?;
        Ok(stack)
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(name))?.write_all(content)
    }

    /// A file of the stack.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What lets a client in.
    pub fn cookie(&self) -> Vec<u8> {
        self.cookie.clone()
    }

    /// Starts display, bus and window manager; the display answers and the bus listens when this returns. The window
    /// manager tells the display when it is ready.
    pub async fn start(&mut self, display: Display) -> Result<u32, String> {
        let arguments = arguments(display, &self.dir);
        let mut server = self.spawn(display.program(), Path::new(display.program()), &arguments, &[])?;
        let address = self.bus();
        let arguments =
            ["--session", "--nofork", &format!("--address={address}"), "--print-address=1"].map(OsString::from);
        let mut bus = self.spawn("dbus-daemon", Path::new("dbus-daemon"), &arguments, &[])?;
        let line = self.line(display.program(), &mut server).await?;
        let number = line.trim().parse().map_err(|_| format!("{} tells no display: {line:?}", display.program()))?;
        self.number = Some(number);
        self.line("dbus-daemon", &mut bus).await?;
        let rc = self.path("openbox.xml").into_os_string();
        let arguments = [OsString::from("--sm-disable"), OsString::from("--config-file"), rc];
        let manager = self.spawn("openbox", Path::new("openbox"), &arguments, &[])?;
        self.kept.extend([server, bus, manager]);
        Ok(number)
    }

    /// Starts a program on the display, with nothing of this process's environment but PATH and what `env` says.
    pub fn spawn(
        &mut self,
        name: &'static str,
        program: &Path,
        arguments: &[OsString],
        env: &[(String, String)],
    ) -> Result<Said, String> {
        let failed = |error: io::Error| format!("cannot start {}: {error}", program.display());
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LANG", "C.UTF-8")
            .env("HOME", &self.dir)
            .env("TMPDIR", &self.dir)
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XAUTHORITY", self.path("Xauthority"))
            .env("DBUS_SESSION_BUS_ADDRESS", self.bus())
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            // Standard input stays open as long as the child is ours.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(self.log(name)).map_err(failed)?)
            // Ctrl-C on a terminal reaches this process alone, which ends the others in order.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(number) = self.number {
            command.env("DISPLAY", format!(":{number}"));
        }
        let mut child = command.spawn().map_err(failed)?;
        let said = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        self.children.push((name, child));
        said.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))
    }

    /// The next line that a process says; its end is an error with its last words.
    pub async fn line(&self, name: &str, said: &mut Said) -> Result<String, String> {
        match said.next_line().await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(format!("{name} ended: {}", self.last_words(name))),
            Err(error) => Err(format!("{name} cannot be read: {error}")),
        }
    }

    /// The last line of a process's log.
    pub fn last_words(&self, name: &str) -> String {
        let text = std::fs::read(self.log(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        last.unwrap_or("it said nothing").to_owned()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.log"))
    }

    fn bus(&self) -> String {
        format!("unix:path={}", self.path("run/bus").display())
    }

    /// Ends every process, the last one first, and removes the directory.
    pub async fn end(mut self) {
        let mut children = std::mem::take(&mut self.children);
        for (_, child) in children.iter_mut().rev() {
            drop(child.stdin.take());
            if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                // It has ended, at worst.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + GRACE;
        for (_, child) in &mut children {
            if timeout_at(deadline, child.wait()).await.is_err() {
                // Waits for its end, too. An error says that it has ended.
                let _ = child.kill().await;
            }
        }
        // An X server that was killed leaves its socket.
        if let Some(number) = self.number {
            let socket = PathBuf::from(format!("/tmp/.X11-unix/X{number}"));
            if UnixStream::connect(&socket).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                let _ = std::fs::remove_file(socket);
            }
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// One record of family "wild", which fits whatever number the display gets.
fn authority(cookie: &[u8]) -> Vec<u8> {
    let name = b"MIT-MAGIC-COOKIE-1";
    let mut record = vec![0xff, 0xff, 0, 0, 0, 0, 0, name.len() as u8];
    record.extend(name);
    record.extend([0, cookie.len() as u8]);
    record.extend(cookie);
    record
}

/// Arguments of the X server whose files are in `dir`.
fn arguments(display: Display, dir: &Path) -> Vec<OsString> {
    let (width, height) = GEOMETRY;
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let mut arguments = words(&["-displayfd", "1"]);
    match display {
        Display::Tigervnc => arguments.extend(words(&["-geometry", &format!("{width}x{height}"), "-depth", "24"])),
        Display::Xvfb => arguments.extend(words(&["-screen", "0", &format!("{width}x{height}x24")])),
    }
    arguments.extend(words(&["-dpi", "96", "-auth"]));
    arguments.push(dir.join("Xauthority").into_os_string());
    arguments.extend(words(&["-nolisten", "tcp", "-noreset", "-extension", "GLX"]));
    if display == Display::Tigervnc {
        arguments.extend(words(&["-rfbport", "-1", "-rfbunixpath"]));
        arguments.push(dir.join("vnc.sock").into_os_string());
        arguments.extend(words(&[
            "-rfbunixmode",
            "0600",
            "-SecurityTypes",
            "None",
            "-UseBlacklist=0",
            "-AlwaysShared",
        ]));
        arguments.extend(words(&["-desktop", "doctor"]));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_display_is_started_as_in_sessions() {
        // What agentd starts, from the snapshot of its plan, with our size, paths and name.
        let plan = include_str!(
            "../../../../agentd/src/session/plan/snapshots/helix_agentd__session__plan__tests__a_command_on_a_clone.snap"
        );
        let line = plan.lines().map(str::trim).find(|line| line.starts_with("Xtigervnc ")).expect("a display");
        let line = line.replace("/s/0123", "/dir").replace("-desktop demo", "-desktop doctor");
        let ours = arguments(Display::Tigervnc, Path::new("/dir"));
        let ours: Vec<_> = ours.iter().map(|argument| argument.to_string_lossy()).collect();
        assert_eq!(format!("Xtigervnc {}", ours.join(" ")), line);
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_stack() {
        let mut stack = Stack::new().expect("a directory");
        let dir = stack.dir.clone();
        // It takes no notice of SIGTERM.
        let arguments = ["-c", "trap '' TERM; echo ready; exec sleep 600"].map(OsString::from);
        let mut said = stack.spawn("sh", Path::new("sh"), &arguments, &[]).expect("started");
        assert_eq!(stack.line("sh", &mut said).await, Ok("ready".to_owned()));
        let pid = stack.children[0].1.id().expect("it runs");
        stack.end().await;
        assert!(!dir.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[tokio::test]
    async fn the_last_words_of_a_process_are_told() {
        let mut stack = Stack::new().expect("a directory");
        let arguments = ["-c", "echo no >&2; echo such display >&2"].map(OsString::from);
        let mut said = stack.spawn("sh", Path::new("sh"), &arguments, &[]).expect("started");
        assert_eq!(stack.line("sh", &mut said).await, Err("sh ended: such display".to_owned()));
        assert!(stack.spawn("none", Path::new("/nonexistent"), &[], &[]).is_err());
        stack.end().await;
    }
}
