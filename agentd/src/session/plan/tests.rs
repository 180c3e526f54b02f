//! The plan as an operator would read it, and what a spec cannot do.

use std::fmt::Write as _;

use helix_protocol::session::Project;

use super::*;

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
        private_tmp: false,
    };
    let host = Host {
        path: "/usr/bin:/bin".to_owned(),
        lang: "C.UTF-8".to_owned(),
        shell: "/bin/bash".to_owned(),
        user: "me".to_owned(),
        program: PathBuf::from("/usr/bin/agentd"),
    };
    run(&Inputs {
        session: &SessionId::parse("demo").expect("valid id"),
        runner: &RunnerId::parse("r-1").expect("valid id"),
        spec,
        kind: &KindName::parse(kind).expect("valid kind"),
        kinds: &Kinds::load(&[], &path, None),
        paths: &paths,
        default_geometry: Geometry { width: 1920, height: 1080 },
        host: &host,
        running: false,
        default_resources: Resources::default(),
        max_resources: Resources::default(),
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
    let units =
        [plan.workspace.clone(), Some(plan.display.clone()), plan.dbus.clone(), Some(plan.wm(7)), Some(plan.app(7))];
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
    assert_eq!(cause(SessionSpec::default(), "command"), "input_missing");
    assert_eq!(cause(SessionSpec { input: input(), ..SessionSpec::default() }, "terminal"), "input_refused");
    assert_eq!(cause(SessionSpec::default(), "nonsense"), "kind_unknown");
}
