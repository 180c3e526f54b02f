//! A session from its opening to its end: directories, files, being found again, kill and reap.

use std::path::Path;

use helix_agentd::supervisor::{Adopted, Identity, SessionFile, SliceSpec, Stdout, Supervisor, UnitName};

use super::{Fixture, GRACE, PATIENCE, ended, exit_status, log, open, open_watched, ready, run, session, shell};

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

pub async fn open_is_idempotent_and_makes_private_directories(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("open"));
    let (other, spec) = (fixture.supervisor().await, SliceSpec::default());
    let (first, second) = tokio::join!(supervisor.open(&session, &spec), other.open(&session, &spec));
    let first = first.unwrap();
    assert_eq!(first, second.unwrap(), "two slices were made");
    assert_eq!(first, open(&fixture.supervisor().await, &session).await);
    let (paths, host) = (supervisor.paths(&session), supervisor.host_paths(&session));
    let inside = [&paths.root, &paths.home, &paths.tmp, &paths.runtime, &paths.workspace];
    let dirs = inside.map(|dir| fixture.outside(&session, dir)).into_iter().chain([host.ready, host.workspace]);
    for dir in dirs {
        assert_eq!(mode(&dir), 0o700, "{}", dir.display());
    }
    let (own, cookie) = (std::fs::read(fixture.outside(&session, &paths.xauthority)), std::fs::read(&host.xauthority));
    assert_eq!(own.unwrap(), cookie.unwrap(), "agentd and the session have different cookies");
    assert!(supervisor.units(&session).await.unwrap().is_empty());
    assert_eq!(supervisor.found().await.unwrap(), [session.unit_key()]);
    supervisor.kill(&session).await.unwrap();
}

pub async fn files_are_there_before_the_first_unit(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("files"));
    let file = |path: &str, mode, content: &str| SessionFile { path: path.into(), mode, content: content.into() };
    let files = vec![
        file("openbox.xml", 0o600, "<xml/>"),
        file("bin/tool", 0o700, "#!/bin/sh\necho tool ran\n"),
        file("home/.config/app/settings.json", 0o600, "{}"),
    ];
    supervisor.open(&session, &SliceSpec { files, ..SliceSpec::default() }).await.unwrap();
    let mut events = supervisor.events(&session).await.unwrap();
    let mut unit = shell(
        UnitName::App,
        "cat $R/openbox.xml; echo; $R/bin/tool; cd $HOME/.config/app && echo more >>settings.json && cat settings.json; \
         stat -c %a $R/openbox.xml $R/bin/tool settings.json .. ; [ -O settings.json ] && echo mine",
    );
    let paths = supervisor.paths(&session);
    unit.env.insert("R".to_owned(), paths.root.display().to_string());
    unit.env.insert("HOME".to_owned(), paths.home.display().to_string());
    supervisor.start(&session, &unit).await.unwrap();
    exit_status(&mut events, UnitName::App).await;
    let lines = log(&supervisor, &session, UnitName::App).await;
    assert_eq!(lines, ["<xml/>", "tool ran", "{}more", "600", "700", "600", "700", "mine"]);
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_restarted_agentd_finds_everything<F: Fixture>(fixture: &F) {
    let session = session("adopt");
    let former = fixture.supervisor().await;
    let identity = open(&former, &session).await;
    let mut former_events = former.events(&session).await.unwrap();
    let wm = former.start(&session, &shell(UnitName::Wm, "exec sleep 1000")).await.unwrap();
    former.start(&session, &shell(UnitName::App, "exit 5")).await.unwrap();
    exit_status(&mut former_events, UnitName::App).await;
    drop((former, former_events));

    let supervisor = fixture.supervisor().await;
    let mut events = supervisor.events(&session).await.unwrap();
    let Adopted::Alive { units, result: None } = supervisor.adopt(&session, &identity).await.unwrap() else {
        panic!("it was not found");
    };
    assert_eq!(units, [wm, ended(UnitName::App, 5)]);
    supervisor.stop(&session, UnitName::Wm, GRACE).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::Wm).await, 128 + 15);

    let (another, rebooted) = foreign(&identity);
    let gone = supervisor.adopt(&session, &another).await.unwrap();
    assert!(matches!(gone, Adopted::Gone { code, .. } if code == F::GONE), "{gone:?}");
    let gone = supervisor.adopt(&session, &rebooted).await.unwrap();
    assert!(matches!(gone, Adopted::Gone { code: "host_rebooted", .. }), "{gone:?}");
    supervisor.kill(&session).await.unwrap();
}

/// Not this slice, and not this boot.
fn foreign(identity: &Identity) -> (Identity, Identity) {
    let (mut another, mut rebooted) = (identity.clone(), identity.clone());
    match (&mut another, &mut rebooted) {
        (Identity::Guest(another), Identity::Guest(rebooted)) => {
            another.start_time += 1;
            "another boot".clone_into(&mut rebooted.boot_id);
        }
        (Identity::Slice(another), Identity::Slice(rebooted)) => {
            "0".repeat(32).clone_into(&mut another.invocation);
            "another boot".clone_into(&mut rebooted.boot_id);
        }
        _ => unreachable!("both are clones"),
    }
    (another, rebooted)
}

pub async fn a_second_subscription_ends_the_first(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("events"));
    open(&supervisor, &session).await;
    let mut first = supervisor.events(&session).await.unwrap();
    let mut second = supervisor.events(&session).await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, first.recv()).await.unwrap(), None);
    supervisor.start(&session, &shell(UnitName::App, "exit 9")).await.unwrap();
    assert_eq!(exit_status(&mut second, UnitName::App).await, 9);
    supervisor.kill(&session).await.unwrap();
}

/// Shells that do all they can to survive: they ignore SIGTERM, leave their session, fork twice and fork on.
const STUBBORN: &str = "trap '' TERM HUP INT; \
    (setsid sh -c 'trap \"\" TERM; (sleep 1000 &) ; exec sleep 1000' &) ; \
    (env -i setsid sleep 1000 &) ; \
    (while :; do (sleep 0.01; sleep 0.01) & sleep 0.005; done) & \
    echo up; while :; do sleep 1000; done";

pub async fn kill_leaves_nothing_but_logs_and_workspace(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("kill"));
    let mut events = open_watched(&supervisor, &session).await;
    let mut stubborn = shell(UnitName::App, STUBBORN);
    stubborn.stdout = Stdout::Ready;
    supervisor.start(&session, &stubborn).await.unwrap();
    supervisor.start(&session, &shell(UnitName::Wm, "echo said; exec sleep 1000")).await.unwrap();
    let (paths, host) = (supervisor.paths(&session), supervisor.host_paths(&session));
    ready(&supervisor, &session, UnitName::App).await;
    // As module caches are: not even the owner may write.
    let seal = "mkdir -p $HOME/sealed/deep; echo x >$HOME/sealed/file; chmod 500 $HOME/sealed; echo kept >$W/work";
    let mut fill = shell(UnitName::Workspace, seal);
    fill.env.insert("HOME".to_owned(), paths.home.display().to_string());
    fill.env.insert("W".to_owned(), paths.workspace.display().to_string());
    supervisor.start(&session, &fill).await.unwrap();
    assert_eq!(exit_status(&mut events, UnitName::Workspace).await, 0);
    assert!(fixture.processes(&session).len() > 3);

    supervisor.kill(&session).await.unwrap();
    assert_eq!(fixture.processes(&session), Vec::<String>::new());
    let inside = [&paths.home, &paths.tmp, &paths.runtime, &paths.vnc_socket, &paths.xauthority];
    let gone = inside.map(|path| fixture.outside(&session, path));
    for gone in gone.iter().chain([&host.ready, &host.vnc_socket, &host.xauthority]) {
        // Where all paths are below one directory, that itself may stay, for the logs.
        let kept = gone.is_dir() && *gone == fixture.outside(&session, &paths.root);
        assert!(kept || !gone.exists(), "{} is left", gone.display());
    }
    assert_eq!(std::fs::read_to_string(host.workspace.join("work")).unwrap(), "kept\n");
    assert_eq!(log(&supervisor, &session, UnitName::Wm).await, ["said"]);
    supervisor.kill(&session).await.expect("killing what is gone is no error");

    supervisor.forget(&session).await.unwrap();
    assert!(!fixture.outside(&session, &paths.root).exists() && !host.workspace.exists());
    assert_eq!(supervisor.found().await.unwrap(), Vec::<String>::new());
    supervisor.forget(&session).await.expect("forgetting what is gone is no error");
    supervisor.kill(&session).await.expect("killing what is forgotten is no error");
}

pub async fn kill_works_while_units_are_starting(fixture: &impl Fixture) {
    for round in 0..5 {
        let (supervisor, session) = (fixture.supervisor().await, session(&format!("race{round}")));
        open(&supervisor, &session).await;
        let starts = UnitName::ALL.map(|name| {
            let (supervisor, session) = (supervisor.clone(), session.clone());
            tokio::spawn(async move { supervisor.start(&session, &shell(name, "sleep 1000 & sleep 1000")).await })
        });
        supervisor.kill(&session).await.unwrap();
        for start in starts {
            // Started and ended, or refused: both are right.
            let _ = start.await.unwrap();
        }
        assert_eq!(fixture.processes(&session), Vec::<String>::new());
    }
}

pub async fn a_killed_session_can_be_opened_again(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("again"));
    assert_eq!(run(&supervisor, &session, "echo one").await, ["one"]);
    let first = open(&supervisor, &session).await;
    supervisor.kill(&session).await.unwrap();
    assert_eq!(run(&supervisor, &session, "echo two").await, ["one", "two"]);
    assert_ne!(open(&supervisor, &session).await, first);
    supervisor.kill(&session).await.unwrap();
}

pub async fn reap_ends_what_nobody_knows(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("unknown"));
    open(&supervisor, &session).await;
    supervisor.start(&session, &shell(UnitName::App, "sleep 1000")).await.unwrap();
    let found = supervisor.found().await.unwrap();
    assert_eq!(found, [session.unit_key()]);
    let there = fixture.supervisor().await.reap(&found[0]).await.unwrap();
    assert!((there.sessions, there.directories) == (1, 1) && there.processes > 0, "{there:?}");
    assert_eq!(fixture.processes(&session), Vec::<String>::new());
    assert_eq!(supervisor.found().await.unwrap(), Vec::<String>::new());
    let workspace = supervisor.host_paths(&session).workspace;
    assert!(workspace.exists(), "the workspace is the user's");
    // One that was put aside is removed by its path, whatever its session had sealed.
    let kept = workspace.with_added_extension("kept-1");
    std::fs::rename(&workspace, &kept).unwrap();
    supervisor.discard(&kept).await.unwrap();
    assert!(!kept.exists());
    for wrong in ["..", "", "0123456789abcdeg"] {
        assert!(supervisor.reap(wrong).await.is_err(), "{wrong:?} was accepted");
    }
}

pub async fn a_frozen_session_can_be_killed(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("frozen"));
    open(&supervisor, &session).await;
    supervisor.start(&session, &shell(UnitName::App, "trap '' TERM; sleep 1000 & wait")).await.unwrap();
    supervisor.freeze(&session, true).await.unwrap();
    supervisor.kill(&session).await.unwrap();
    assert_eq!(fixture.processes(&session), Vec::<String>::new());
    let again = open(&supervisor, &session).await;
    assert!(matches!(supervisor.adopt(&session, &again).await.unwrap(), Adopted::Alive { .. }));
    supervisor.kill(&session).await.unwrap();
}
