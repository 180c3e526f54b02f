//! `session logs` and `session limit` against a server that is nothing but its answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use assert_cmd::cargo::cargo_bin;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Answers one request by `answer`; its thread gives the request's first line and body.
fn server(answer: impl FnOnce(&mut TcpStream) + Send + 'static) -> (String, JoinHandle<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client");
        let mut reader = BufReader::new(socket.try_clone().expect("cloned"));
        let (mut head, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("readable");
            let Some(line) = line.strip_suffix("\r\n").filter(|line| !line.is_empty()) else { break };
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = value.parse().expect("a length");
            }
            head.push(line.to_owned());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("whole");
        answer(&mut socket);
        (head.swap_remove(0), String::from_utf8(body).expect("text"))
    });
    (url, serving)
}

/// False once the client has left.
fn chunk(socket: &mut TcpStream, text: &str) -> bool {
    let sent = write!(socket, "{:x}\r\n{text}\r\n", text.len()).and_then(|()| socket.flush());
    sent.is_ok()
}

fn line(number: u32) -> String {
    format!("{{\"unit\":\"app\",\"text\":\"line {number}\"}}\n")
}

fn start(url: &str, args: &[&str]) -> Child {
    // Whoever runs the tests in the background of a script has Ctrl-C ignored, and programs inherit that.
    Command::new("env")
        .args(["--ignore-environment", "--default-signal=INT", "HOME=/nowhere"])
        .arg(cargo_bin("helixctl"))
        .args(["session"])
        .args(args)
        .args(["--url", url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

#[test]
fn followed_lines_are_printed_as_they_come_and_the_end_is_exit_code_0() {
    for (json, first, second) in [
        (false, "app: line 1\n", "app: line 2\n"),
        (true, "{\"unit\":\"app\",\"text\":\"line 1\"}\n", "{\"unit\":\"app\",\"text\":\"line 2\"}\n"),
    ] {
        let (shown, wait) = std::sync::mpsc::channel();
        let (url, serving) = server(move |socket| {
            socket.write_all(HEAD.as_bytes()).expect("sent");
            assert!(chunk(socket, &line(1)));
            // Not before the first was printed.
            wait.recv().expect("printed");
            let (start, rest) = (line(2)[..9].to_owned(), line(2)[9..].to_owned());
            assert!(chunk(socket, &start) && chunk(socket, &rest));
            socket.write_all(b"0\r\n\r\n").expect("sent");
        });
        let json: &[&str] = if json { &["--json"] } else { &[] };
        let args = [&["logs", "s", "-f", "--unit", "app", "--lines=7"], json].concat();
        let mut child = start(&url, &args);
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut read = String::new();
        stdout.read_line(&mut read).expect("readable");
        assert_eq!(read, first);
        shown.send(()).expect("waited for");
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("readable");
        assert_eq!((rest.as_str(), child.wait().expect("ended").code()), (second, Some(0)));
        let (asked, _) = serving.join().expect("served");
        assert_eq!(asked, "GET /api/v1/sessions/s/logs?lines=7&unit=app&follow=true HTTP/1.1");
    }
}

#[test]
fn a_reader_that_leaves_ends_it() {
    let (url, serving) = server(|socket| {
        socket.write_all(HEAD.as_bytes()).expect("sent");
        // It leaves on the first line that nobody takes.
        assert!((0..20_000).any(|number| !chunk(socket, &line(number))), "it reads on for nobody");
    });
    let mut child = start(&url, &["logs", "s", "-f"]);
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut first).expect("readable");
    serving.join().expect("the server's side is closed");
    assert_eq!(child.wait().expect("ended").code(), Some(0));
}

#[test]
fn a_log_that_breaks_off_is_not_its_end() {
    let (url, serving) = server(|socket| {
        socket.write_all(HEAD.as_bytes()).expect("sent");
        assert!(chunk(socket, &line(1)));
    });
    let output = start(&url, &["logs", "s", "--follow"]).wait_with_output().expect("ended");
    serving.join().expect("served");
    assert_eq!((output.status.code(), &*output.stdout), (Some(3), &b"app: line 1\n"[..]));
    let stderr = String::from_utf8(output.stderr).expect("text").replace(&url, "URL");
    insta::assert_snapshot!(stderr, @r"
    error: cannot follow the logs any further
      where: GET URL/api/v1/sessions/s/logs?lines=100&follow=true
      why:   the answer broke off: unexpected EOF during chunk size line
      next:  repeat the command: what was written meanwhile is among the last lines
    ");
}

#[test]
fn ctrl_c_ends_it() {
    let (url, serving) = server(|socket| {
        socket.write_all(HEAD.as_bytes()).expect("sent");
        assert!(chunk(socket, &line(1)));
        // Until the client has left.
        assert_eq!(socket.read(&mut [0; 1]).unwrap_or(0), 0);
    });
    let mut child = start(&url, &["logs", "s", "-f"]);
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut first).expect("readable");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("sent");
    // What a shell shows as 130.
    assert_eq!(child.wait().expect("ended").signal(), Some(2));
    serving.join().expect("the server's side is closed");
}

#[test]
fn new_limits_are_sent_and_printed() {
    let session = serde_json::json!({
        "id": "s", "owner": "o", "phase": "Ready", "cause": null, "result": null, "desired": "running",
        "unclaimed": false, "runner": "r1", "epoch": 1, "generation": 2, "kind": null, "pool": null, "labels": {},
        "spec": { "resources": { "cpu": 1.5, "memory": 4_294_967_296_u64 } }, "queue_position": null, "display": null,
        "pid": null, "workspace": null, "limits": null, "usage": null,
        "endpoints": { "view": null, "vnc": null, "rdp": null }, "timeline": [], "created_at": "2026-01-01T00:00:00Z",
    });
    let (url, serving) = server(move |socket| {
        let body = session.to_string();
        write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
    });
    let output = start(&url, &["limit", "s", "--memory", "4GiB", "-q"]).wait_with_output().expect("ended");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("cpu 1.5, memory 4GiB\n".to_owned(), String::new()));
    let (asked, body) = serving.join().expect("served");
    assert_eq!(asked, "PATCH /api/v1/sessions/s HTTP/1.1");
    assert_eq!(body, r#"{"resources":{"memory":4294967296}}"#);
}
