use super::*;

fn session(json: serde_json::Value) -> SessionView {
    let mut view = serde_json::json!({
        "id": "s1", "owner": "admin", "phase": "Starting", "cause": null, "result": null, "desired": "running",
        "unclaimed": false, "runner": "local", "epoch": 1, "generation": 1, "kind": "command", "pool": null,
        "labels": {}, "spec": {}, "queue_position": null, "display": null, "pid": null, "workspace": null,
        "endpoints": {"view": null, "vnc": null, "rdp": null}, "timeline": [], "created_at": "2026-01-01T00:00:00Z"
    });
    let serde_json::Value::Object(changes) = json else { panic!("not an object") };
    view.as_object_mut().expect("an object").extend(changes);
    serde_json::from_value(view).expect("a session")
}

#[test]
fn each_goal_has_its_end() {
    let table = [
        ("Pending", "..."),
        ("Starting", "..."),
        ("Ready", "+.."),
        ("Stopping", "--."),
        ("Stopped", "--+"),
        ("Failed", "--+"),
        ("Lost", "..."),
    ];
    for (phase, expected) in table {
        let view = session(serde_json::json!({ "phase": phase }));
        let got: String = [Goal::Ready, Goal::Result, Goal::Ended]
            .map(|goal| match judge(&view, goal) {
                None => '.',
                Some(Ok(())) => '+',
                Some(Err(_)) => '-',
            })
            .iter()
            .collect();
        assert_eq!(got, expected, "{phase}");
    }
}

#[test]
fn a_result_counts_also_after_the_end() {
    let view = session(serde_json::json!({"phase": "Stopped", "result": {
        "exit_status": 0, "output_tail": "", "output_truncated": false, "finished_at": "2026-01-01T00:00:00Z"}}));
    assert_eq!(judge(&view, Goal::Result), Some(Ok(())));
}

#[test]
fn a_failed_start_names_step_cause_and_log() {
    let view = session(serde_json::json!({"phase": "Failed", "cause": {
        "code": "workspace_failed", "message": "git clone ended with exit status 128", "step": "workspace",
        "log_tail": ["Cloning into 'x'...", "fatal: repository not found"]}}));
    insta::assert_snapshot!(missed(&view, Goal::Ready), @r"
    error: session s1 did not become ready: it is Failed
      where: step workspace
      why:   git clone ended with exit status 128 (workspace_failed)
             | Cloning into 'x'...
             | fatal: repository not found
      next:  helixctl session logs s1
    ");
}

#[test]
fn a_step_is_one_line() {
    let step: TimelineStep = serde_json::from_value(serde_json::json!(
        {"step": "display", "at": "2026-01-01T00:00:00Z", "duration_ms": 83, "detail": "display :4"}))
    .expect("a step");
    assert_eq!(step_line(&step), "display          83 ms  display :4");
}
