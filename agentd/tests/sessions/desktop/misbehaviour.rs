//! A desktop whose display, viewers or programs do not behave.

use super::*;

on_every_display! {
    who_loses_the_control_is_cut_off_in_the_middle_and_holds_nothing_down,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_display_that_ends_in_the_middle_is_told_and_another_is_found() {
    let stage = Stage::new().await;
    stage.wait(WaitFor::Settle, 10_000, 300, None).await;
    let display = stage.runner.unit_pid("s", "display").await.expect("a display");
    let wait = Request::Wait(Wait { goal: WaitFor::Change, region: None, timeout_ms: 30_000, quiet_ms: 500 });
    let killing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        kill(display);
    };
    let begun = Instant::now();
    let (ended, ()) = tokio::join!(stage.call(wait), killing);
    assert_eq!(ended.expect_err("gone").code(), ErrorCode::DisplayUnavailable);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(stage.call(Request::Cursor {}).await.expect_err("gone").code(), ErrorCode::DisplayUnavailable);
    let ended = stage.runner.until("s", |observed| observed.phase.is_terminal()).await;
    assert_eq!(ended.phase, SessionPhase::Failed);
    assert_eq!(stage.desktops.open(&session()).await.err().map(|error| error.code()), Some(ErrorCode::SessionNotReady));
    assert_eq!(stage.runner.unit_pid("s", UnitName::Display.as_str()).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_display_that_does_not_answer_is_not_waited_for() {
    let stage = Stage::new().await;
    let display = stage.runner.unit_pid("s", "display").await.expect("a display");
    hold(display);
    let begun = Instant::now();
    let error = stage.call(Request::Cursor {}).await.expect_err("silent");
    assert_eq!(error.code(), ErrorCode::DisplayUnavailable);
    assert!((8..15).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let other = stage.runner.desktops().open(&session()).await;
    assert_eq!(other.err().map(|error| error.code()), Some(ErrorCode::DisplayUnavailable));
    // What it was asked meanwhile is answered when it goes on, and given to nobody.
    go_on(display);
    assert!(matches!(stage.ask(Request::GetDisplay {}).await, Reply::Display(_)));
    stage.input(r#"{"type": "move", "x": 9, "y": 8}"#).await.expect("moved");
    assert_eq!(stage.cursor().await, (9, 8));
}

async fn who_loses_the_control_is_cut_off_in_the_middle_and_holds_nothing_down(stage: Stage) {
    let client = stage.client();
    stage.input(r#"{"type": "key_down", "key": "Shift_L"}"#).await.expect("held");
    eventually("it is down", async || client.keys_down() == 1).await;
    let seat = Seat::parse("tab").expect("valid");
    let holder =
        Holder { by: "ann".to_owned(), token: "ann".to_owned(), seat: seat.clone(), since: jiff::Timestamp::now() };
    let at = |seat| Viewer { seat, ..driver("ann") };
    let actions = |actions: &str| Request::Input(serde_json::from_str(actions).expect("actions"));
    let down = |key: &str| actions(&format!(r#"{{"actions": [{{"type": "key_down", "key": "{key}"}}]}}"#));
    let typing = stage.input(
        r#"{"type": "key_down", "key": "Control_L"}, {"type": "wait", "ms": 10000}, {"type": "text", "text": "x"}"#,
    );
    let taking = async {
        eventually("both are down", async || client.keys_down() == 2).await;
        stage.runner.gates.set(&session(), &Control { epoch: 1, holder: Some(holder) });
        // What the holder leaves down at once is not what was left down before.
        stage.desktop.call(&at(Some(seat.clone())), down("Alt_L")).await.expect("heard");
    };
    let begun = Instant::now();
    let (typed, ()) = tokio::join!(typing, taking);
    let error = typed.expect_err("somebody else has the control");
    assert_eq!(error.code(), ErrorCode::ControlTaken);
    assert!(error.to_string().contains("ann (seat tab)"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(9), "it went on to the end of its wait");
    eventually("all else is let go", async || client.keys_down() == 1).await;
    // The holder is heard, from the seat alone.
    let key = || actions(r#"{"actions": [{"type": "key", "key": "a"}]}"#);
    stage.desktop.call(&at(Some(seat)), key()).await.expect("heard");
    assert_eq!(client.keys_down(), 1, "the holder's own key");
    assert_eq!(stage.desktop.call(&at(None), key()).await.expect_err("elsewhere").code(), ErrorCode::ControlTaken);
    assert_eq!(stage.call(key()).await.expect_err("not the holder").code(), ErrorCode::ControlTaken);
    stage.runner.gates.set(&session(), &Control { epoch: 2, holder: None });
    eventually("the holder's is let go", async || client.keys_down() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_windows_is_bounded_whatever_a_program_writes() {
    let stage = Stage::new().await;
    let client = stage.client();
    client.show();
    eventually("both are listed", async || stage.windows().await.len() == 2).await;
    client.crowd(20_000);
    let windows = stage.windows().await;
    let lengths: Vec<_> = windows.iter().map(|window| (window.title.len(), window.class.len())).collect();
    assert_eq!(lengths, [(1000, 200)], "once, and no longer than that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_pastes_does_not_make_agentd_deaf_to_the_screens_size() {
    let stage = Stage::new().await;
    let other = stage.runner.desktops().open(&session()).await.expect("a desktop");
    stage.ask(Request::SetClipboard(Clipboard { text: "x".repeat(100 * 1024) })).await;
    stage.client().paste_at_root();
    // Served one after the other.
    other.call(&driver("other"), Request::GetClipboard {}).await.expect("a text");
    let size = DisplaySize { width: 800, height: 500 };
    assert!(matches!(stage.ask(Request::SetDisplay(size)).await, Reply::Display(view) if view.height == 500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_set_while_the_clipboard_is_lost_is_given_out() {
    let stage = Stage::new().await;
    let other = stage.runner.desktops().open(&session()).await.expect("a desktop");
    let client = stage.client();
    for round in 0..30 {
        stage.ask(Request::SetClipboard(Clipboard { text: "before".to_owned() })).await;
        client.own_clipboard();
        let text = format!("text {round}");
        stage.ask(Request::SetClipboard(Clipboard { text: text.clone() })).await;
        let told = other.call(&driver("other"), Request::GetClipboard {}).await.expect("a text").0;
        assert!(matches!(&told, Reply::Clipboard(clipboard) if clipboard.text == text), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_down_for_a_clipboard_that_is_still_given_out() {
    let stage = Stage::new().await;
    let other = stage.runner.desktops().open(&session()).await.expect("a desktop");
    let client = stage.client();
    let before = client.meanings();
    stage.ask(Request::SetClipboard(Clipboard { text: "mine".to_owned() })).await;
    stage.input(r#"{"type": "text", "text": "語"}, {"type": "key_down", "key": "shift"}"#).await.expect("typed");
    assert_eq!(client.keys_down(), 1, "Shift was asked to stay down");
    let Stage { runner: _runner, desktops: _desktops, desktop } = stage;
    drop(desktop);
    eventually("nothing is down", async || client.keys_down() == 0).await;
    eventually("the map is as it was", async || client.meanings() == before).await;
    let told = other.call(&driver("other"), Request::GetClipboard {}).await.expect("a text").0;
    assert!(matches!(&told, Reply::Clipboard(clipboard) if clipboard.text == "mine"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_agentd_left_down_is_released_and_nothing_else() {
    let stage = Stage::new().await;
    let client = stage.client();
    // x, as a viewer holds it.
    client.press(53);
    stage.input(r#"{"type": "key_down", "key": "shift"}, {"type": "key_down", "key": "ctrl"}"#).await.expect("held");
    stage.input(r#"{"type": "key_up", "key": "ctrl"}"#).await.expect("released");
    assert_eq!(client.keys_down(), 2);
    // The first one lives, but the display cannot tell.
    let _other = stage.runner.desktops().open(&session()).await.expect("a desktop");
    eventually("Shift is released", async || client.keys_down() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_reach_a_display_that_takes_nothing_for_a_while() {
    let stage = Stage::new().await;
    let client = stage.client();
    stage.input(r#"{"type": "key_down", "key": "shift"}"#).await.expect("held");
    assert_eq!(client.keys_down(), 1);
    let display = stage.runner.unit_pid("s", "display").await.expect("a display");
    hold(display);
    // More than its socket and the queue take.
    let moves = vec![r#"{"type": "move", "x": 1, "y": 1}"#; 1000].join(",");
    for _ in 0..12 {
        assert!(tokio::time::timeout(Duration::from_millis(200), stage.input(&moves)).await.is_err());
    }
    let Stage { runner: _runner, desktops: _desktops, desktop } = stage;
    drop(desktop);
    go_on(display);
    eventually("nothing is down", async || client.keys_down() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_picture_is_taken_while_the_screen_becomes_smaller() {
    let stage = Stage::new().await;
    let resizing = async {
        for (width, height) in [(1600, 1000), (640, 480)].into_iter().cycle().take(20) {
            stage.ask(Request::SetDisplay(DisplaySize { width, height })).await;
        }
    };
    let pictures = async {
        loop {
            stage.picture(|wanted| wanted.cursor = false).await;
        }
    };
    tokio::select! {
        () = resizing => {}
        () = pictures => {}
    }
}
