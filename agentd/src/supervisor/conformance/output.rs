//! What units say: readiness, logs, the outcome of a task.

use helix_agentd::supervisor::{Adopted, SliceEvent, SliceSpec, Stdout, Supervisor, UnitName};
use helix_protocol::session::SessionResult;
use tokio::sync::mpsc::Receiver;

use super::{
    Fixture, GRACE, PATIENCE, bridge, exit_status, log, next_event, open_watched, ready, run, server, session, shell,
};

pub async fn readiness_goes_to_its_file(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("ready"));
    let mut events = open_watched(&supervisor, &session).await;
    let mut unit = shell(UnitName::Display, "echo 42; echo noise >&2");
    unit.stdout = Stdout::Ready;
    supervisor.start(&session, &unit).await.unwrap();
    exit_status(&mut events, UnitName::Display).await;
    assert_eq!(ready(&supervisor, &session, UnitName::Display).await, "42\n");
    assert_eq!(log(&supervisor, &session, UnitName::Display).await, ["noise"]);
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_log_is_bounded_and_keeps_its_end<F: Fixture>(fixture: &F) {
    let (supervisor, session) = (fixture.supervisor().await, session("log"));
    let lines = run(&supervisor, &session, &format!("seq 1 {}; echo the end", F::FLOOD)).await;
    assert_eq!(lines.last().map(String::as_str), Some("the end"));
    assert_eq!(supervisor.logs(&session, None, 5).await.unwrap().len(), 5);
    for bytes in fixture.log_bytes(&session) {
        assert!(bytes <= 1024 * 1024, "{bytes}");
    }
    supervisor.kill(&session).await.unwrap();
}

pub async fn logs_are_told_by_unit_and_followed(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("follow"));
    let mut events = open_watched(&supervisor, &session).await;
    supervisor.start(&session, &shell(UnitName::Wm, "echo of the wm")).await.unwrap();
    exit_status(&mut events, UnitName::Wm).await;
    supervisor.start(&session, &shell(UnitName::App, "echo first; echo second >&2; echo third")).await.unwrap();
    exit_status(&mut events, UnitName::App).await;
    assert_eq!(log(&supervisor, &session, UnitName::App).await, ["first", "second", "third"]);
    let last = supervisor.logs(&session, Some(UnitName::App), 1).await.unwrap();
    assert_eq!(last.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["third"]);

    let next = async |lines: &mut Receiver<helix_protocol::link::LogLine>| {
        let line = tokio::time::timeout(PATIENCE, lines.recv()).await.expect("no line").expect("the lines have ended");
        (line.unit, line.text)
    };
    let of = |unit: UnitName, text: &str| (unit.as_str().to_owned(), text.to_owned());
    let mut app = supervisor.follow_logs(&session, Some(UnitName::App), 2).await.unwrap();
    assert_eq!(next(&mut app).await, of(UnitName::App, "second"));
    assert_eq!(next(&mut app).await, of(UnitName::App, "third"));
    let mut all = supervisor.follow_logs(&session, None, 0).await.unwrap();
    supervisor.stop(&session, UnitName::App, GRACE).await.unwrap();
    supervisor.start(&session, &shell(UnitName::Dbus, "echo of the bus; exec sleep 1000")).await.unwrap();
    assert_eq!(next(&mut all).await, of(UnitName::Dbus, "of the bus"));
    supervisor.start(&session, &shell(UnitName::App, "echo anew; exec sleep 1000")).await.unwrap();
    assert_eq!(next(&mut app).await, of(UnitName::App, "anew"));
    assert_eq!(next(&mut all).await, of(UnitName::App, "anew"));
    supervisor.kill(&session).await.unwrap();
    let ended = async { while all.recv().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the lines go on after the end");
}

pub async fn a_tasks_outcome_is_told_and_kept(fixture: &impl Fixture) {
    let (supervisor, session) = (fixture.supervisor().await, session("outcome"));
    let identity = supervisor.open(&session, &SliceSpec::default()).await.unwrap();
    let mut events = supervisor.events(&session).await.unwrap();
    let url = server("echo done; exit 3").await;
    let unit = bridge(&fixture.program(), &supervisor.paths(&session), &url);
    supervisor.start(&session, &unit).await.unwrap();
    let told: SessionResult = loop {
        match next_event(&mut events).await {
            SliceEvent::TaskFinished(result) => break result,
            SliceEvent::UnitExited(status) => {
                panic!("{status:?}: {:?}", supervisor.logs(&session, None, 20).await.unwrap())
            }
            _ => {}
        }
    };
    assert_eq!((told.exit_status, told.output_tail.as_str()), (3, "done\n"));
    drop(supervisor);

    let supervisor = fixture.supervisor().await;
    let adopted = supervisor.adopt(&session, &identity).await.unwrap();
    let Adopted::Alive { units, result } = adopted else { panic!("{adopted:?}") };
    assert_eq!(result, Some(told));
    assert!(units.iter().all(|unit| unit.exit_status.is_none()), "the task did not stay: {units:?}");
    supervisor.kill(&session).await.unwrap();
}
