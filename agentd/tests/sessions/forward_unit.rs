//! `agentd forward` alone, with a socket of the test's in the place of agentd's.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::eventually;

const MAX_CONNECTIONS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

/// The unit and agentd's end of it.
struct Forward {
    process: Child,
    port: u16,
    listener: UnixListener,
    dir: tempfile::TempDir,
}

impl Forward {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let mut process = Command::new(env!("CARGO_BIN_EXE_agentd"))
            .args(["forward", "--port=0", &format!("--socket={}", socket.display())])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        Self { process, port: line.trim().parse().expect("a port"), listener, dir }
    }

    /// Both ends of a connection.
    fn connect(&self) -> (TcpStream, UnixStream) {
        let agent = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        agent.set_read_timeout(Some(PATIENCE)).expect("set");
        let (host, _) = self.listener.accept().expect("accepted");
        host.set_read_timeout(Some(PATIENCE)).expect("set");
        (agent, host)
    }

    /// A number of its status, in KiB where it is an amount.
    fn status(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("readable");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a number")
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("readable").count()
    }

    /// Clock ticks of processor time that it has used.
    fn ticks(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).expect("readable");
        let fields: Vec<&str> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
        fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks")
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_all(mut from: impl std::io::Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).expect("read in time");
    all
}

#[tokio::test]
async fn each_side_may_end_first_and_the_other_still_speaks() {
    let forward = Forward::start();
    let idle = forward.descriptors();
    let (agent, host) = forward.connect();
    (&agent).write_all(b"all that I say").expect("written");
    agent.shutdown(Shutdown::Write).expect("ended");
    assert_eq!(read_all(&host), b"all that I say");
    (&host).write_all(b"and the answer").expect("written");
    drop(host);
    assert_eq!(read_all(&agent), b"and the answer");

    let (agent, host) = forward.connect();
    (&host).write_all(b"first").expect("written");
    host.shutdown(Shutdown::Write).expect("ended");
    assert_eq!(read_all(&agent), b"first");
    (&agent).write_all(b"last").expect("written");
    drop(agent);
    assert_eq!(read_all(&host), b"last");
    eventually("nothing of a connection is left", async || forward.descriptors() == idle).await;

    // One side goes without a word while the other has ended its half: nothing waits for ever.
    let (agent, host) = forward.connect();
    host.shutdown(Shutdown::Write).expect("ended");
    assert_eq!(read_all(&agent), b"");
    drop(host);
    eventually("nobody waits for agentd", async || forward.descriptors() == idle).await;
    drop(agent);
}

#[tokio::test]
async fn a_side_that_does_not_read_costs_neither_memory_nor_time() {
    let forward = Forward::start();
    let mut held = Vec::new();
    for _ in 0..8 {
        let (agent, host) = forward.connect();
        // Until nobody takes any more.
        host.set_nonblocking(true).expect("set");
        let chunk = vec![b'x'; 64 * 1024];
        let mut sent = 0_u64;
        eventually("it is full", async || {
            loop {
                match (&host).write(&chunk) {
                    Ok(count) => sent += count as u64,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            // Full for good when it stays so while the forward has nothing to do.
            let before = forward.ticks();
            tokio::time::sleep(Duration::from_millis(50)).await;
            forward.ticks() == before
                && matches!((&host).write(&chunk[..1]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        })
        .await;
        held.push((agent, host, sent));
    }
    assert!(forward.status("RssAnon") <= 2048, "{} KiB", forward.status("RssAnon"));
    assert_eq!(forward.status("Threads"), 1);
    // agentd gone while everything is full: no busy wait either.
    let (agent, host, sent) = held.pop().expect("some");
    drop(host);
    let before = forward.ticks();
    // Long enough for a busy wait to be seen: there is nothing to wait for.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(forward.ticks() - before <= 5, "it is busy although nothing happens");
    let arrived = read_all(&agent).len() as u64;
    assert!(arrived >= sent, "{arrived} of {sent} bytes arrived");
    for (agent, ..) in &held {
        assert!((&*agent).read(&mut [0]).is_ok_and(|count| count == 1));
    }
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_so_is_one_that_nobody_takes() {
    let forward = Forward::start();
    let held: Vec<_> = (0..MAX_CONNECTIONS).map(|_| forward.connect()).collect();
    let refused = |forward: &Forward| {
        let mut agent = TcpStream::connect(("127.0.0.1", forward.port)).expect("connected");
        agent.set_read_timeout(Some(PATIENCE)).expect("set");
        match agent.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    };
    assert!(refused(&forward));
    drop(held);
    eventually("there is place again", async || {
        let agent = TcpStream::connect(("127.0.0.1", forward.port)).expect("connected");
        agent.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
        let open = matches!((&agent).read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        if open {
            forward.listener.accept().expect("accepted");
        }
        open
    })
    .await;

    // Nobody listens there any more, though the file is there: as after kill -9 of agentd.
    let socket = forward.dir.path().join("s");
    std::fs::remove_file(&socket).expect("removed");
    drop(UnixListener::bind(&socket).expect("another that is gone at once"));
    assert!(refused(&forward));
}
