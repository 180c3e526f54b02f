//! Shipped kinds as snapshots, and what a faulty or unmet kind is told.

use helix_protocol::SessionId;

use super::*;

fn kind(name: &str) -> KindName {
    KindName::parse(name).unwrap()
}

fn paths() -> SessionPaths {
    let at = |name: &str| PathBuf::from("/state/s/0123456789abcdef").join(name);
    SessionPaths {
        root: at(""),
        home: at("home"),
        tmp: at("tmp"),
        runtime: at("run"),
        vnc_socket: at("vnc.sock"),
        xauthority: at("Xauthority"),
        workspace: PathBuf::from("/workspaces/s1"),
        private_tmp: false,
    }
}

fn rendered(name: &str, input: &str) -> Rendered {
    let kinds: BTreeMap<_, _> = SHIPPED.into_iter().collect();
    let file: KindFile = toml::from_str(kinds[name]).unwrap();
    let context = Context {
        session: &SessionId::parse("s1").unwrap(),
        paths: &paths(),
        project: Path::new("/workspaces/s1/app"),
        agentd: Path::new("/usr/bin/agentd"),
        input,
        geometry: Geometry { width: 1920, height: 1080 },
        shell: "/bin/bash",
        zed: "/opt/zed/bin/zed",
    };
    render(&file, &context).unwrap()
}

/// A directory with executables of these names, as a PATH.
fn path_with(programs: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for program in programs {
        fs::write(dir.path().join(program), "").unwrap();
        fs::set_permissions(dir.path().join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

#[test]
fn the_command_kind_keeps_its_input_out_of_the_command_line() {
    let rendered = rendered("command", "echo 'a {{ b }}' && exit 3\n");
    insta::assert_snapshot!(rendered.argv.join(" "));
    assert_eq!(rendered.files.len(), 1);
    assert_eq!(rendered.files[0].path, Path::new("input"));
    assert_eq!(rendered.files[0].mode, 0o600);
    assert_eq!(rendered.files[0].content, b"echo 'a {{ b }}' && exit 3\n");
    assert!(!format!("{rendered:?}").contains("exit 3"), "the input is in Debug output");
}

#[test]
fn the_terminal_kind_runs_the_users_shell() {
    insta::assert_snapshot!(rendered("terminal", "").argv.join(" "));
}

/// With the documents' limits and reservation.
#[test]
fn the_zed_kind_opens_the_project_in_the_editor_that_the_settings_name() {
    insta::assert_snapshot!(rendered("zed", "").argv.join(" "));
    let path = path_with(&["dbus-daemon", "zed"]);
    let other = path.path().join("other");
    let load = |zed: Option<&Path>| Kinds::load(&[], path.path().as_os_str(), zed);
    assert_eq!(load(None).zed(), "zed");
    let kinds = load(None);
    let file = kinds.get(&kind("zed"), None).unwrap();
    let limits = serde_json::to_string(&(file.resources, file.reserve)).unwrap();
    assert_eq!(limits, r#"[{"cpu":2.0,"memory":4294967296},{"cpu":0.5,"memory":1073741824}]"#);
    let told = load(Some(Path::new("/home/me/.local/bin/zed"))).unavailable()[&kind("zed")].clone();
    assert!(told.contains("install it in /opt"), "{told}");
    let told = load(Some(&other)).unavailable()[&kind("zed")].clone();
    insta::assert_snapshot!(told.replace(&*path.path().to_string_lossy(), "/dir"));
}

#[test]
fn a_missing_program_names_its_package() {
    let path = path_with(&["dbus-daemon"]);
    let kinds = Kinds::load(&[], path.path().as_os_str(), None);
    assert!(kinds.available().is_empty());
    insta::assert_snapshot!(kinds.unavailable()[&kind("command")]);
    assert_eq!(kinds.get(&kind("command"), Some("x")).unwrap_err().code(), "kind_unavailable");
}

#[test]
fn input_is_wanted_or_refused_as_the_kind_says() {
    let path = path_with(&["xterm", "dbus-daemon"]);
    let kinds = Kinds::load(&[], path.path().as_os_str(), None);
    assert_eq!(kinds.available(), [kind("command"), kind("terminal")]);
    assert!(kinds.get(&kind("command"), Some("make")).is_ok());
    assert!(kinds.get(&kind("terminal"), None).is_ok());
    assert_eq!(kinds.get(&kind("command"), None).unwrap_err().code(), "input_missing");
    assert_eq!(kinds.get(&kind("command"), Some("")).unwrap_err().code(), "input_missing");
    assert_eq!(kinds.get(&kind("terminal"), Some("ls")).unwrap_err().code(), "input_refused");
    assert_eq!(kinds.get(&kind("emacs"), None).unwrap_err().code(), "kind_unknown");
    insta::assert_snapshot!(kinds.get(&kind("emacs"), None).unwrap_err());
}

#[test]
fn files_overlay_the_shipped_ones_and_faults_are_told_with_their_line() {
    let path = path_with(&["xterm", "dbus-daemon"]);
    let dir = tempfile::tempdir().unwrap();
    let minimal =
        "description = \"d\"\ncommand = [\"true\"]\ninput = \"none\"\nreadiness = \"none\"\non_exit = \"end\"\n";
    fs::write(dir.path().join("terminal.toml"), minimal).unwrap();
    fs::write(dir.path().join("wrong.toml"), format!("{minimal}colour = 1\n")).unwrap();
    fs::write(dir.path().join("typo.toml"), format!("{minimal}[environment]\nA = \"{{{{ hom }}}}\"\n")).unwrap();
    fs::write(dir.path().join("escape.toml"), format!("{minimal}[[files]]\npath = \"../x\"\ncontent = \"\"\n"))
        .unwrap();
    fs::write(dir.path().join("README"), "not a kind").unwrap();
    let kinds = Kinds::load(&[dir.path().join("missing"), dir.path().to_owned()], path.path().as_os_str(), None);
    assert_eq!(kinds.available(), [kind("command"), kind("terminal")]);
    assert_eq!(kinds.get(&kind("terminal"), None).unwrap().command, ["true"]);
    let faults = kinds.unavailable();
    let faults: Vec<String> = faults.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    insta::assert_snapshot!(faults.join("\n"));
}
