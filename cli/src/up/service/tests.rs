use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn shell(dir: &Path, script: &str, readiness: Readiness) -> Spec {
    Spec {
        name: "test",
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        log: dir.join("test.log"),
        readiness,
        ready_within: PATIENCE,
        grace: PATIENCE,
    }
}

/// A shell can write a file, so the ports file stands for readiness.
fn ready_script(dir: &Path, then: &str) -> String {
    let dir = dir.display();
    format!(r#"echo started; echo '{{"nats":["nats://127.0.0.1:4711"]}}' >{dir}/sh_$$.ports; {then}"#)
}

fn spawns() -> (OnSpawn, tokio::sync::mpsc::UnboundedReceiver<u32>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let on_spawn: OnSpawn = Arc::new(move |_, pid| {
        let _ = sender.send(pid);
    });
    (on_spawn, receiver)
}

#[tokio::test]
async fn a_child_that_dies_is_started_again_and_ends_on_request() {
    let temp = tempfile::tempdir().expect("a directory");
    let script = ready_script(temp.path(), "exec sleep 600");
    let (on_spawn, mut pids) = spawns();
    let mut handle = Handle::start(shell(temp.path(), &script, Readiness::PortsFile(temp.path().into())), on_spawn);
    let ready = tokio::time::timeout(PATIENCE, handle.ready()).await.expect("in time");
    assert_eq!(ready, Ok(Ready { port: Some(4711) }));
    let first = pids.recv().await.expect("a pid");
    let held = super::super::process::Process::of(first).expect("it lives").hold().expect("it lives");
    held.signal(Signal::KILL);
    let second = tokio::time::timeout(PATIENCE, pids.recv()).await.expect("in time").expect("a pid");
    assert_ne!(first, second);
    tokio::time::timeout(PATIENCE, handle.end()).await.expect("in time");
    assert!(super::super::process::Process::of(second).is_none(), "it is gone");
}

#[tokio::test]
async fn a_first_start_that_fails_shows_the_log() {
    let temp = tempfile::tempdir().expect("a directory");
    std::fs::write(temp.path().join("test.log"), "of a former start\n").expect("written");
    let script = "echo cannot do it >&2; exit 3";
    let readiness = Readiness::Notify(temp.path().join("test.notify"));
    let mut handle = Handle::start(shell(temp.path(), script, readiness), spawns().0);
    let error = tokio::time::timeout(PATIENCE, handle.ready()).await.expect("in time").expect_err("it fails");
    let text = error.to_string().replace(&temp.path().display().to_string(), "DIR");
    insta::assert_snapshot!(text, @r"
    error: test does not start
      where: /bin/sh
      why:   it ended with exit status: 3
             | cannot do it
      next:  read its log: DIR/test.log
    ");
    handle.end().await;
}

#[tokio::test]
async fn one_that_ignores_sigterm_is_killed() {
    let temp = tempfile::tempdir().expect("a directory");
    // The shell stays the one process of the group: a child of its own would inherit the ignored signal, not the end.
    let script = ready_script(temp.path(), "trap '' TERM; while read -r _ <&3; do :; done 3<>fifo");
    assert!(std::process::Command::new("mkfifo").arg(temp.path().join("fifo")).status().expect("mkfifo").success());
    let script = script.replace("3<>fifo", &format!("3<>{}/fifo", temp.path().display()));
    let (on_spawn, mut pids) = spawns();
    let mut spec = shell(temp.path(), &script, Readiness::PortsFile(temp.path().into()));
    spec.grace = Duration::from_millis(100);
    let mut handle = Handle::start(spec, on_spawn);
    tokio::time::timeout(PATIENCE, handle.ready()).await.expect("in time").expect("ready");
    tokio::time::timeout(PATIENCE, handle.end()).await.expect("in time");
    let pid = pids.recv().await.expect("a pid");
    assert!(super::super::process::Process::of(pid).is_none(), "it is gone");
}

#[tokio::test]
async fn one_that_talks_at_its_end_is_listened_to() {
    let temp = tempfile::tempdir().expect("a directory");
    let socket = temp.path().join("test.notify");
    // A socket queues a few datagrams and then blocks who sends: far more than that are sent after SIGTERM.
    let script = r#"
        use Socket;
        socket(my $s, PF_UNIX, SOCK_DGRAM, 0) or die "$!";
        connect($s, pack_sockaddr_un($ENV{NOTIFY_SOCKET})) or die "$!";
        $SIG{TERM} = sub { send($s, "STATUS=ending", 0) for 1..5000; exit 0 };
        send($s, "READY=1", 0);
        sleep 600;
    "#;
    let mut spec = shell(temp.path(), "", Readiness::Notify(socket));
    spec.program = "/usr/bin/perl".into();
    spec.args = vec!["-e".into(), script.into()];
    spec.grace = Duration::from_hours(1);
    let mut handle = Handle::start(spec, spawns().0);
    tokio::time::timeout(PATIENCE, handle.ready()).await.expect("in time").expect("ready");
    tokio::time::timeout(PATIENCE, handle.end()).await.expect("it is not blocked");
}

#[test]
fn pauses_grow_up_to_a_limit() {
    let pauses = [1, 2, 3, 4, 6, 7, 60].map(|deaths| restart_pause(deaths).as_millis());
    assert_eq!(pauses, [100, 1000, 2000, 4000, 16_000, 30_000, 30_000]);
}

#[test]
fn a_large_log_is_put_aside() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("a.log");
    std::fs::File::create(&path).and_then(|file| file.set_len(LOG_BYTES + 1)).expect("a large file");
    let log = open_log(&path).expect("opened");
    assert_eq!(log.metadata().expect("its size").len(), 0);
    assert!(temp.path().join("a.log.1").exists());
}

#[tokio::test]
async fn a_log_that_grows_is_emptied_under_its_writer() {
    use std::io::Write as _;

    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("a.log");
    let aside = temp.path().join("a.log.1");
    std::fs::write(&aside, "of a former time").expect("written");
    let mut log = open_log(&path).expect("opened");
    log.write_all(b"small\n").expect("written");
    put_aside(&path).expect("looked at");
    assert_eq!(std::fs::read(&path).expect("a log"), b"small\n");

    log.set_len(LOG_BYTES).and_then(|()| log.write_all(b"the end\n")).expect("a large file");
    let emptied = async {
        while std::fs::metadata(&path).expect("a log").len() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        never = keep_small(&path, Duration::from_millis(5)) => match never {},
        done = tokio::time::timeout(PATIENCE, emptied) => done.expect("in time"),
    }
    let kept = std::fs::read(&aside).expect("a copy");
    assert_eq!(u64::try_from(kept.len()), Ok(LOG_BYTES));
    assert!(kept.ends_with(b"the end\n"));
    // The writer goes on at the beginning, without a hole, and that is what is shown.
    log.write_all(b"afterwards\n").expect("written");
    assert_eq!(std::fs::read(&path).expect("a log"), b"afterwards\n");
    assert_eq!(tail(&path, LOG_BYTES), "\n| afterwards");
    put_aside(&temp.path().join("missing.log")).expect("nothing to do");
}
