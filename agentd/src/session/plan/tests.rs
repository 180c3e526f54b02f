//! The plan as an operator would read it, and what a spec cannot do.

use std::ffi::OsStr;
use std::fmt::Write as _;

use helix_mesa::Places;
use helix_protocol::session::Project;

use super::*;
use crate::kinds::Machine;

/// A machine with nothing but these programs.
fn bare<'a>(path: &'a OsStr, vulkan_places: &'a Places) -> Machine<'a> {
    Machine { path, zed: None, vulkan_icd: None, vulkan_places }
}

fn inputs_of(spec: &SessionSpec, kind: &str, run: impl FnOnce(&Inputs<'_>)) {
    let path = std::env::var_os("PATH").expect("PATH is set");
    let at = |name: &str| Path::new("/s/0123").join(name);
    let paths = SessionPaths {
        root: PathBuf::from("/s/0123"),
        home: at("home"),
        tmp: at("tmp"),
        runtime: at("run"),
        vnc_socket: at("vnc.sock"),
        xauthority: at("Xauthority"),
        workspace: PathBuf::from("/w/demo"),
        sync_socket: at("sync.sock"),
        tools_socket: at("tools.sock"),
        notes_socket: at("note.sock"),
        recorder_apart: false,
        rdp_socket: at("rdp.sock"),
        rdp_files: at("rdp"),
        own_network: false,
        private_tmp: false,
    };
    let host = Host {
        path: "/usr/bin:/bin".to_owned(),
        lang: "C.UTF-8".to_owned(),
        shell: "/bin/bash".to_owned(),
        user: "me".to_owned(),
        program: PathBuf::from("/usr/bin/agentd"),
        is_root: false,
    };
    let places = Places::new(&|_| None, false);
    run(&Inputs {
        session: &SessionId::parse("demo").expect("valid id"),
        runner: &RunnerId::parse("r-1").expect("valid id"),
        spec,
        kind: &KindName::parse(kind).expect("valid kind"),
        kinds: &Kinds::load(&[], &bare(&path, &places)),
        paths: &paths,
        default_geometry: Geometry { width: 1920, height: 1080 },
        host: &host,
        running: false,
        default_resources: Resources::default(),
        max_resources: Resources::default(),
        image: None,
        forward_port: 41234,
        access: None,
        epoch: Epoch(1),
        recording: None,
    });
}

fn planned(spec: &SessionSpec, kind: &str) -> Result<Plan, Cause> {
    let mut result = None;
    inputs_of(spec, kind, |inputs| result = Some(plan(inputs)));
    result.expect("ran")
}

fn shown(plan: &Plan) -> String {
    let mut text = String::new();
    for file in &plan.slice.files {
        writeln!(text, "file {file:?}").expect("text grows");
    }
    let units = [
        plan.workspace.clone(),
        Some(plan.display.clone()),
        plan.dbus.clone(),
        Some(plan.forward.clone()),
        Some(plan.wm(7)),
        Some(plan.app(7)),
    ];
    for unit in units.into_iter().flatten() {
        writeln!(text, "\n{} ({:?}) in {}", unit.name.as_str(), unit.stdout, unit.cwd.display()).expect("text grows");
        writeln!(text, "  {}", unit.argv.join(" ")).expect("text grows");
        if unit.name == UnitName::App {
            unit.env.iter().for_each(|(name, value)| writeln!(text, "  {name}={value}").expect("text grows"));
        }
    }
    text
}

#[test]
fn a_command_on_a_clone() {
    let spec = SessionSpec {
        input: Some("make check".to_owned()),
        project: Some(Project { git: "https://example.org/x.git".to_owned(), branch: Some("main".to_owned()) }),
        project_path: Some("/workspace/sub/dir".to_owned()),
        geometry: Some(Geometry { width: 1280, height: 720 }),
        env: BTreeMap::from([("CI".to_owned(), "1".to_owned()), ("GIT_AUTHOR_NAME".to_owned(), "Me".to_owned())]),
        ..SessionSpec::default()
    };
    insta::assert_snapshot!(shown(&planned(&spec, "command").expect("a plan")));
}

#[test]
fn a_terminal_on_an_empty_workspace() {
    insta::assert_snapshot!(shown(&planned(&SessionSpec::default(), "terminal").expect("a plan")));
}

#[test]
fn a_spec_cannot_take_over_what_is_ours() {
    let env = RESERVED.iter().map(|name| ((*name).to_owned(), "mine".to_owned())).collect();
    let plan = planned(&SessionSpec { env, ..SessionSpec::default() }, "terminal").expect("a plan");
    assert!(!plan.app(1).env.values().any(|value| value == "mine"));
}

#[test]
fn token_and_secrets_are_the_agents_alone() {
    let mut secrets: BTreeMap<String, String> =
        RESERVED.iter().map(|name| ((*name).to_owned(), "mine".to_owned())).collect();
    secrets.insert("MODEL_KEY".to_owned(), "k-91cc".to_owned());
    let access = SessionAccess { token: "t-7f3a".to_owned(), secrets, grants: Vec::new() };
    let env = BTreeMap::from([("MODEL_KEY".to_owned(), "of the spec".to_owned())]);
    let mut result = None;
    inputs_of(
        &SessionSpec { env, project_path: Some("sub".to_owned()), ..SessionSpec::default() },
        "terminal",
        |inputs| {
            result = Some(plan(&Inputs { access: Some(&access), ..*inputs }));
        },
    );
    let plan = result.expect("ran").expect("a plan");
    let app = plan.app(1);
    assert_eq!(app.env.get("MODEL_KEY").map(String::as_str), Some("k-91cc"));
    assert_eq!(app.env.get("ZED_HELIX_TOKEN").map(String::as_str), Some("t-7f3a"));
    assert!(!app.env.values().any(|value| value == "mine"), "a secret took over what is ours");
    let others = [plan.workspace.clone(), plan.dbus.clone(), Some(plan.display.clone()), Some(plan.forward.clone())];
    for unit in others.into_iter().flatten().chain([plan.wm(1)]) {
        assert!(!unit.env.values().any(|value| ["k-91cc", "t-7f3a"].contains(&value.as_str())), "{unit:?}");
    }
    let shown = format!("{plan:?} {app:?} {:?}", app.argv);
    assert!(!shown.contains("k-91cc") && !shown.contains("t-7f3a"), "{shown}");
    assert!(app.argv.iter().all(|word| !word.contains("t-7f3a")));
}

#[test]
fn a_secret_that_is_missing_is_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let text = "description = \"d\"\ncommand = [\"true\"]\ninput = \"none\"\nreadiness = \"none\"\non_exit = \"end\"\n\
                secrets = [\"NICE\", \"KEY\"]\n[requires]\nsecrets = [\"KEY\"]\n";
    std::fs::write(dir.path().join("model.toml"), text).expect("written");
    let places = Places::new(&|_| None, false);
    let kinds = Kinds::load(&[dir.path().to_owned()], &bare("/nonexistent".as_ref(), &places));
    let planned = |spec: &SessionSpec, running: bool| {
        let mut result = None;
        inputs_of(spec, "model", |inputs| result = Some(plan(&Inputs { kinds: &kinds, running, ..*inputs })));
        result.expect("ran")
    };
    let cause = planned(&SessionSpec::default(), false).expect_err("no key");
    assert_eq!(cause.code, "secret_missing");
    insta::assert_snapshot!("secret_missing", cause.message);
    planned(&SessionSpec::default(), true).expect("one that runs goes on");
    let env = BTreeMap::from([("KEY".to_owned(), "x".to_owned())]);
    let plan = planned(&SessionSpec { env, ..SessionSpec::default() }, false).expect("a plan");
    insta::assert_snapshot!("secret_lacking", plan.lacking());
}

#[test]
fn a_project_path_stays_inside() {
    for (given, inside) in
        [("/workspace/a", "a"), ("/a/b", "a/b"), ("a", "a"), ("./a/", "a"), ("/workspace", ""), ("/", "")]
    {
        assert_eq!(project_path(given), Ok(PathBuf::from(inside)), "{given}");
    }
    for bad in ["..", "a/../..", "/workspace/../x", "/workspace/a/.."] {
        assert_eq!(project_path(bad).expect_err(bad).code, "project_path_invalid");
    }
}

#[test]
fn what_cannot_run_says_why() {
    let input = || Some("x".to_owned());
    let cause = |spec: SessionSpec, kind: &str| planned(&spec, kind).expect_err("no plan").code;
    assert_eq!(cause(SessionSpec { input: input(), ..SessionSpec::default() }, "terminal"), "input_refused");
    assert_eq!(cause(SessionSpec::default(), "nonsense"), "kind_unknown");
}

#[test]
fn a_recorder_is_told_what_it_needs_and_sees_nothing_of_its_session() {
    let recording = RecordingId::of(&SessionId::parse("demo").expect("valid id"), Epoch(1));
    let planned = |recorder_apart: bool| {
        let mut result = None;
        inputs_of(&SessionSpec::default(), "terminal", |inputs| {
            let paths = SessionPaths { recorder_apart, ..inputs.paths.clone() };
            let recording = Some((&recording, Path::new("/run/spool")));
            result = Some(plan(&Inputs { paths: &paths, recording, ..*inputs }).expect("a plan"));
        });
        result.expect("ran")
    };
    let plan = planned(false);
    let recorder = plan.recorder.expect("it is recorded");
    insta::assert_snapshot!(recorder.argv.join(" "), @"/usr/bin/agentd recorder --display=/s/0123/vnc.sock --notes=/s/0123/note.sock --spool=/run/spool --session=demo --epoch=1 --runner=r-1");
    let env: Vec<&str> = recorder.env.keys().map(String::as_str).collect();
    assert_eq!(env, ["HELIX_RUNNER_ID", "HELIX_SESSION_ID", "LANG", "PATH"]);
    assert_eq!(plan.slice.recording, Some(recording.clone()));
    // Another user reaches the socket by its mode; where there is none it is nobody else's.
    assert!(plan.display.argv.contains(&"0600".to_owned()));
    assert!(planned(true).display.argv.contains(&"0666".to_owned()));
}
