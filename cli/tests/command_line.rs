//! The real program in a home of its own: what bad input gets, and with which exit code.

#[path = "command_line/logs.rs"]
mod logs;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use assert_cmd::Command;
use helixctl::up::lock::{Role, Taken, take};
use helixctl::up::state_dir::StateDir;

/// A home and a PATH; nothing of the real environment is seen.
struct Home {
    temp: tempfile::TempDir,
    path: String,
    nats_server: PathBuf,
}

/// What a command did.
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Home {
    /// Every program is there, as far as looking for it tells: none of them is started by these tests.
    fn new() -> Self {
        let temp = tempfile::tempdir_in("/tmp").expect("a directory");
        let home = Self {
            path: temp.path().join("bin").display().to_string(),
            nats_server: temp.path().join("bin/nats-server"),
            temp,
        };
        for name in
            ["Xtigervnc", "xkbcomp", "openbox", "xterm", "dbus-daemon", "xauth", "git", "helix-server", "agentd"]
        {
            home.program(name, "exit 70");
        }
        home.program("nats-server", "echo nats-server: v2.15.1");
        home
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.dir("bin").join(name);
        std::fs::create_dir_all(self.dir("bin")).expect("made");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("changed");
    }

    fn run(&self, args: &[&str]) -> Done {
        let mut command = Command::cargo_bin("helixctl").expect("it is built");
        command.env_clear().env("HOME", self.temp.path()).env("PATH", &self.path).env("NATS_SERVER", &self.nats_server);
        let output = command.args(args).timeout(Duration::from_mins(1)).output().expect("it ran");
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).expect("text").replace(&self.temp.path().display().to_string(), "~")
        };
        Done {
            code: output.status.code().expect("an exit code"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

#[test]
fn what_cannot_be_understood_is_exit_code_2_and_nothing_on_standard_output() {
    let home = Home::new();
    let lines: [&[&str]; 21] = [
        &[],
        &["upp"],
        &["up", "--slots", "0"],
        &["up", "--listen", "nowhere"],
        &["session", "create", "--geometry", "0x0"],
        &["session", "create", "--id", "a/b"],
        &["session", "create", "--branch", "main"],
        &["session", "create", "--env", "NOVALUE"],
        &["session", "create", "--wait=soon"],
        &["session", "create", "--cpu", "0"],
        &["session", "create", "--memory", "4 gigs"],
        &["session", "create", "--network", "bridge"],
        &["session", "create", "--on-lost", "cry"],
        &["session", "limit", "a"],
        &["session", "limit", "--memory", "4GiB"],
        &["session", "limit", "a", "--io-weight", "0"],
        &["session", "logs", "a", "--unit", "window"],
        &["session", "logs", "a", "--lines", "5001"],
        &["session", "list", "--phase", "Redy"],
        &["session", "open", "a", "--ttl", "700000"],
        &["completions", "csh"],
    ];
    for line in lines {
        let done = home.run(line);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{line:?}: {}", done.stderr);
        assert!(!done.stderr.is_empty(), "{line:?}");
    }
}

#[test]
fn a_wrong_argument_is_told_like_any_other_error() {
    let home = Home::new();
    let lines: [&[&str]; 5] = [
        &["session", "create", "--geometry", "0x0"],
        &["session", "create", "--wait=soon"],
        &["session", "list", "--phaze", "Ready"],
        &["runner", "list", "--all"],
        &["--url"],
    ];
    let told = lines.map(|line| home.run(line).stderr).concat();
    insta::assert_snapshot!(told, @r#"
    error: invalid value '0x0' for '--geometry <WxH>'
      where: helixctl session create
      why:   geometry "0x0" is not valid: write WIDTHxHEIGHT, from 320x200 to 7680x4320, for example 1920x1080
      next:  helixctl session create --help
    error: invalid value 'soon' for '--wait[=<FOR>]'
      where: helixctl session create
      why:   possible values: ready, result
      next:  helixctl session create --help
    error: unknown argument '--phaze'
      where: helixctl session list
      why:   the command takes none of this name; a similar one is '--phase'
      next:  helixctl session list --help
    error: unknown argument '--all'
      where: helixctl runner list
      why:   the command takes none of this name
      next:  helixctl runner list --help
    error: no value for '--url <URL>'
      where: helixctl
      why:   it needs one
      next:  helixctl --help
    "#);
}

#[test]
fn a_change_without_a_limit_names_the_flags() {
    let done = Home::new().run(&["session", "limit", "a"]);
    insta::assert_snapshot!(done.stderr, @r"
    error: the following required arguments were not provided:
      <--cpu <N>|--memory <SIZE>|--memory-high <SIZE>|--tasks <N>|--io-weight <N>>

    Usage: helixctl session limit <--cpu <N>|--memory <SIZE>|--memory-high <SIZE>|--tasks <N>|--io-weight <N>> <ID>

    For more information, try '--help'.
    ");
}

#[test]
fn without_a_server_the_next_command_is_named() {
    let home = Home::new();
    let done = home.run(&["session", "list"]);
    assert_eq!(done.code, 3);
    insta::assert_snapshot!(done.stderr, @r"
    error: no server is known
      where: state directory ~/.local/state/helix
      why:   neither --url, HELIX_URL nor the config file names one, and nothing runs in the state directory
      next:  helixctl up --detach
    ");
}

#[test]
fn a_server_that_does_not_answer_is_exit_code_3() {
    let home = Home::new();
    // Taken and let go: nothing listens there.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let url = format!("http://127.0.0.1:{port}");
    for command in [&["status"][..], &["runner", "list"], &["session", "create", "--wait", "--input=true"]] {
        let done = home.run(&[command, &["--url", &url, "--json"]].concat());
        assert_eq!((done.code, done.stdout.as_str()), (3, ""), "{command:?}: {}", done.stderr);
        assert!(done.stderr.contains("refused"), "{}", done.stderr);
    }
    let done = home.run(&["status", "--url", &url]);
    insta::assert_snapshot!(done.stderr.replace(&port.to_string(), "PORT"), @r"
    error: cannot read the status
      where: GET http://127.0.0.1:PORT/api/v1/status
      why:   Connection refused (os error 111)
      next:  on this machine: helixctl up --detach; elsewhere: check the address and that the server runs
    ");
}

#[test]
fn completions_and_version_need_no_server() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let done = home.run(&["completions", shell]);
        assert_eq!(done.code, 0);
        assert!(done.stdout.contains("session"), "{shell}");
    }
    let done = home.run(&["version", "--json"]);
    assert_eq!(done.stdout, format!("{{\"version\":\"{}\"}}\n", env!("CARGO_PKG_VERSION")));
}

fn up(home: &Home, more: &[&str]) -> Done {
    let state = home.dir("state");
    let done = home.run(&[&["up", "--state-dir", state.to_str().expect("UTF-8")], more].concat());
    assert_eq!(done.stdout, "", "no data after a failure");
    done
}

#[test]
fn up_without_display_packages_names_the_apt_line() {
    let mut home = Home::new();
    home.path = home.dir("empty").display().to_string();
    let done = up(&home, &[]);
    assert_eq!(done.code, 1);
    insta::assert_snapshot!(done.stderr, @r"
    error: programs that a desktop needs are missing
      where: PATH
      why:   not found: Xtigervnc, xkbcomp, openbox, xterm, dbus-daemon, xauth, git
      next:  packaging/setup.sh runtime, or: apt-get install -y tigervnc-standalone-server x11-xkb-utils openbox xterm dbus-daemon xauth git
    ");
}

#[test]
fn up_without_nats_server_says_where_it_comes_from() {
    let mut home = Home::new();
    home.nats_server = home.dir("nowhere");
    let done = up(&home, &[]);
    assert_eq!(done.code, 1);
    insta::assert_snapshot!(done.stderr, @r"
    error: cannot find nats-server
      where: ~/nowhere
      why:   NATS_SERVER names no program
      next:  packaging/setup.sh runtime, or set NATS_SERVER=/path/to/nats-server (2.11 or newer)
    ");
}

#[test]
fn up_with_an_old_nats_server_names_both_versions() {
    let home = Home::new();
    home.program("nats-server", "echo nats-server: v2.9.10");
    let done = up(&home, &[]);
    assert_eq!(done.code, 1);
    insta::assert_snapshot!(done.stderr, @r"
    error: this nats-server cannot be used
      where: ~/bin/nats-server
      why:   version 2.9.10 is too old; 2.11 is the oldest
      next:  packaging/setup.sh runtime, or set NATS_SERVER=/path/to/nats-server (2.11 or newer)
    ");
}

#[test]
fn up_on_a_taken_port_offers_another() {
    let home = Home::new();
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("its address");
    let done = up(&home, &["--listen", &address.to_string()]);
    assert_eq!(done.code, 1);
    insta::assert_snapshot!(done.stderr.replace(&address.port().to_string(), "PORT"), @r"
    error: cannot listen
      where: 127.0.0.1:PORT
      why:   Address already in use (os error 98)
      next:  helixctl up --listen 127.0.0.1:0 takes a free port; who has this one: ss -ltnp 'sport = :PORT'
    ");
}

#[test]
fn a_detached_up_that_fails_shows_the_same_reason() {
    let mut home = Home::new();
    home.nats_server = home.dir("nowhere");
    let (attached, detached) = (up(&home, &[]), up(&home, &["--detach"]));
    assert_eq!(detached.code, attached.code);
    assert_eq!(detached.stderr, attached.stderr);
}

#[test]
fn up_in_a_directory_that_cannot_be_written() {
    let home = Home::new();
    std::fs::write(home.dir("file"), "").expect("written");
    let below_a_file = home.dir("file/state");
    let done = home.run(&["up", "--state-dir", below_a_file.to_str().expect("UTF-8")]);
    assert_eq!(done.code, 1);
    insta::assert_snapshot!(done.stderr, @r"
    error: cannot use the state directory
      where: ~/file/state
      why:   Not a directory (os error 20)
      next:  helixctl up --state-dir with a directory that this user can write
    ");
}

#[test]
fn up_with_a_path_too_long_for_sockets() {
    let home = Home::new();
    let long = home.dir(&"x".repeat(70));
    let done = home.run(&["up", "--state-dir", long.to_str().expect("UTF-8")]);
    assert_eq!(done.code, 2);
    insta::assert_snapshot!(done.stderr, @r"
    error: the path of the state directory is too long
      where: ~/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
      why:   it has 86 bytes; at most 60 leave room for the sockets of displays below it
      next:  helixctl up --state-dir with a shorter path
    ");
}

#[test]
fn a_second_up_says_who_is_first() {
    let home = Home::new();
    let dir = StateDir::new(&home.dir("state")).expect("a path").create().expect("created");
    let Taken::Ours(_lock) = take(&dir, Role::Up).expect("taken") else { panic!("not ours") };
    let record = serde_json::json!({
        "url": "http://127.0.0.1:8080", "token_file": dir.admin_token(), "nats_url": null, "pids": {},
        "state_dir": dir.root(), "ready": true, "started_at": "2026-01-01T00:00:00Z", "boot_id": "", "start_times": {}
    });
    std::fs::write(dir.record(), record.to_string()).expect("written");
    let done = up(&home, &[]);
    assert_eq!(done.code, 1);
    insta::assert_snapshot!(done.stderr.replace(&std::process::id().to_string(), "PID"), @r"
    error: Helix is already up in this state directory
      where: ~/state
      why:   http://127.0.0.1:8080 is served, supervised by process PID
      next:  helixctl status, helixctl down, or another --state-dir and --listen
    ");
}

#[test]
fn down_where_nothing_was_up_is_no_failure_and_makes_nothing() {
    let home = Home::new();
    let state = home.dir("state");
    let done = home.run(&["down", "--json", "--state-dir", state.to_str().expect("UTF-8")]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "{\"state_dir\":\"~/state\",\"was_up\":false}\n"));
    assert!(!state.exists());
}
