//! The desktop as an API against real displays: what is typed arrives, what is drawn is seen, and nothing is done by
//! halves.

/// Each of these on each display server.
macro_rules! on_every_display {
    ($($test:ident),* $(,)?) => {
        mod xtigervnc {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(super::Stage::on(helix_protocol::session::DisplayServer::Xtigervnc).await).await;
                }
            )*
        }

        mod xvfb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(super::Stage::on(helix_protocol::session::DisplayServer::Xvfb).await).await;
                }
            )*
        }
    };
}

mod client;
// After the macro, which it uses.
mod misbehaviour;

use std::sync::Arc;
use std::time::{Duration, Instant};

use helix_agentd::desktop::{Desktop, DesktopError, Desktops};
use helix_agentd::supervisor::UnitName;
use helix_agentd::supervisor::process::ProcessSupervisor;
use helix_protocol::control::{Control, Holder, Role, Viewer};
use helix_protocol::desktop::{
    Clipboard, CursorView, DisplaySize, ImageFormat, Input, InputDone, Picture, Region, Reply, Request, Screenshot,
    Wait, WaitFor, Waited, WindowAction, WindowList, WindowView,
};
use helix_protocol::session::{Desired, DisplayServer, SessionPhase, SessionSpec};
use helix_protocol::{ErrorCode, Seat, SessionId};

use crate::harness::{Runner, eventually, go_on, hold, kill, terminal};
use client::{Client, Heard};

/// A session with a terminal, and its desktop.
struct Stage {
    runner: Runner,
    desktops: Desktops<ProcessSupervisor>,
    desktop: Arc<Desktop>,
}

fn session() -> SessionId {
    SessionId::parse("s").expect("valid id")
}

fn driver(name: &str) -> Viewer {
    Viewer { by: name.to_owned(), token: name.to_owned(), seat: None, role: Role::Control, password: None }
}

impl Stage {
    async fn new() -> Self {
        Self::on(DisplayServer::Xtigervnc).await
    }

    async fn on(display_server: DisplayServer) -> Self {
        let mut runner = Runner::start();
        let spec = SessionSpec { display_server: Some(display_server), ..terminal() };
        runner.want("s", 1, Desired::Running, spec);
        runner.phase("s", SessionPhase::Ready).await;
        let desktops = runner.desktops();
        let desktop = desktops.open(&session()).await.expect("a desktop");
        Self { runner, desktops, desktop }
    }

    async fn call(&self, request: Request) -> Result<(Reply, Vec<u8>), DesktopError> {
        self.desktop.call(&driver("test"), request).await
    }

    async fn ask(&self, request: Request) -> Reply {
        self.call(request).await.expect("done").0
    }

    async fn input(&self, actions: &str) -> Result<usize, DesktopError> {
        let input: Input = serde_json::from_str(&format!("{{\"actions\": [{actions}]}}")).expect("actions");
        match self.call(Request::Input(input)).await?.0 {
            Reply::Input(InputDone { done }) => Ok(done),
            other => panic!("{other:?}"),
        }
    }

    async fn picture(&self, change: impl FnOnce(&mut Screenshot)) -> (Option<Picture>, Vec<u8>) {
        let mut wanted = Screenshot {
            format: ImageFormat::Raw,
            region: None,
            scale: 1.0,
            quality: 80,
            cursor: true,
            known: Vec::new(),
        };
        change(&mut wanted);
        match self.call(Request::Screenshot(wanted)).await.expect("a picture") {
            (Reply::Picture(picture), file) => (Some(picture), file),
            (Reply::NotModified { .. }, file) => (None, file),
            other => panic!("{other:?}"),
        }
    }

    async fn windows(&self) -> Vec<WindowView> {
        match self.ask(Request::Windows {}).await {
            Reply::Windows(WindowList { windows }) => windows,
            other => panic!("{other:?}"),
        }
    }

    async fn wait(&self, goal: WaitFor, timeout_ms: u64, quiet_ms: u64, region: Option<Region>) -> Waited {
        match self.ask(Request::Wait(Wait { goal, region, timeout_ms, quiet_ms })).await {
            Reply::Waited(waited) => waited,
            other => panic!("{other:?}"),
        }
    }

    async fn cursor(&self) -> (i32, i32) {
        match self.ask(Request::Cursor {}).await {
            Reply::Cursor(CursorView { x, y }) => (x, y),
            other => panic!("{other:?}"),
        }
    }

    fn client(&self) -> Client {
        let (number, authority) = self.runner.x("s");
        Client::open(number, &std::fs::read(authority).expect("readable"))
    }
}

on_every_display! {
    a_text_in_any_script_arrives_as_it_was_typed,
    a_program_that_is_slow_to_read_gets_what_was_typed,
    spare_keys_are_given_back_and_none_stays_down,
    what_is_drawn_is_seen_and_nothing_new_is_told_without_a_picture,
    pictures_come_in_every_format,
    keys_and_buttons_reach_a_window_as_they_were_meant,
    windows_are_listed_focused_maximised_restored_and_closed,
    the_clipboard_goes_both_ways,
    the_screen_takes_another_size,
    a_wait_ends_with_a_change_with_rest_or_with_its_time,
}

// More characters that a keyboard lacks than it has keys to spare, and some of them again.
const SCRIPTS: &str = "Grüße, ¿qué? ABC abc {}~\\\"'\n\
                       Привет, мир! Съешь же ещё этих мягких французских булок, да выпей чаю\n\
                       日本語のテキスト, 汉字, 한국어, العربية, ελληνικά, 😀🦀 €100 ½ ©\n";

/// Has a program that writes what it reads to the file whose name this gives.
async fn typewriter(stage: &Stage) -> std::path::PathBuf {
    let file = stage.runner.workspace("s").join("typed.txt");
    stage.input(r#"{"type": "text", "text": "cat > typed.txt\n"}"#).await.expect("typed");
    // The shell has given the terminal to it: what is typed before that goes through the shell's own editor.
    eventually("the program reads", async || file.exists()).await;
    file
}

/// Waits until the file has what was typed.
async fn has_arrived(file: &std::path::Path) {
    let mut last = String::new();
    let arrived = async {
        eventually("the text is there", async || {
            last = std::fs::read_to_string(file).unwrap_or_default();
            last.len() >= SCRIPTS.len()
        })
        .await;
    };
    let arrived = tokio::time::timeout(Duration::from_secs(20), arrived).await.is_ok();
    assert_eq!(last, SCRIPTS, "arrived: {arrived}");
}

/// Types it, and an end of file.
fn scripts() -> String {
    let action = serde_json::json!({"type": "text", "text": SCRIPTS});
    format!(r#"{action}, {{"type": "key", "key": "ctrl+d"}}"#)
}

async fn a_text_in_any_script_arrives_as_it_was_typed(stage: Stage) {
    let file = typewriter(&stage).await;
    assert_eq!(stage.input(&scripts()).await.expect("typed"), 2);
    has_arrived(&file).await;
}

/// A key that is given another meaning before the program has read what it meant types that.
async fn a_program_that_is_slow_to_read_gets_what_was_typed(stage: Stage) {
    let file = typewriter(&stage).await;
    let terminal = stage.runner.unit_pid("s", UnitName::App.as_str()).await.expect("a terminal");
    hold(terminal);
    let scripts = scripts();
    let mut typed = std::pin::pin!(stage.input(&scripts));
    let early = tokio::time::timeout(Duration::from_millis(800), &mut typed).await;
    go_on(terminal);
    assert!(early.is_err(), "it was not waited for");
    assert_eq!(typed.await.expect("typed"), 2);
    has_arrived(&file).await;
}

async fn spare_keys_are_given_back_and_none_stays_down(stage: Stage) {
    let client = stage.client();
    let before = client.meanings();
    stage.input(r#"{"type": "text", "text": "я語"}, {"type": "key_down", "key": "shift"}"#).await.expect("typed");
    assert_ne!(client.meanings(), before);
    assert_eq!(client.keys_down(), 1, "Shift was asked to stay down");
    let Stage { runner, desktops, desktop } = stage;
    drop(desktop);
    eventually("nothing is down", async || client.keys_down() == 0).await;
    // Said after the release: while the keys still mean what was pressed.
    eventually("the keys mean what they meant", async || client.meanings() == before).await;
    drop(desktops);
    drop(runner);
}

async fn what_is_drawn_is_seen_and_nothing_new_is_told_without_a_picture(stage: Stage) {
    stage.wait(WaitFor::Settle, 10_000, 300, None).await;
    let (first, before) = stage.picture(|_| {}).await;
    let first = first.expect("a picture");
    assert_eq!(before.len(), first.width as usize * first.height as usize * 4);
    let known = |wanted: &mut Screenshot| wanted.known = vec![first.etag.clone()];
    assert!(stage.picture(known).await.0.is_none(), "nothing has changed");
    let other = stage.picture(|wanted| (wanted.known, wanted.scale) = (vec![first.etag.clone()], 0.5)).await;
    assert_eq!(other.0.expect("another wish is another picture").width, first.width / 2);

    // The pointer is part of the picture, unless it is not wanted.
    let without = stage.picture(|wanted| wanted.cursor = false).await.0.expect("a picture").etag;
    stage.input(r#"{"type": "move", "x": 33, "y": 44}"#).await.expect("moved");
    assert_eq!(stage.cursor().await, (33, 44));
    let (moved, with_pointer) = stage.picture(known).await;
    assert_ne!(moved.expect("the pointer has moved").etag, first.etag);
    let (same, _) = stage.picture(|wanted| (wanted.cursor, wanted.known) = (false, vec![without.clone()])).await;
    assert!(same.is_none(), "without the pointer nothing has changed");
    let corner = |x: u16, y: u16| Region { x, y, width: 24, height: 24 };
    let (_, pointer) = stage.picture(|wanted| wanted.region = Some(corner(33, 44))).await;
    let (_, bare) = stage.picture(|wanted| (wanted.region, wanted.cursor) = (Some(corner(33, 44)), false)).await;
    assert_ne!(pointer, bare, "the pointer is drawn where it is");
    assert_eq!(with_pointer.len(), before.len());

    // Typed text is drawn, and the display's own picture is the same as ours.
    let actions = r#"{"type": "text", "text": "echo hello\n"}, {"type": "wait_frame"}"#;
    stage.input(actions).await.expect("typed");
    stage.wait(WaitFor::Settle, 10_000, 300, None).await;
    let (changed, after) = stage.picture(|wanted| (wanted.cursor, wanted.known) = (false, vec![without])).await;
    assert!(changed.is_some());
    let truth = stage.client().screen();
    assert_eq!(truth.len(), after.len());
    let differing =
        truth.chunks_exact(4).zip(after.chunks_exact(4)).filter(|(bgr, rgb)| bgr[..3] != [rgb[2], rgb[1], rgb[0]]);
    assert_eq!(differing.count(), 0);
    let drawn = before.chunks_exact(4).zip(after.chunks_exact(4)).filter(|(one, other)| one != other).count();
    assert!(drawn > 200, "{drawn} pixels changed");
}

async fn pictures_come_in_every_format(stage: Stage) {
    let region = Some(Region { x: 10, y: 20, width: 301, height: 203 });
    for (format, magic) in
        [(ImageFormat::Png, &b"\x89PNG"[..]), (ImageFormat::Jpeg, b"\xff\xd8\xff"), (ImageFormat::Webp, b"RIFF")]
    {
        let (picture, file) = stage.picture(|wanted| (wanted.format, wanted.region) = (format, region)).await;
        let picture = picture.expect("a picture");
        assert_eq!((picture.width, picture.height), (301, 203));
        assert!(file.starts_with(magic), "{format:?}: {:?}", &file[..8]);
    }
    for (bad, code) in [
        (Region { x: 0, y: 0, width: 65_000, height: 1 }, ErrorCode::InvalidRequest),
        (Region { x: 65_000, y: 0, width: 1, height: 1 }, ErrorCode::InvalidRequest),
    ] {
        let wanted = Screenshot {
            format: ImageFormat::Png,
            region: Some(bad),
            scale: 1.0,
            quality: 80,
            cursor: true,
            known: Vec::new(),
        };
        assert_eq!(stage.call(Request::Screenshot(wanted)).await.expect_err("outside").code(), code);
    }
}

async fn keys_and_buttons_reach_a_window_as_they_were_meant(stage: Stage) {
    let mut client = stage.client();
    client.show();
    eventually("the window is listed", async || stage.windows().await.iter().any(|window| window.title == "recorder"))
        .await;
    let window = stage.windows().await.into_iter().find(|window| window.title == "recorder").expect("listed");
    stage.ask(Request::Window { window: window.id, action: WindowAction::Focus }).await;
    client.heard();
    let (x, y) = (window.x + 5, window.y + 6);
    let actions = format!(
        r#"{{"type": "click", "x": {x}, "y": {y}, "button": "right", "count": 2, "modifiers": ["ctrl"]}},
           {{"type": "scroll", "x": {x}, "y": {y}, "dy": -2, "dx": 1}},
           {{"type": "key", "key": "ctrl+shift+t"}},
           {{"type": "text", "text": "aA語"}},
           {{"type": "drag", "path": [[{x}, {y}], [{}, {}]]}}"#,
        x + 20,
        y + 10
    );
    stage.input(&actions).await.expect("done");
    // The window manager looks at the left button before the window does, so its events come when it lets them.
    let mut heard: Vec<Heard> = Vec::new();
    eventually("the last release is heard", async || {
        heard.extend(client.heard());
        matches!(heard.last(), Some(Heard::Button(false, 1)))
    })
    .await;
    let said: Vec<_> = heard.iter().map(ToString::to_string).collect();
    assert_eq!(
        said.join(" "),
        "+Control_L +3 -3 +3 -3 -Control_L +4 -4 +4 -4 +7 -7 +Control_L +Shift_L +t -t -Shift_L -Control_L \
         +a -a +Shift_L +a -a -Shift_L +U8A9E -U8A9E +1 -1"
    );

    // A batch with a fault at its end does nothing at all.
    let refused =
        stage.input(&format!(r#"{{"type": "key", "key": "a"}}, {{"type": "click", "x": 99999, "y": {y}}}"#)).await;
    let error = refused.expect_err("outside");
    assert_eq!(error.code(), ErrorCode::InvalidRequest);
    assert!(error.to_string().starts_with("actions[1].x: 99999 is outside the screen"), "{error}");
    assert!(client.heard().is_empty());

    // One that is cut off leaves nothing down.
    let held = r#"{"type": "click", "x": 1, "y": 1, "modifiers": ["alt"]}, {"type": "wait", "ms": 10000}"#;
    assert!(tokio::time::timeout(Duration::from_millis(200), stage.input(held)).await.is_err());
    eventually("nothing is down", async || client.keys_down() == 0).await;
}

async fn windows_are_listed_focused_maximised_restored_and_closed(stage: Stage) {
    let client = stage.client();
    client.show();
    eventually("both are listed", async || stage.windows().await.len() == 2).await;
    let windows = stage.windows().await;
    let (xterm, own) = (&windows[0], &windows[1]);
    assert_eq!((xterm.class.as_str(), own.class.as_str(), own.title.as_str()), ("XTerm", "Recorder", "recorder"));
    assert!(xterm.pid.is_some() && xterm.maximised);
    let act = async |window: u32, action| stage.call(Request::Window { window, action }).await;
    for (action, holds) in [
        (WindowAction::Restore, (|window: &WindowView| !window.maximised) as fn(&WindowView) -> bool),
        (WindowAction::Maximise, |window| window.maximised),
        (WindowAction::Focus, |window| window.active),
    ] {
        let Ok((Reply::Window(window), _)) = act(xterm.id, action).await else { panic!("{action:?}") };
        assert!(holds(&window), "{action:?}: {window:?}");
    }
    assert!(matches!(act(own.id, WindowAction::Close).await.expect("closed").0, Reply::Ok {}));
    assert_eq!(stage.windows().await.len(), 1);
    let error = act(own.id, WindowAction::Focus).await.expect_err("gone");
    assert_eq!(error.code(), ErrorCode::WindowNotFound);
}

async fn the_clipboard_goes_both_ways(stage: Stage) {
    // Another agentd, as far as the display is concerned: what the one owns the other has to ask for.
    let other = stage.runner.desktops().open(&session()).await.expect("a desktop");
    let by = driver("other");
    let get = async || match other.call(&by, Request::GetClipboard {}).await.expect("a text").0 {
        Reply::Clipboard(Clipboard { text }) => text,
        reply => panic!("{reply:?}"),
    };
    assert_eq!(get().await, "", "nobody has copied anything");
    let long: String = "Zwölf Boxkämpfer jagen Viktor. 日本語 ".chars().cycle().take(300 * 1024).collect();
    assert!(long.len() > 300 * 1024);
    for text in ["kurz", "", "mit\nZeilen\tund €", &long] {
        let text = text.to_owned();
        stage.ask(Request::SetClipboard(Clipboard { text: text.clone() })).await;
        assert!(get().await == text, "{} bytes", text.len());
    }
    let much = Request::SetClipboard(Clipboard { text: "x".repeat((1 << 20) + 1) });
    assert_eq!(stage.call(much).await.expect_err("too long").code(), ErrorCode::InvalidRequest);

    // A real program pastes it, and one that does not answer is not waited for.
    stage.ask(Request::SetClipboard(Clipboard { text: "echo pasted > pasted.txt".to_owned() })).await;
    stage.input(r#"{"type": "click", "x": 200, "y": 100, "button": "middle"}"#).await.expect("clicked");
    stage.wait(WaitFor::Settle, 10_000, 300, None).await;
    // The shell runs nothing that is pasted before Return is pressed.
    stage.input(r#"{"type": "key", "key": "Return"}"#).await.expect("pressed");
    let file = stage.runner.workspace("s").join("pasted.txt");
    eventually("it was pasted", async || std::fs::read(&file).is_ok_and(|content| content == b"pasted\n")).await;
    let client = stage.client();
    client.own_clipboard();
    let begun = Instant::now();
    let silent = stage.call(Request::GetClipboard {}).await.expect_err("no answer");
    assert_eq!(silent.code(), ErrorCode::ClipboardUnavailable);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

async fn the_screen_takes_another_size(stage: Stage) {
    // Some that the display knows and some that it does not; smaller and larger; and one again.
    for (width, height) in [(1024, 768), (1333, 777), (640, 480), (1920, 1080), (1001, 601), (1333, 777), (64, 64)] {
        let Reply::Display(view) = stage.ask(Request::SetDisplay(DisplaySize { width, height })).await else {
            panic!()
        };
        assert_eq!((view.width, view.height), (width, height));
        let (picture, file) = stage.picture(|_| {}).await;
        let picture = picture.expect("a picture");
        assert_eq!((picture.width, picture.height, file.len()), (width, height, (width * height * 4) as usize));
    }
    for (width, height) in [(0, 600), (800, 0), (20_000, 600), (63, 600), (8192, 8192)] {
        let error = stage.call(Request::SetDisplay(DisplaySize { width, height })).await.expect_err("refused");
        assert_eq!(error.code(), ErrorCode::InvalidRequest, "{width}x{height}");
    }
    assert_eq!(stage.client().modes_made_by_us(), 1, "a mode that is not used any more is removed");
}

async fn a_wait_ends_with_a_change_with_rest_or_with_its_time(stage: Stage) {
    let settled = stage.wait(WaitFor::Settle, 10_000, 300, None).await;
    assert!(settled.reached && settled.waited_ms >= 300, "{settled:?}");
    let nothing = stage.wait(WaitFor::Change, 200, 500, None).await;
    assert!(!nothing.changed && !nothing.reached && nothing.waited_ms >= 200, "{nothing:?}");

    // A wait does not hold up what it waits for.
    let typing = async { stage.input(r#"{"type": "wait", "ms": 100}, {"type": "text", "text": "x"}"#).await };
    let (changed, typed) = tokio::join!(stage.wait(WaitFor::Change, 5000, 500, None), typing);
    assert!(typed.is_ok() && changed.changed && changed.reached, "{changed:?}");

    // What happens elsewhere is not in the region.
    let region = Some(Region { x: 600, y: 500, width: 50, height: 50 });
    let typing = async { stage.input(r#"{"type": "text", "text": "yyy"}"#).await };
    let (elsewhere, _) = tokio::join!(stage.wait(WaitFor::Change, 500, 500, region), typing);
    assert!(!elsewhere.changed, "{elsewhere:?}");

    // A screen that does not rest is no reason to wait for ever.
    let clear = r#"{"type": "key", "key": "ctrl+u"}"#;
    stage.input(clear).await.expect("cleared");
    stage
        .input(r#"{"type": "text", "text": "while date +%N; do :; done\n"}, {"type": "wait_frame"}"#)
        .await
        .expect("typed");
    let busy = stage.wait(WaitFor::Settle, 1000, 400, None).await;
    assert!(busy.changed && !busy.reached, "{busy:?}");
}
