//! The display and what hangs on it.

use std::path::Path;

use helix_agentd::supervisor::{Adopted, SliceEvent, Stdout, Supervisor as _, UnitName};

use super::{anew, unit};
use crate::conformance::{
    Fixture as _, PATIENCE, ended, exit_status, log, next_event, open, open_watched, ready, session, shell,
};
use crate::host::{Host, command};

pub async fn a_display_that_ends_takes_its_clients_with_it(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("clients"));
    let identity = open(&supervisor, &session).await;
    let mut events = supervisor.events(&session).await.unwrap();
    let mut display = shell(UnitName::Display, "echo 0; while [ ! -e /tmp/end ]; do sleep 0.05; done");
    display.stdout = Stdout::Ready;
    supervisor.start(&session, &display).await.unwrap();
    for name in [UnitName::Dbus, UnitName::Wm, UnitName::App] {
        supervisor.start(&session, &shell(name, "exec sleep 1000")).await.unwrap();
    }
    std::fs::write(host.outside(&session, Path::new("/tmp/end")), "").unwrap();
    assert_eq!(exit_status(&mut events, UnitName::Display).await, 0);
    let mut left = vec![UnitName::Wm, UnitName::App];
    while !left.is_empty() {
        if let SliceEvent::UnitExited(status) = next_event(&mut events).await {
            left.retain(|name| *name != status.name);
        }
    }
    // systemd has forgotten it; its end is known all the same.
    let adopted = anew(host).await.adopt(&session, &identity).await.unwrap();
    let Adopted::Alive { units, .. } = adopted else { panic!("{adopted:?}") };
    assert!(units.contains(&ended(UnitName::Display, 0)), "{units:?}");
    assert!(units.iter().any(|unit| unit.name == UnitName::Dbus && unit.pid.is_some()), "{units:?}");
    supervisor.kill(&session).await.unwrap();
}

/// What the display answers to a client that shows no cookie, run by the app: 0 is a refusal.
const ASK_WITHOUT: &str = "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('/tmp/.X11-unix/X0')\n\
    s.send(b'l\\0\\x0b\\0\\0\\0\\0\\0\\0\\0\\0\\0')\nprint(s.recv(8)[0])";

pub async fn the_display_refuses_who_has_no_cookie(host: &Host) {
    use std::io::{Read as _, Write as _};
    let (supervisor, session) = (host.supervisor().await, session("cookie"));
    let mut events = open_watched(&supervisor, &session).await;
    let (paths, own) = (supervisor.paths(&session), supervisor.host_paths(&session));
    let mut display = shell(UnitName::Display, "");
    let words = "Xtigervnc :0 -displayfd 1 -geometry 640x480 -depth 24 -nolisten tcp -noreset -extension GLX \
                 -rfbport -1 -SecurityTypes None";
    display.argv = words.split_whitespace().map(str::to_owned).collect();
    display.argv.extend(["-auth".to_owned(), paths.xauthority.display().to_string()]);
    display.argv.extend(["-rfbunixpath".to_owned(), paths.vnc_socket.display().to_string()]);
    display.env.insert("HOME".to_owned(), paths.home.display().to_string());
    display.stdout = Stdout::Ready;
    supervisor.start(&session, &display).await.unwrap();
    ready(&supervisor, &session, UnitName::Display).await;
    let mut client = std::os::unix::net::UnixStream::connect(own.x_sockets.unwrap().join("X0")).unwrap();
    client.write_all(&[b'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    let mut ask = shell(UnitName::App, "");
    ask.argv = ["python3", "-c", ASK_WITHOUT].map(str::to_owned).to_vec();
    supervisor.start(&session, &ask).await.unwrap();
    exit_status(&mut events, UnitName::App).await;
    let within = log(&supervisor, &session, UnitName::App).await;
    let said = log(&supervisor, &session, UnitName::Display).await;
    assert_eq!((answer[0], within.as_slice()), (0, &["0".to_owned()][..]), "root, the session: {said:#?}");
    let complaints: Vec<_> = said.iter().filter(|line| line.contains("(EE)")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    supervisor.kill(&session).await.unwrap();
}

pub async fn a_whole_desktop_can_begin_anew(host: &Host) {
    let (supervisor, session) = (host.supervisor().await, session("desktop"));
    for round in 0..3 {
        let mut events = open_watched(&supervisor, &session).await;
        let mut display = shell(UnitName::Display, "echo 0; exec sleep 1000");
        display.stdout = Stdout::Ready;
        assert!(supervisor.start(&session, &display).await.unwrap().pid.is_some(), "round {round}");
        for name in [UnitName::Workspace, UnitName::Dbus, UnitName::Wm, UnitName::App] {
            assert!(supervisor.start(&session, &shell(name, "exec sleep 1000")).await.unwrap().pid.is_some());
        }
        // Clients are started again and again while their display lives.
        for name in [UnitName::Wm, UnitName::App, UnitName::Dbus] {
            supervisor.stop(&session, name, PATIENCE).await.unwrap();
            let again = supervisor.start(&session, &shell(name, "exec sleep 1000")).await.unwrap();
            assert!(again.pid.is_some(), "{name:?} in round {round}");
        }
        // The display dies of itself, which is the end of this life.
        command("systemctl", &["kill", "-s", "KILL", &unit(&session, "display")]);
        assert_eq!(exit_status(&mut events, UnitName::Display).await, 128 + 9);
        supervisor.kill(&session).await.unwrap();
    }
}
