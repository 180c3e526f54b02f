//! Units: how they start and end, what they get, and what their session may use.

use std::time::Duration;

use helix_agentd::forward;
use helix_agentd::supervisor::{SliceSpec, Stdout, Supervisor, SupervisorError, UnitName};
use helix_protocol::resources::{Bytes, Cpus, Resources};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Fixture, GRACE, PATIENCE, ended, exit_status, log, open, open_watched, ready, run, session, shell};

pub async fn a_unit_inherits_nothing<F: Fixture>(fixture: &F) {
    let (supervisor, session) = (fixture.supervisor().await, session("inherit"));
    // Leaked on purpose, as some programs do to what they start.
    let leaked = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let script = "env | cut -d= -f1 | sort | tr '\\n' ' '; echo; ls /proc/self/fd | wc -l; umask; \
                  grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let lines = run(&supervisor, &session, script).await;
    // The shell adds PWD and the like itself; ls has its directory open beside the three standard streams.
    assert_eq!(lines[0].trim(), F::ENVIRONMENT, "{lines:?}");
    assert_eq!(lines[1..3], ["4", "0077"], "{lines:?}");
    for line in &lines[3..] {
        let mask = u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
        // Signals 32 and 33 are the C library's own: nobody can set them.
        assert_eq!(mask & !(3 << 31), 0, "{lines:?}");
    }
    supervisor.kill(&session).await.unwrap();
}

pub async fn start_is_idempotent_and_ends_are_told(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("start"));
    let mut events = open_watched(&supervisor, &session).await;

    let wm = shell(UnitName::Wm, "exec sleep 1000");
    let first = supervisor.start(&session, &wm).await.unwrap();
    assert!(first.pid.is_some() && first.exit_status.is_none());
    assert_eq!(supervisor.start(&session, &wm).await.unwrap(), first);

    supervisor.start(&session, &shell(UnitName::App, "exit 3")).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::App).await, 3);
    let again = supervisor.start(&session, &shell(UnitName::App, "exit 4")).await.unwrap();
    assert_eq!(again, ended(UnitName::App, 3));

    supervisor.start(&session, &shell(UnitName::Dbus, "kill -SEGV $$")).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::Dbus).await, 128 + 11);
    assert_eq!(supervisor.units(&session).await.unwrap().len(), 3);
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_unit_that_cannot_start_says_why(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("missing"));
    open(&supervisor, &session).await;
    let mut unit = shell(UnitName::App, "");
    unit.argv = vec!["no-such-program".to_owned()];
    let error = supervisor.start(&session, &unit).await.unwrap_err();
    assert!(matches!(error, SupervisorError::Start { unit: "app", .. }), "{error}");
    assert!(error.to_string().contains("no-such-program") && error.to_string().contains("PATH"), "{error}");
    unit = shell(UnitName::App, "");
    unit.cwd = "/no/such/directory".into();
    let error = supervisor.start(&session, &unit).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/directory"), "{error}");
    // Nothing of it stands in the way of a right one.
    supervisor.start(&session, &shell(UnitName::App, "true")).await.unwrap();
    supervisor.kill(&session).await.unwrap();
}

pub async fn stop_asks_then_forces_and_the_unit_can_start_anew(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("stop"));
    let mut events = open_watched(&supervisor, &session).await;

    let mut unit = shell(UnitName::App, "trap 'echo asked >&2; exit 7' TERM; echo up; while :; do sleep 0.05; done");
    unit.stdout = Stdout::Ready;
    supervisor.start(&session, &unit).await.unwrap();
    ready(&supervisor, &session, UnitName::App).await;
    supervisor.stop(&session, UnitName::App, GRACE).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::App).await, 7);
    let said = log(&supervisor, &session, UnitName::App).await;
    assert_eq!(said.last().map(String::as_str), Some("asked"), "{said:?}");
    supervisor.stop(&session, UnitName::App, GRACE).await.expect("stopping what is gone is no error");

    let deaf = "trap '' TERM; while :; do sleep 1000; done";
    let deaf = supervisor.start(&session, &shell(UnitName::App, deaf)).await.unwrap();
    assert!(deaf.pid.is_some(), "it was not started anew");
    supervisor.stop(&session, UnitName::App, Duration::from_millis(200)).await.unwrap();
    let status = exit_status(&mut events, UnitName::App).await;
    assert!(status == 128 + 9 || status == 128 + 15, "{status}");
    assert!(!supervisor.units(&session).await.unwrap().iter().any(|unit| unit.name == UnitName::App));
    supervisor.kill(&session).await.unwrap();
}

pub async fn hostile_words_reach_a_unit_as_they_are(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("words"));
    let mut events = open_watched(&supervisor, &session).await;
    let words = ["$HOME", "${PATH}", "%i %%", "a \"b\" 'c' \\ d", "", "# ;x", "two\nlines", "\u{e4}\u{2713}", "@-+!:"];
    let mut unit = shell(UnitName::App, "");
    unit.argv = ["sh", "-c", "for word; do printf '<%s>\\n' \"$word\"; done; printf '<%s>\\n' \"$V0\" \"$V1\" \"$V2\" \"$V3\" \"$V4\" \"$V5\" \"$V6\" \"$V7\" \"$V8\"", "sh"]
        .map(str::to_owned)
        .to_vec();
    unit.argv.extend(words.map(str::to_owned));
    unit.env.extend(words.iter().enumerate().map(|(index, word)| (format!("V{index}"), (*word).to_owned())));
    supervisor.start(&session, &unit).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::App).await, 0);
    let expected: Vec<String> = words.iter().chain(&words).map(|word| format!("<{word}>")).collect();
    assert_eq!(log(&supervisor, &session, UnitName::App).await.join("\n"), expected.join("\n"));
    supervisor.kill(&session).await.unwrap();
}

pub async fn limits_usage_and_freezing_say_what_is_there(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("limits"));
    let enforcement = supervisor.enforcement();
    let some = Resources {
        cpu: Some(Cpus(1500)),
        memory: Some(Bytes(256 << 20)),
        memory_high: Some(Bytes(200 << 20)),
        tasks: Some(64),
        io_weight: Some(50),
    };
    supervisor.open(&session, &SliceSpec { resources: some, ..SliceSpec::default() }).await.unwrap();
    let mut unit = shell(UnitName::App, "trap 'echo more' USR1; echo up; while :; do echo $((n += 1)) >$T/n; done");
    unit.env.insert("T".to_owned(), supervisor.paths(&session).tmp.display().to_string());
    unit.stdout = Stdout::Ready;
    supervisor.start(&session, &unit).await.unwrap();
    ready(&supervisor, &session, UnitName::App).await;

    let enforced = |name: &str| enforcement.enforced.iter().any(|enforced| enforced == name);
    assert!(!enforcement.isolation.is_empty() && !enforcement.limits.is_empty());
    let usage = supervisor.usage(&session).await.unwrap();
    assert_eq!(usage.memory_bytes.is_some(), enforced("memory"), "{usage:?} {enforcement:?}");
    assert_eq!(usage.tasks.is_some_and(|tasks| tasks >= 1), enforced("tasks"), "{usage:?} {enforcement:?}");
    let lower = Resources { cpu: Some(Cpus(500)), tasks: None, ..some };
    // Where nothing is enforced nobody heeds this, and it is said.
    supervisor.limit(&session, &lower).await.unwrap();
    assert!(!enforcement.enforced.is_empty() || !enforcement.missing.is_empty());

    let counter = fixture.outside(&session, &supervisor.paths(&session).tmp).join("n");
    let count = || std::fs::read_to_string(&counter).unwrap_or_default();
    let moves = async || {
        let before = count();
        let changed = async {
            while count() == before || count().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, changed).await.expect("it stands still");
    };
    moves().await;
    supervisor.freeze(&session, true).await.unwrap();
    let frozen = count();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(count(), frozen, "it runs although it is frozen");
    supervisor.freeze(&session, true).await.expect("freezing what is frozen is no error");
    supervisor.freeze(&session, false).await.unwrap();
    moves().await;
    supervisor.kill(&session).await.unwrap();
}

/// Through the forward unit, to whoever listens last.
pub async fn an_agent_reaches_agentd_and_the_next_one(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("forward"));
    assert!(supervisor.listen(&session, UnitName::Forward).await.is_err(), "nothing is open yet");
    let mut events = open_watched(&supervisor, &session).await;
    let mut listener = supervisor.listen(&session, UnitName::Forward).await.unwrap();
    let mut unit = shell(UnitName::Forward, "");
    unit.argv = vec![fixture.program().to_string_lossy().into_owned()];
    unit.argv.extend(forward::unit::arguments(0, &supervisor.paths(&session).sync_socket));
    unit.stdout = Stdout::Ready;
    supervisor.start(&session, &unit).await.unwrap();
    let port = ready(&supervisor, &session, UnitName::Forward).await;
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; echo hello >&3; cat <&3", port.trim());
    for round in 0..2 {
        if round == 1 {
            // As after kill -9 of agentd: its socket is there and nobody listens.
            drop(listener);
            listener = fixture.supervisor().await.listen(&session, UnitName::Forward).await.unwrap();
        }
        let mut app = shell(UnitName::App, "");
        app.argv = ["bash", "-c", &script].map(str::to_owned).to_vec();
        supervisor.start(&session, &app).await.unwrap();
        let served = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 6];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(format!("round {round}\n").as_bytes()).await.unwrap();
            hello
        };
        assert_eq!(&tokio::time::timeout(PATIENCE, served).await.expect("nobody came"), b"hello\n");
        assert_eq!(exit_status(&mut events, UnitName::App).await, 0);
        assert_eq!(log(&supervisor, &session, UnitName::App).await.last(), Some(&format!("round {round}")));
        supervisor.stop(&session, UnitName::App, GRACE).await.unwrap();
    }
    supervisor.kill(&session).await.unwrap();
    assert!(supervisor.listen(&session, UnitName::Forward).await.is_err(), "it has ended");
}
