//! A session's way out, with a server of the test's at its end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use helix_protocol::KindName;
use helix_protocol::assignment::SessionAccess;
use helix_protocol::session::{Desired, SessionPhase, SessionSpec};

use crate::harness::{self, Runner, eventually};

const TOKEN: &str = "a-token-of-the-test-7f3a";
const SECRET: &str = "a-secret-of-the-test-91cc";
/// Says what it has been given, and stays.
const PROBE: &str = "description = \"d\"\ninput = \"none\"\nreadiness = \"none\"\nrestart = \"no\"\non_exit = \"keep\"\n\
    command = [\"sh\", \"-c\", \"env > env.new && mv env.new env; exec sleep 1000\", \"{{ sync_url }}\", \"{{ api_url }}\"]\n";

/// Says what it heard, once the other side has said all. Lives as long as the test.
pub fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepted");
            std::thread::spawn(move || {
                let mut heard = String::new();
                stream.read_to_string(&mut heard)?;
                stream.write_all(format!("heard {heard}").as_bytes())
            });
        }
    });
    origin
}

/// What comes back for these words, if anything does.
pub fn ask(port: u16, words: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    stream.write_all(words.as_bytes()).ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    let mut heard = String::new();
    match stream.read_to_string(&mut heard) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer and no end in time"),
        read => read.ok().filter(|count| *count > 0).map(|_| heard),
    }
}

pub fn start(change: impl FnOnce(&mut helix_agentd::config::Config)) -> Runner {
    let mut runner = Runner::start_with(|config| {
        config.api_hosts = vec![server()];
        std::fs::write(config.kinds_dir.join("probe.toml"), PROBE).expect("written");
        change(config);
    });
    let secrets = [("MODEL_KEY".to_owned(), SECRET.to_owned())].into();
    runner.access = Some(SessionAccess { token: TOKEN.to_owned(), secrets, grants: Vec::new() });
    runner
}

pub fn probe() -> SessionSpec {
    SessionSpec { kind: Some(KindName::parse("probe").expect("valid")), ..SessionSpec::default() }
}

/// A variable of the agent's, which has written its environment to its working directory.
async fn variable(runner: &Runner, session: &str, name: &str) -> String {
    let file = runner.workspace(session).join("env");
    eventually("the agent has told its environment", async || file.exists()).await;
    let text = std::fs::read_to_string(file).expect("readable");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

async fn port(runner: &Runner, session: &str) -> u16 {
    let url = variable(runner, session, "ZED_HELIX_URL").await;
    url.strip_prefix("127.0.0.1:").and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{url}"))
}

async fn until_heard(port: u16, words: &str) {
    eventually("the server is reached", async || ask(port, words) == Some(format!("heard {words}"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_reaches_the_server_on_one_port_whatever_dies() {
    let mut runner = start(|_| {});
    runner.want("s", 1, Desired::Running, probe());
    runner.phase("s", SessionPhase::Ready).await;
    let port = port(&runner, "s").await;
    assert_eq!(ask(port, "first").as_deref(), Some("heard first"));
    let long = "x".repeat(5_000_000);
    assert!(ask(port, &long) == Some(format!("heard {long}")), "not every byte arrived");

    // Without agentd a connection ends at once; with a new one it is as before. Nothing of the agent's is started anew.
    let held = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    let agent = runner.unit_pid("s", "app").await;
    runner.stop_daemon();
    held.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    assert!((&held).read(&mut [0]).is_ok_and(|count| count == 0), "agentd is gone and the connection is not");
    assert_eq!(ask(port, "nobody"), None);
    runner.start_daemon();
    until_heard(port, "second").await;

    for round in 0..2 {
        let forward = runner.unit_pid("s", "forward").await.expect("a forward");
        harness::kill(forward);
        let anew = async || runner.unit_pid("s", "forward").await.is_some_and(|pid| pid != forward);
        eventually("another forward", anew).await;
        until_heard(port, &format!("third {round}")).await;
    }
    // Killed while nobody watches.
    runner.stop_daemon();
    harness::kill(runner.unit_pid("s", "forward").await.expect("a forward"));
    runner.start_daemon();
    until_heard(port, "fourth").await;
    assert_eq!(runner.unit_pid("s", "app").await, agent);
    assert_eq!(runner.observed("s").phase, SessionPhase::Ready);

    runner.want("s", 1, Desired::Stopped, probe());
    runner.phase("s", SessionPhase::Stopped).await;
    runner.assert_nothing_runs("s");
    TcpStream::connect(("127.0.0.1", port)).expect_err("somebody listens although the session has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_told_where_the_server_is_and_nobody_else_who_it_is() {
    let mut runner = start(|_| {});
    let ours = ["ZED_HELIX_TOKEN", "ZED_HELIX_URL", "HELIX_SESSION_ID", "MODEL_KEY", "WAYLAND_DISPLAY", "OWN"];
    let env = ours.map(|name| (name.to_owned(), "theirs".to_owned())).into();
    runner.want("s", 1, Desired::Running, SessionSpec { env, project_path: Some("sub".to_owned()), ..probe() });
    runner.phase("s", SessionPhase::Ready).await;
    let file = runner.workspace("s").join("sub/env");
    eventually("the agent has told its environment", async || file.exists()).await;
    let text = std::fs::read_to_string(&file).expect("readable");
    let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let url = of("ZED_HELIX_URL").expect("a url").to_owned();
    let api = format!("http://{url}");
    let project = runner.workspace("s").join("sub").display().to_string();
    for (name, value) in [
        ("ZED_EXTERNAL_SYNC_ENABLED", "true"),
        ("ZED_WEBSOCKET_SYNC_ENABLED", "true"),
        ("ZED_HELIX_TLS", "false"),
        ("ZED_HELIX_TOKEN", TOKEN),
        ("HELIX_API_URL", &api),
        ("ZED_WORK_DIR", &project),
        ("HELIX_SESSION_ID", "s"),
        ("MODEL_KEY", SECRET),
        ("OWN", "theirs"),
    ] {
        assert_eq!(of(name), Some(value), "{name}");
    }
    assert!(url.starts_with("127.0.0.1:"), "{url}");
    assert_eq!(of("WAYLAND_DISPLAY"), None);
    std::fs::remove_file(&file).expect("removed");

    // In the agent's environment and in the ledger, nowhere else.
    for secret in [TOKEN, SECRET] {
        for process in std::fs::read_dir("/proc").expect("readable").map(|entry| entry.expect("readable").path()) {
            let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
            assert!(
                !String::from_utf8_lossy(&arguments).contains(secret),
                "{secret} is among the arguments of {process:?}"
            );
        }
        let files = runner.files_with(secret);
        assert!(files.iter().all(|file| file.parent().is_some_and(|dir| dir.ends_with("ledger"))), "{files:?}");
        assert_eq!(files.len(), 1, "a restarted agentd would not know {secret}");
        for file in files {
            assert_eq!(std::fs::metadata(file).expect("there").permissions().mode() & 0o077, 0);
        }
        assert!(!format!("{:?}", runner.observed("s")).contains(secret));
    }

    // An agent that is started by a new agentd has them, too.
    runner.restart();
    runner.want("s", 1, Desired::Stopped, probe());
    runner.phase("s", SessionPhase::Stopped).await;
    for secret in [TOKEN, SECRET] {
        eventually("nothing of it is left", async || runner.files_with(secret).is_empty()).await;
    }
}
