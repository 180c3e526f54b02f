//! The server's side of the socket, and a bridge that it can kill.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// Anything that is waited for comes within this time.
pub const PATIENCE: Duration = Duration::from_secs(30);
const AGENTD: &str = env!("CARGO_BIN_EXE_agentd");
pub const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bridge/agent.mjs");
const TOKEN: &str = "the-session-token";

/// A server without connections, and the directories of a session.
pub struct Stage {
    listener: TcpListener,
    dir: tempfile::TempDir,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

/// A running bridge.
pub struct Bridge {
    pub child: Child,
}

/// The person's side of a terminal.
pub struct Terminal {
    keys: fs::File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&self, columns: u16) {
        tcsetwinsize(&self.keys, Winsize { ws_row: 30, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    pub async fn shows(&self, text: &str) {
        eventually(&format!("{text:?} on the screen"), || self.seen().contains(text)).await;
    }
}

/// The server's end of a connection.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// Bytes of text frames so far.
    pub bytes: usize,
}

impl Stage {
    pub async fn new(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("helix").tempdir().unwrap();
        fs::create_dir(dir.path().join("project")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { listener, dir, args, env: Vec::new() }
    }

    pub async fn shell() -> Self {
        Self::new(&["--shell"]).await
    }

    pub async fn acp(options: &[&str]) -> Self {
        Self::new(&[options, &["--name", "test", "--", "node", AGENT]].concat()).await
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn project(&self) -> PathBuf {
        self.dir.path().join("project")
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.project().join(name)).unwrap_or_default()
    }

    pub fn transcript(&self) -> String {
        fs::read_to_string(self.dir.path().join("screen")).unwrap_or_default()
    }

    pub fn command(&self) -> Command {
        let address = self.listener.local_addr().unwrap();
        // Without a terminal of its own it would take the one of whoever runs the tests.
        let mut command = Command::new("setsid");
        command.arg(AGENTD).arg("acp-bridge").args(&self.args).current_dir(self.project());
        command.env_remove("ZED_HELIX_TLS").env("ZED_HELIX_URL", address.to_string()).env("ZED_HELIX_TOKEN", TOKEN);
        command.env("HELIX_SESSION_ID", "ses_1").env("HOME", self.dir.path()).env("XDG_RUNTIME_DIR", self.dir.path());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub fn bridge(&self) -> Bridge {
        let screen = fs::OpenOptions::new().append(true).create(true).open(self.dir.path().join("screen")).unwrap();
        let mut command = self.command();
        command.stdout(screen.try_clone().unwrap()).stderr(screen);
        Bridge { child: command.spawn().unwrap() }
    }

    /// A bridge on a terminal, whose other side is answered.
    pub fn bridge_on_terminal(&self) -> (Bridge, Terminal) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        tcsetwinsize(&ours, Winsize { ws_row: 30, ws_col: 90, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let mut command = Command::new("setsid");
        command.arg("--ctty");
        let plain = self.command();
        let plain = plain.as_std();
        command.args([AGENTD, "acp-bridge"]).args(&self.args).current_dir(self.project());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let side = || Stdio::from(theirs.try_clone().unwrap());
        command.stdin(side()).stdout(side()).stderr(side()).kill_on_drop(true);
        let child = command.spawn().unwrap();
        let (screen, mut reader) = (Arc::<Mutex<Vec<u8>>>::default(), fs::File::from(ours));
        let (seen, keys) = (screen.clone(), reader.try_clone().unwrap());
        // Ends with the terminal.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                seen.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        (Bridge { child }, Terminal { keys, screen })
    }

    /// The next connection.
    pub async fn accept(&self) -> Socket {
        let (stream, _) = within("a connection", self.listener.accept()).await.unwrap();
        #[expect(clippy::result_large_err, reason = "the form of the callback")]
        let check = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            assert_eq!(request.uri().to_string(), "/api/v1/external-agents/sync?session_id=ses_1");
            assert_eq!(request.headers()["authorization"], format!("Bearer {TOKEN}"));
            Ok(response)
        };
        let stream = within("the upgrade", accept_hdr_async(stream, check)).await.unwrap();
        Socket { stream, bytes: 0 }
    }

    /// The next connection, refused.
    pub async fn refuse(&self, answer: &str) {
        let (mut stream, _) = within("a connection", self.listener.accept()).await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
    }

    /// A bridge, connected and ready.
    pub async fn ready(&self) -> (Bridge, Socket) {
        let bridge = self.bridge();
        let mut socket = self.accept().await;
        assert_eq!(socket.next().await["event_type"], "ping");
        let ready = socket.until("agent_ready").await;
        assert_eq!(ready["deduplicates"], true);
        (bridge, socket)
    }
}

impl Bridge {
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        within("the bridge's end", self.child.wait()).await.unwrap().code()
    }
}

impl Socket {
    pub async fn send(&mut self, kind: &str, data: Value) {
        let text = json!({"type": kind, "data": data}).to_string();
        self.stream.send(Message::text(text)).await.unwrap();
    }

    pub async fn send_text(&mut self, text: &str) {
        self.stream.send(Message::text(text.to_owned())).await.unwrap();
    }

    pub async fn chat(&mut self, request: &str, thread: Option<&str>, message: &str) {
        let data = json!({"message": message, "request_id": request, "acp_thread_id": thread,
            "agent_name": "zed-agent", "interrupt": false});
        self.send("chat_message", data).await;
    }

    /// The next frame; None when the connection is gone.
    pub async fn try_next(&mut self) -> Option<Value> {
        loop {
            match within("a frame", self.stream.next()).await?.ok()? {
                Message::Text(text) => {
                    self.bytes += text.len();
                    return Some(serde_json::from_str(&text).unwrap());
                }
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    pub async fn next(&mut self) -> Value {
        self.try_next().await.expect("the bridge closed the connection")
    }

    /// Data of the next frame of this type; others are passed over.
    pub async fn until(&mut self, event: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["event_type"] == event {
                return frame["data"].clone();
            }
        }
    }

    /// Everything of a turn up to its last frame.
    pub async fn turn(&mut self, request: &str) -> Turn {
        let mut turn = Turn::default();
        loop {
            let frame = self.next().await;
            if turn.take(&frame, request) {
                return turn;
            }
        }
    }

    /// Data of the next frame of this type; what belongs to the turn is taken.
    pub async fn watch(&mut self, turn: &mut Turn, request: &str, event: &str) -> Value {
        loop {
            let frame = self.next().await;
            turn.take(&frame, request);
            if frame["event_type"] == event {
                return frame["data"].clone();
            }
        }
    }

    /// The rest of a turn.
    pub async fn rest(&mut self, turn: &mut Turn, request: &str) {
        while !turn.take(&self.next().await, request) {}
    }

    /// Ends the connection as a crash does.
    pub fn cut(self) {
        drop(self);
    }
}

/// What a server keeps of a turn.
#[derive(Debug, Default)]
pub struct Turn {
    pub thread: String,
    /// By index: text, kind, tool's status.
    pub entries: std::collections::BTreeMap<u64, Entry>,
    pub events: Vec<String>,
    pub end: Value,
}

#[derive(Debug, Default, Clone)]
pub struct Entry {
    pub text: String,
    pub user: bool,
    pub kind: String,
    pub name: String,
    pub statuses: Vec<String>,
}

impl Turn {
    /// Takes a frame; true when the turn is over.
    pub fn take(&mut self, frame: &Value, request: &str) -> bool {
        let data = &frame["data"];
        if data["request_id"] != request {
            return false;
        }
        let event = frame["event_type"].as_str().unwrap();
        if let Some(thread) = data["acp_thread_id"].as_str() {
            thread.clone_into(&mut self.thread);
        }
        if self.events.last().is_none_or(|last| last != event) {
            self.events.push(event.to_owned());
        }
        if event == "message_added" {
            let index = data["message_id"].as_str().unwrap().parse().unwrap();
            let entry: &mut Entry = self.entries.entry(index).or_default();
            let keep = usize::try_from(data["content_offset"].as_u64().unwrap_or(0)).unwrap();
            assert!(keep <= entry.text.len(), "a gap in {request} {index}: {keep} of {}", entry.text.len());
            entry.text.truncate(keep);
            entry.text.push_str(data["content"].as_str().unwrap());
            entry.user = data["role"] == "user";
            data["entry_type"].as_str().unwrap().clone_into(&mut entry.kind);
            data["tool_name"].as_str().unwrap().clone_into(&mut entry.name);
            let status = data["tool_status"].as_str().unwrap().to_owned();
            if entry.statuses.last() != Some(&status) {
                entry.statuses.push(status);
            }
        }
        let over = matches!(event, "message_completed" | "chat_response_error" | "thread_load_error");
        if over {
            self.end = data.clone();
        }
        over
    }

    /// What the agent said.
    pub fn text(&self) -> String {
        let said = self.entries.values().filter(|entry| !entry.user && entry.kind == "text");
        said.map(|entry| entry.text.as_str()).collect::<Vec<_>>().join("\n\n")
    }

    pub fn last(&self) -> &str {
        self.events.last().unwrap()
    }
}

/// Waits, not for ever.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

/// Waits until it is so.
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
